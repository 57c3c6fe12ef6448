"""Opening checkpoints: folders, indexes, files, lists; and one tensor at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, MappingError, UsageError
from mfconv_nb.families import llama
from tests.support import numbered, raws_in, write_hf, write_safetensors
from tests.toys import raws_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A toy in shards, with an index and a config."""
    mc.toy("llama", tmp_path / "toy")
    return tmp_path / "toy"


def test_a_folder_an_index_and_a_list_of_files_are_the_same_checkpoint(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    forms: list[Any] = [folder, str(folder), f"{folder}/", folder / "model.safetensors.index.json", shards, [str(s) for s in shards]]
    found = [mc.load(form) for form in forms]
    assert all(raws_of(f) == raws_in(folder) for f in found)
    assert all(f.config == llama.FAMILY.toy and f.files == tuple(shards) for f in found)
    assert len(shards) > 3


def test_a_shard_and_a_config_stand_for_the_whole_and_a_list_for_what_it_names(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    for part, words in ((shard, "one of 9 shards of model.safetensors.index.json"), (folder / "config.json", "lies in the folder")):
        assert raws_of(mc.load(part)) == raws_in(folder)
        assert words in mc.load(part).notes[0]
        assert mc.load(part).config == llama.FAMILY.toy
    assert raws_of(mc.load([shard])) == raws_in(shard)


def test_shards_are_counted_up_not_sorted_as_words(tmp_path: Path) -> None:
    names = [f"part{n}.safetensors" for n in range(12)]
    for n, name in enumerate(names):
        write_safetensors(tmp_path / name, {f"layers.{n}.w": numbered(2)})
    places = {f"layers.{n}.w": name for n, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert list(mc.load(tmp_path).tensors) == [f"layers.{n}.w" for n in range(12)]


def test_the_side_is_told_from_the_files(folder: Path, tmp_path: Path) -> None:
    assert mc.load(folder).side == "hf"
    for target in ("a.ckpt", "a.safetensors", "a"):
        mc.save(mc.map(mc.load(folder)), tmp_path / target)
        assert mc.load(tmp_path / target).side == "mf"


def test_a_config_that_is_given_counts_more_than_the_one_beside_the_files(folder: Path, tmp_path: Path) -> None:
    other = {"model_type": "other"}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text(json.dumps(other))
    for given in (other, tmp_path / "c", tmp_path / "c" / "config.json", str(tmp_path / "c")):
        assert mc.load(folder, config=given).config == other
        assert mc.load(mc.load(folder), config=given).config == other
        assert mc.map(mc.load(folder), "llama", config=llama.FAMILY.toy).config == llama.FAMILY.toy
    assert mc.load({"w": numbered(2)}, config=other).config == other


def test_a_config_that_is_given_takes_the_place_of_a_broken_one(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").replace(tmp_path / "good.json")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="MFC106"):
        mc.load(folder)
    assert mc.load(folder, config=tmp_path / "good.json").config == llama.FAMILY.toy


def test_what_is_said_of_adapters_leaves_the_config_beside_the_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    assert mc.load(folder, config=tmp_path / "adapter_config.json").config == llama.FAMILY.toy


def test_the_config_comes_along_in_the_manifest(folder: Path, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(folder)), tmp_path / "elsewhere" / "a.ckpt")
    assert mc.load(tmp_path / "elsewhere" / "a.ckpt").config == llama.FAMILY.toy


def test_an_index_that_does_not_agree_with_its_files_is_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    for places in ({**content["weight_map"], "ghost": "model-00001-of-00009.safetensors"}, {first: content["weight_map"][first]}):
        index.write_text(json.dumps({**content, "weight_map": places}))
        with pytest.raises(InputError) as refused:
            mc.load(folder)
        assert refused.value.code == "MFC104"
    index.write_text(json.dumps({**content, "metadata": {"total_size": 1}}))
    assert any("total size of 1 byte," in note for note in mc.load(folder).notes)


def test_a_missing_shard_is_named(folder: Path) -> None:
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    with pytest.raises(InputError) as refused:
        mc.load(folder)
    assert refused.value.code == "MFC104"
    assert "model-00001-of-00009.safetensors" in str(refused.value)


def test_the_same_name_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"w": numbered(2)})
    with pytest.raises(InputError) as refused:
        mc.load([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert refused.value.code == "MFC105"
    assert all(part in str(refused.value) for part in ("'w'", "'a.safetensors'", "'b.safetensors'"))


@pytest.mark.parametrize(
    "name, code, words",
    [
        ("nowhere.ckpt", "MFC101", "nowhere.ckpt"),
        ("empty", "MFC102", "an empty folder"),
        ("outer", "MFC102", "There is a checkpoint in"),
        ("config.json", "MFC103", "Give the folder instead"),
        ("notes.txt", "MFC103", "beginning with"),
        ("pointer.safetensors.txt", "MFC103", "git lfs pull"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_what_to_do(name: str, code: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_hf(tmp_path / "outer" / "inner", {"w": numbered(2)})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("only words, nothing else")
    (tmp_path / "pointer.safetensors.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError) as refused:
        mc.load(tmp_path / name)
    assert refused.value.code == code
    assert words in str(refused.value)


@pytest.mark.parametrize("thing", [7, None, [], {}, object(), 3.5])
def test_things_that_are_no_checkpoint_are_refused(thing: Any) -> None:
    with pytest.raises(InputError) as refused:
        mc.load(thing)
    assert refused.value.code == "MFC109"


def test_what_is_not_read_in_a_folder_is_noted(folder: Path) -> None:
    write_safetensors(folder / "adapter.safetensors", {"lora": numbered(2)})
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    taken = "two sets of weights: model.safetensors.index.json is taken, as from_pretrained does; "
    assert mc.load(folder).notes == (taken + "not read: adapter.safetensors, pytorch_model.bin",)
    (folder / "pytorch_model.bin").unlink()
    assert mc.load(folder).notes == ("not read: adapter.safetensors",)


def test_a_source_that_changes_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"w": numbered(1000)})
    loaded = mc.load(path)
    write_safetensors(path, {"w": numbered(500)})
    with pytest.raises(InputError) as refused:
        mc.save(loaded, tmp_path / "out.ckpt")
    assert refused.value.code == "MFC108"
    assert not (tmp_path / "out.ckpt").exists()


# ---- one tensor, a summary, a toy --------------------------------------------------------------------------------------------


def test_one_tensor_is_read_as_an_array_with_its_own_dtype(folder: Path) -> None:
    for name, raw in raws_in(folder).items():
        found = mc.read(folder, name)
        assert (found.shape, found.tobytes()) == (raw.shape, raw.data)
    mapped = mc.map(mc.load(folder))
    assert mc.read(mapped, "model.layers.0.attention.wq.weight").dtype == raws_in(folder)["model.norm.weight"].array().dtype


def test_an_unknown_name_is_refused_with_the_nearest(folder: Path) -> None:
    loaded = mc.load(folder)
    with pytest.raises(MappingError) as refused:
        mc.read(loaded, "model.layers.0.mlp.up_prj.weight")
    assert refused.value.code == "MFC309"
    assert "Did you mean 'model.layers.0.mlp.up_proj.weight'?" in str(refused.value)
    assert ("model.norm.weight" in loaded, "odd" in loaded, len(loaded)) == (True, False, 39)


def test_a_summary_folds_layers_and_counts_everything(folder: Path) -> None:
    loaded = mc.load(folder)
    assert len(loaded.rows()) == 12
    assert sum(row["tensors"] for row in loaded.rows()) == 39
    assert loaded.nbytes == 2 * loaded.parameters == sum(len(r.data) for r in raws_in(folder).values())
    assert repr(loaded).startswith("Hugging Face checkpoint · ")
    assert all(word in repr(loaded).splitlines()[0] for word in ("9 files", "39 tensors", "bf16", "762 KiB", str(folder)))


def test_a_toy_is_the_same_every_time_and_all_its_sizes_differ(tmp_path: Path) -> None:
    first, second = (mc.toy("llama", tmp_path / name) for name in ("a", "b"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert raws_of(first) == raws_of(second) == raws_of(mc.toy("llama"))
    shapes = {s.shape for s in first.specs if len(s.shape) == 2}
    assert not any(rows == columns for rows, columns in shapes)
    values = np.concatenate([mc.read(first, s.name).astype(np.float32).reshape(-1) for s in first.specs])
    assert 0.01 < float(values.std()) < 0.03


def test_a_toy_takes_changes_of_its_config_and_a_dtype(tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "t.safetensors", dtype="fp16", num_hidden_layers=1, attention_bias=True, tie_word_embeddings=True)
    assert {s.dtype for s in toy.specs} == {"F16"}
    assert "model.layers.0.self_attn.o_proj.bias" in toy
    assert "lm_head.weight" not in toy
    assert (toy.config or {})["dtype"] == "float16"
    with pytest.raises(UsageError):
        mc.toy("llama", dtype="int8")
    with pytest.raises(MappingError):
        mc.toy("lama")
