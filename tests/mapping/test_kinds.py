"""What a training run leaves beside the weights: recognised, listed, left out; and tensors that a caller leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.core.errors import UsageError
from mfconv_nb.mapping.kinds import COUNTERS, category_of, is_run_state, kind_of, prefixes_before_names
from tests.toys import arrays_of

WEIGHT = "model.layers.0.attention.wq.weight"


def trained(**more: Any) -> dict[str, Any]:
    """A small Llama of MindFormers with optimizer state and counters, as a training run saves it."""
    mapped = mc.map(mc.toy("llama", dtype="fp32"), "llama")
    weights = arrays_of(mapped)
    state = {f"{prefix}{n}": np.ones_like(a) for n, a in weights.items() for prefix in ("adam_m.", "adam_v.", "accu_grads.")}
    counters = {n: np.int32(7) for n in ("global_step", "epoch_num", "step_num", "loss_scale")}
    return {**weights, **state, **counters, **more}


@pytest.mark.parametrize(
    "name, kind",
    [
        (f"adam_m.{WEIGHT}", "optimizer state"),
        (f"adam_v.{WEIGHT}", "optimizer state"),
        (f"moment1.{WEIGHT}", "optimizer state"),
        (f"moments.{WEIGHT}", "optimizer state"),
        (f"muon_m.{WEIGHT}", "optimizer state"),
        ("muon_m.placeholder.7", "optimizer state"),
        (f"main_param.{WEIGHT}", "optimizer state"),
        (f"pma_weight_ema.{WEIGHT}", "optimizer state"),
        (f"pma_weight_sma.{WEIGHT}", "optimizer state"),
        (f"max_exp_avg_sq.{WEIGHT}", "optimizer state"),
        *((f"{before}{WEIGHT}", "optimizer state") for before in ("exp_avg_sq_", "exp_avg_sq_row_", "exp_avg_sq_col_")),
        *((f"{before}{WEIGHT}", "optimizer state") for before in ("exp_avg_insta_row_", "exp_avg_insta_col_")),
        ("decoder.layers.1.mlp.router.fi_accu", "state of a layer"),
        ("mtp.layers.0.transformer_layer.mlp.router.expert_load", "state of a layer"),
        ("decoder.layers.12.mlp.expert_load_history_cnt", "state of a layer"),
        ("decoder.layers.1.mlp.tokens_per_expert", "state of a layer"),
        ("decoder.layers.1.mlp.router.ga_steps", "state of a layer"),
        ("decoder.layers.1.self_attention.core_attention.max_logits_val", "state of a layer"),
        ("decoder.layers.1.mlp.expert_mapping", "constant of a layer"),
        ("decoder.layers.1.attn_hc.rms_weight", "constant of a layer"),
        (f"accu_grads.{WEIGHT}", "accumulated gradients"),
        *((name, "run state") for name in sorted(COUNTERS)),
    ],
)
def test_a_name_of_a_training_run_is_recognised(name: str, kind: str) -> None:
    found = kind_of(name).drop
    assert found is not None
    assert found.pattern == kind


@pytest.mark.parametrize(
    "name",
    [
        *(WEIGHT, "model.adam_m.weight", "global_steps", "my.epoch_num", "momentum_head.weight", "exp_avg_sqrt.weight"),
        *("decoder.layers.1.mlp.router.expert_bias", "decoder.layers.1.mlp.expert_bias", "decoder.layers.1.mlp.router.tid2eid"),
        *("mlp.tokens_per_expert", "fi_accu", "decoder.layers.1.mlp.router.fi_accu.weight"),
    ],
)
def test_a_weight_is_no_run_state(name: str) -> None:
    assert not is_run_state(name)


@pytest.mark.parametrize(
    "name, category, is_left_out",
    [
        (WEIGHT, "weights", False),
        (f"adam_m.{WEIGHT}", "optimizer", True),
        ("adam_m.decoder.layers.1.mlp.router.fi_accu", "optimizer", True),  # the first kind that fits counts
        (f"accu_grads.{WEIGHT}", "gradients", True),
        ("global_step", "run state", True),
        ("decoder.layers.1.mlp.router.fi_accu", "run state", True),
        ("decoder.layers.1.attn_hc.rms_weight", "weights", True),  # an untrained weight that transformers does not have
        ("model.rotary.inv_freq", "buffers", False),  # a rule of the family says what becomes of it
        ("freqs_cis", "buffers", False),
        ("model.my_inv_freq", "weights", False),
    ],
)
def test_a_name_has_one_kind_which_gives_its_category_and_whether_it_is_left_out(name: str, category: str, is_left_out: bool) -> None:
    assert category_of(name) == category
    assert is_run_state(name) is is_left_out


def test_a_trained_checkpoint_comes_back_without_its_run_state(tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf", dtype="fp32")
    mc.save(mc.load(trained()), tmp_path / "trained.ckpt")
    back = mc.map(mc.load(tmp_path / "trained.ckpt"), "llama", to="hf", config=toy.config)
    assert mc.diff(back, toy, values=True).equal
    assert back.report.counts["left out"] == 3 * len(toy) + 4
    text = str(back.report)
    for words in ("optimizer state, no weight", "accumulated gradients, no weight", "a counter of the training run, no weight"):
        assert words in text


def test_run_state_is_told_in_few_rows_with_counts_and_bytes() -> None:
    back = mc.map(mc.load(trained()), "llama", to="hf", config=mc.toy("llama").config)
    rows = [row for row in back.report.rows() if row["status"] == "left out"]
    assert sum(row["tensors"] for row in rows) == 3 * 39 + 4
    assert all(row["bytes"] for row in rows)


def test_a_name_that_is_neither_weight_nor_state_is_still_a_problem() -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(trained(odd=np.zeros(3, np.float32))), "llama", to="hf", config=mc.toy("llama").config)
    assert refused.value.code == "MFC303"
    assert "odd: no rule" in str(refused.value)


def test_the_state_of_a_run_is_no_excuse_on_the_hugging_face_side() -> None:
    toy = mc.toy("llama", dtype="fp32")
    arrays = arrays_of(toy) | {"global_step": np.int32(3)}
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(arrays), "llama", to="mf", config=toy.config)
    assert refused.value.code == "MFC303"


# ---- what layers hold in training ------------------------------------------------------------------------------------------


def moe(layer_state: Callable[[int], dict[str, Any]]) -> tuple[mc.Checkpoint, dict[str, Any]]:
    """A small mixture of experts, and what MindFormers' network of it holds: ``layer_state`` in every layer, by the number of experts."""
    toy = mc.toy("qwen3-moe", dtype="fp32")
    mapped = mc.map(toy, "qwen3-moe")
    weights = arrays_of(mapped)
    routers = [n for n in weights if n.endswith(".mlp.router.weight")]
    assert len(routers) > 1
    state = {n.removesuffix("mlp.router.weight") + e: a for n in routers for e, a in layer_state(len(weights[n])).items()}
    return toy, weights | state


