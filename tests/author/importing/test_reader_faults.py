"""What the lint says of a Hugging Face folder and a `weight_converters` list, against what MindFormers' own reader does with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mfconv_nb as mc
from mfconv_nb.author.exporting.weight_converters import converters_of, converters_text
from mfconv_nb.author.importing.reader_faults import (
    INCOMPLETE,
    NO_SCALE,
    NOT_ANCHORED,
    ODD_CODES,
    ODD_DTYPE,
    RAGGED,
    SCALE_ELSEWHERE,
    SCALE_NAME,
    STOPS,
    TWICE,
    UNMATCHED,
)
from mfconv_nb.cli.main import run
from mfconv_nb.mapping.forms import all_forms
from tests.author.exporting.test_export_mcore_converters import FAMILIES, FORMS, by_names, label, loaded, model_of, template_of
from tests.mindformers_package import mindformers_folder, mindformers_modules
from tests.toys import arrays_of

ONE = 'RenameConvertOp(hf_names="a.{}.w.weight", mf_names="b.{}.w.weight")'
READER = "mindformers.checkpoint.safetensors_utils"
MODEL = SimpleNamespace(num_attention_heads=2, num_query_groups=2, kv_channels=2, hidden_size=4, tensor_model_parallel_size=1)


def list_of(*ops: str) -> str:
    names = sorted({op.partition("(")[0] for op in ops})
    imports = f"from mindformers.checkpoint.converter.convert_op import {', '.join(names)}\n"
    return f"{imports}weight_converters = [\n" + "".join(f"    {op},\n" for op in ops) + "]\n"


def write(folder: Path, *shards: dict[str, Any], config: Any = None) -> Path:
    """A Hugging Face folder; arrays of uint8 are codes of float8, those of int8 packed fp4."""
    folder.mkdir()
    index = {}
    for n, tensors in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{n:05}-of-{len(shards):05}.safetensors"
        save_file({key: np.asarray(value) for key, value in tensors.items()}, folder / name)
        _mark_codes(folder / name)
        index |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "mine"}))
    return folder


def _mark_codes(path: Path) -> None:
    """Let the header say F8_E4M3 where it says U8: same length, so no offset moves but the header's."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"U8"', b'"F8_E4M3"').rstrip()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def faults(text: str, folder: Path) -> list[tuple[str, str, str, int]]:
    return [(f.kind, f.tensor, f.file, f.count) for f in mc.author.import_rules(text, names=folder).faults]


def read_by_them(path: Path) -> dict[str, Any]:
    with mindformers_modules(READER) as (reader,):
        return dict(reader.load_safetensors_file(str(path)))


def codes(rows: int, columns: int = 4) -> np.ndarray:
    return np.full((rows, columns), 0x38, np.uint8)  # 1.0 in e4m3


# ---- scales ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
def test_a_scale_that_their_reader_finds_is_no_fault(tmp_path: Path) -> None:
    scale = np.array([[2.0], [3.0]], np.float32)
    folder = write(tmp_path / "f", {"a.0.w.weight": codes(256), "a.0.w.scale": scale})
    assert faults(list_of(ONE), folder) == []
    assert sorted(set(read_by_them(folder / "model.safetensors")["a.0.w.weight"].ravel())) == [2.0, 3.0]


@pytest.mark.real_frameworks
def test_a_scale_in_another_file_is_found(tmp_path: Path) -> None:
    first = {f"a.{n}.w.weight": codes(128) for n in range(3)}
    folder = write(tmp_path / "f", first, {f"a.{n}.w.scale": np.full((1, 1), 2, np.float32) for n in range(3)})
    assert faults(list_of(ONE), folder) == [(SCALE_ELSEWHERE, "a.0.w.weight", "model-00001-of-00002.safetensors", 3)]
    said = str(mc.author.import_rules(list_of(ONE), names=folder).faults[0])
    assert "a.0.w.weight and 2 more (in model-00001-of-00002.safetensors)" in said
    assert "it is in model-00002-of-00002.safetensors" in said
    assert set(read_by_them(folder / "model-00001-of-00002.safetensors")["a.0.w.weight"].ravel()) == {1.0}  # right is 2.0


