"""The two sets of names that transformers 5 has for one model: read from files and live models, written, and as our table has them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.author.importing.transformers_rules import Engine, read_registered_transforms
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.families.dialects import DIALECTS, WITHOUT_DIALECT
from mfconv_nb.families.registry import built_in, family_named
from mfconv_nb.families.same_maths import listed_types
from mfconv_nb.rules import Rule
from tests.real_frameworks.test_families_of_transformers import made, same_state
from tests.support import raws_in

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.real_frameworks

TWO_SETS = ("mixtral", "qwen2-moe", "qwen3-moe", "deepseek2", "deepseek3", "deepseekv32", "glm4-moe", "glm5", "llava", "swin_hf")
EQUAL_NAMES = ("llama", "bert")


def _write_saved(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def _write_in_memory(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder, save_original_format=False, max_shard_size="100KB")
    return folder


def _write_state_dict(model: Any, folder: Path) -> Any:
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


FORMS: dict[str, Callable[[Any, Path], Any]] = {
    "saved": _write_saved,
    "in memory": _write_in_memory,
    "state dict": _write_state_dict,
    "live": lambda model, folder: model,
}


def _to_mindformers(source: Any, key: str, target: Path) -> tuple[Any, dict[str, Any]]:
    mapped = mc.map(mc.load(source), key, to="mf")
    mc.save(mapped, target)
    return mapped, raws_in(target)


def _notes_on_names(mapped: Any) -> list[str]:
    return [note for note in mapped.report.notes if "in memory" in note]


# ---- in -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*TWO_SETS, *EQUAL_NAMES])
def test_all_four_forms_of_a_model_give_the_same_mindformers_bytes(key: str, tmp_path: Path) -> None:
    model = made(key).to(torch.bfloat16)
    found, notes = {}, {}
    for number, (form, write) in enumerate(FORMS.items()):
        mapped, found[form] = _to_mindformers(write(model, tmp_path / form), key, tmp_path / f"{number}.safetensors")
        notes[form] = _notes_on_names(mapped)
    assert [form for form in FORMS if found[form] != found["saved"]] == []
    assert found["saved"]
    said = key in TWO_SETS
    assert {form: len(n) for form, n in notes.items()} == {"saved": 0, "in memory": said, "state dict": said, "live": said}


def test_a_joined_tensor_is_cut_where_the_model_computes_with_it() -> None:
    """Gate and up of expert 3, taken from the live model by hand."""
    model = made("mixtral")
    ffn = model.config.intermediate_size
    joined = model.state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
    mapped = mc.map(mc.load(model), "mixtral", use_gmm=False)
    gate, up = (torch.from_numpy(mc.read(mapped, f"model.layers.1.feed_forward.ffn.{name}.weight")) for name in ("w1", "w3"))
    assert joined.shape == (5, 2 * ffn, model.config.hidden_size)
    assert torch.equal(gate[3], joined[3, :ffn])
    assert torch.equal(up[3], joined[3, ffn:])


@pytest.mark.parametrize("key", TWO_SETS)
def test_a_family_is_told_from_names_in_memory_and_verify_and_diff_read_them(key: str, tmp_path: Path) -> None:
    model = made(key)
    _write_saved(model, tmp_path / "saved")
    _write_in_memory(model, tmp_path / "memory")
    told = mc.map(mc.load(tmp_path / "memory"))
    assert told.family == mc.map(mc.load(tmp_path / "saved")).family
    mc.save(told, tmp_path / "mf.safetensors")
    report = mc.verify(tmp_path / "memory", tmp_path / "mf.safetensors", progress=False)
    assert report.passed
    assert any("in memory" in change for change in report.changes)
    same = mc.diff(tmp_path / "memory", tmp_path / "saved", values=True, progress=False)
    assert same.equal
    assert "names in memory read as saved ones" in same.first
    assert mc.diff(tmp_path / "memory", model, progress=False).counts["agree"] == len(mc.load(tmp_path / "memory"))
    assert run(["doctor", str(tmp_path / "memory")]) == run(["doctor", str(tmp_path / "saved")])  # 1 where a layer of MTP is not there


def test_without_a_config_names_alone_tell_mixtral_from_qwen() -> None:
    for key in ("mixtral", "qwen2-moe", "llava", "swin_hf"):
        live = replace(mc.load(made(key)), config=None)
        assert mc.map(live, to="mf").family == key


WRAPS: dict[str, Callable[[Any], Any]] = {
    "_orig_mod.": lambda model: torch.compile(model),
    "module.": lambda model: torch.nn.DataParallel(model).state_dict(),
    "base_model.model.": lambda model: {f"base_model.model.{name}": value for name, value in model.state_dict().items()},
    "_checkpoint_wrapped_module.": lambda model: {
        re.sub(r"(layers\.\d+\.)", r"\1_checkpoint_wrapped_module.", name): value for name, value in model.state_dict().items()
    },
}


@pytest.mark.parametrize("text", WRAPS)
def test_what_a_wrapper_puts_before_names_in_memory_is_named_and_taken_off_on_request(text: str, tmp_path: Path) -> None:
    model = made("mixtral")
    wrapped, config = WRAPS[text](model), {"model_type": "mixtral", **family_named("mixtral").toy}
    with pytest.raises(MappingError) as error:
        mc.map(wrapped, config=config)
    assert f"'{text}'" in str(error.value.hint)
    assert "unwrap=True" in str(error.value.hint)
    mapped = mc.map(wrapped, config=config, unwrap=True)
    assert mapped.report.notes[0].startswith(f"taken off: '{text}'")
    assert mc.diff(mapped, mc.map(model), values=True, progress=False).equal
    mc.save(mapped, tmp_path / "mf.safetensors")
    assert mc.verify(mc.load(wrapped, config=config), tmp_path / "mf.safetensors", unwrap=True, progress=False).passed


def test_other_models_are_left_as_they_are() -> None:
    for key in ("llama", "qwen2", "bert", "t5", "whisper"):
        assert _notes_on_names(mc.map(mc.load(made(key)), key)) == []


# ---- out ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hf_names", ["saved", "memory"])
@pytest.mark.parametrize("key", [*TWO_SETS, *EQUAL_NAMES])
def test_from_pretrained_opens_what_is_written_under_either_names(key: str, hf_names: str, tmp_path: Path) -> None:
    model = made(key)
    _write_saved(model, tmp_path / "hf")
    _, numbers = _to_mindformers(tmp_path / "hf", key, tmp_path / "mf.safetensors")
    mapped = mc.map(mc.load(tmp_path / "mf.safetensors"), key, hf_names=hf_names)
    written = mc.save(mapped, tmp_path / "back", assets=tmp_path / "hf")
    assert written.back.startswith("exact")
    back, info = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert {what: set(names) for what, names in info.items() if names} == {}
    assert same_state(back, model)
    wanted = mc.load(tmp_path / "hf" if hf_names == "saved" else model).tensors.keys()
    if key != "bert":  # a live BERT has its tied head twice
        assert mapped.tensors.keys() == wanted
    assert _to_mindformers(tmp_path / "back", key, tmp_path / "again.safetensors")[1] == numbers
    assert mc.verify(tmp_path / "mf.safetensors", tmp_path / "back", progress=False).passed
    assert mc.verify(tmp_path / "back", progress=False).passed


def test_the_manifest_says_of_a_joined_tensor_what_all_its_parts_were_made_of(tmp_path: Path) -> None:
    mc.save(mc.map(mc.toy("mixtral")), tmp_path / "mf.safetensors")
    mc.save(mc.map(mc.load(tmp_path / "mf.safetensors"), hf_names="memory"), tmp_path / "hf")
    manifest = json.loads((tmp_path / "hf.mfconv" / "manifest.json").read_text())
    made_of = {entry["name"]: entry["from"] for entry in manifest["tensors"]}
    layer = "model.layers.1.feed_forward."
    assert made_of["model.layers.1.mlp.experts.gate_up_proj"] == [f"{layer}ffn.w1.weight", f"{layer}ffn.w3.weight"]
    assert made_of["model.layers.1.mlp.experts.down_proj"] == [f"{layer}ffn.w2.weight"]
    assert made_of["model.layers.1.mlp.gate.weight"] == [f"{layer}router.dense.weight"]


@pytest.mark.parametrize("key", TWO_SETS)
def test_a_live_model_is_filled_from_mindformers_and_from_saved_files(key: str, tmp_path: Path) -> None:
    model = made(key)
    _write_saved(model, tmp_path / "hf")
    mc.save(mc.map(mc.load(tmp_path / "hf"), key), tmp_path / "mf.safetensors")
    for source in (mc.map(mc.load(tmp_path / "mf.safetensors")), mc.map(mc.load(tmp_path / "mf.safetensors"), hf_names="memory")):
        other = type(model)(model.config)
        assert not same_state(other, model)
        assert mc.assign(source, other, progress=False).complete
        assert same_state(other, model)
    other = type(model)(model.config)
    assert mc.assign(tmp_path / "hf", other, progress=False).complete
    assert same_state(other, model)


def test_the_command_line_takes_the_names_to_write(tmp_path: Path) -> None:
    mc.save(mc.map(mc.toy("qwen3-moe")), tmp_path / "mf.safetensors")
    words = ["convert", str(tmp_path / "mf.safetensors"), str(tmp_path / "hf"), "--hf_names", "memory"]
    assert run(words) == 0
    assert "model.layers.0.mlp.experts.gate_up_proj" in mc.load(tmp_path / "hf")


# ---- refused --------------------------------------------------------------------------------------------------------------------


def test_joined_halves_that_cannot_be_equal_are_refused_by_name() -> None:
    state = {name: value.clone() for name, value in made("mixtral").state_dict().items()}
    name = "model.layers.0.mlp.experts.gate_up_proj"
    state[name] = state[name][:, :-1].contiguous()
    with pytest.raises(MappingError) as error:
        mc.map(state, "mixtral", config=family_named("mixtral").toy)
    assert error.value.code == "MFC303"
    assert "model.layers.0.mlp.experts.gate_up_proj" in str(error.value)


def test_a_tensor_that_only_one_layer_has_joined_is_missing_nowhere() -> None:
    """A file of half a model: the other layer's experts are named as missing, under saved names."""
    state = dict(made("mixtral").state_dict())
    del state["model.layers.1.mlp.experts.down_proj"]
    with pytest.raises(MappingError) as error:
        mc.map(state, "mixtral", config=family_named("mixtral").toy)
    assert "model.layers.1.block_sparse_moe.experts" in str(error.value)
    assert "w2" in str(error.value)
    assert "names as transformers has them in memory" in str(error.value)


