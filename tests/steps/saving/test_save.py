"""Saving: what is written, where, and what is refused before the first byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MappingError, MfconvError, OutputError, UsageError
from mfconv_nb.families import llama
from tests.support import Array, listing, numbered, raw_of, raws_in, write_hf, write_safetensors
from tests.toys import arrays_of, raws_of

BF16 = ml_dtypes.bfloat16
EVERY_DTYPE: dict[str, Array] = {
    "fp32": numbered(3, 4),
    "fp16": numbered(5, dtype=np.float16),
    "bf16": numbered(2, 3, dtype=BF16),
    "fp64": numbered(3, dtype=np.float64),
    "int8": numbered(7, dtype=np.int8),
    "uint8": numbered(7, dtype=np.uint8),
    "int16": numbered(7, dtype=np.int16),
    "int32": numbered(7, dtype=np.int32),
    "int64": numbered(2, 2, dtype=np.int64),
    "bool": np.array([True, False, True]),
    "scalar": numbered(first=5),
    "empty": numbered(0, 4),
}


@pytest.fixture
def toy(tmp_path: Path) -> Checkpoint:
    return mc.toy("llama", tmp_path / "toy")


# ---- formats and folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    ["o.ckpt", "o.safetensors", "folder", *(pytest.param(f"o{e}", marks=pytest.mark.real_frameworks) for e in (".bin", ".pt", ".pth"))],
)
def test_every_format_holds_every_dtype_and_shape(target: str, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", EVERY_DTYPE)
    mc.save(mc.load(source), tmp_path / target)
    assert raws_in(tmp_path / target) == {n: raw_of(a) for n, a in EVERY_DTYPE.items()}
    assert raws_of(tmp_path / target) == raws_in(source)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen2.5-0.5B", "v1.0", "plain", ".hidden"])
def test_a_target_that_reads_like_a_model_is_a_folder(name: str, toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(toy, tmp_path / name)
    assert (tmp_path / name).is_dir()
    assert raws_in(tmp_path / name) == raws_of(toy)
    made = mc.toy("llama", tmp_path / "more" / name)
    assert raws_of(made) == raws_of(toy)


@pytest.mark.parametrize("name", ["out.npz", "out.ckp", "out.safetensor"])
def test_an_ending_that_names_no_format_is_refused_before_anything_is_written(name: str, toy: Checkpoint, tmp_path: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(OutputError) as refused:
        mc.save(toy, tmp_path / name)
    assert refused.value.code == "MFC407"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("side, index", [("hf", "model.safetensors.index.json"), ("mf", "param_name_map.json")])
def test_a_folder_gets_shards_of_at_most_the_asked_size_and_an_index(side: str, index: str, toy: Checkpoint, tmp_path: Path) -> None:
    checkpoint = toy if side == "hf" else mc.map(toy)
    limit = 70_000
    report = mc.save(checkpoint, tmp_path / "out", max_shard_size="70KB")
    content = json.loads((tmp_path / "out" / index).read_text())
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3
    assert content["metadata"]["total_size"] == checkpoint.nbytes
    assert set(content["weight_map"].values()) == {p.name for p in shards}
    for shard in shards:
        held = raws_in(shard)
        assert {content["weight_map"][name] for name in held} == {shard.name}
        assert len(held) == 1 or sum(len(r.data) for r in held.values()) <= limit
    assert raws_in(tmp_path / "out") == raws_of(checkpoint) == raws_of(tmp_path / "out")
    assert {p.name for p in report.files} == {p.name for p in (tmp_path / "out").iterdir()}
    assert all(p.is_file() for p in (*report.files, report.manifest))


def test_a_single_shard_is_not_numbered_and_has_no_index(toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(toy, tmp_path / "out")
    assert listing(tmp_path / "out") == ["config.json", "model.safetensors"]


def test_a_tensor_larger_than_a_shard_stands_alone(tmp_path: Path) -> None:
    tensors = {"small": numbered(2), "large": numbered(100), "last": numbered(2)}
    mc.save(mc.load(tensors), tmp_path / "out", max_shard_size=64)
    assert [sorted(raws_in(p)) for p in sorted((tmp_path / "out").glob("*.safetensors"))] == [["small"], ["large"], ["last"]]


@pytest.mark.parametrize(
    "limit, shards", [(96, [["a", "b", "c"]]), (95, [["a", "b"], ["c"]]), (64, [["a", "b"], ["c"]]), (63, [["a"], ["b"], ["c"]])]
)
def test_a_shard_may_be_exactly_as_large_as_was_asked(limit: int, shards: list[list[str]], tmp_path: Path) -> None:
    mc.save(mc.load({name: numbered(8) for name in "abc"}), tmp_path / "out", max_shard_size=limit)  # 32 bytes each
    assert [sorted(raws_in(p)) for p in sorted((tmp_path / "out").glob("*.safetensors"))] == shards


def test_shards_beside_each_other_are_found_by_their_index_and_keep_their_manifest(toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(mc.map(toy), tmp_path / "out.safetensors", max_shard_size="70KB")
    loaded = mc.load(tmp_path / "out.safetensors.index.json")
    assert raws_of(loaded) == raws_of(mc.map(toy))
    assert (loaded.side, loaded.family) == ("mf", "llama")
    assert loaded.config == toy.config


@pytest.mark.parametrize("size", ["", "5XB", "-1", "0", "GB", 0, -5])
def test_a_shard_size_that_is_none_is_refused(size: Any, toy: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        mc.save(toy, tmp_path / "out", max_shard_size=size)
    assert refused.value.code == "MFC501"
    assert not (tmp_path / "out").exists()


def test_a_ckpt_is_one_file_and_refuses_a_shard_size_with_what_to_do(toy: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        mc.save(mc.map(toy), tmp_path / "out.ckpt", max_shard_size="1MB")
    assert str(tmp_path / "out") in str(refused.value.hint)


# ---- config.json -------------------------------------------------------------------------------------------------------------


def test_a_hugging_face_folder_gets_the_config_and_a_mindformers_one_does_not(toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(toy, tmp_path / "hf")
    mc.save(mc.map(toy), tmp_path / "mf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == {**llama.FAMILY.toy}
    assert not (tmp_path / "mf" / "config.json").exists()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_config_says_the_dtype_that_was_asked_for(key: str, tmp_path: Path) -> None:
    config = {key: "float32", "other": "kept"}
    mc.save(mc.load(write_hf(tmp_path / "hf", {"w": numbered(3)}, config)), tmp_path / "plain")
    source = mc.load(tmp_path / "hf")
    from dataclasses import replace

    mc.save(replace(source, side="hf"), tmp_path / "cast", dtype="bf16")
    assert json.loads((tmp_path / "cast" / "config.json").read_text()) == {key: "bfloat16", "other": "kept"}
    assert json.loads((tmp_path / "plain" / "config.json").read_text()) == config


def test_tokenizer_files_go_along_and_code_does_not(toy: Checkpoint, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    kept = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}", "tokenizer.model": b"\0\1", "generation_config.json": b"{}"}
    for name, data in {**kept, "modeling_x.py": b"import os", "tokenization.py": b"", "pytorch_model.bin": b"x", "notes.txt": b"x"}.items():
        (assets / name).write_bytes(data)
    mc.save(toy, tmp_path / "out", assets=assets)
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.suffix != ".safetensors"}
    assert written == kept


# ---- dtypes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, kind", [("fp32", np.float32), ("bf16", BF16), ("fp16", np.float16)])
def test_a_cast_changes_floating_tensors_and_leaves_the_others_alone(dtype: str, kind: Any, tmp_path: Path) -> None:
    report = mc.save(mc.load(EVERY_DTYPE), tmp_path / "out.ckpt", dtype=dtype)
    expected = {n: a.astype(kind) if a.dtype.kind == "f" or a.dtype == BF16 else a for n, a in EVERY_DTYPE.items()}
    assert raws_in(tmp_path / "out.ckpt") == {n: raw_of(a) for n, a in expected.items()}
    assert sum(report.casts.values()) == sum(expected[n].dtype != a.dtype for n, a in EVERY_DTYPE.items())


@pytest.mark.parametrize(
    "source, dtype, words",
    [
        (np.float32, None, "exact"),
        (np.float32, "fp32", "exact"),
        (BF16, "fp32", "exact, with --dtype bf16"),
        (np.float16, "fp32", "exact, with --dtype fp16"),
        (np.float32, "bf16", "1 tensor rounded from fp32 to bf16"),
        (np.float16, "bf16", "1 tensor rounded from fp16 to bf16"),
        (BF16, "fp16", "1 tensor rounded from bf16 to fp16"),
    ],
)
def test_the_report_says_what_the_way_back_would_give(source: Any, dtype: str | None, words: str, tmp_path: Path) -> None:
    report = mc.save(mc.load({"w": numbered(3, dtype=source), "n": numbered(3, dtype=np.int64)}), tmp_path / "o.ckpt", dtype=dtype)
    assert report.way_back == words
    assert f"Way back: {words}." in " ".join(repr(report).split())


def test_an_unknown_dtype_is_refused_before_anything_is_written(toy: Checkpoint, tmp_path: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(UsageError):
        mc.save(toy, tmp_path / "out.ckpt", dtype="bf61")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("target", ["out.ckpt", "part.ckpt"])
def test_what_mindspore_cannot_load_is_refused_by_name(target: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as refused:
        mc.save(mc.load({"w": numbered(3), "odd": np.zeros(2, ml_dtypes.float8_e4m3fn)}), tmp_path / target)
    assert refused.value.code == "MFC405"
    assert all(part in str(refused.value) for part in ("'odd'", "F8_E4M3", ".safetensors"))
    assert listing(tmp_path) == []


# ---- dry runs, existing targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out.ckpt", "deep/er/out", "out.safetensors"])
def test_a_dry_run_says_what_would_be_written_and_writes_nothing(target: str, toy: Checkpoint, tmp_path: Path) -> None:
    before = listing(tmp_path)
    report = mc.save(mc.map(toy), tmp_path / target, dtype="fp32", dry_run=True)
    assert listing(tmp_path) == before
    assert "Nothing was written" in repr(report)
    real = mc.save(mc.map(toy), tmp_path / target, dtype="fp32")
    assert report.plan == real.plan
    assert sum(p.stat().st_size for p in real.files) == report.plan.size


def test_a_dry_run_refuses_what_the_run_would_refuse(toy: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out.ckpt").write_bytes(b"mine")
    with pytest.raises(OutputError):
        mc.save(mc.map(toy), tmp_path / "out.ckpt", dry_run=True)
    trained = trained_apart(tmp_path)
    with pytest.raises(MappingError):
        mc.save(trained, tmp_path / "back", dry_run=True)


@pytest.mark.parametrize("target", ["out.ckpt", "out"])
def test_an_existing_target_is_refused_and_replaced_only_when_asked(target: str, toy: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / target
    mc.save(mc.map(toy), path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(toy), path, dtype="fp32")
    assert refused.value.code == "MFC401"
    assert "--force" in str(refused.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    mc.save(mc.map(toy), path, dtype="fp32", overwrite=True)
    assert {r.dtype for r in raws_in(path).values()} == {"F32"}
    assert mc.verify(path).equal


def test_a_folder_that_holds_another_checkpoint_is_not_mixed_with_it(toy: Checkpoint, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "out" / "other.safetensors", {"w": numbered(3)})
    with pytest.raises(OutputError) as refused:
        mc.save(toy, tmp_path / "out")
    assert refused.value.code == "MFC401"


@pytest.mark.parametrize("first, second", [(None, "70KB"), ("70KB", None), ("70KB", "200KB")])
def test_replacing_a_folder_leaves_no_weights_of_the_old_one(first: Any, second: Any, toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(mc.toy("llama", vocab_size=77), tmp_path / "out", max_shard_size=first)
    mc.save(toy, tmp_path / "out", max_shard_size=second, overwrite=True)
    assert raws_in(tmp_path / "out") == raws_of(toy)  # this reader takes every file, and no name twice
    assert mc.load(tmp_path / "out").notes == ()


OLD = ("model.safetensors", "pytorch_model.bin", "model-00001-of-00001.safetensors", "adapter_model.safetensors", "model-1.safetensors")


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("side", ["hf", "mf", "adapters"])
def test_what_was_written_is_what_the_folder_means_from_then_on(old: str, side: str, toy: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    mc.save(toy, target / f"x{Path(old).suffix}")
    (target / f"x{Path(old).suffix}").rename(target / old)
    halves = {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight": numbered(4, 4) for half in "AB"}
    new = {"hf": mc.toy("llama", vocab_size=77), "mf": mc.map(mc.toy("llama", vocab_size=77)), "adapters": mc.load(halves, lora_alpha=4.0)}
    mc.save(new[side], target, overwrite=True)
    assert raws_of(mc.load(target)) == raws_of(new[side])


@pytest.mark.parametrize("size", [None, "100KB", "50KB"])
@pytest.mark.parametrize("target", ["toy", "toy/../toy", "link"])
def test_the_folder_of_the_source_is_never_written_into(target: str, size: str | None, toy: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "toy")
    before = {p: p.read_bytes() for p in (tmp_path / "toy").iterdir()}
    for checkpoint in (toy, mc.map(toy), mc.map(mc.map(toy))):
        for overwrite in (False, True):
            with pytest.raises(OutputError) as refused:
                mc.save(checkpoint, tmp_path / target, overwrite=overwrite, max_shard_size=size)
            assert refused.value.code == "MFC402"
    assert {p: p.read_bytes() for p in (tmp_path / "toy").iterdir()} == before


def test_a_file_of_the_source_is_never_written_to(toy: Checkpoint, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in (tmp_path / "toy").iterdir()}
    for path in before:
        if path.suffix == ".safetensors":
            with pytest.raises(OutputError) as refused:
                mc.save(toy, path, overwrite=True)
            assert refused.value.code == "MFC402"
    mc.save(mc.map(toy), tmp_path / "toy" / "beside.ckpt")
    assert {p: p.read_bytes() for p in before} == before


# ---- what must be equal ----------------------------------------------------------------------------------------------------------


def trained_apart(folder: Path) -> Checkpoint:
    """A MindFormers checkpoint of a tied model whose head is no longer its embedding, mapped back."""
    tied = mc.toy("llama", tie_word_embeddings=True)
    arrays = arrays_of(mc.map(tied))
    arrays["lm_head.weight"][7, 5] += BF16(1)
    mc.save(mc.load(arrays), folder / "trained.ckpt")
    return mc.map(mc.load(folder / "trained.ckpt", config=tied.config), "llama", to="hf")


def test_a_tied_head_that_was_trained_away_from_the_embedding_is_refused(tmp_path: Path) -> None:
    back = trained_apart(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(MappingError) as refused:
        mc.save(back, tmp_path / "back")
    assert refused.value.code == "MFC308"
    assert "'lm_head.weight'" in str(refused.value)
    assert "1 of 31,776 numbers differ" in str(refused.value)
    assert "tie_word_embeddings" in str(refused.value)
    assert listing(tmp_path) == before


def test_a_head_trained_apart_is_kept_with_a_config_that_says_untied(tmp_path: Path) -> None:
    trained_apart(tmp_path)
    config = {**llama.FAMILY.toy, "tie_word_embeddings": False}
    mc.save(mc.map(mc.load(tmp_path / "trained.ckpt", config=config), "llama", to="hf"), tmp_path / "back")
    back = raws_in(tmp_path / "back")
    assert back["lm_head.weight"].data != back["model.embed_tokens.weight"].data


# ---- nothing that is not there is written ----------------------------------------------------------------------------------------


def test_names_without_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MfconvError) as refused:
        mc.save(mc.expected("llama", llama.FAMILY.toy), tmp_path / "out.ckpt")
    assert refused.value.code == "MFC310"
    assert not (tmp_path / "out.ckpt").exists()


def test_two_runs_of_the_same_conversion_write_the_same_bytes(toy: Checkpoint, tmp_path: Path) -> None:
    for name in ("a", "b"):
        mc.save(mc.map(toy), tmp_path / name / "out.ckpt", threads=1 if name == "a" else 4)
    assert (tmp_path / "a/out.ckpt").read_bytes() == (tmp_path / "b/out.ckpt").read_bytes()
    assert (tmp_path / "a/out.ckpt.mfconv/manifest.json").read_bytes() == (tmp_path / "b/out.ckpt.mfconv/manifest.json").read_bytes()


def test_a_hugging_face_folder_without_a_config_says_so(tmp_path: Path) -> None:
    toy = mc.toy("llama")
    bare = mc.load(arrays_of(toy))
    there = mc.save(mc.map(mc.map(toy, "llama"), "llama"), tmp_path / "with")
    assert "config.json" not in repr(there)
    mapped = mc.map(mc.map(bare, "llama", to="mf"), "llama", to="hf")
    without = mc.save(mapped, tmp_path / "without")
    assert "no config.json is written, which from_pretrained needs" in repr(without)
    assert not (tmp_path / "without" / "config.json").exists()
