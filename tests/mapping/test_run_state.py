"""What a training run leaves beside the weights: recognised, listed, left out; and tensors that a caller leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.mapping.run_state import COUNTERS, run_state_of

WEIGHT = "model.layers.0.attention.wq.weight"


def trained(**more: Any) -> dict[str, Any]:
    """A small Llama of MindFormers with optimizer state and counters, as a training run saves it."""
    mapped = mc.map(mc.toy("llama", dtype="fp32"), "llama")
    weights = {n: mc.read(mapped, n) for n in mapped.tensors}
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
        (f"accu_grads.{WEIGHT}", "accumulated gradients"),
        *((name, "run state") for name in sorted(COUNTERS)),
    ],
)
def test_a_name_of_a_training_run_is_recognised(name: str, kind: str) -> None:
    found = run_state_of(name)
    assert found is not None
    assert found.pattern == kind


@pytest.mark.parametrize("name", [WEIGHT, "model.adam_m.weight", "global_steps", "my.epoch_num", "momentum_head.weight"])
def test_a_weight_is_no_run_state(name: str) -> None:
    assert run_state_of(name) is None


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
    arrays = {n: mc.read(toy, n) for n in toy.tensors} | {"global_step": np.int32(3)}
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(arrays), "llama", to="mf", config=toy.config)
    assert refused.value.code == "MFC303"


# ---- left out as asked -----------------------------------------------------------------------------------------------------


def test_what_a_caller_leaves_out_is_listed_and_not_converted() -> None:
    toy = mc.toy("llama")
    mapped = mc.map(toy, "llama", leave_out=("*.mlp.*", "lm_head.weight"))
    assert not [n for n in mapped.tensors if "feed_forward" in n or "lm_head" in n]
    assert mapped.report.counts["left out"] == 3 * 4 + 1
    assert "left out as asked" in str(mapped.report)


def test_one_pattern_may_be_given_as_a_word() -> None:
    assert "lm_head.weight" not in mc.map(mc.toy("llama"), "llama", leave_out="lm_*")


def test_the_command_line_leaves_out_what_it_is_told(tmp_path: Path) -> None:
    mc.save(mc.load(trained(odd=np.zeros(3, np.float32))), tmp_path / "trained.ckpt")
    mc.toy("llama", tmp_path / "hf")
    convert = ["convert", "--model", "llama", "--reversed", str(tmp_path / "trained.ckpt"), str(tmp_path / "back")]
    convert += ["--config", str(tmp_path / "hf")]
    assert mfconv(convert) == 2
    assert mfconv([*convert, "--leave_out", "od*"]) == 0
    assert "odd" not in mc.load(tmp_path / "back")
