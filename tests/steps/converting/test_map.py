"""Mapping real files there and back, byte for byte, in every format, and mappings of mappings that touch no disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MappingError, MfconvError, UsageError
from mfconv_nb.core.sources import FileSource
from mfconv_nb.families import llama
from mfconv_nb.formats import mindspore_ckpt
from mfconv_nb.rules import Family, Rule
from mfconv_nb.steps.converting import mapped_tensors
from mfconv_nb.streaming import compare, fill, gather
from tests.mapping import mixed
from tests.support import Array, numbered, raw_of, raws, raws_in, without, write_hf
from tests.toys import raws_of

FORMATS = ["out.ckpt", "out.safetensors", "out", pytest.param("out.bin", marks=pytest.mark.real_frameworks)]
DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def write_mixed(folder: Path, tensors: Mapping[str, Array] | None = None, **config: Any) -> Path:
    return write_hf(folder, tensors or mixed.hugging_face(**config), {**mixed.CONFIG, **config})


# ---- real files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"with_bias": True}, {"tied": True}, {"experts": 1, "layers": 3}], ids=str)
@pytest.mark.parametrize("target", FORMATS)
def test_every_kind_of_rule_gives_the_bytes_that_numpy_gives_and_comes_back(target: str, config: dict[str, Any], tmp_path: Path) -> None:
    hf = mixed.hugging_face(**config)
    source = write_mixed(tmp_path / "hf", hf, **config)
    mc.save(mc.map(mc.load(source), mixed.FAMILY), tmp_path / target)
    assert raws_in(tmp_path / target) == raws(mixed.mindformers(hf, **config))
    mc.save(mc.map(mc.load(tmp_path / target), mixed.FAMILY, to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws(hf)
    assert mc.verify(source, tmp_path / target, mixed.FAMILY).equal


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_random_bits_with_nan_and_all_come_back_as_they_were(dtype: Any, tmp_path: Path) -> None:
    hf = mixed.noise(mixed.hugging_face(), dtype)
    source = write_mixed(tmp_path / "hf", hf)
    mc.save(mc.map(mc.load(source), mixed.FAMILY), tmp_path / "out.ckpt")
    assert raws_in(tmp_path / "out.ckpt") == raws(mixed.mindformers(hf))
    mc.save(mc.map(mc.load(tmp_path / "out.ckpt"), mixed.FAMILY, to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws(hf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cast_on_the_way_is_the_cast_of_the_mapped_numbers(dtype: str, tmp_path: Path) -> None:
    hf = mixed.hugging_face()
    mc.save(mc.map(mc.load(write_mixed(tmp_path / "hf", hf)), mixed.FAMILY), tmp_path / "out.ckpt", dtype=dtype)
    expected = mixed.mindformers(hf)
    kept = {n for n, a in expected.items() if a.dtype == np.int64 or n.endswith("router.correction")}
    assert len(kept) == 4
    assert raws_in(tmp_path / "out.ckpt") == raws({n: a if n in kept else a.astype(DTYPES[dtype]) for n, a in expected.items()})


def test_a_dtype_that_a_rule_fixes_is_given_whatever_the_source_has(tmp_path: Path) -> None:
    hf = {n: a.astype(ml_dtypes.bfloat16) if n.endswith("router.bias") else a for n, a in mixed.hugging_face().items()}
    mapped = mc.map(mc.load(write_mixed(tmp_path / "hf", hf)), mixed.FAMILY)
    assert mapped["layers.0.router.correction"].dtype == "F32"
    for dtype in (None, "fp16"):
        mc.save(mapped, tmp_path / "out.ckpt", dtype=dtype, overwrite=True)
        found = raws_in(tmp_path / "out.ckpt")["layers.0.router.correction"]
        assert found == raw_of(hf["model.layers.0.router.bias"].astype(np.float32))


def test_empty_tensors_and_scalars_come_through_every_step(tmp_path: Path) -> None:
    rules = (Rule("a", "x", "out in -> in out"), Rule("b", "y"), Rule(("c", "d"), "z", "c, d -> (c + d)"))
    family = Family("odd", "shapes", rules, {"c": "c_rows"})
    hf = {"a": numbered(0, 5), "b": numbered(), "c": numbered(0), "d": numbered(3)}
    mapped = mc.map(mc.load(write_hf(tmp_path / "hf", hf)), family)
    mc.save(mapped, tmp_path / "out.ckpt")
    assert raws_in(tmp_path / "out.ckpt") == raws({"x": numbered(5, 0), "y": numbered(), "z": numbered(3)})
    back = mc.map(mc.load(tmp_path / "out.ckpt", config={"c_rows": 0}), family, to="hf")
    mc.save(back, tmp_path / "back.safetensors")
    assert raws_in(tmp_path / "back.safetensors") == raws(hf)
    assert mc.diff(back, hf, values=True).equal


# ---- mappings of mappings --------------------------------------------------------------------------------------------------


def test_a_round_trip_in_memory_reads_nothing_and_is_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = mixed.noise(mixed.hugging_face())
    source = mc.load(write_mixed(tmp_path / "hf", hf))
    reads: list[int] = []
    real = FileSource.read_into

    def counted(self: FileSource, offset: int, buffer: memoryview) -> None:
        reads.append(offset)
        real(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", counted)
    back = mc.map(mc.map(source, mixed.FAMILY), mixed.FAMILY, to="hf")
    assert reads == []
    assert raws_of(back) == raws(hf)
    assert reads
    assert mc.diff(source, back, values=True).equal
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


def test_five_mappings_one_on_the_other_are_one_mapping(tmp_path: Path) -> None:
    hf = mixed.noise(mixed.hugging_face())
    found = mc.load(write_mixed(tmp_path / "hf", hf))
    for to in ("mf", "hf", "mf", "hf", "mf"):
        found = mc.map(found, mixed.FAMILY, to=to)
    assert raws_of(found) == raws(mixed.mindformers(hf))


def test_a_mapping_of_a_mapping_is_saved_as_the_original(tmp_path: Path) -> None:
    hf = mixed.noise(mixed.hugging_face())
    source = mc.load(write_mixed(tmp_path / "hf", hf))
    mc.save(mc.map(mc.map(source, mixed.FAMILY), mixed.FAMILY, to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws(hf)


def note_checksums(file: Path) -> None:
    """Slices of 512 MiB hold whole runs of a checksum, slices of a few bytes do not: the manifest gets those of the whole tensors."""
    manifest, raw = file.with_name(f"{file.name}.mfconv") / "manifest.json", raws_in(file)
    content = json.loads(manifest.read_text())
    content["tensors"] = [{**t, "xxh3_128": xxhash.xxh3_128_hexdigest(raw[t["name"]].data)} for t in content["tensors"]]
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("slice_bytes", [8, 24, 64, 200])
def test_a_ckpt_whose_tensors_are_cut_into_slices_maps_the_same(slice_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore cuts tensors over 512 MiB. Small slices stand for it here: they cut through rows, heads and experts."""
    hf = mixed.noise(mixed.hugging_face())
    monkeypatch.setattr(mindspore_ckpt, "SLICE_BYTES", slice_bytes)
    mc.save(mc.map(mc.load(write_mixed(tmp_path / "hf", hf)), mixed.FAMILY), tmp_path / "out.ckpt")
    assert (tmp_path / "out.ckpt").read_bytes().count(b"embedding.table") == -(-23 * 10 * 2 // slice_bytes)
    assert raws_in(tmp_path / "out.ckpt") == raws(mixed.mindformers(hf))
    note_checksums(tmp_path / "out.ckpt")

    sliced = mc.load(tmp_path / "out.ckpt")
    assert len(sliced["embedding.table"].pieces) > 1
    back = mc.map(sliced, mixed.FAMILY, to="hf")
    assert raws_of(back) == raws(hf)
    assert raws_of(mc.map(back, mixed.FAMILY, to="mf")) == raws(mixed.mindformers(hf))
    mc.save(back, tmp_path / "back", dtype="fp32")
    narrow = {n: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for n, a in hf.items()}
    with np.errstate(all="ignore"):
        for name, raw in raws_in(tmp_path / "back").items():
            assert np.array_equal(raw.array(), narrow[name], equal_nan=raw.dtype == "F32"), name


@pytest.mark.parametrize("panel, most, rows, run", [(16, 64, 1, 9), (48, 4096, 2, 16), (1000, 1000, 7, 40), (100, 300, 3, 1 << 20)])
@pytest.mark.parametrize("dtype", [None, "fp32", "fp16"])
def test_panels_and_segments_of_any_size_give_the_same_bytes(
    panel: int, most: int, rows: int, run: int, dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real tensors are cut into panels of half a MiB and segments of 64 MiB. Small ones stand for them here."""
    hf = {n: a.astype(ml_dtypes.bfloat16) if a.ndim > 1 and a.dtype == np.float32 else a for n, a in mixed.hugging_face().items()}
    source = mc.load(write_mixed(tmp_path / "hf", hf))
    mc.save(mc.map(source, mixed.FAMILY), tmp_path / "large.ckpt", dtype=dtype)
    for module, name, value in (
        (gather, "PANEL_BYTES", panel),
        (gather, "MAX_PANEL_BYTES", most),
        (gather, "PANEL_ROWS", rows),
        (gather, "SHORTEST_SPAN", run),
        (fill, "PANEL_BYTES", panel),
        (fill, "SEGMENT_BYTES", 8 * panel),
        (compare, "SEGMENT_BYTES", 8 * panel),
    ):
        monkeypatch.setattr(module, name, value)
    mc.save(mc.map(source, mixed.FAMILY), tmp_path / "small.ckpt", dtype=dtype)
    assert (tmp_path / "small.ckpt").read_bytes() == (tmp_path / "large.ckpt").read_bytes()
    assert mc.diff(tmp_path / "small.ckpt", tmp_path / "large.ckpt", values=True).equal
    if dtype is None:
        assert raws_of(mc.map(mc.load(tmp_path / "small.ckpt"), mixed.FAMILY, to="hf")) == raws(hf)
        assert mc.verify(source, tmp_path / "small.ckpt", mixed.FAMILY).equal


def test_a_fixed_dtype_is_seen_through_by_the_next_mapping(tmp_path: Path) -> None:
    hf = {n: a.astype(ml_dtypes.bfloat16) if n.endswith("router.bias") else a for n, a in mixed.hugging_face().items()}
    back = mc.map(mc.map(mc.load(write_mixed(tmp_path / "hf", hf)), mixed.FAMILY), mixed.FAMILY, to="hf")
    name = "model.layers.1.router.bias"
    assert mc.read(back, name).astype(np.float32).tolist() == hf[name].astype(np.float32).tolist()


def test_the_way_back_of_a_stack_looks_at_each_expert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = 40
    rule = Rule("experts.{expert}.weight", "experts.weight", "ffn hidden -> expert hidden ffn")
    family = Family(key="stack", covers="a test", rules=(rule,), sizes={"expert": "experts", "ffn": "ffn", "hidden": "hidden"})
    hf = {f"experts.{n}.weight": numbered(2, 3, first=6 * n) for n in range(experts)}
    there = mc.map(mc.load(hf, config={"experts": experts, "ffn": 2, "hidden": 3}), family)
    composed: list[object] = []
    real = mapped_tensors.compose
    monkeypatch.setattr(mapped_tensors, "compose", lambda outer, inner: composed.append(outer) or real(outer, inner))
    assert raws_of(mc.map(there, family, to="hf")) == raws(hf)
    assert len(composed) == experts  # all pairs would be 1,600


# ---- headers only ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out.safetensors", "out.ckpt", pytest.param("out.bin", marks=pytest.mark.real_frameworks)])
def test_load_and_map_read_no_weight(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if target == "out.safetensors":
        path = (
            write_mixed(tmp_path, {n: a.repeat(900, axis=-1) if a.ndim else a for n, a in mixed.hugging_face().items()})
            / "model.safetensors"
        )
        config, wide, to = None, None, "mf"
    else:
        wide = {**llama.FAMILY.toy, "hidden_size": 768, "intermediate_size": 2000}
        path, config, to = tmp_path / target, wide, "hf" if target.endswith("ckpt") else "mf"
        made = mc.toy("llama", **wide)
        mc.save(mc.map(made) if to == "hf" else made, path)
    monkeypatch.setattr(FileSource, "view", lambda self: pytest.fail("a file was mapped into memory"))
    read: list[tuple[int, int]] = []
    real = FileSource.read_into

    def counted(self: FileSource, offset: int, buffer: memoryview) -> None:
        if self.path == path:
            read.append((offset, offset + len(buffer)))
        real(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", counted)
    loaded = mc.load(path, config=config)
    assert loaded.nbytes > 0.9 * path.stat().st_size
    if config is not None:
        mc.map(loaded, "llama", to=to)
    total = sum(stop - start for start, stop in read)
    assert 0 < total < 0.05 * path.stat().st_size
    if target == "out.safetensors":
        first = min(p.start for t in loaded for p in t.pieces)
        assert max(stop for _, stop in read) <= first


def test_a_checkpoint_of_eight_tebibytes_is_mapped_at_once(tmp_path: Path) -> None:
    """A sparse file that claims to be huge: only something that reads its weights would notice."""
    config = {**llama.FAMILY.toy, "vocab_size": 1 << 30, "hidden_size": 1 << 10, "head_dim": 8}
    specs = mc.expected("llama", config, side="hf").specs
    header = (
        b"{"
        + b",".join(
            b'"%s":{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}' % (s.name.encode(), str(list(s.shape)).encode(), at, at + s.nbytes)
            for s, at in zip(specs, np.cumsum([0, *(s.nbytes for s in specs)]).tolist(), strict=False)
        )
        + b"}"
    )
    path = tmp_path / "model.safetensors"
    try:
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + sum(s.nbytes for s in specs))
    except OSError as error:
        pytest.skip(f"this file system holds no sparse file of 8 TiB: {error}")
    mapped = mc.map(mc.load(path, config=config), "llama")
    assert mapped.nbytes > 8 << 40
    assert len(mapped) == len(specs)


# ---- what map is asked and told ------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Checkpoint:
    return mc.toy("llama", tmp_path / "toy")


def test_family_and_direction_are_told_from_the_checkpoint(toy: Checkpoint, tmp_path: Path) -> None:
    there = mc.map(toy)
    assert (there.side, there.family) == ("mf", "llama")
    mc.save(there, tmp_path / "out.safetensors")
    back = mc.map(mc.load(tmp_path / "out.safetensors"))
    assert (back.side, raws_of(back)) == ("hf", raws_of(toy))


@pytest.mark.parametrize("key, value", [("n_head", 6), ("hidden_size", 96)])
def test_a_size_that_agrees_with_the_config_is_taken_and_one_that_does_not_is_refused(toy: Checkpoint, key: str, value: int) -> None:
    options: dict[str, Any] = {key: value}
    assert len(mc.map(toy, **options)) == len(toy)
    with pytest.raises(MappingError) as refused:
        mc.map(toy, **{**options, key: value + 1})
    error = refused.value
    assert (error.code, error.found) == ("MFC304", value + 1)
    assert str(value) in str(error.expected)
    assert "config.json" in str(error.expected)


def test_a_head_count_stands_in_for_a_config_where_a_rule_needs_it(tmp_path: Path) -> None:
    family = Family("small", "", (Rule("w", "w", "(heads half pair) -> (heads pair half)", sizes={"pair": 2}),), {})
    source = mc.load(write_hf(tmp_path / "hf", {"w": numbered(24)}))
    with pytest.raises(MappingError):
        mc.map(source, family)
    found = mc.read(mc.map(source, family, n_head=3), "w")
    assert found.tolist() == numbered(24).reshape(3, 4, 2).swapaxes(1, 2).reshape(-1).tolist()


def test_layers_keeps_the_first_ones_and_says_so(toy: Checkpoint) -> None:
    mapped = mc.map(toy, layers=2)
    assert mapped.report.counts["left out"] == 18
    assert "18 left out" in repr(mapped)
    assert any("layers=2 asked for the first ones only" in row["layout"] for row in mapped.report.rows())
    assert {n.split(".")[2] for n in mapped.tensors if ".layers." in n} == {"0", "1"}


def test_the_first_layers_alone_are_a_checkpoint_that_comes_back(toy: Checkpoint, tmp_path: Path) -> None:
    mc.save(mc.map(toy, layers=2), tmp_path / "out.ckpt")
    mc.save(mc.map(mc.load(tmp_path / "out.ckpt")), tmp_path / "back")
    assert raws_in(tmp_path / "back") == without(raws_of(toy), "layers.2.", "layers.3.")
    assert mc.load(tmp_path / "back").config == {**(toy.config or {}), "num_hidden_layers": 2}


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_at_all_is_refused(toy: Checkpoint, layers: int) -> None:
    with pytest.raises(MfconvError):
        mc.map(toy, layers=layers)


def test_an_unknown_direction_or_family_is_refused_with_the_nearest(toy: Checkpoint) -> None:
    with pytest.raises(UsageError) as direction:
        mc.map(toy, to="ms")
    assert direction.value.code == "MFC501"
    assert "'hf' or 'mf'" in str(direction.value)
    with pytest.raises(MappingError) as family:
        mc.map(toy, "lama")
    assert family.value.code == "MFC301"
    assert "Did you mean 'llama'?" in str(family.value)


def test_a_family_that_cannot_be_told_is_refused_with_what_each_knows(tmp_path: Path) -> None:
    source = mc.load(write_hf(tmp_path / "hf", {"a.weight": numbered(3)}, {"model_type": "nobody"}))
    with pytest.raises(MappingError) as refused:
        mc.map(source)
    assert refused.value.code == "MFC302"
    assert all(part in str(refused.value) for part in ("'nobody'", "knows 0 of 1 name pattern", "--model KEY"))


def test_many_problems_are_one_error_that_folds_them_and_stays_short(toy: Checkpoint) -> None:
    config = {**llama.FAMILY.toy, "num_hidden_layers": 288, "num_key_value_heads": 3}
    with pytest.raises(MappingError) as refused:
        mc.map(toy, config=config)
    text = str(refused.value)
    assert refused.value.code == "MFC303"
    assert len(text.splitlines()) < 40
    assert "model.layers.{0‥3}.self_attn.k_proj.weight" in text
    assert "num_key_value_heads" in text
    assert "num_hidden_layers = 288" in text
    problems = getattr(refused.value, "problems", ())
    assert len(problems) == 8 + 284 * 9


def test_nothing_is_written_when_a_mapping_has_problems(toy: Checkpoint, tmp_path: Path) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(MappingError):
        mc.save(mc.map(toy, config={**llama.FAMILY.toy, "num_hidden_layers": 5}), tmp_path / "out.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_report_has_one_row_a_rule_whatever_the_number_of_layers() -> None:
    few, many = (mc.map(mc.toy("llama", num_hidden_layers=n)).report for n in (4, 40))
    assert len(few.rows()) == len(many.rows()) == 12
    assert many.counts == {"mapped": 363, "tied": 0, "dropped": 0, "restored": 0, "left out": 0}
    assert "model.layers.{0‥39}.self_attn.q_proj.weight" in {row["Hugging_Face"] for row in many.rows()}
    assert sum(row["tensors"] for row in many.rows()) == 363


def test_what_is_no_tensor_is_named_in_the_report(toy: Checkpoint) -> None:
    from dataclasses import replace

    from mfconv_nb.core.checkpoint import OtherEntry

    mapped = mc.map(replace(toy, history=replace(toy.history, others=(OtherEntry("step", "int", "7"),))))
    assert "step" in repr(mapped)