def counters(experts: int) -> dict[str, Any]:
    return {
        "mlp.router.fi_accu": np.full(experts, 3, np.float32),
        "mlp.experts.num_tokens_per_expert": np.full(experts, 9, np.int32),
        "mlp.expert_load_history_cnt": np.int32(4),
        "self_attention.core_attention.max_logits_val": np.full(6, 1.5, np.float32),
    }


def test_what_layers_count_in_training_is_listed_and_left_out() -> None:
    toy, arrays = moe(counters)
    back = mc.map(mc.load(arrays), to="hf", config=toy.config)
    assert mc.diff(back, toy, values=True).equal
    assert back.report.counts["left out"] == len(arrays) - len(mc.map(toy, "qwen3-moe"))
    assert "state of a layer in training, no weight" in str(back.report)


def test_only_the_weights_of_a_network_with_counters_are_written(tmp_path: Path) -> None:
    toy, arrays = moe(counters)
    mc.save(mc.load(arrays), tmp_path / "trained.ckpt")
    assert set(mc.load(tmp_path / "trained.ckpt", only="weights").tensors) == set(mc.map(toy, "qwen3-moe").tensors)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_experts_in_their_places_are_no_hindrance(dtype: type, tmp_path: Path) -> None:
    toy, arrays = moe(lambda experts: {"mlp.expert_mapping": np.arange(experts, dtype=dtype)})
    mc.save(mc.map(mc.load(arrays), to="hf", config=toy.config), tmp_path / "back")
    assert mc.diff(mc.load(tmp_path / "back"), toy, values=True).equal


