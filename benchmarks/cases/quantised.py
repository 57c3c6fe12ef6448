"""Fp8 with block scales: to bfloat16, back to the published codes, and how often a code is decoded where a layout scatters the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mfconv_nb as mc
from benchmarks.bench import Bench, conversion, copy
from benchmarks.measure import run
from benchmarks.models import LLAMA, llama_config, write_folder
from benchmarks.results import TIMES, Row, Target, memory_row, ratio_row
from mfconv_nb.core.checkpoint import HF, TensorSpec
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.rules import Family, Rule
from mfconv_nb.streaming import dequantised

BLOCK = 128
MOST = 1.5  # times cp of the output
MATRIX = (4096, 7168)  # of DeepSeek-V3
ABOUT = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}}


def _make_fp8(folder: Path, specs: tuple[TensorSpec, ...], config: dict[str, object]) -> Path:
    """These tensors with their projections as codes; scales and codes are numbers of every size, none of them NaN."""
    stored = []
    for spec in specs:
        is_coded = spec.name.endswith("_proj.weight")
        stored.append(TensorSpec(spec.name, spec.shape, "F8_E4M3") if is_coded else spec)
        if is_coded:
            stored.append(TensorSpec(f"{spec.name}_scale_inv", (-(-spec.shape[0] // BLOCK), -(-spec.shape[1] // BLOCK)), "F32"))
    write_folder(folder, stored, {**config, **ABOUT}, 1)
    rng = np.random.default_rng(0)
    for tensor in mc.load(folder / "model.safetensors", config={}):
        piece, count = tensor.pieces[0], tensor.spec.elements
        if tensor.dtype == "F32":
            data = (rng.random(count) * 1e-4 + 1e-5).astype(np.float32).tobytes()
        elif tensor.dtype == "F8_E4M3":
            data = rng.integers(0, 126, count, np.uint8).tobytes()
        else:
            continue
        with open(folder / "model.safetensors", "r+b") as file:
            file.seek(piece.start)
            file.write(data)
    return folder


def codes(bench: Bench) -> Iterator[Row]:
    """Through the command line, both ways, against `cp` of what comes out."""
    with bench.room("codes", 5 * bench.size) as room:
        config = llama_config(2 * bench.size)  # a byte a number
        specs = expected_specs(LLAMA, read_sizes(config, LLAMA.sizes), HF, "BF16")
        source, wide, back = _make_fp8(room / "fp8", tuple(specs), config), room / "wide.ckpt", room / "again"
        run(*conversion("mfconv", source, wide).argv)
        there = conversion("mfconv, fp8 to bf16", source, room / "out.ckpt", "--no_fsync")
        again = conversion("mfconv, back to fp8", wide, back, "--no_fsync", "--reversed", "--config", str(source))
        seen = bench.rotate([copy(wide, room / "copy"), there])
        yield ratio_row("codes", "fp8 -> bf16 / cp of the bf16 side", seen[there.label], seen["cp"], MOST)
        yield memory_row("codes", "fp8 -> bf16, peak memory", seen[there.label])
        seen = bench.rotate([copy(wide, room / "copy"), again])
        yield ratio_row("codes", "back to fp8 / cp of the bf16 side", seen[again.label], seen["cp"], MOST)
        yield memory_row("codes", "back to fp8, peak memory", seen[again.label])


def decoded(bench: Bench) -> Iterator[Row]:
    """How many codes are decoded for each number of a matrix that is turned, and of one among others in rows of a fused one."""
    for layout, words in (("out in -> in out", "turned"), ("out in -> out (n in)", "side by side")):
        with bench.room("decoded", 500_000_000) as room:
            specs = tuple(TensorSpec(f"w.{n}_proj.weight", MATRIX, "BF16") for n in range(2))
            source = _make_fp8(room / "fp8", specs, {"model_type": "own"})
            target = "x" if "(n in)" in layout else "x.{n}"
            family = Family("own", "", (Rule("w.{n}_proj.weight", target, layout),), sizes={"n": "2"})
            what = f"{MATRIX[0]} x {MATRIX[1]}, {words}: codes decoded / numbers"
            yield Row("decoded", what, TIMES, _ratio(source, family, room), Target(1.0))


def _ratio(source: Path, family: Family, room: Path) -> float:
    counted, real = [0], dequantised.dequantise

    def count(out: np.ndarray, *rest: object) -> None:  # type: ignore[type-arg]
        counted[0] += out.size
        real(out, *rest)  # type: ignore[arg-type]

    dequantised.dequantise = count  # type: ignore[assignment]
    try:
        mapped = mc.map(mc.load(source), family)
        mc.save(mapped, room / "out.safetensors", threads=1, progress=False, durable=False)
    finally:
        dequantised.dequantise = real
    return counted[0] / mapped.parameters
