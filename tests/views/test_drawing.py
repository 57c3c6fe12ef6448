"""The picture of a rule: sound SVG, small, escaped, readable, and with the roles that the rule has."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.proving.specimen import mapped_rules, specimen
from mfconv_nb.core.checkpoint import MF, TensorSpec
from mfconv_nb.mapping.explain import explain_tensor
from mfconv_nb.mapping.plan import MappingPlan, plan_mapping
from mfconv_nb.rules import Family, Rule
from mfconv_nb.steps.converting.map_report import MapReport
from mfconv_nb.views.drawing import OTHER_COLOURS, ROLE_COLOURS, Cell, Drawing, DrawnBox, role_colours
from mfconv_nb.views.explained import drawing_of
from tests.every_form import FORMS
from tests.support import luminance
from tests.toys import mapped_toy

SVG = "{http://www.w3.org/2000/svg}"


def report_of(key: str, to: str = MF, **options: object) -> MapReport:
    report = mapped_toy(key, to, **options).report
    assert isinstance(report, MapReport)
    return report


def family(*rules: Rule, **toy: int) -> Family:
    return Family("small", "nothing that exists", rules, sizes={axis: axis for axis in toy}, toy=toy)


def plan_of(form: Family, rule: Rule) -> MappingPlan:
    arrays, sizes = specimen(form, rule)
    return plan_mapping([TensorSpec(n, a.shape, "I64") for n, a in arrays.items()], form.with_rules((rule,)), MF, sizes=sizes)


def parsed(drawing: Drawing) -> ElementTree.Element:
    text = drawing.svg()
    assert len(text.encode()) <= 20_000
    return ElementTree.fromstring(text)


def labels(svg: ElementTree.Element) -> list[str]:
    """What is printed in cells."""
    return [t.text or "" for t in svg.iter(f"{SVG}text") if t.get("fill") == "#000"]


def fills(svg: ElementTree.Element) -> dict[str, str]:
    """The colour under each role's letter."""
    return {r.find(f"{SVG}title").text.split(",")[0].split(":")[0]: r.get("fill") for r in svg.iter(f"{SVG}rect") if len(r)}  # type: ignore


@pytest.mark.parametrize("colour", [*ROLE_COLOURS.values(), *OTHER_COLOURS])
def test_black_letters_read_on_every_fill(colour: str) -> None:
    assert (luminance(colour) + 0.05) / 0.05 >= 4.5


def test_a_role_keeps_its_colour_and_two_roles_never_share_one() -> None:
    assert len({*ROLE_COLOURS.values(), *OTHER_COLOURS}) == len(ROLE_COLOURS) + len(OTHER_COLOURS)
    assert role_colours(["nope", "q"])["nope"] == role_colours(["nope"])["nope"]
    assert role_colours(["a", "b", "c", "d"]) == role_colours(["d", "c", "b", "a"])
    assert len(set(role_colours("abcdef").values())) == len(OTHER_COLOURS)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_rule_of_every_family_is_drawn_small_and_inside_its_picture(form: Family) -> None:
    for rule in mapped_rules(form):
        arrays, sizes = specimen(form, rule)
        plan = plan_mapping([TensorSpec(n, a.shape, "I64") for n, a in arrays.items()], form.with_rules((rule,)), MF, sizes=sizes)
        for name in (next(iter(arrays)), plan.rows[0].targets[-1].name):
            drawing = drawing_of(explain_tensor(plan, name))
            assert name[:8] in repr(drawing)
            assert_inside(parsed(drawing))


def assert_inside(svg: ElementTree.Element) -> None:
    _, _, width, height = map(int, (svg.get("viewBox") or "").split())
    boxes = [tuple(float(r.get(k) or 0) for k in ("x", "y", "width", "height")) for r in svg.iter(f"{SVG}rect")]
    assert boxes
    assert all(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    drawn = [b for b in boxes if b[0] == int(b[0])]  # cells; the dashed frames stand on half pixels
    for n, (x, y, w, h) in enumerate(drawn):
        assert not any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in drawn[:n])
    for text in svg.iter(f"{SVG}text"):
        x, y, size = float(text.get("x") or 0), float(text.get("y") or 0), 0.61 * float(text.get("font-size") or 12)
        wide = size * len(text.text or "")
        start = {"end": x - wide, "middle": x - wide / 2}.get(text.get("anchor") or text.get("text-anchor") or "", x)
        assert 0 <= y <= height
        assert start >= 0
        assert start + wide <= width


