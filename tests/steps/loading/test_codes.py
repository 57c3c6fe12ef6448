"""Quantised checkpoints are read as numbers: pairs by rule, in whatever files, with the config's blocks; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.mapping.codes_and_scales import pair_codes
from tests.quantised import E5M2, E8M0, FP8, as_raws, by_blocks, fp4, fp8, llama_fp8, rounded, spread, write_shards
from tests.support import Array, numbered, write_hf
from tests.toys import arrays_of, findings, raws_of, refused_with

RNG = np.random.default_rng(3)
WEIGHT = (RNG.standard_normal((70, 96)) * 0.02).astype(np.float32)
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def group(**weights: Any) -> dict[str, Any]:
    said = {"num_bits": 8, "type": "float", "symmetric": True, **weights}
    return {"quantization_config": {**COMPRESSED, "config_groups": {"group_0": {"targets": ["Linear"], "weights": said}}}}


def read(tensors: dict[str, Array], config: dict[str, Any] | None, name: str = "a.weight") -> Array:
    return mc.read(mc.load(tensors, config=config), name)


def assert_bits(found: Array, numbers: Array) -> None:
    assert (found.dtype, found.shape) == (numbers.dtype, numbers.shape)
    np.testing.assert_array_equal(found.view(np.uint16), numbers.view(np.uint16))


# ---- the forms that are published ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FP8, E5M2])
@pytest.mark.parametrize("block", [(32, 32), (128, 128), (64, 32), (7, 5)])
@pytest.mark.parametrize("name", ["a.weight_scale_inv", "a.weight_scale", "a.scale"])
def test_fp8_in_blocks_with_edges_that_are_cut_is_code_times_scale(name: str, block: tuple[int, int], kind: Any) -> None:
    codes, scales, product = fp8(WEIGHT, block, kind)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    assert_bits(read({"a.weight": codes, name: scales}, config), rounded(product))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, E8M0])
def test_scales_may_be_of_every_dtype_that_is_published(dtype: Any) -> None:
    codes, scales, _ = fp8(WEIGHT, (32, 32), powers_of_two=True)
    scales = np.maximum(scales, 2.0**-14).astype(dtype)
    product = codes.astype(np.float32) * spread(scales, (32, 32), WEIGHT.shape)
    assert_bits(read({"a.weight": codes, "a.scale": scales}, by_blocks(32)), rounded(product))


@pytest.mark.parametrize("shape", [(70, 1), (70,)])
@pytest.mark.parametrize("config", [None, group(strategy="channel"), {"quantization_config": COMPRESSED}])
def test_a_scale_for_every_row_is_told_with_and_without_a_config(config: dict[str, Any] | None, shape: tuple[int, ...]) -> None:
    codes, scales, product = fp8(WEIGHT, (1, 96))
    assert_bits(read({"a.weight": codes, "a.weight_scale": scales.reshape(shape)}, config), rounded(product))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("config", [None, group(strategy="tensor"), {"quantization_config": {"quant_method": "fp8"}}])
def test_one_scale_for_the_tensor_is_told_with_and_without_a_config(config: dict[str, Any] | None, shape: tuple[int, ...]) -> None:
    codes, scales, product = fp8(WEIGHT, (70, 96))
    assert_bits(read({"a.weight": codes, "a.weight_scale": scales.reshape(shape)}, config), rounded(product))


def test_the_groups_of_compressed_tensors_say_blocks_and_columns() -> None:
    for block, said in [((32, 48), {"strategy": "block", "block_structure": [32, 48]}), ((1, 24), {"strategy": "group", "group_size": 24})]:
        codes, scales, product = fp8(WEIGHT, block)
        assert_bits(read({"a.weight": codes, "a.weight_scale": scales}, group(**said)), rounded(product))


@pytest.mark.parametrize("dtype", [np.int8])
def test_packed_fp4_has_twice_the_columns_and_the_low_bits_first(dtype: Any) -> None:
    codes, scales, product = fp4(WEIGHT)
    found = read({"a.weight": codes.view(dtype), "a.scale": scales}, by_blocks(128))
    assert_bits(found, rounded(product))
    assert found.shape == (70, 96)


def test_mxfp4_of_gpt_oss_is_what_transformers_makes_of_it() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors  # heavy, and no import of the other tests

    blocks, scales = RNG.integers(0, 256, (3, 10, 4, 16), np.uint8), RNG.integers(100, 140, (3, 10, 4), np.uint8)
    expected = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).view(torch.int16).numpy()
    tensors = {"e.gate_up_proj_blocks": blocks, "e.gate_up_proj_scales": scales, "e.gate_up_proj_bias": numbered(3, 10)}
    loaded = mc.load(tensors, config={"quantization_config": {"quant_method": "mxfp4"}})
    assert list(loaded.tensors) == ["e.gate_up_proj", "e.gate_up_proj_bias"]
    assert loaded["e.gate_up_proj"].shape == (3, 128, 10)
    np.testing.assert_array_equal(mc.read(loaded, "e.gate_up_proj").view(np.int16), expected)


def test_a_stack_of_experts_has_a_grid_of_scales_each() -> None:
    parts = [fp8(WEIGHT * (n + 1), (32, 32)) for n in range(3)]
    codes, scales, product = (np.stack([p[n] for p in parts]) for n in range(3))
    found = read({"experts.down_proj": codes, "experts.down_proj_scale_inv": scales}, by_blocks(32), "experts.down_proj")
    assert_bits(found, rounded(product))


def test_codes_and_scales_may_lie_in_different_files(tmp_path: Path) -> None:
    codes, scales, product = fp8(WEIGHT, (32, 32))
    folder = write_shards(
        tmp_path / "q", [as_raws({"a.weight": codes, "b.bias": WEIGHT}), as_raws({"a.weight_scale_inv": scales})], by_blocks(32)
    )
    assert_bits(mc.read(mc.load(folder), "a.weight"), rounded(product))


def test_the_dtype_is_that_of_the_config_or_bf16_and_is_said() -> None:
    codes, scales, product = fp8(WEIGHT, (32, 32))
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales}
    for said, dtype in [
        ({}, "BF16"),
        ({"torch_dtype": "float16"}, "F16"),
        ({"dtype": "float32"}, "F32"),
        ({"torch_dtype": "float8_e4m3fn"}, "BF16"),
    ]:
        loaded = mc.load(tensors, config={**by_blocks(32), **said})
        assert loaded["a.weight"].dtype == dtype
        assert any(
            f"read as numbers in {mc.load(loaded).specs[0].dtype.lower().replace('f', 'fp', 1) if dtype != 'BF16' else 'bf16'}" in n
            for n in loaded.notes
        )
    assert any("1 weight in fp8_e4m3, blocks of 32 x 32 in fp32" in n for n in loaded.notes)
    np.testing.assert_array_equal(mc.read(loaded, "a.weight"), rounded(product))


def test_scales_of_activations_are_listed_and_left_out() -> None:
    codes, scales, _ = fp8(WEIGHT, (70, 96))
    beside = {"a.input_scale": np.ones((), np.float32), "attn.k_scale": np.ones(1, np.float32), "attn.v_scale": np.ones(1, np.float32)}
    loaded = mc.load({"a.weight": codes, "a.weight_scale": scales.reshape(()), **beside})
    assert list(loaded.tensors) == ["a.weight"]
    assert any("3 tensors, left out: a.input_scale, attn.k_scale, attn.v_scale" in n for n in loaded.notes)


def test_what_steps_after_it_see_is_numbers(tmp_path: Path) -> None:
    folder, _, numbers = llama_fp8(tmp_path / "q")
    write_hf(
        tmp_path / "plain",
        numbers,
        {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "quantization_config"},
    )
    assert raws_of(folder) == numbers
    assert mc.diff(folder, tmp_path / "plain", values=True).equal
    mapped, plain = mc.map(mc.load(folder)), mc.map(mc.load(tmp_path / "plain"))
    assert raws_of(mapped) == raws_of(plain)
    assert raws_of(mc.map(mapped, to="hf")) == numbers
    assert "quantised checkpoint" not in mc.doctor(folder).what
    mc.save(mapped, tmp_path / "mf.safetensors", progress=False)
    assert mc.verify(folder, tmp_path / "mf.safetensors", progress=False).equal


def test_a_comparison_of_codes_says_that_numbers_were_compared(tmp_path: Path) -> None:
    codes, scales, _ = fp8(WEIGHT, (32, 32), powers_of_two=True)
    halves = np.clip(codes.astype(np.float32), -2, 2).astype(FP8)  # of these the double is a code too
    twice = (halves.astype(np.float32) * 2).astype(FP8)
    config = {"model_type": "own", **by_blocks(32)}
    for name, c, s in (("a", halves, scales), ("b", twice, scales / 2)):
        write_hf(tmp_path / name, as_raws({"x.weight": c, "x.weight_scale_inv": s, "n.weight": np.ones(4, np.float32)}), config)
    seen = mc.diff(tmp_path / "a", tmp_path / "b", values=True, progress=False)
    assert seen.equal
    assert "not their bytes" in str(seen)
    write_hf(tmp_path / "c", as_raws({"x.weight": WEIGHT}), {"model_type": "own"})
    assert "not their bytes" not in str(mc.diff(tmp_path / "a", tmp_path / "c", values=True, progress=False))


# ---- what is refused ------------------------------------------------------------------------------------------------------------


def problem(specs: dict[str, tuple[str, tuple[int, ...]]], config: dict[str, Any] | None) -> tuple[str, ...]:
    found = pair_codes([TensorSpec(n, shape, dtype) for n, (dtype, shape) in specs.items()], config)
    assert len(found.problems) == 1, found
    return found.problems[0]


GOOD = {"a.weight": ("F8_E4M3", (70, 96)), "a.weight_scale_inv": ("F32", (3, 3))}
B = {"b.weight": ("F8_E4M3", (70, 96))}


@pytest.mark.parametrize(
    ("specs", "name", "words"),
    [
        (GOOD | B, "b.weight", "without their scale"),
        (GOOD | {"b.weight_scale_inv": ("F32", (3, 3))}, "b.weight_scale_inv", "without its codes"),
        (GOOD | {"b.weight": ("BF16", (70, 96)), "b.weight_scale_inv": ("F32", (3, 3))}, "b.weight_scale_inv", "without its codes"),
        (GOOD | {"a.weight_scale": ("F32", (3, 3))}, "a.weight", "two scales"),
        (GOOD | {"a.weight_scale_inv": ("F32", (3, 4))}, "a.weight_scale_inv", "3 × 4"),
        (GOOD | {"a.weight_scale_inv": ("F32", (2, 3))}, "a.weight_scale_inv", "2 × 3"),
        (GOOD | {"a.weight_scale_inv": ("F32", (70, 1))}, "a.weight_scale_inv", "70 × 1"),
        (B, "b.weight", "without their scale"),
        (GOOD | {"c.scale": ("F8_E8M0", (3, 3))}, "c.scale", "without its codes"),
        ({"c.weight": ("I8", (8, 48)), "c.scale": ("F8_E8M0", (8, 2))}, "c.scale", "8 × 2"),
        ({"e_blocks": ("U8", (3, 10, 4, 16)), "e_scales": ("U8", (3, 10, 5))}, "e_blocks", "3 × 10 × 4 × 16"),
    ],
)
def test_what_does_not_fit_together_is_named(specs: dict[str, Any], name: str, words: str) -> None:
    about, found, expected, hint = problem(specs, by_blocks(32))
    assert (about, words in found) == (name, True), found
    assert expected
    assert hint


@pytest.mark.parametrize("sizes", [([32, 32], [40, 40]), ([40, 40], [32, 32]), ([64, 32], [32, 32])])
def test_scales_that_fit_two_sizes_of_blocks_are_refused_and_one_that_fits_is_taken(sizes: tuple[list[int], list[int]]) -> None:
    weights = [{"type": "float", "num_bits": 8, "strategy": "block", "block_structure": size} for size in sizes]
    config = {"quantization_config": {**COMPRESSED, "config_groups": {str(n): {"weights": w} for n, w in enumerate(weights)}}}
    both = {"a.weight": ("F8_E4M3", (64, 64)), "a.weight_scale": ("F32", (2, 2))}
    one = {"a.weight": ("F8_E4M3", (120, 96)), "a.weight_scale": ("F32", (4, 3))}
    alike = {"a.weight": ("F8_E4M3", (30, 32)), "a.weight_scale": ("F32", (1, 1))}  # one block, whichever it is
    if [64, 32] not in sizes:
        about, found, expected, _ = problem(both, config)
        assert (about, expected) == ("a.weight_scale", "one size of blocks")
        assert all(f"{size[0]} x {size[1]}" in found for size in sizes)
    for specs in (one, alike):
        found = pair_codes([TensorSpec(n, shape, dtype) for n, (dtype, shape) in specs.items()], config)
        assert not found.problems
        assert found.coded["a.weight"].block == ((32, 32) if specs is one else tuple(sizes[0]))


def test_blocks_are_never_guessed() -> None:
    about, _, expected, hint = problem(GOOD, None)
    assert about == "a.weight_scale_inv"
    assert "no block size in the config" in expected
    assert "--config" in hint


def test_a_conversion_names_the_scale_that_is_missing_and_loading_shows_what_is_there(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    lost = next(n for n in stored if n.endswith("_scale_inv"))
    write_hf(folder, {n: t for n, t in stored.items() if n != lost}, json.loads((folder / "config.json").read_text()))
    weight = lost.removesuffix("_scale_inv")
    assert mc.load(folder)[weight].dtype == "F8_E4M3"
    for family in ("llama", None):
        error = refused_with("MFC321", lambda family=family: mc.map(mc.load(folder), family))
        assert weight in str(error)
        assert lost in str(error)
    assert lost in findings(folder, "quantised")
    refused_with("MFC312", lambda: mc.save(mc.load(folder), tmp_path / "out.safetensors", dtype="bf16"))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_number_is_named_before_anything_is_written(bad: float, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    name = [n for n in stored if n.endswith("_scale_inv")][-1]
    scales = stored[name].array().copy()
    scales[1, 0] = bad
    write_hf(folder, {**stored, **as_raws({name: scales})}, json.loads((folder / "config.json").read_text()))
    mapped = mc.map(mc.load(folder))
    for call in (
        lambda: mc.save(mapped, tmp_path / "o.ckpt"),
        lambda: mc.save(mapped, tmp_path / "o.ckpt", dry_run=True),
        lambda: raws_of(mapped),
    ):
        error = refused_with("MFC321", call)
        assert "scale [1, 0]" in str(error)
        assert name in str(error)
    assert not (tmp_path / "o.ckpt").exists()


def test_scales_are_not_left_out_without_their_codes(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    error = refused_with("MFC312", lambda: mc.map(mc.load(folder), leave_out="*_scale_inv"))
    assert "codes" in str(error.expected)
    left = mc.map(mc.load(folder), leave_out="*layers.1.*", layers=1)
    assert len(left.report.left_out) >= 1


# ---- layouts that scatter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [2000, 2600, 5000])
def test_a_transpose_and_a_stack_of_wide_matrices_decode_each_code_once(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mfconv_nb.streaming import dequantised  # what is counted

    weight = (RNG.standard_normal((640, columns)) * 0.02).astype(np.float32)
    parts = [fp8(weight * (n + 1), (128, 128)) for n in range(2)]
    tensors = {f"w.{n}.weight{end}": p[k] for n, p in enumerate(parts) for k, end in ((0, ""), (1, "_scale_inv"))}
    write_hf(tmp_path / "q", as_raws(tensors), {"model_type": "own", **by_blocks(128)})
    rules = (mc.rules.Rule("w.{expert}.weight", "stacked", "out in -> expert in out"),)
    own = mc.rules.Family("own", "", rules, sizes={"expert": "2"})
    decoded = []
    real = dequantised.dequantise
    monkeypatch.setattr(dequantised, "dequantise", lambda out, *rest: (decoded.append(out.size), real(out, *rest))[1])
    mapped = mc.map(mc.load(tmp_path / "q"), own)
    mc.save(mapped, tmp_path / "o.safetensors", progress=False)
    assert sum(decoded) == 2 * weight.size
    expected = np.stack([rounded(p[2]).T for p in parts])
    np.testing.assert_array_equal(
        arrays_of(tmp_path / "o.safetensors")["stacked"].view(np.uint16), np.ascontiguousarray(expected).view(np.uint16)
    )
