"""Names tell the side before the format does; a tensor that a model has twice is found under either name, and compared if it has both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MappingError, MfconvError
from mfconv_nb.families.registry import built_in, family_named
from mfconv_nb.steps.loading.sides import side_of_names
from mfconv_nb.streaming.manifest import side_folder
from tests.support import numbered, raws_in, write_hf, write_safetensors
from tests.toys import arrays_of, findings, raws_of

TIED = {"tie_word_embeddings": True}


# ---- sides ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", built_in())
def test_the_names_of_every_family_tell_the_side(key: str) -> None:
    toy = mc.toy(key)
    assert side_of_names(toy.tensors) == "hf"
    assert side_of_names(mc.map(toy, key).tensors) == "mf"
    assert side_of_names([*mc.map(toy, key).tensors, "adam_m.of.something", "global_step"]) == "mf"


@pytest.mark.parametrize("names", [[], ["lm_head.weight"], ["w", "b"], ["model.norm.weight", "a", "b", "c"]])
def test_names_that_both_sides_know_or_neither_tell_nothing(names: list[str]) -> None:
    assert side_of_names(names) is None


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "pytorch_model.bin"])
def test_names_of_hugging_face_in_any_format_convert_as_in_its_own(name: str, tmp_path: Path) -> None:
    toy = mc.toy("qwen2", tmp_path / "plain")
    folder = tmp_path / "by mindnlp"
    folder.mkdir()
    mc.save(replace(toy, side="mf"), folder / name)  # safetensors with format: ms
    (folder / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    for stray in folder.glob("*.mfconv/*"):
        stray.unlink()
    loaded = mc.load(folder)
    assert loaded.side == "hf"
    assert any("the names are Hugging Face's" in n for n in loaded.notes) == (not name.endswith(".bin"))
    assert raws_of(mc.map(loaded)) == raws_of(mc.map(toy))
    assert "legacy" not in findings(folder, "names")
    assert mc.doctor(folder).ready


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {}])
def test_names_of_mindformers_in_a_file_of_hugging_face_go_back(metadata: dict[str, str], tmp_path: Path) -> None:
    toy = mc.toy("llama")
    path = write_safetensors(tmp_path / "mf.safetensors", arrays_of(mc.map(toy)), metadata)
    assert mc.load(path).side == "mf"
    assert raws_of(mc.map(mc.load(path, config=toy.config))) == raws_of(toy)


def test_an_adapter_of_peft_in_a_ckpt_is_on_its_side(tmp_path: Path) -> None:
    module = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    mc.save(mc.load({module + "A.weight": numbered(4, 64), module + "B.weight": numbered(64, 4)}), tmp_path / "a.ckpt")
    loaded = mc.load(tmp_path / "a.ckpt", lora_alpha=8)
    assert loaded.side == "hf"
    assert sorted(mc.map(loaded, "llama").tensors)[0] == "model.layers.0.attention.wq.mindpet_delta_lora_a"


def test_a_family_of_ones_own_tells_the_side_by_its_own_names(tmp_path: Path) -> None:
    family = replace(family_named("llama"), key="mine", rules=(mc.rules.Rule("mine.{layer}.w", "yours.{layer}.w"),), options=(), sizes={})
    mc.save(mc.load({"mine.0.w": numbered(3)}), tmp_path / "a.ckpt")
    assert list(mc.map(mc.load(tmp_path / "a.ckpt"), family).tensors) == ["yours.0.w"]


def test_names_of_both_sides_tell_nothing() -> None:
    toy = mc.toy("llama")
    assert side_of_names([*toy.tensors, "model.norm_out.weight"]) is None


# ---- twins ---------------------------------------------------------------------------------------------------------------------

TWINS = {  # family: what save_model keeps, what it removes
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "qwen2": ("lm_head.weight", "model.embed_tokens.weight"),
    "qwen3": ("lm_head.weight", "model.embed_tokens.weight"),
    "gpt": ("lm_head.weight", "wte.weight"),
    "bloom": ("lm_head.weight", "word_embeddings.weight"),
    "t5": ("decoder.embed_tokens.weight", "shared.weight"),
}


@pytest.mark.parametrize("told", ["by the header", "by the config"])
@pytest.mark.parametrize("key", TWINS)
def test_a_tensor_that_is_kept_under_its_other_name_fills_in(key: str, told: str, tmp_path: Path) -> None:
    if key == "t5" and told == "by the config":
        pytest.skip("copies of the embedding are told by the header only")
    kept, removed = TWINS[key]
    toy = mc.toy(key, **TIED)
    arrays = arrays_of(toy)
    write_hf(tmp_path / "usual", arrays, toy.config)
    arrays[kept] = arrays.pop(removed)
    write_hf(tmp_path / "shared", arrays, toy.config)
    metadata = {removed: kept} if told == "by the header" else None
    write_safetensors(tmp_path / "shared" / "model.safetensors", arrays, metadata)
    mapped = mc.map(mc.load(tmp_path / "shared"))
    assert raws_of(mapped) == raws_of(mc.map(mc.load(tmp_path / "usual")))
    assert any(f"{removed} is not in the files: they hold it as {kept}" in n for n in mapped.report.notes)
    assert mc.doctor(tmp_path / "shared").ready
    mc.save(mapped, tmp_path / "mf.ckpt")
    assert mc.verify(tmp_path / "shared", tmp_path / "mf.ckpt").equal
    back = mc.map(mc.load(tmp_path / "mf.ckpt"))
    assert raws_of(toy).items() <= raws_of(back).items()


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt", "model.embed_tokens.weight": "nowhere"}, {"lm_head.weight": "model.norm.weight"}]
)
def test_an_embedding_that_nothing_ties_is_missing(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    toy = mc.toy("llama")
    arrays = arrays_of(toy)
    del arrays["model.embed_tokens.weight"]
    write_hf(tmp_path / "hf", arrays, toy.config)
    write_safetensors(tmp_path / "hf" / "model.safetensors", arrays, metadata)
    with pytest.raises(MappingError) as refused:
        mc.map(mc.load(tmp_path / "hf"))
    assert "model.embed_tokens.weight" in str(refused.value)


def test_metadata_that_is_no_twin_adds_nothing(tmp_path: Path) -> None:
    toy = mc.toy("llama")
    write_hf(tmp_path / "hf", arrays_of(toy), toy.config)
    write_safetensors(
        tmp_path / "hf" / "model.safetensors", arrays_of(toy), {"best layer": "model.norm.weight", "x.weight": "lm_head.weight"}
    )
    assert raws_of(mc.map(mc.load(tmp_path / "hf"))) == raws_of(mc.map(toy))


# ---- heads -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["llama", "qwen2", "qwen3", "internlm2", "bloom"])
def test_a_head_that_differs_though_the_config_ties_it_is_said_with_both_names(key: str, tmp_path: Path) -> None:
    toy = mc.toy(key, tie_word_embeddings=False)
    head, embedding = {
        "internlm2": ("output.weight", "model.tok_embeddings.weight"),
        "bloom": ("lm_head.weight", "word_embeddings.weight"),
    }.get(key, ("lm_head.weight", "model.embed_tokens.weight"))
    arrays = arrays_of(toy)
    arrays[head] = arrays[embedding] + np.asarray(1, arrays[embedding].dtype)
    write_hf(tmp_path / "hf", arrays, {**(toy.config or {}), **TIED})
    report = mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    assert f"config.json ties {head} to {embedding}" in " ".join(report.notes)
    assert f"! config.json ties {head} to {embedding}" in findings(tmp_path / "hf", "tied head")
    assert raws_of(mc.map(mc.load(tmp_path / "mf.ckpt")))[head] == raws_in(tmp_path / "hf")[head]
    arrays[head] = arrays[embedding]
    write_hf(tmp_path / "copy", arrays, {**(toy.config or {}), **TIED})
    assert mc.save(mc.map(mc.load(tmp_path / "copy")), tmp_path / "copy.ckpt").notes == ()
    assert "!" not in findings(tmp_path / "copy", "tied head")


def test_one_row_of_a_head_is_enough_and_a_wider_copy_is_none(tmp_path: Path) -> None:
    toy = mc.toy("llama", tie_word_embeddings=False)
    arrays = arrays_of(toy)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].astype(np.float32) * np.float32(1 + 2**-12)  # rounded, it is the same
    write_hf(tmp_path / "wide", arrays, {**(toy.config or {}), **TIED})
    assert mc.save(mc.map(mc.load(tmp_path / "wide")), tmp_path / "wide.ckpt").notes == ()
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    arrays["lm_head.weight"][-1] = 0
    write_hf(tmp_path / "row", arrays, {**(toy.config or {}), **TIED})
    assert "lm_head.weight" in mc.save(mc.map(mc.load(tmp_path / "row")), tmp_path / "row.ckpt").notes[0]


@pytest.mark.parametrize("key, name", [("gpt", "lm_head.weight"), ("t5", "lm_head.weight")])
def test_a_head_that_mindformers_has_no_place_for_must_be_the_embedding(key: str, name: str, tmp_path: Path) -> None:
    toy = mc.toy(key)
    arrays = arrays_of(toy)
    embedding = {"gpt": "wte.weight", "t5": "shared.weight"}[key]
    arrays[name] = arrays[embedding]
    write_hf(tmp_path / "copy", arrays, toy.config)
    mc.save(mc.map(mc.load(tmp_path / "copy")), tmp_path / "copy.ckpt")
    assert mc.verify(tmp_path / "copy", tmp_path / "copy.ckpt").equal
    arrays[name] = arrays[embedding] + np.asarray(1, arrays[embedding].dtype)
    write_hf(tmp_path / "other", arrays, toy.config)
    with pytest.raises(MappingError) as refused:
        mc.save(mc.map(mc.load(tmp_path / "other")), tmp_path / "other.ckpt")
    assert refused.value.code == "MFC308"
    assert not (tmp_path / "other.ckpt").exists()


@pytest.mark.parametrize(
    "key, name, shape",
    [
        ("t5", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", (32, 6)),
        ("llama", "model.rotary_emb.inv_freq", (10,)),
        ("qwen2", "model.rotary_emb.inv_freq", (10,)),
    ],
)
def test_known_extra_tensors_of_published_files_are_carried(key: str, name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    toy = mc.toy(key)
    write_hf(tmp_path / "hf", {**arrays_of(toy), name: numbered(*shape)}, toy.config)
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    assert raws_in(tmp_path / "mf.ckpt") == raws_of(mc.map(toy))
    assert raws_of(mc.map(mc.load(tmp_path / "mf.ckpt"))) == raws_in(tmp_path / "hf")
    assert side_folder(tmp_path / "mf.ckpt").is_dir()


# ---- what a folder says beside its weights -----------------------------------------------------------------------------------------


def test_a_config_that_was_not_fetched_is_called_so(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(MfconvError) as refused:
        mc.load(tmp_path / "hf")
    assert (refused.value.code, "git lfs pull" in str(refused.value)) == ("MFC106", True)
    config.unlink()
    config.symlink_to("../blobs/gone")
    with pytest.raises(MfconvError) as refused:
        mc.load(tmp_path / "hf")
    assert "a link to nothing -> '../blobs/gone'" in str(refused.value)
