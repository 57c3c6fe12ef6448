"""A run of one network as that of another: weights and optimizer arrive by the same rules, and come back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.formats.checkpoint_metadata import read_metadata
from tests.steps.migrating.runs_with_optimizers import ADAM, IN_COMMON, NUMBERS, OPTIMIZERS, Arrays, adamw, arrays_of, muon, weights_of
from tests.support import raws_in, same, text_of, write_safetensors

Form = dict[str, Any]
CONTIGUOUS, INTERLEAVED = "use_contiguous_weight_layout_attention", "use_interleaved_weight_layout_mlp"
SPLIT, JOINED, DYNAMIC = {"graph": "static", "mla_qkv_concat": False}, {"graph": "static", "mla_qkv_concat": True}, {"graph": "dynamic"}
FORMS: list[tuple[str, Form, Form]] = [
    ("deepseekv3", SPLIT, DYNAMIC),
    ("deepseekv3", JOINED, DYNAMIC),
    ("deepseekv3", DYNAMIC, {**SPLIT, "experts_2d": True}),
    ("deepseekv3", {**SPLIT, INTERLEAVED: False}, DYNAMIC),
    ("telechat3-moe", SPLIT, DYNAMIC),
    ("qwen3", {CONTIGUOUS: False}, {CONTIGUOUS: True}),
    ("qwen3", {INTERLEAVED: True}, {INTERLEAVED: False}),
    ("qwen3-moe", {"experts_2d": True}, {"experts_2d": False}),
    ("qwen3-moe", {"experts_2d": True, CONTIGUOUS: False}, {"experts_2d": False, CONTIGUOUS: True}),
]


def config_of(family: str) -> dict[str, Any]:
    return dict(mc.toy(family).config or {})


def unseen(form: Form) -> Form:
    """Of a form what no name shows."""
    return {name: value for name, value in form.items() if name in (CONTIGUOUS, INTERLEAVED)}


def refused(*args: Any, **more: Any) -> mc.MfconvError:
    with pytest.raises(mc.MfconvError) as error:
        mc.migrate(*args, **more)
    return error.value


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("family", "before", "after"), FORMS, ids=str)
def test_weights_and_state_arrive_by_the_same_rules_and_come_back(
    family: str, before: Form, after: Form, optimizer: str, tmp_path: Path
) -> None:
    weights = weights_of(family, **before)
    tensors = {**weights, **OPTIMIZERS[optimizer](weights), **NUMBERS}
    run = write_safetensors(tmp_path / "run.safetensors", tensors)
    config = config_of(family)
    there = mc.migrate(run, tmp_path / "there", family, config=config, form_of_run=unseen(before), **after)
    found = arrays_of(mc.load(tmp_path / "there"))

    # the weights are those that the two conversions give; each state is what they make of it in the place of the weights
    def by_conversions(arrays: Arrays) -> Arrays:
        given = mc.map(mc.load(arrays, config=config), family, to="hf", **before)
        return arrays_of(mc.map(mc.load(arrays_of(given), config=config), family, to="mf", **after))

    expected = by_conversions(weights)
    for prefix in ("adam_m.", "adam_v.", "muon_m."):
        state = {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}
        made = by_conversions({**{n: np.full_like(a, 777) for n, a in weights.items()}, **state})
        expected |= {prefix + n: a for n, a in made.items() if not (a == 777).any()}
    expected |= {n: NUMBERS[n] for n in ("global_step", "learning_rate")}
    assert same(found, expected)
    assert there.way_back == "exact"

    mc.migrate(tmp_path / "there", tmp_path / "back", family, config=config, **before)  # what it is remembers the manifest
    kept = {n: a for n, a in tensors.items() if n in ("global_step", "learning_rate") or n not in NUMBERS}
    assert same(arrays_of(mc.load(tmp_path / "back")), kept)


# ---- where numbers go, written out -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> Arrays:
    """Weights of a small DeepSeek-V3 of the static graph, its projections apart."""
    return weights_of("deepseekv3", **SPLIT)


@pytest.fixture(scope="module")
def qwen() -> Arrays:
    return weights_of("qwen3")


def migrated(tensors: Arrays, folder: Path, family: str, **more: Any) -> Arrays:
    run = write_safetensors(folder / "run.safetensors", tensors)
    mc.migrate(run, folder / "out", family, config=config_of(family), **more)
    return arrays_of(mc.load(folder / "out"))


@pytest.mark.parametrize("word", ["", "adam_m.", "adam_v.", "exp_avg.", "max_exp_avg_sq.", "main_param.", "pma_weight_ema."])
def test_state_is_joined_and_reshaped_as_the_weights_are(word: str, split: Arrays, tmp_path: Path) -> None:
    weights = {n: a for n, a in split.items() if not n.endswith("bias")}
    moments = (ADAM, ("exp_avg.", "exp_avg_sq."))  # of these one without the other is refused
    words = next((pair for pair in moments if word in pair), (word,) if word else ())
    given = {**split, **NUMBERS, **{w + n: -2 * a * len(w) for w in words for n, a in weights.items()}}
    found = migrated(given, tmp_path, "deepseekv3", graph="dynamic")
    here = f"{word}decoder.layers.1."
    q, kv = given[here + "self_attention.linear_q_down_proj.weight"], given[here + "self_attention.linear_kv_down_proj.weight"]
    assert np.array_equal(found[here + "self_attention.linear_qkv.weight"], np.concatenate([q, kv]))
    up = given[here + "self_attention.linear_q_up_proj.weight"]
    assert np.array_equal(found[here + "self_attention.linear_qb.weight"], up)
    assert np.array_equal(found[here + "self_attention.k_layernorm.weight"], given[here + "self_attention.kv_layernorm.weight"])
    experts, hidden = config_of("deepseekv3")["n_routed_experts"], config_of("deepseekv3")["hidden_size"]
    stacked = given[here + "mlp.experts.weight1"]
    assert np.array_equal(found[here + "mlp.experts.weight1"], stacked.reshape(experts, hidden, -1))
    assert np.array_equal(found["decoder.layers.1.mlp.expert_bias"], split["decoder.layers.1.mlp.router.expert_bias"])


def test_rows_of_grouped_heads_become_contiguous_in_the_state_too(qwen: Arrays, tmp_path: Path) -> None:
    found = migrated({**qwen, **adamw(qwen), **NUMBERS}, tmp_path, "qwen3", **{CONTIGUOUS: True})
    config = config_of("qwen3")
    groups, head = config["num_key_value_heads"], config["head_dim"]
    name = "adam_v.decoder.layers.2.self_attention.linear_qkv.weight"
    rows = adamw(qwen)[name].reshape(groups, -1, head, config["hidden_size"])  # of each group its queries, a key, a value
    parts = (rows[:, :-2], rows[:, -2], rows[:, -1])
    expected = np.concatenate([part.reshape(-1, config["hidden_size"]) for part in parts])
    assert np.array_equal(found[name], expected)
    assert not np.array_equal(found[name], adamw(qwen)[name])


def test_halves_of_gate_and_up_stand_in_turn_in_the_dynamic_graph(tmp_path: Path) -> None:
    weights = weights_of("deepseekv3", **SPLIT, **{INTERLEAVED: False})
    given = {**weights, **adamw(weights), **NUMBERS}
    found = migrated(given, tmp_path, "deepseekv3", form_of_run={INTERLEAVED: False}, graph="dynamic")
    for name in ("adam_m.decoder.layers.0.mlp.linear_fc1.weight", "decoder.layers.1.mlp.shared_experts.linear_fc1.weight"):
        gate, up = np.split(given[name], 2)
        assert np.array_equal(found[name][0::2], gate)
        assert np.array_equal(found[name][1::2], up)


def test_masters_and_weights_of_another_dtype_go_the_same_way(qwen: Arrays, tmp_path: Path) -> None:
    is_narrow = {n: n.startswith("decoder.layers.") and a.ndim == 2 for n, a in qwen.items()}
    weights = {n: a.astype(ml_dtypes.bfloat16) if is_narrow[n] else a for n, a in qwen.items()}
    masters = {f"main_param.{n}": a for n, a in qwen.items() if is_narrow[n]}
    found = migrated({**weights, **masters, **adamw(qwen), **NUMBERS}, tmp_path, "qwen3", **{CONTIGUOUS: True})
    assert {n for n in found if n.startswith("main_param.")} == masters.keys()
    for name in masters:
        assert found[name].dtype == np.float32
        weight = found[name.removeprefix("main_param.")]
        assert np.array_equal(weight.view(np.uint16), found[name].astype(ml_dtypes.bfloat16).view(np.uint16))
    assert found["adam_m.decoder.final_layernorm.weight"].dtype == np.float32


def test_adapters_and_their_moments_get_the_names_of_the_new_network(qwen: Arrays, tmp_path: Path) -> None:
    layer, random = "decoder.layers.{}.self_attention.linear_qkv.", np.random.default_rng(2)
    rows, hidden = qwen[layer.format(0) + "weight"].shape
    halves = {layer.format(n) + "lora_A.weight": random.standard_normal((4, hidden)).astype(np.float32) for n in range(3)}
    halves |= {layer.format(n) + "lora_B.weight": random.standard_normal((rows, 4)).astype(np.float32) for n in range(3)}
    run = mc.load({**qwen, **halves, **adamw(halves), **NUMBERS}, config=config_of("qwen3"), lora_alpha=16)
    report = mc.migrate(run, tmp_path / "out", "qwen3", adapters="lora", **{CONTIGUOUS: True})
    found = arrays_of(mc.load(tmp_path / "out"))
    own = {n.removeprefix("adam_v.") for n in found if "lora" in n and n.startswith("adam_v.")}
    assert own == {layer.format(n) + half for n in range(3) for half in ("lora_a", "lora_b")}
    inner = layer.format(1)
    assert np.array_equal(found[f"adam_m.{inner}lora_a"], adamw(halves)[f"adam_m.{inner}lora_A.weight"])
    moved, before = found[f"adam_m.{inner}lora_b"], adamw(halves)[f"adam_m.{inner}lora_B.weight"]
    assert not np.array_equal(moved, before)  # its rows are those of q, k and v
    assert np.array_equal(np.sort(moved, axis=0), np.sort(before, axis=0))
    assert report.way_back == "exact"


# ---- where a run comes from -----------------------------------------------------------------------------------------------------


CUTS = {"*.linear_q_up_proj.weight": ["tp", None], "*.linear_proj.weight": [None, "tp"], "*.experts.weight2": ["tp", None]}


def written_as(kind: str, tensors: Arrays, folder: Path, cuts: Any = CUTS) -> Path:
    """A run in one of the forms that MindFormers saves."""
    run = mc.load(write_safetensors(folder / "whole.safetensors", tensors))
    if kind == ".ckpt":
        mc.save(run, folder / "run.ckpt")
        return folder / "run.ckpt"
    form = "checkpoint 2.0" if kind == "iteration" else "rank folders"
    ending = ".ckpt" if kind == "ranks of .ckpt" else ".safetensors"
    layout = mc.RankLayout({"dp": 2, "tp": 2}, cuts=cuts, form=form, ending=ending, epoch=2, step=400)
    mc.save(run, folder / "run", layout_of_ranks=layout)
    return folder / "run"


@pytest.mark.parametrize("kind", [".ckpt", "ranks", "ranks of .ckpt", "iteration"])
def test_a_run_of_each_form_becomes_the_same_checkpoint(kind: str, split: Arrays, tmp_path: Path) -> None:
    tensors = {**split, **muon(split), **NUMBERS}
    expected = migrated(tensors, tmp_path, "deepseekv3", graph="dynamic")
    run = written_as(kind, tensors, tmp_path)
    report = mc.migrate(run, tmp_path / "new", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
    assert same(arrays_of(mc.load(tmp_path / "new")), expected)
    assert report.way_back == "exact"
    assert {n: v for n, v in common(tmp_path / "new").items() if v is not None} == IN_COMMON


def common(folder: Path) -> dict[str, Any]:
    (iteration,) = folder.glob("iteration_*")
    return dict(json.loads((iteration / "common.json").read_text()))


def test_state_that_differs_between_ranks_is_refused(qwen: Arrays, tmp_path: Path) -> None:
    run = written_as("ranks", {**qwen, **adamw(qwen), **NUMBERS}, tmp_path, {"*.linear_proj.weight": [None, "tp"]})
    file = next((run / "rank_1").glob("*.safetensors"))
    there = {n: r.array() for n, r in raws_in(file).items()}
    write_safetensors(file, {**there, "adam_v.output_layer.weight": there["adam_v.output_layer.weight"] + 1})
    error = refused(run, tmp_path / "out", "qwen3", config=config_of("qwen3"))
    assert error.code == "MFC308"
    assert "adam_v.output_layer.weight" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_run_of_many_ranks_is_cut_for_others(split: Arrays, tmp_path: Path) -> None:
    run = written_as("ranks", {**split, **adamw(split), **NUMBERS}, tmp_path)
    layout = mc.RankLayout({"tp": 3}, cuts={"*.linear_proj.weight": ("tp", None)})
    mc.migrate(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic", layout_of_ranks=layout)
    files = sorted(p.name for p in (tmp_path / "out" / "iteration_00000400").glob("*.safetensors"))
    assert files == [f"{kind}-000000{n}-0000003.safetensors" for kind in ("model", "opt") for n in range(3)]
    parameters = read_metadata(tmp_path / "out" / "iteration_00000400" / "metadata.json").parameters
    name = "decoder.layers.0.self_attention.linear_proj.weight"
    assert [chunk.files[0].file for chunk in parameters[name].chunks] == [f"model-000000{n}-0000003.safetensors" for n in range(3)]
    assert [chunk.files[0].file for chunk in parameters[f"adam_m.{name}"].chunks] == [
        f"opt-000000{n}-0000003.safetensors" for n in range(3)
    ]
    assert np.array_equal(arrays_of(mc.load(tmp_path / "out"))[f"adam_m.{name}"], adamw(split)[f"adam_m.{name}"])


# ---- numbers of the run ----------------------------------------------------------------------------------------------------------


def test_numbers_go_where_mindformers_reads_them(qwen: Arrays, tmp_path: Path) -> None:
    appended = {"lr_x": np.array(0.5, np.float32), "scale_sense": np.array(65536.0, np.float32)}
    found = migrated({**qwen, **adamw(qwen), **NUMBERS, **appended}, tmp_path, "qwen3")
    assert {n: v for n, v in common(tmp_path / "out").items() if v is not None} == IN_COMMON
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "400"
    held = raws_in(tmp_path / "out" / "iteration_00000400" / "opt-0000000-0000001.safetensors")
    assert {n for n in held if not n.startswith("adam_")} == {"global_step", "learning_rate", "lr_x", "scale_sense"}
    assert found["lr_x"] == 0.5
    assert found["learning_rate"] == 0.25
    assert found["scale_sense"] == 65536.0
    model = raws_in(tmp_path / "out" / "iteration_00000400" / "model-0000000-0000001.safetensors")
    assert model.keys() == qwen.keys()


def test_numbers_of_a_checkpoint_2_are_kept(qwen: Arrays, tmp_path: Path) -> None:
    migrated({**qwen, **adamw(qwen), **NUMBERS}, tmp_path, "qwen3")
    file = tmp_path / "out" / "iteration_00000400" / "common.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "consumed_samples": 25600, "ckpt_status": 0}))
    mc.migrate(tmp_path / "out", tmp_path / "again", "qwen3", config=config_of("qwen3"))
    assert common(tmp_path / "again") == {**IN_COMMON, "consumed_samples": 25600, "ckpt_status": 0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "global_step": 410}))  # what the optimizer counts is another thing
    mc.migrate(tmp_path / "out", tmp_path / "counted", "qwen3", config=config_of("qwen3"))
    assert common(tmp_path / "counted")["global_step"] == 410
    assert arrays_of(mc.load(tmp_path / "counted"))["global_step"].tolist() == [400]


def test_the_fused_optimizer_counts_its_steps_from_minus_one(qwen: Arrays, tmp_path: Path) -> None:
    moments = {word + n: a for word in ("exp_avg.", "exp_avg_sq.") for n, a in qwen.items()}
    found = migrated({**qwen, **moments, "global_step": np.array([399], np.int32)}, tmp_path, "qwen3")
    assert common(tmp_path / "out")["global_step"] == 400
    assert found["global_step"].tolist() == [399]


def test_steps_that_nothing_tells_have_to_be_given_where_an_optimizer_goes_along(qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **adamw(qwen)})
    error = refused(run, tmp_path / "out", "qwen3", config=config_of("qwen3"))
    assert error.code == "MFC501"
    assert "--iteration N" in str(error)
    report = mc.migrate(run, tmp_path / "out", "qwen3", config=config_of("qwen3"), iteration=12)
    assert common(tmp_path / "out")["global_step"] == 12
    assert "common.json lacks epoch_num, step_num, global_batch_size" in repr(report)


@pytest.mark.parametrize("step", [np.array([3.5], np.float32), np.array([-7], np.int32), np.array([1 << 41], np.int64)], ids=repr)
def test_a_number_that_is_no_number_of_steps_is_refused(step: Any, qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **adamw(qwen), "global_step": step})
    error = refused(run, tmp_path / "out", "qwen3", config=config_of("qwen3"))
    assert error.code == "MFC501"
    assert f"global_step {step.item()}" in str(error)
    assert "layout of the ranks" not in str(error)
    assert not (tmp_path / "out").exists()


def test_steps_that_a_run_counts_itself_are_not_said_anew(qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **adamw(qwen), **NUMBERS})
    error = refused(run, tmp_path / "out", "qwen3", config=config_of("qwen3"), iteration=500)
    assert error.code == "MFC501"
    assert "global_step 400" in str(error)
    mc.migrate(run, tmp_path / "same", "qwen3", config=config_of("qwen3"), iteration=400)
    mc.migrate(run, tmp_path / "weights", "qwen3", config=config_of("qwen3"), iteration=0, weights_only=True)
    assert common(tmp_path / "weights")["global_step"] == 0


# ---- what is left out ------------------------------------------------------------------------------------------------------------


def left_out(report: Any) -> dict[str, int]:
    """Of each reason how many tensors are left out."""
    return {row["to"]: row["tensors"] for row in report.rows() if row["how"] == "left out"}


def test_state_of_layers_gradients_and_placeholders_are_left_out_and_listed(split: Arrays, tmp_path: Path) -> None:
    layer = {
        "decoder.layers.1.mlp.router.fi_accu": np.ones(5, np.float32),
        "decoder.layers.1.mlp.router.expert_load": np.ones(5, np.float32),
    }
    sums = {"accu_grads.output_layer.weight": split["output_layer.weight"]}
    held = {"muon_m.placeholder.0": np.zeros(1, np.float32), "adam_m.placeholder.3": np.zeros(1, np.float32)}
    tensors = {**split, **muon(split), **NUMBERS, **layer, **sums, **held}
    run = write_safetensors(tmp_path / "run.safetensors", tensors)
    report = mc.migrate(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
    assert left_out(report) == {
        "- (state of layers in training, which the new network makes anew)": 2,
        "- (accumulated gradients, which MindFormers does not load)": 1,
        "- (placeholders of Muon, by the number of a weight; its optimizer makes them anew)": 2,
    }
    assert report.way_back == "exact, but for 5 tensors left out"
    assert not {*layer, *sums, *held} & mc.load(tmp_path / "out").tensors.keys()
    manifest = json.loads((tmp_path / "out.mfconv" / "manifest.json").read_text())
    assert {entry["name"] for entry in manifest["left_out"]} == {*layer, *sums, *held}


def test_placeholders_stay_where_the_weights_keep_their_names(qwen: Arrays, tmp_path: Path) -> None:
    held = {"muon_m.placeholder.0": np.zeros(1, np.float32)}
    assert "muon_m.placeholder.0" in migrated({**qwen, **muon(qwen), **NUMBERS, **held}, tmp_path, "qwen3")


def test_experts_that_were_moved_are_refused(split: Arrays, tmp_path: Path) -> None:
    name = "decoder.layers.1.mlp.expert_mapping"
    experts = config_of("deepseekv3")["n_routed_experts"]
    for order, is_right in ((np.arange(experts), True), (np.arange(experts)[::-1], False)):
        run = write_safetensors(tmp_path / f"{is_right}.safetensors", {**split, **NUMBERS, name: order.astype(np.int32)})
        if is_right:
            mc.migrate(run, tmp_path / "right", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
        else:
            error = refused(run, tmp_path / "wrong", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
            assert error.code == "MFC308"
            assert name in str(error)


def test_the_optimizer_is_left_out_on_request(split: Arrays, tmp_path: Path) -> None:
    came = {"exp_avg_sq_row_output_layer.weight": np.ones(3, np.float32)}
    found = migrated({**split, **adamw(split), **came, **NUMBERS}, tmp_path, "deepseekv3", graph="dynamic", weights_only=True)
    assert not any(n.startswith(("adam_", "exp_")) for n in found)
    assert "global_step" not in found
    assert [p.name for p in (tmp_path / "out" / "iteration_00000400").glob("*.safetensors")] == ["model-0000000-0000001.safetensors"]


# ---- what is refused --------------------------------------------------------------------------------------------------------------

Q, KV = "decoder.layers.1.self_attention.linear_q_down_proj.weight", "decoder.layers.1.self_attention.linear_kv_down_proj.weight"
DECAY = "decoder.layers.1.mlp.shared_experts.linear_fc2.weight"


def without_state(tensors: Arrays, name: str) -> Arrays:
    return {n: a for n, a in tensors.items() if n not in (f"adam_m.{name}", f"adam_v.{name}")}


REFUSED: list[tuple[str, Any, str]] = [
    ("a joined weight of which one part is frozen", lambda w: without_state(adamw(w), KV), f"'{KV}' has no such state"),
    ("rows of a weight that is joined", lambda w: {f"exp_avg_sq_row_{Q}": w[Q][:, 0]}, "for a weight of"),
    ("one number for a weight that is joined", lambda w: {f"exp_avg_sq_{Q}": np.ones(1, np.float32)}, "a tensor of 1, for a weight of"),
    (
        "state of a weight that is not there",
        lambda w: {**adamw(w), "adam_m.decoder.layers.9.w": np.ones(3, np.float32)},
        "does not go into the other form",
    ),
    ("state of an optimizer that nobody knows", lambda w: {f"lion.{n}": a for n, a in w.items() if a.ndim > 1}, "not known"),
    (
        "the first moment of a weight without the second",
        lambda w: {n: a for n, a in adamw(w).items() if n != f"adam_v.{DECAY}"},
        f"there is no 'adam_v.{DECAY}'",
    ),
    (
        "the second moment of a layer without the first",
        lambda w: {n: a for n, a in adamw(w).items() if not n.startswith("adam_m.decoder.layers.2.")},
        "there is no 'adam_m.decoder.layers.2.",
    ),
    (
        "the first moment of the fused optimizer without the second",
        lambda w: {f"{word}{n}": a for word in ("exp_avg.", "exp_avg_sq.") for n, a in w.items() if word + n != f"exp_avg_sq.{DECAY}"},
        f"there is no 'exp_avg_sq.{DECAY}'",
    ),
    ("state of two dtypes in one weight", lambda w: {**adamw(w), f"adam_m.{KV}": w[KV].astype(np.float16)}, "F16 and F32"),
]


@pytest.mark.parametrize(("what", "state", "found"), REFUSED, ids=[what for what, *_ in REFUSED])
def test_state_that_the_rules_cannot_move_exactly_is_refused_by_name(
    what: str, state: Any, found: str, split: Arrays, tmp_path: Path
) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **state(split), **NUMBERS})
    error = refused(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
    assert error.code == "MFC320"
    assert found in str(error)
    assert "--weights_only (weights_only=True in Python)" in str(error)
    assert not (tmp_path / "out").exists()


def test_state_that_the_dynamic_graph_does_not_know_is_said(split: Arrays, tmp_path: Path) -> None:
    weights = {n: a for n, a in split.items() if not n.endswith("bias")}
    moments = {word + n: a for word in ("exp_avg.", "exp_avg_sq.") for n, a in weights.items()}
    run, config = write_safetensors(tmp_path / "run.safetensors", {**split, **moments, **NUMBERS}), config_of("deepseekv3")
    assert "no optimizer of the dynamic graph has exp_avg., exp_avg_sq." in repr(
        mc.migrate(run, tmp_path / "a", "deepseekv3", config=config, graph="dynamic")
    )
    assert "no optimizer" not in repr(mc.migrate(run, tmp_path / "b", "deepseekv3", config=config, mla_qkv_concat=True))


def test_state_that_no_network_of_inference_takes_is_said(split: Arrays, tmp_path: Path) -> None:
    run, config = write_safetensors(tmp_path / "run.safetensors", {**split, **adamw(split), **NUMBERS}), config_of("deepseekv3")
    with_state = mc.migrate(run, tmp_path / "a", "deepseekv3", config=config, graph="inference")
    without = mc.migrate(run, tmp_path / "b", "deepseekv3", config=config, graph="inference", weights_only=True)
    said = "a network of inference has no optimizer"
    assert said in repr(with_state)
    assert said not in repr(without)


@pytest.mark.parametrize("family", ["qwen3", "blip", "llama"])  # of them one has zeros filled in, one a tied head
def test_in_the_same_form_any_state_goes_along(family: str, tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True} if family == "llama" else {}
    toy = mc.toy(family, dtype="fp32", **tied)
    weights = arrays_of(mc.map(toy, family, to="mf"))
    matrices = [n for n, a in weights.items() if a.ndim == 2]
    came = {f"exp_avg_sq_row_{n}": weights[n][:, 0] for n in matrices} | {f"exp_avg_sq_{n}": np.ones(1, np.float32) for n in matrices}
    lion = {f"lion.{n}": -weights[n] for n in matrices}
    held = {**came, **lion, **adamw(weights), **NUMBERS, "afactor_step": np.array([5], np.int32)}
    run = mc.load({**weights, **held}, config=toy.config)
    report = mc.migrate(run, tmp_path / "out", family)
    found = arrays_of(mc.load(tmp_path / "out"))
    assert same(found, {n: a for n, a in {**weights, **held}.items() if n in ("global_step", "learning_rate") or n not in NUMBERS})
    assert report.way_back == "exact"


def test_rows_and_columns_go_along_where_every_number_of_the_weight_keeps_its_place(split: Arrays, tmp_path: Path) -> None:
    kept = "decoder.layers.0.self_attention.linear_q_up_proj.weight"  # it gets another name
    came = {f"exp_avg_sq_row_{kept}": split[kept][:, 0], f"exp_avg_sq_{kept}": np.full(1, 5, np.float32)}
    found = migrated({**split, **came, **NUMBERS}, tmp_path, "deepseekv3", graph="dynamic")
    assert np.array_equal(found["exp_avg_sq_row_decoder.layers.0.self_attention.linear_qb.weight"], split[kept][:, 0])
    assert found["exp_avg_sq_decoder.layers.0.self_attention.linear_qb.weight"].tolist() == [5]


LOSING: list[tuple[str, Form, Form, str]] = [
    ("qwenvl", {"enable_emb_opt": True}, {"enable_emb_opt": False}, "of 49,152 numbers of its weight 31,776 go into the other form"),
    ("qwenvl", {"enable_emb_opt": False}, {"enable_emb_opt": True}, "has 49,152 numbers, of which 31,776 come from weights"),
    ("bert", {"named_by": "network"}, {"named_by": "converter"}, "of 31,776 numbers of its weight 63,552 go into the other form"),
]


@pytest.mark.parametrize(("family", "before", "after", "found"), LOSING, ids=["cut off", "filled in", "copied"])
def test_state_is_refused_where_the_rules_cut_off_fill_in_or_copy(
    family: str, before: Form, after: Form, found: str, tmp_path: Path
) -> None:
    toy = mc.toy(family, dtype="fp32", options=before)
    weights = arrays_of(mc.map(toy, family, to="mf", **before))
    run = mc.load({**weights, **adamw(weights), **NUMBERS}, config=toy.config)
    error = refused(run, tmp_path / "out", family, form_of_run=before, **after)
    assert error.code == "MFC320"
    assert found in str(error)


def test_rows_of_a_weight_that_is_copied_are_refused(tmp_path: Path) -> None:
    toy = mc.toy("bert", dtype="fp32", options={"named_by": "network"})
    weights = arrays_of(mc.map(toy, "bert", to="mf", named_by="network"))
    table = next(n for n, a in weights.items() if a.shape == (331, 96))
    run = mc.load({**weights, f"exp_avg_sq_row_{table}": np.ones(331, np.float32), **NUMBERS}, config=toy.config)
    error = refused(run, tmp_path / "out", "bert", form_of_run={"named_by": "network"}, named_by="converter")
    assert error.code == "MFC320"


def test_state_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    toy = mc.toy("llama", dtype="fp32", tie_word_embeddings=True)
    weights = arrays_of(mc.map(toy, "llama", to="mf"))
    run = mc.load({**weights, **adamw(weights), **NUMBERS}, config=toy.config)
    error = refused(run, tmp_path / "out", "llama", qkv_concat=True)
    assert error.code == "MFC320"
    assert "'lm_head.weight' does not go into the other form" in str(error)


def test_state_of_frozen_weights_may_be_absent_where_they_stay_apart(split: Arrays, tmp_path: Path) -> None:
    found = migrated({**split, **without_state(adamw(split), DECAY), **NUMBERS}, tmp_path, "deepseekv3", graph="dynamic")
    assert f"adam_m.{DECAY}" not in found
    assert DECAY in found


def test_a_whole_joined_weight_may_be_frozen(split: Arrays, tmp_path: Path) -> None:
    state = without_state(without_state(adamw(split), KV), Q)
    found = migrated({**split, **state, **NUMBERS}, tmp_path, "deepseekv3", graph="dynamic")
    assert "adam_m.decoder.layers.1.self_attention.linear_qkv.weight" not in found
    assert "adam_m.decoder.layers.0.self_attention.linear_qkv.weight" in found


def test_rows_that_were_added_to_the_vocabulary_go_along_where_the_config_counts_them(tmp_path: Path) -> None:
    config, padded = config_of("qwen3"), {**config_of("qwen3"), "vocab_size": 340}
    weights = arrays_of(mc.map(mc.toy("qwen3", dtype="fp32", vocab_size=340), "qwen3", to="mf"))
    run = write_safetensors(tmp_path / "run.safetensors", {**weights, **adamw(weights), **NUMBERS})
    error = refused(run, tmp_path / "out", "qwen3", config=config)
    assert error.code == "MFC303"
    assert "cut_vocabulary" not in str(error)  # migrate does not know it, and the optimizer has state of these rows
    assert "vocab_size" in (error.hint or "")
    assert "exact" in mc.migrate(run, tmp_path / "out", "qwen3", config=padded).way_back


def test_a_form_without_a_place_for_layers_of_the_run_is_refused_as_such(split: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **NUMBERS})
    error = refused(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic", with_mtp=0)
    assert error.code == "MFC303"
    hint = error.hint or ""
    assert "--graph dynamic --with_mtp 0" in hint
    assert "another family" not in hint


def test_tensors_kept_beside_the_run_for_hugging_face_are_said_to_stay_there(tmp_path: Path) -> None:
    toy = mc.toy("llama", dtype="fp32")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    mc.save(mc.map(mc.load({**arrays_of(toy), **buffer}, config=toy.config), "llama", to="mf"), tmp_path / "run.safetensors")
    report = mc.migrate(tmp_path / "run.safetensors", tmp_path / "out", qkv_concat=True)
    assert "1 tensor of Hugging Face's side alone stays beside" in repr(report)


def test_weights_of_hugging_face_are_no_run(tmp_path: Path) -> None:
    mc.toy("qwen3", tmp_path / "hf")
    error = refused(tmp_path / "hf", tmp_path / "out", "qwen3")
    assert error.code == "MFC501"
    assert "mfconv convert" in str(error)


# ---- how it is asked for ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_says_the_same(split: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **adamw(split), **NUMBERS})
    planned = mc.migrate(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic", dry_run=True)
    assert "✓" not in repr(planned)
    assert "Nothing was written (dry run)." in repr(planned)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.safetensors"]
    done = mc.migrate(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
    assert planned.rows() == done.rows()
    assert done.table().verdict == "✓ Migrated."


def test_the_yaml_of_the_next_run_says_its_form(qwen: Arrays, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(f"model:\n  model_config:\n    model_type: qwen3\n    {CONTIGUOUS}: True\n")
    found = migrated({**qwen, **adamw(qwen), **NUMBERS}, tmp_path, "qwen3", to_config=tmp_path / "new.yaml")
    assert not np.array_equal(
        found["decoder.layers.0.self_attention.linear_qkv.weight"], qwen["decoder.layers.0.self_attention.linear_qkv.weight"]
    )


def test_an_order_of_rows_that_the_dynamic_graph_does_not_know_is_said(qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **NUMBERS})
    config, said = config_of("qwen3"), f"{CONTIGUOUS}=True: the static graph alone has this order of rows; for the dynamic one give False"
    assert said in repr(mc.migrate(run, tmp_path / "a", "qwen3", config=config, form_of_run={CONTIGUOUS: True}))
    assert "static graph alone" not in repr(
        mc.migrate(run, tmp_path / "b", "qwen3", config=config, form_of_run={CONTIGUOUS: True}, **{CONTIGUOUS: False})
    )


def test_that_order_is_said_too_where_it_is_asked_for_beside_the_dynamic_graph(split: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **NUMBERS})
    report = mc.migrate(run, tmp_path / "a", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic", **{INTERLEAVED: False})
    assert f"{INTERLEAVED}=False: the static graph alone has this order of rows; for the dynamic one give True" in repr(report)


def test_a_config_that_is_no_yaml_of_a_run_says_no_form(qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **NUMBERS})
    (tmp_path / "config.json").write_text(json.dumps(config_of("qwen3")))
    error = refused(run, tmp_path / "out", "qwen3", config=config_of("qwen3"), to_config=tmp_path / "config.json")
    assert error.code == "MFC501"
    assert "the YAML of a run" in str(error)


def test_what_is_assumed_of_the_run_is_said_only_where_it_matters(qwen: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **NUMBERS})
    config = config_of("qwen3")
    assert "assumed:" not in repr(mc.migrate(run, tmp_path / "same", "qwen3", config=config))
    assert f"assumed: {CONTIGUOUS}=False" in repr(mc.migrate(run, tmp_path / "other", "qwen3", config=config, **{CONTIGUOUS: True}))
    told = mc.migrate(run, tmp_path / "told", "qwen3", config=config, form_of_run={CONTIGUOUS: False}, **{CONTIGUOUS: True})
    assert "assumed:" not in repr(told)


def test_the_command_does_the_same(split: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **muon(split), **NUMBERS})
    (tmp_path / "config.json").write_text(json.dumps(config_of("deepseekv3")))
    words = ["migrate", str(run), str(tmp_path / "out"), "--config", str(tmp_path / "config.json"), "--graph", "dynamic", "--quiet"]
    assert mfconv(words) == 0
    shown = capsys.readouterr().out
    assert "Migrated. deepseekv3, graph static → dynamic: " in shown
    assert "Way back: exact." in shown
    assert mfconv(words) == 2  # it is there
    assert "MFC401" in capsys.readouterr().err
    assert mfconv([*words, "--force", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    joined = next(row for row in content["rows"] if row["how"] == "joined")
    assert joined["to"] == "decoder.layers.{0‥2}.self_attention.linear_qkv.weight"
    assert joined["state"] == "muon_m."
    again = mc.migrate(run, tmp_path / "python", config=tmp_path / "config.json", graph="dynamic")
    assert same(arrays_of(mc.load(again.target)), arrays_of(mc.load(tmp_path / "out")))


def test_an_option_of_the_run_is_given_as_name_and_value(qwen: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**qwen, **NUMBERS})
    (tmp_path / "config.json").write_text(json.dumps(config_of("qwen3")))
    words = ["migrate", str(run), str(tmp_path / "out"), "--config", str(tmp_path / "config.json"), "--quiet"]
    assert mfconv([*words, "--form_of_run", f"{CONTIGUOUS}=True", f"--{CONTIGUOUS}", "False"]) == 0
    assert f"{CONTIGUOUS} True → False" in capsys.readouterr().out
    assert mfconv([*words, "--form_of_run", CONTIGUOUS]) == 2
    assert "is no NAME=VALUE" in capsys.readouterr().err


def test_a_view_of_it_needs_no_script(split: Arrays, tmp_path: Path) -> None:
    run = write_safetensors(tmp_path / "run.safetensors", {**split, **muon(split), **NUMBERS})
    report = mc.migrate(run, tmp_path / "out", "deepseekv3", config=config_of("deepseekv3"), graph="dynamic")
    page = report.export(tmp_path / "report.html").read_text()
    assert "self_attention.linear_qkv.weight" in text_of(page)
    assert "muon_m." in text_of(page)
    assert "<script" not in page