def test_both_sets_of_names_in_one_checkpoint_are_refused() -> None:
    state = dict(made("mixtral").state_dict())
    state["model.layers.0.block_sparse_moe.experts.2.w1.weight"] = state["model.layers.0.mlp.experts.gate_up_proj"][2, :7].clone()
    with pytest.raises(MappingError, match="MFC304"):
        mc.map(state, "mixtral", config=family_named("mixtral").toy)


def _with_codes(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    """One weight as fp8, with one scale for each matrix in it."""
    shape = tensors[name].shape
    return {**tensors, name: torch.ones(shape).to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(*shape[:-2], 1, 1)}


def test_codes_under_names_in_memory_are_refused() -> None:
    state = _with_codes(dict(made("deepseek3").state_dict()), "model.layers.1.mlp.experts.down_proj")
    with pytest.raises(MappingError) as error:
        mc.map(state, "deepseek3", config=family_named("deepseek3").toy)
    assert error.value.code == "MFC312"
    assert "'model.layers.1.mlp.experts.down_proj'" in str(error.value.found)


def test_weights_that_were_published_as_codes_go_back_under_saved_names_only(tmp_path: Path) -> None:
    for key, name in (("mixtral", "model.layers.0.block_sparse_moe.experts.0.w1.weight"), ("llama", "model.layers.0.mlp.up_proj.weight")):
        toy = family_named(key).toy
        state = _with_codes({t.name: torch.zeros(t.shape, dtype=torch.bfloat16) for t in mc.toy(key)}, name)
        mapped = mc.map(state, key, config={**toy, "quantization_config": {"quant_method": "fp8", "weight_block_size": [512, 512]}})
        mc.save(mapped, tmp_path / f"{key}.safetensors")
        back = mc.load(tmp_path / f"{key}.safetensors")
        assert name in mc.map(back)
        if key == "llama":  # its names in memory are those that are saved
            assert name in mc.map(back, hf_names="memory")
        else:
            with pytest.raises(UsageError, match="codes, which only saved names have"):
                mc.map(back, hf_names="memory")


def test_a_dtype_that_one_side_fixes_stays_fixed_under_names_in_memory(tmp_path: Path) -> None:
    router = "block_sparse_moe.gate.weight"
    usual = family_named("mixtral")
    rules = tuple(replace(rule, dtype="F32") if isinstance(rule, Rule) and router in rule.hf else rule for rule in usual.rules)
    family = replace(usual, key="mixtral_f32", rules=rules)
    mc.save(mc.map(mc.toy("mixtral"), family), tmp_path / "mf.safetensors")
    back = mc.map(mc.load(tmp_path / "mf.safetensors"), family, hf_names="memory")
    mc.save(back, tmp_path / "hf.safetensors", dtype="fp16")
    dtypes = {name: raw.dtype for name, raw in raws_in(tmp_path / "hf.safetensors").items()}
    assert dtypes["model.layers.1.mlp.gate.weight"] == "BF16"
    assert dtypes["model.layers.1.mlp.experts.down_proj"] == "F16"


@pytest.mark.parametrize(
    ("key", "to", "hf_names", "found"),
    [
        ("mixtral", "hf", "memorry", "'memorry'"),
        ("mixtral", "mf", "memory", "a target with MindFormers' names"),
        ("deepseek4", "hf", "memory", "deepseek4, whose names in memory are not known"),
    ],
)
def test_names_that_cannot_be_written_are_refused(key: str, to: str, hf_names: str, found: str) -> None:
    toy = mc.toy(key)
    source = toy if to == "mf" else mc.map(toy)
    with pytest.raises(UsageError) as error:
        mc.map(source, key, to=to, hf_names=hf_names)
    assert (error.value.code, error.value.where, error.value.found) == ("MFC501", "hf_names", found)


# ---- the table ------------------------------------------------------------------------------------------------------------------


def test_every_model_for_which_transformers_changes_names_is_in_the_table() -> None:
    types = {t for family in built_in().values() for t in listed_types(family)}
    changed = {t for t in types if read_registered_transforms(t) is not None}
    assert changed == {t for dialect in DIALECTS for t in dialect.model_types} | set(WITHOUT_DIALECT)


@pytest.mark.parametrize("model_type", [t for dialect in DIALECTS for t in dialect.model_types if t != "llava"])
def test_the_table_says_what_the_mapping_of_the_installed_transformers_says(model_type: str) -> None:
    """LLaVA's is in two parts, of which one holds for a module inside another: there the names of real models are compared, below."""
    family = next(f for f in built_in().values() if model_type in listed_types(f))
    saved = list(mc.toy(family.key).tensors)
    registered = read_registered_transforms(model_type)
    assert registered is not None
    engine = Engine(registered[0], saved)
    theirs = {engine.apply(name).new for name in saved}
    config = {**family.toy, "model_type": model_type}
    mapped = mc.map(mc.map(mc.toy(family.key)), family.key, hf_names="memory", config=config)
    assert set(mapped.tensors) == theirs


@pytest.mark.parametrize("key", TWO_SETS)
def test_names_and_shapes_in_memory_are_those_of_the_real_model(key: str, tmp_path: Path) -> None:
    model = made(key)
    _write_saved(model, tmp_path / "hf")
    mapped = mc.map(mc.map(mc.load(tmp_path / "hf"), key), key, hf_names="memory")
    assert {t.name: t.shape for t in mapped} == {name: tuple(t.shape) for name, t in model.state_dict().items()}


def test_names_for_a_mindformers_target_are_refused_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.save(mc.toy("mixtral"), tmp_path / "hf.safetensors")
    assert run(["convert", str(tmp_path / "hf.safetensors"), str(tmp_path / "mf.safetensors"), "--hf_names", "memory"]) == 2
    assert "MFC501" in capsys.readouterr().err
