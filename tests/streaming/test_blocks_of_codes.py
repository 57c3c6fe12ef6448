"""Scale and error of every block of a published weight, with the values written out; as a report, and in the view of a save."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.streaming.blocks_of_codes import BlocksSeen, bytes_of_blocks, measure_blocks
from mfconv_nb.streaming.dequantised import dequantised_sources
from mfconv_nb.views.blocks_report import BlocksReport
from mfconv_nb.views.explorer import Explorer
from mfconv_nb.views.values import bytes_to_read, values_html
from tests.quantised import FP8, by_blocks, fp8, llama_fp8, rounded
from tests.support import Array, wait_until
from tests.toys import arrays_of, refused_with

A_BIT, A_TIE = 1 + 2**-10, 1 + 2**-8  # bf16 rounds both to 1
SCALES = np.array([[1, A_BIT, 2], [A_TIE, 0.5, A_BIT]], np.float32)
W1 = "model.layers.1.feed_forward.w1.weight"
SCALE_PICTURE = "alt='scale of each block, and largest relative error in each block'"


def weight(codes: Array, scales: Array, dtype: str = "bfloat16", block: int = 2) -> LazyTensor:
    config = {"torch_dtype": dtype, **by_blocks(block)}
    return mc.load({"w.weight": codes.astype(FP8), "w.weight_scale_inv": scales.astype(np.float32)}, config=config)["w.weight"]


def seen_of(tensor: LazyTensor) -> BlocksSeen:
    found = measure_blocks(tensor)
    assert found is not None
    return found


def test_each_block_has_its_scale_and_the_largest_error_of_its_numbers() -> None:
    codes = np.ones((3, 5))
    codes[0, 2] = 0  # no error, and not that of the block
    seen = seen_of(weight(codes, SCALES))
    assert (seen.weights, seen.block, seen.matrices, seen.grid, seen.pooled) == (("w.weight",), (2, 2), 1, (2, 3), (1, 1))
    assert seen.scales.tolist() == SCALES.tolist()
    assert seen.errors == pytest.approx(np.array([[0, 1 / 1025, 0], [1 / 257, 0, 1 / 1025]]), rel=1e-6)


def test_the_error_is_the_largest_of_a_block_wherever_its_number_lies() -> None:
    for row, column in np.ndindex(4, 4):
        codes = np.zeros((4, 4))
        codes[row, column] = 1
        alone = seen_of(weight(codes, np.full((2, 2), 1 + 3 / 1024))).errors
        assert alone[row // 2, column // 2] == pytest.approx(3 / 1027, rel=1e-6)  # rounded to 1
        assert np.count_nonzero(alone) == 1


def test_fp32_is_measured_against_the_product_before_it_is_rounded() -> None:
    seen = seen_of(weight(np.full((2, 2), 1.125), np.array([[1 + 2**-23]]), "float32"))
    assert seen.errors.item() == pytest.approx(2**-23 / 9, rel=1e-6)


def test_a_number_that_becomes_infinite_or_is_none_has_no_error() -> None:
    codes = np.array([[448, 1, np.nan, 1], [1, 1, 1, 1]])
    seen = seen_of(weight(codes, np.array([[1000, 1 + 2**-12]]), "float16"))
    assert seen.errors == pytest.approx(np.array([[0, 1 / 4097]]), rel=1e-6)


def test_many_blocks_share_cells_and_the_largest_of_them_shows() -> None:
    scales = np.arange(1, 131, dtype=np.float32).reshape(130, 1)
    seen = seen_of(weight(np.ones((260, 2)), scales))
    assert (seen.grid, seen.pooled, seen.scales.shape) == ((130, 1), (3, 1), (44, 1))
    assert seen.scales.ravel().tolist() == [*range(3, 130, 3), 130]
    across = seen_of(weight(np.ones((2, 260)), scales.T))
    assert across.pooled == (1, 3)
    assert across.scales.ravel().tolist() == [*range(3, 130, 3), 130]


def worst_by_block(product: Array, block: int) -> list[list[float]]:
    """Number by number, as nobody would do it for a large weight."""
    rows, columns = product.shape
    found = np.zeros((-(-rows // block), -(-columns // block)))
    short = rounded(product).astype(np.float32)
    for row, column in np.ndindex(rows, columns):
        if product[row, column]:
            error = abs(float(short[row, column]) - float(product[row, column])) / abs(float(product[row, column]))
            found[row // block, column // block] = max(found[row // block, column // block], error)
    return found.tolist()


def test_weights_in_one_tensor_lie_one_under_the_other_as_they_were_published() -> None:
    made = mc.toy("deepseek3", dtype="bf16")
    stored: dict[str, Any] = arrays_of(made)
    scales: dict[str, Array] = {}
    errors: dict[str, list[list[float]]] = {}
    for name in [n for n in stored if ".mlp.experts." in n or n.endswith("q_b_proj.weight")]:
        stored[name], scales[name], product = fp8(stored[name], (16, 16))
        stored[f"{name}_scale_inv"] = scales[name]
        errors[name] = worst_by_block(product, 16)
    mapped = mc.map(mc.load(stored, config={**made.config, **by_blocks(16)}), "deepseek3")
    joined = seen_of(mapped["model.layers.1.feed_forward.routed_experts.ffn.w1"])
    parts = [f"model.layers.1.mlp.experts.{e}.{which}_proj.weight" for e in range(6) for which in ("gate", "up")]
    assert (joined.weights, joined.matrices, joined.grid) == (tuple(parts), 12, (24, 6))  # 28 x 96 each
    assert joined.scales.tolist() == np.concatenate([scales[n] for n in parts]).tolist()
    assert joined.errors == pytest.approx(np.concatenate([errors[n] for n in parts]), rel=1e-5)
    part = seen_of(mapped["model.layers.2.attention.l2q_pe_proj.weight"])  # a part of its rows
    name = "model.layers.2.self_attn.q_b_proj.weight"
    assert (part.weights, part.grid) == ((name,), (5, 3))
    assert part.errors == pytest.approx(np.array(errors[name]), rel=1e-5)


def test_the_matrices_of_a_published_stack_lie_one_under_the_other() -> None:
    codes, scales = np.ones((2, 3, 4)), np.array([[[1, A_BIT], [2, 4]], [[A_TIE, 8], [16, A_BIT]]], np.float32)
    stored = {"experts.up_proj": codes.astype(FP8), "experts.up_proj_scale_inv": scales}
    seen = seen_of(mc.load(stored, config={"torch_dtype": "bfloat16", **by_blocks(2)})["experts.up_proj"])
    assert (seen.matrices, seen.grid) == (2, (4, 2))
    assert seen.scales.tolist() == scales.reshape(4, 2).tolist()
    assert seen.errors == pytest.approx(np.array([[0, 1 / 1025], [0, 0], [1 / 257, 0], [0, 1 / 1025]]), rel=1e-6)


def test_beside_a_narrower_weight_there_is_nothing() -> None:
    wide, narrow = weight(np.ones((2, 4)), np.array([[1, 2]])), weight(np.ones((2, 2)), np.array([[4]]))
    seen = seen_of(LazyTensor(wide.spec, (*narrow.pieces, *wide.pieces)))
    assert seen.scales == pytest.approx(np.array([[4, np.nan], [1, 2]]), nan_ok=True)
    assert seen.errors == pytest.approx(np.array([[0, np.nan], [0, 0]]), nan_ok=True)
    assert [tuple(row.values())[:3] for row in BlocksReport(seen).rows()] == [(0, 0, 4), (1, 0, 1), (1, 1, 2)]


def test_a_weight_that_is_read_in_many_panels_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    tensor = mc.map(mc.load(folder))[W1]
    at_once = seen_of(tensor)
    monkeypatch.setattr("mfconv_nb.streaming.blocks_of_codes.PANEL", 7 * 96)
    told: list[int] = []
    again = measure_blocks(tensor, on_progress=told.append)
    assert again is not None
    assert (again.scales.tolist(), again.errors.tolist()) == (at_once.scales.tolist(), at_once.errors.tolist())
    assert len(told) > 10
    assert told[-1] == bytes_of_blocks(tensor) == tensor.spec.nbytes


def test_nothing_is_drawn_of_other_tensors_or_once_it_was_stopped(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    source = mc.load(folder)
    assert measure_blocks(source["model.norm.weight"]) is None
    assert bytes_of_blocks(source["model.norm.weight"]) == 0
    stop = threading.Event()
    stop.set()
    assert measure_blocks(source["model.layers.0.mlp.up_proj.weight"], stop=stop) is None


# ---- the report and the views ------------------------------------------------------------------------------------------------


def test_the_report_says_what_it_measured_and_gives_the_numbers(tmp_path: Path) -> None:
    report = BlocksReport(seen_of(weight(np.ones((3, 5)), SCALES)))
    said = (
        "'w.weight' as published: 2 × 3 blocks of 2 × 2",
        "  largest error of a number in bf16, as a part of it, against code × scale in float32",
    )
    assert tuple(repr(report).split("\n")[:2]) == said
    assert [tuple(row.values()) for row in report.rows()][3] == (1, 0, A_TIE, pytest.approx(1 / 257, rel=1e-6))
    assert list(report.to_frame().columns) == ["row_of_blocks", "column_of_blocks", "scale", "largest_error"]
    assert SCALE_PICTURE in report._repr_html_()
    assert SCALE_PICTURE in report.export(tmp_path / "b.html").read_text()
    pooled = BlocksReport(seen_of(weight(np.ones((260, 2)), np.ones((130, 1)))))
    assert pooled.sentence() == "'w.weight' as published: 130 × 1 blocks of 2 × 2; a cell is the largest of 3 blocks, 3 × 1"
    assert [row["row_of_blocks"] for row in pooled.rows()][:3] == [0, 3, 6]


@pytest.mark.parametrize("how", [{}, {"dry_run": True}])
def test_a_save_gives_the_blocks_of_what_it_computed(how: dict[str, Any], tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    computed = mc.save(mc.map(mc.load(folder)), tmp_path / "mf.ckpt", progress=False, **how).computed
    seen = computed.blocks(W1).seen
    published = "model.layers.1.mlp.gate_proj.weight"
    assert seen.weights == (published,)
    assert seen.scales.astype(np.float32).tobytes() == stored[f"{published}_scale_inv"].data
    if not how:
        assert float(seen.errors.max()) == pytest.approx(computed.rounding[W1].largest, rel=1e-6)
    refused = refused_with("MFC309", lambda: computed.blocks("model.layers.1.feed_forward.w1.weigth"))
    assert refused.hint == f"Did you mean {W1!r}?"


def test_the_view_of_a_save_opens_a_row_and_draws_its_blocks(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    computed = mc.save(mc.map(mc.load(folder)), tmp_path / "mf.ckpt", progress=False).computed
    view = Explorer(computed.exploration())
    assert [chip.description for chip in view.chips.values()] == ["all 28", "28 rounded"]
    view.search.value = W1
    view.table.picked = 0
    assert view.member == W1
    assert "numbers inexact, relative error at most" in view.inspector.value
    wait_until(lambda: SCALE_PICTURE in view.values.value)
    assert f"report.computed.blocks(&#x27;{W1}&#x27;)" in view.line.value


def test_the_values_of_a_tensor_from_codes_show_its_blocks_too(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    tensor, bars = mc.map(mc.load(folder))[W1], list[int]()
    shown = values_html([tensor], False, bars.append, threading.Event())
    assert shown.count(SCALE_PICTURE) == 1
    assert bars[-1] == bytes_to_read([tensor], False) == 2 * tensor.spec.nbytes
    plain = mc.load({W1: np.zeros(tensor.shape, ml_dtypes.bfloat16)})[W1]
    assert values_html([plain, tensor], False, bars.append, threading.Event()).count(SCALE_PICTURE) == 1
    assert bars[-1] == bytes_to_read([plain, tensor], False) == 4 * tensor.spec.nbytes
    again = mc.map(mc.load(folder))[W1]
    assert values_html([again, tensor], False, bars.append, threading.Event()).count(SCALE_PICTURE) == 2
    assert bars[-1] == bytes_to_read([again, tensor], False) == 5 * tensor.spec.nbytes
    assert SCALE_PICTURE not in values_html([plain], False, bars.append, threading.Event())
    sampled = values_html([tensor], True, bars.append, threading.Event())
    assert SCALE_PICTURE not in sampled
    assert "Scale and error of each block: Show values reads them all." in sampled


def test_codes_that_were_quantised_anew_have_no_picture(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    mapped = mc.map(mc.load(folder))
    trained = {t.name: mc.read(mapped, t.name) for t in mapped}
    trained[W1] = trained[W1] * np.float32(1.01).astype(ml_dtypes.bfloat16)
    mc.save(mc.load(trained, config=mapped.config), tmp_path / "mf.ckpt", progress=False)
    report = mc.save(
        mc.map(mc.load(tmp_path / "mf.ckpt"), "llama", to="hf", config=folder), tmp_path / "back", requantise=True, progress=False
    )
    view = Explorer(report.computed.exploration())
    view.table.picked = 0
    assert SCALE_PICTURE not in view.values.value
    refused_with("MFC309", lambda: report.computed.blocks(view.member))
    assert dequantised_sources(report.computed.tensors.values()) == []