@pytest.mark.parametrize("leave_out", [(), "*.expert_mapping"])
def test_experts_that_were_moved_are_refused_also_where_the_map_is_left_out(leave_out: Any, tmp_path: Path) -> None:
    toy, arrays = moe(lambda experts: {"mlp.expert_mapping": np.roll(np.arange(experts, dtype=np.int32), 1)})
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(mc.map(mc.load(arrays), "qwen3-moe", to="hf", config=toy.config, leave_out=leave_out), tmp_path / "back")
    assert refused.value.code == "MFC308"
    assert "expert_mapping" in str(refused.value)
    assert "experts of this layer were moved" in str(refused.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("value, is_right", [(1, True), (0.5, False)])
def test_a_constant_of_a_layer_is_left_out_where_it_holds_ones(value: float, is_right: bool, tmp_path: Path) -> None:
    toy = mc.toy("deepseek4", dtype="fp32")
    mapped = mc.map(toy, "deepseek4")
    arrays = arrays_of(mapped)
    arrays |= {
        n.replace("mapping_proj.weight", "rms_weight"): np.full(8, value, np.float32)
        for n in arrays
        if n.endswith("hc.mapping_proj.weight")
    }
    assert len(arrays) > len(mapped)
    back = mc.map(mc.load(arrays), "deepseek4", to="hf", config=toy.config)
    if is_right:
        mc.save(back, tmp_path / "back")
        assert mc.diff(mc.load(tmp_path / "back"), toy, values=True).equal
    else:
        with pytest.raises(mc.MfconvError, match="MFC308"):
            mc.save(back, tmp_path / "back")


# ---- a name before a name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a.w", "b.w", "lion.a.w", "lion.b.w"], {"lion."}),
        (["a.w", "rows_a.w", "cols.of_a.w"], {"rows_", "cols.of_"}),
        (["w", "encoder.w", "encoder.layers.0.x"], set()),
        (["encoder.w"], set()),
    ],
)
def test_what_stands_before_the_names_of_others_only_is_an_optimizers(names: list[str], expected: set[str]) -> None:
    assert prefixes_before_names(names) == expected


# ---- left out as asked -----------------------------------------------------------------------------------------------------


def test_what_a_caller_leaves_out_is_listed_and_not_converted() -> None:
    toy = mc.toy("llama")
    mapped = mc.map(toy, "llama", leave_out=("*.mlp.*", "lm_head.weight"))
    assert not [n for n in mapped.tensors if "feed_forward" in n or "lm_head" in n]
    assert mapped.report.counts["left out"] == 3 * 4 + 1
    assert "left out as asked" in str(mapped.report)


def test_a_pattern_that_no_name_fits_is_told() -> None:
    mapped = mc.map(mc.toy("llama"), "llama", leave_out=("lm_heads.*", "lm_head.*"))
    assert [note for note in mapped.report.notes if "leave out" in note] == ["nothing to leave out: no name fits 'lm_heads.*'"]


def test_one_pattern_may_be_given_as_a_word() -> None:
    assert "lm_head.weight" not in mc.map(mc.toy("llama"), "llama", leave_out="lm_*")


@pytest.mark.parametrize("to", ["mf", "hf"])
@pytest.mark.parametrize("patterns", ["*", ["model*", "lm_head*"]])
def test_leaving_out_every_tensor_is_refused_in_both_directions(patterns: Any, to: str) -> None:
    source = mc.toy("llama") if to == "mf" else mc.map(mc.toy("llama"), "llama")
    with pytest.raises(UsageError) as error:
        mc.map(source, "llama", to=to, leave_out=patterns)
    assert error.value.code == "MFC501"
    assert "which every name fits" in str(error.value)


def test_a_checkpoint_of_which_nothing_was_taken_is_not_written(tmp_path: Path) -> None:
    nothing = mc.load({"w": np.ones(3, np.float32)}, only="optimizer")
    with pytest.raises(UsageError) as error:
        mc.save(nothing, tmp_path / "b.ckpt", progress=False)
    assert error.value.code == "MFC501"
    assert not list(tmp_path.iterdir())


def test_the_command_line_leaves_out_what_it_is_told(tmp_path: Path) -> None:
    mc.save(mc.load(trained(odd=np.zeros(3, np.float32))), tmp_path / "trained.ckpt")
    mc.toy("llama", tmp_path / "hf")
    convert = ["convert", "--model", "llama", "--reversed", str(tmp_path / "trained.ckpt"), str(tmp_path / "back")]
    convert += ["--config", str(tmp_path / "hf")]
    assert mfconv(convert) == 2
    assert mfconv([*convert, "--leave_out", "od*"]) == 0
    assert "odd" not in mc.load(tmp_path / "back")