def test_bloom_and_internlm2_show_q_k_and_v_head_by_head() -> None:
    svg = parsed(report_of("bloom").drawing("h.0.self_attention.query_key_value.weight"))
    assert labels(svg)[:4] == ["q 0", "k 0", "v 0", "q 1"]
    assert labels(svg)[18:] == [f"{role} {head}" for role in "qkv" for head in range(6)]
    assert fills(svg) == {role: ROLE_COLOURS[role] for role in "qkv"}
    assert len(list(svg.iter(f"{SVG}path"))) == 18
    grouped = parsed(report_of("internlm2", qkv_concat=False).drawing("model.layers.0.attention.wk.weight"))
    assert labels(grouped) == ["q 0", "k 0", "v 0", "q 1", "k 1", "v 1", "q 0", "q 1", "k 0", "k 1", "v 0", "v 1"]


def test_mixtral_stacks_its_experts_and_deepseek_sets_gate_beside_up() -> None:
    svg = parsed(report_of("mixtral", use_gmm=True).drawing("model.layers.0.feed_forward.ffn.w1.weight"))
    assert labels(svg) == [f"expert {n}" for n in range(5)] * 2
    assert set(fills(svg).values()) == {ROLE_COLOURS["expert"]}
    drawing = report_of("deepseek3").drawing("model.layers.1.feed_forward.routed_experts.ffn.w1")
    assert [(c.role, c.row, c.column) for c in drawing.targets[0].cells][:4] == [("gate", 0, 0), ("up", 0, 1), ("gate", 1, 0), ("up", 1, 1)]
    assert drawing.targets[0].more == "… 2 more experts"
    assert drawing.more_sources == "… 4 more tensors"
    assert "gate 0 ¦ up 0 | gate 1 ¦ up 1" in repr(drawing)


def test_gate_and_up_row_by_row_are_interleaved_and_the_rest_is_counted() -> None:
    drawing = report_of("llama", qkv_concat="grouped").drawing("model.layers.0.feed_forward.w_gate_hidden.weight")
    assert [c.labels[0] for c in drawing.targets[0].cells if c.row < 4] == ["gate 0", "up 0", "gate 1", "up 1"]
    assert {b.more for b in (*drawing.sources, *drawing.targets)} == {"… 168 more ffn"}


def test_many_experts_are_drawn_in_a_few_with_the_one_that_was_asked_for() -> None:
    rule = Rule(("e.{expert}.gate", "e.{expert}.up"), "stacked", "gate hidden, up hidden -> expert hidden (gate + up)")
    plan = plan_of(family(rule, expert=256, hidden=3, gate=2, up=4), rule)
    drawing = drawing_of(explain_tensor(plan, "e.200.up"))
    parsed(drawing)
    assert [b.name for b in drawing.sources][-1] == "e.200.up"
    assert len(drawing.sources) == 8
    assert drawing.targets[0].more == "… 252 more experts"


def test_a_transpose_and_swapped_factors_are_marked() -> None:
    drawing = report_of("bloom").drawing("h.0.mlp.dense_h_to_4h.weight")
    assert (drawing.note, drawing.targets[0].axes) == ("⇄ ffn and hidden change places", "⇄ hidden ffn")
    assert "⇄" not in repr(report_of("llama").drawing("model.layers.0.self_attn.q_proj.weight"))
    assert report_of("deepseek3").drawing("model.layers.0.self_attn.q_b_proj.weight").targets[1].axes == "⇄ (heads half pair) q_rank"


def test_sizes_are_written_as_the_sentence_groups_them() -> None:
    bloom = report_of("bloom").drawing("h.0.self_attention.query_key_value.weight")
    assert [b.shape for b in (*bloom.sources, *bloom.targets)] == ["(6 · (16 + 16 + 16)) × 96", *["(6 · 16) × 96"] * 3]
    padded = report_of("qwenvl", enable_emb_opt=True).drawing("llm_model.transformer.wte.embedding_weight")
    assert padded.targets[0].shape == "(331 + 181) × 96"
    assert [c.labels[0] for c in padded.targets[0].cells] == ["vocab", "pad: zeros"]
    assert report_of("blip").drawing("visual_encoder.blocks.0.attention.dense2.bias").targets[1].shape == "40"


