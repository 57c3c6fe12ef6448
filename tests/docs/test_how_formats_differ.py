"""The notebook on formats shows what its text says: places, orders, the mistake that only values tell, and the bits of numbers."""

import html
import re
from pathlib import Path
from typing import Any

from demo.page import page_html
from tests.docs.support import ROOT, code_cells

NOTEBOOK = ROOT / "notebooks" / "how_checkpoint_formats_differ.ipynb"


def shown_by(notebook: Any, words: str) -> str:
    """The text of what the one cell with these words in it shows."""
    cell = next(c for c in code_cells(notebook) if words in c.source)
    markup = "".join(o["data"]["text/html"] for o in cell.outputs if "text/html" in o.get("data", {}))
    without_style = re.sub(r"<style.*?</style>|<wbr>", "", markup, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without_style)).split())


def test_every_code_cell_shows_a_result_and_complains_of_nothing(ran: tuple[Any, Path]) -> None:
    for cell in code_cells(ran[0]):
        kinds = [o.output_type for o in cell.outputs]
        # a result with a view is shown by `display`, in its script-free form and as a widget
        assert kinds == ["execute_result"] or (kinds and set(kinds) == {"display_data"} and "mc.diff(" in cell.source), cell.source
        assert any("text/html" in o["data"] for o in cell.outputs), cell.source


def test_the_notebook_leaves_nothing_behind(ran: tuple[Any, Path]) -> None:
    assert list(ran[1].iterdir()) == []


def test_what_the_notebook_shows_needs_no_script_and_no_address(ran: tuple[Any, Path]) -> None:
    namespace = 'xmlns="http://www.w3.org/2000/svg"'  # a name, which nothing fetches
    shown = [o["data"].get("text/html", "").replace(namespace, "") for cell in code_cells(ran[0]) for o in cell.outputs]
    for each in shown:
        assert len(each) < 100_000
        assert not re.search(r"<script|<iframe|javascript:|https?://|@import|url\(", each, flags=re.I)
    assert len(page_html(ran[0], "Formats")) < 400_000


def test_the_numbers_that_the_text_names_are_in_the_files(ran: tuple[Any, Path]) -> None:
    safetensors, ckpt = (shown_by(ran[0], f'mc.anatomy(folder / "model.{ending}")') for ending in ("safetensors", "ckpt"))
    assert "70 08 00 00 00 00 00 00 8 header length 2,160" in safetensors
    assert 0x0870 == 2160
    assert "08 cb 02 08 60 5 shape tag 08: 331 × 96" in ckpt
    assert 0x4B + 2 * 128 == 331
    assert "21 of 21 tensors at a multiple of 64" in shown_by(ran[0], 'mc.anatomy(folder / "model.bin")')
    assert "odd byte" in ckpt
    assert "odd byte" not in safetensors


def test_a_large_tensor_is_shown_in_slices(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "large.ckpt")
    assert all(f"entry, slice {n} of 3" in shown for n in (1, 2, 3))


def test_the_two_orders_of_fused_heads_are_as_the_text_says(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "heads = ")
    assert "qkv_concat=True q0 q1 q2 q3 q4 q5 k0 k1 v0 v1" in shown
    assert "qkv_concat=grouped q0 q1 q2 k0 v0 q3 q4 q5 k1 v1" in shown


def test_the_row_that_the_text_speaks_of_is_the_first_key(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "mapped.report.explain(")
    assert "element [6, 0]" in shown
    assert "element [0, 0] of 'model.layers.0.self_attn.k_proj.weight'" in shown


def test_the_picture_of_the_fused_matrix_has_a_block_for_every_role_of_a_group(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "mapped.report.drawing(")
    assert all(f"{role} {group}" in shown for role in "qkv" for group in (0, 1))


def test_the_mistake_passes_the_check_of_shapes_and_fails_that_of_values(ran: tuple[Any, Path]) -> None:
    assert shown_by(ran[0], "mc.diff(wrong, mc.expected(").startswith("✓ Headers agree. 15 of 15 tensors")
    shown = shown_by(ran[0], "mc.diff(wrong, mc.map(toy")
    assert shown.startswith("✗ Not equal. 2 differ, 13 equal")
    assert re.search(r"differ model\.layers\. ?\{0‥1\} ?\.attention\.w_qkv\.weight 2", shown)


def test_the_bits_are_those_of_the_three_dtypes(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "cast_into")
    assert "65504 65504 0 10001110 11111111110000000000000 65536 0 10001111 0000000 65504 0 11110 1111111111" in shown
    assert "65520 65520 0 10001110 11111111111000000000000 65536 0 10001111 0000000 inf 0 11111 0000000000" in shown
    assert re.search(r"1e-8 .* 0 0 00000 0000000000 3\.0e38", shown)
    assert "nan 0 11111111 10000010010001101000101 nan 0 11111111 1000001 nan 0 11111 1000001001" in shown