@pytest.mark.real_frameworks
@pytest.mark.parametrize("ending", ["weight_scale_inv", "weight_scale"])
def test_a_scale_under_another_name_is_found_and_it_overwrites_its_weight(ending: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "f", {"a.7.w.weight": codes(128), f"a.7.w.{ending}": np.full((1, 1), 2, np.float32)})
    assert faults(list_of(ONE), folder) == [
        (SCALE_NAME, "a.7.w.weight", "model.safetensors", 1),
        (NOT_ANCHORED, f"a.7.w.{ending}", "model.safetensors", 1),
    ]
    found = read_by_them(folder / "model.safetensors")
    assert set(found["a.7.w.weight"].ravel()) == {1.0}
    with template_of(list_of(ONE), MODEL) as template:
        made = by_names(template.get_mf_state_dict({name: found[name] for name in ("a.7.w.weight", f"a.7.w.{ending}")}))
    assert made["b.7.w.weight"].tolist() == [[2.0]]  # the scale, where the weight belongs


def test_codes_without_any_scale_are_found_also_where_no_name_ends_in_weight(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", {"a.0.w.weight": codes(128), "a.0.e.joined": codes(128)})
    other = 'RenameConvertOp(hf_names="a.{}.e.joined", mf_names="b.{}.e")'
    assert [f[:2] for f in faults(list_of(ONE, other), folder)] == [(NO_SCALE, "a.0.e.joined"), (NO_SCALE, "a.0.w.weight")]


@pytest.mark.real_frameworks
@pytest.mark.parametrize(
    "rows, blocks, block, ends", [(576, 5, 128, "stops"), (600, 5, 128, "wrong"), (256, 2, 128, ""), (96, 1, 128, ""), (90, 3, 32, "wrong")]
)
def test_ragged_blocks_are_found_those_that_divide_evenly_too(rows: int, blocks: int, block: int, ends: str, tmp_path: Path) -> None:
    scale = np.arange(1, blocks + 1, dtype=np.float32)[:, None]
    config = {"model_type": "mine", "quantization_config": {"weight_block_size": [block, 128]}}
    folder = write(tmp_path / "f", {"a.0.w.weight": codes(rows), "a.0.w.scale": scale}, config=config)
    assert faults(list_of(ONE), folder) == ([(RAGGED, "a.0.w.weight", "model.safetensors", 1)] if ends else [])
    said = [fault.does for fault in mc.author.import_rules(list_of(ONE), names=folder).faults]
    assert [("and stops" in does, "wrong scale" in does) for does in said] == ([(ends == "stops", ends == "wrong")] if ends else [])
    if ends == "stops":
        with pytest.raises(ValueError, match="cannot reshape"):
            read_by_them(folder / "model.safetensors")
        return
    right = np.repeat(scale, block, axis=0)[:rows, 0]
    found = read_by_them(folder / "model.safetensors")["a.0.w.weight"][:, 0]
    assert np.array_equal(found, right) == (ends != "wrong")


@pytest.mark.real_frameworks
def test_packed_codes_and_scales_of_one_axis(tmp_path: Path) -> None:
    good = {"a.0.w.weight": np.zeros((4, 32), np.int8), "a.0.w.scale": np.ones((4, 2), np.float32)}  # 64 columns in 2 blocks
    flat = {"a.1.w.weight": codes(4), "a.1.w.scale": np.ones((4,), np.float32)}
    good |= {"a.2.w.weight": np.zeros((4, 9), np.int8), "a.2.w.scale": np.ones((4, 2), np.float32)}  # 18 in 2
    ragged = {"a.3.v.weight": np.zeros((4, 32), np.int8), "a.3.v.scale": np.ones((3, 2), np.float32)}
    folder = write(tmp_path / "f", good, flat, ragged)
    assert faults(list_of(ONE, ONE.replace(".w.", ".v.")), folder) == [
        (ODD_CODES, "a.1.w.weight", "model-00002-of-00003.safetensors", 1),
        (RAGGED, "a.3.v.weight", "model-00003-of-00003.safetensors", 1),
    ]
    found = read_by_them(folder / "model-00001-of-00003.safetensors")
    assert (found["a.0.w.weight"].shape, found["a.2.w.weight"].shape) == ((4, 64), (4, 18))
    with pytest.raises(ValueError, match="cannot reshape"):
        read_by_them(folder / "model-00003-of-00003.safetensors")
    with pytest.raises(ValueError, match="not enough values to unpack"):
        read_by_them(folder / "model-00002-of-00003.safetensors")


@pytest.mark.real_frameworks
def test_a_dtype_that_their_reader_does_not_know(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", {"a.0.w.weight": np.zeros((2, 2), np.float64)})
    assert faults(list_of(ONE), folder) == [(ODD_DTYPE, "a.0.w.weight", "model.safetensors", 1)]
    with pytest.raises(ValueError, match="Unsupported safetensors dtype"):
        read_by_them(folder / "model.safetensors")


# ---- names -------------------------------------------------------------------------------------------------------------------------

PAIR = 'ConcatConvertOp(hf_names=["a.{}.g.weight", "a.{}.u.weight"], mf_names=["b.{}.gu"], interleaved=False)'
SQUARE = np.ones((2, 2), np.float32)


@pytest.mark.real_frameworks
def test_names_that_no_pattern_takes_and_groups_that_stay_open(tmp_path: Path) -> None:
    tensors = {"a.0.g.weight": SQUARE, "a.0.u.weight": SQUARE, "a.1.g.weight": SQUARE, "rotary.inv_freq": SQUARE}
    folder = write(tmp_path / "f", tensors)
    assert faults(list_of(PAIR), folder) == [
        (UNMATCHED, "rotary.inv_freq", "model.safetensors", 1),
        (INCOMPLETE, "a.1.u.weight", "model.safetensors", 1),
    ]
    with template_of(list_of(PAIR), MODEL) as template, pytest.raises(TypeError, match="'int' object is not callable"):
        template.get_mf_state_dict(tensors)
    with template_of(list_of(PAIR), MODEL) as template:
        made = template.get_mf_state_dict({name: array for name, array in tensors.items() if name != "a.1.g.weight"})
    assert list(made) == ["b.0.gu"]


@pytest.mark.real_frameworks
def test_a_name_that_two_patterns_take(tmp_path: Path) -> None:
    general = 'RenameConvertOp(hf_names="a.{}.{}.weight", mf_names="x.{}.{}")'
    special = 'RenameConvertOp(hf_names="a.{}.3.weight", mf_names="y.{}")'
    wide = 'RenameConvertOp(hf_names="a.{}.{}.weight", mf_names="z.{}.{}")'
    folder = write(tmp_path / "f", {"a.5.3.weight": SQUARE})
    assert [f[:2] for f in faults(list_of(general, special), folder)] == [(TWICE, "a.5.3.weight")]  # the longer one takes it
    with template_of(list_of(general, special), MODEL) as template:
        assert list(template.get_mf_state_dict({"a.5.3.weight": SQUARE})) == ["x.5.3"]
    whole = 'RenameConvertOp(hf_names="a.5.3.weight", mf_names="y")'
    assert faults(list_of(general, whole), folder) == []
    with template_of(list_of(general, whole), MODEL) as template:
        assert list(template.get_mf_state_dict({"a.5.3.weight": SQUARE})) == ["y"]
    assert [f[:2] for f in faults(list_of(general, wide), folder)] == [(TWICE, "a.5.3.weight")]


@pytest.mark.real_frameworks
def test_an_expert_that_their_loader_stacks_by_another_operation(tmp_path: Path) -> None:
    general = 'ExpertsConvertOp(hf_names="a.{}.experts.{}.weight", mf_names="x.{}.w")'
    special = 'ExpertsConvertOp(hf_names="a.(?=12.){}.experts.{}.weight", mf_names="y.w")'.replace("Experts", "EachExpert")
    tensors = {f"a.{layer}.experts.{e}.weight": SQUARE for layer in (1, 12) for e in range(2)}
    folder = write(tmp_path / "f", tensors)
    assert faults(list_of(general, special), folder) == [(TWICE, "a.12.experts.0.weight", "model.safetensors", 2)]
    assert faults(list_of(special, general), folder) == []
    theirs = list_of(general, special).replace("EachExpert", "Experts")
    model = SimpleNamespace(num_moe_experts=2, hidden_size=2, moe_ffn_hidden_size=2, expert_model_parallel_size=1)
    with template_of(theirs, model) as template:
        assert set(loaded(template, tensors, 2)) == {"x.1.w", "x.12.w"}


@pytest.mark.real_frameworks
def test_names_at_which_their_loader_stops(tmp_path: Path) -> None:
    alone = 'RenameConvertOp(hf_names="a.{}.q_proj.weight", mf_names="b.{}.q.weight")'
    expert = 'RenameConvertOp(hf_names="a.{}.experts_norm.weight", mf_names="b.{}.n.weight")'
    tensors = {"a.0.q_proj.weight": SQUARE, "a.0.experts_norm.weight": SQUARE}
    folder = write(tmp_path / "f", tensors)
    assert sorted(f[:2] for f in faults(list_of(alone, expert), folder)) == [
        (STOPS, "a.0.experts_norm.weight"),
        (STOPS, "a.0.q_proj.weight"),
    ]
    for name in tensors:
        with template_of(list_of(alone, expert), MODEL) as template, pytest.raises(ValueError, match="Can not find the weight name"):
            loaded(template, {name: SQUARE}, 0)


@pytest.mark.real_frameworks
def test_experts_that_are_missing_are_never_written(tmp_path: Path) -> None:
    form = next(form for form in FORMS if form.key == "qwen3-moe")
    toy = mc.toy("qwen3-moe", dtype="fp32")
    mc.save(toy, tmp_path / "hf")
    text = converters_text(form, *converters_of(form, toy.config))
    assert mc.author.import_rules(text, names=tmp_path / "hf").faults == ()
    arrays = arrays_of(toy)
    del arrays["model.layers.1.mlp.experts.2.up_proj.weight"]
    for path in (tmp_path / "hf").glob("*.safetensors*"):
        path.unlink()
    save_file(arrays, tmp_path / "hf" / "model.safetensors")
    assert [f[:2] for f in faults(text, tmp_path / "hf")] == [(INCOMPLETE, "model.layers.1.mlp.experts.{}.up_proj.weight")]
    with template_of(text, model_of(form, toy.config)) as template:
        found = loaded(template, arrays, 5)
    assert "decoder.layers.0.mlp.experts.weight1" in found
    assert "decoder.layers.1.mlp.experts.weight1" not in found


@pytest.mark.parametrize("form", [next(iter(all_forms(family))) for family in FAMILIES], ids=label)
def test_an_exported_list_has_no_fault_with_a_folder_of_its_family(form: Any, tmp_path: Path) -> None:
    toy = mc.toy(form.key, options=form.chosen)
    mc.save(toy, tmp_path / "hf")
    imported = mc.author.import_rules(converters_text(form, *converters_of(form, toy.config)), names=tmp_path / "hf")
    assert imported.faults == ()


def test_the_command_says_each_fault_in_words_and_in_json_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = str(mindformers_folder() / "models/deepseek4/utils.py")
    name = "layers.0.attn.wq_a.weight"
    folder = write(tmp_path / "f", {name: codes(128), name + "_scale_inv": np.ones((1, 1), np.float32)})
    assert run(["import", template, "--form", "weight_converters", "--names", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "2 faults of MindFormers' reader" in said
    assert f"MindFormers' reader: {name} (in model.safetensors): {SCALE_NAME}" in said
    assert run(["import", template, "--form", "weight_converters", "--names", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["faults"]
    assert [(f["kind"], f["tensor"], f["file"], f["count"]) for f in found] == [
        (SCALE_NAME, name, "model.safetensors", 1),
        (NOT_ANCHORED, name + "_scale_inv", "model.safetensors", 1),
    ]
    assert all(f["does"] and f["hint"] for f in found)
    clean = tmp_path / "list.py"
    clean.write_text(list_of(ONE))
    good = write(tmp_path / "good", {"a.0.w.weight": SQUARE})
    assert run(["import", str(clean), "--names", str(good)]) == 0
    capsys.readouterr()
    alone = write(tmp_path / "alone", {"a.0.w.weight": codes(128)})
    assert run(["import", str(clean), "--names", str(alone)]) == 1
    assert "! 1 fault of MindFormers' reader." in capsys.readouterr().out


def test_names_without_files_have_no_faults() -> None:
    assert mc.author.import_rules(list_of(ONE), names=["a.0.w.weight", "b"]).faults == ()
    assert mc.author.import_rules(list_of(ONE), names={"a.0.w.weight": SQUARE, "b": SQUARE}).faults == ()