def test_copies_of_one_tensor_meet_in_one_cell() -> None:
    drawing = report_of("deepseek3").drawing("lm_head.weight")
    assert len(drawing.targets[0].cells) == 1
    assert len(list(parsed(drawing).iter(f"{SVG}path"))) == 2


HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\n" + "ü" * 500


def test_names_from_strangers_are_escaped_cut_and_harmless() -> None:
    boxes = tuple(
        DrawnBox(HOSTILE + str(n), HOSTILE, HOSTILE, (Cell((n,), HOSTILE, (HOSTILE, "q"), HOSTILE, 0, 0, 1, 1),), HOSTILE) for n in range(8)
    )
    drawing = Drawing(HOSTILE, boxes, boxes, HOSTILE[:60])
    text = drawing.svg()
    assert len(text.encode()) <= 20_000  # though every text in it is as long and as bad as can be
    assert "<script" not in text
    assert "\x1b" not in text + repr(drawing)
    assert not any(e.tag == f"{SVG}script" or any(k.startswith("on") for k in e.attrib) for e in ElementTree.fromstring(text).iter())


def test_a_hostile_name_in_a_checkpoint_is_drawn_as_text() -> None:
    name = "<img src=x onerror=alert(1)>\"'\x1b[2J" + "a" * 300
    rule = Rule(name.replace("1", ""), ("b", "c"), "(q + k) x -> q x, k x", sizes={"k": "q"})
    source = mc.load({rule.hf: np.ones((4, 3), np.float32)})  # type: ignore[dict-item]
    report = mc.map(source, Family("small", "nothing", (rule,), sizes={}), to=MF).report
    assert isinstance(report, MapReport)
    svg = report.drawing(str(rule.hf))
    assert "<img" not in svg._repr_html_()
    assert "\x1b" not in repr(svg)
    assert labels(parsed(svg)) == ["q", "k", "q", "k"]


def test_the_picture_is_accessible_and_takes_its_colours_from_the_page() -> None:
    svg = parsed(report_of("bloom").drawing("h.0.self_attention.query_key_value.weight"))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == svg.findtext(f"{SVG}title") == "h.0.self_attention.query_key_value.weight: 3 blocks into 3 tensors"
    assert "var(--jp-content-font-color1" in (svg.get("style") or "")
    assert "background" not in (svg.get("style") or "")
    assert {t.get("fill") for t in svg.iter(f"{SVG}text")} == {None, "#000"}  # from the group: currentColor


def test_the_report_explains_names_of_both_sides_and_refuses_others_with_the_nearest() -> None:
    report = report_of("bloom")
    table = report.explain("blocks.0.attention.dense2.weight").table()
    assert [row[0] for row in table.rows] == ["k"]
    assert len(report.explain("h.0.self_attention.query_key_value.weight").rows()) == 3
    told = report.explain("blocks.0.attention.dense2.weight", (3, 4))
    assert "is element [19, 4] of 'h.0.self_attention.query_key_value.weight' (head 0, row 3 of k, hidden 4)" in str(told)
    assert [row["index"] for row in told.rows()] == [[3, 4], [19, 4]]
    for ask in (report.explain, report.drawing):
        with pytest.raises(mc.MfconvError, match=r"MFC309[\s\S]*Did you mean 'blocks.0.attention.dense2.weight'"):
            ask("blocks.0.attention.dense2.wieght")


def test_tensors_without_a_partner_and_empty_ones_are_drawn_too() -> None:
    rule = Rule("a", ("b", "c"), "(q + k) x -> q x, k x", sizes={"k": "q"})
    empty = mc.map(mc.load({"a": np.ones((0, 3), np.float32)}), Family("small", "nothing", (rule,), sizes={}), to=MF).report
    assert isinstance(empty, MapReport)
    parsed(empty.drawing("a"))
    dropped = mc.toy("llama")
    freq = "model.layers.0.self_attn.rotary_emb.inv_freq"
    with_buffer = mc.Checkpoint({**dropped.tensors, **mc.load({freq: np.ones(3, np.float32)}).tensors}, config=dropped.config)
    report = mc.map(with_buffer, "llama").report
    assert isinstance(report, MapReport)
    assert "kept beside the checkpoint" in repr(report.drawing(freq))
    parsed(report.drawing(freq))
