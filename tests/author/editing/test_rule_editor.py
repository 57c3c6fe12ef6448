"""The editor of rules without a browser: what a field changes, what a button does, what is said, and the file that comes of it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.author.editing.rule_editor import RuleEditor
from mfconv_nb.families.registry import family_named
from mfconv_nb.families.user_families import family_in_file


@pytest.fixture
def editor() -> RuleEditor:
    toy = mc.toy("baichuan2")
    mf = mc.map(toy, "baichuan2")
    return mc.author.edit(mc.author.suggest(toy, mf), toy, mf)


def place_of(editor: RuleEditor, word: str) -> int:
    return next(n for n, row in enumerate(editor.draft.rows) if word in row.hf)


def test_it_begins_with_the_draft_as_it_is(editor: RuleEditor) -> None:
    toy = mc.toy("baichuan2")
    assert editor.family == mc.author.suggest(toy, mc.map(toy, "baichuan2")).family("my_model")
    assert len(editor.table.rows) == len(editor.draft.rows)
    assert "Every name has a row" in editor.tally.value
    assert "suggested, certain" in editor.judged.value


def test_a_wrong_sentence_shows_a_caret_and_a_right_one_the_picture(editor: RuleEditor) -> None:
    editor.table.picked = place_of(editor, "gate_proj")
    assert editor.layout_field.value == "ffn hidden"
    editor.layout_field.value = "(ffn hidden"
    assert "<pre class='mfconv-caret'>(ffn hidden\n           ^</pre>" in editor.judged.value
    assert "1 faulty row" in editor.tally.value
    assert editor.drawing.value == ""
    with pytest.raises(mc.MfconvError, match=f"row {editor.place + 1}, rule"):
        _ = editor.family
    editor.layout_field.value = "ffn hidden -> hidden ffn"
    assert "3 shape errors" in editor.tally.value
    assert all(word in editor.judged.value for word in ("(96, 176)", "(176, 96)", "w1"))
    editor.layout_field.value = "ffn hidden"
    assert "matches 3 tensors on each side" in editor.judged.value
    assert "<svg" in editor.drawing.value
    assert "suggested" not in editor.judged.value  # it is the reader's own row now


def test_typing_in_one_field_is_one_step_back(editor: RuleEditor) -> None:
    before = editor.draft
    for text in ("f", "ff", "ffn"):
        editor.layout_field.value = text
    editor.row_sizes.value = "k = 2"
    editor.undo.click()
    assert editor.layout_field.value == "ffn"
    assert editor.row_sizes.value == ""
    editor.undo.click()
    assert editor.draft == before
    assert editor.undo.disabled


def test_a_deleted_row_leaves_names_and_choosing_them_makes_it_again(editor: RuleEditor) -> None:
    place = place_of(editor, "o_proj")
    family = editor.family
    editor.choose(place)
    editor.delete.click()
    assert "3 unmatched hf" in editor.tally.value
    buttons = [b for b in editor.unmatched.children if hasattr(b, "click")]
    assert [b.description for b in buttons] == [
        "+ model.layers.{0‥2}.self_attn.o_proj.weight  (3)",
        "+ model.layers.{0‥2}.attention.wo.weight  (3)",
    ]
    editor.choose(place - 1)
    buttons[0].click()
    assert editor.hf.value == "model.layers.{layer}.self_attn.o_proj.weight"
    assert "row" in editor.judged.value
    [button] = [b for b in editor.unmatched.children if hasattr(b, "click") and "attention.wo" in b.description]
    button.click()  # the row has no name of this side yet: it goes there
    assert editor.mf.value == "model.layers.{layer}.attention.wo.weight"
    editor.layout_field.value = family.rules[place].layout or ""
    assert editor.family == family


def test_rows_move_and_double(editor: RuleEditor) -> None:
    rows = editor.draft.rows
    editor.choose(1)
    editor.up.click()
    assert editor.draft.rows[:2] == (rows[1], rows[0])
    assert (editor.place, editor.up.disabled) == (0, True)
    editor.duplicate.click()
    assert editor.draft.rows[:2] == (rows[1], rows[1])
    assert "ambiguous: row 1 matches the same names" in editor.judged.value
    editor.down.click()
    assert editor.place == 2
    editor.undo.click()
    editor.undo.click()
    editor.undo.click()
    assert editor.draft.rows == rows


def test_the_kind_decides_which_fields_there_are(editor: RuleEditor) -> None:
    editor.add.click()
    assert editor.more["dtype"].layout.display is None
    editor.kind.value = "tied"
    assert editor.more["dtype"].layout.display == "none"
    editor.hf.value, editor.mf.value, editor.layout_field.value = "head", "out", "vocab hidden"
    assert editor.more["same_as"].layout.display is None
    editor.more["same_as"].value = "model.embed_tokens.weight"
    editor.more["only_if"].value = "tied"
    editor.sizes.value += "\ntied = tie_word_embeddings | 0"
    assert mc.rules.Tied("head", "out", same_as="model.embed_tokens.weight", layout="vocab hidden") in editor.family.rules
    editor.kind.value = "dropped"
    editor.mf.value = ""
    editor.more["why"].value = "of no use"
    editor.more["same_as"].value = ""
    assert mc.rules.Drop("head", "of no use") in editor.family.rules


def test_a_saved_file_maps_and_says_the_same_family(editor: RuleEditor, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    editor.key.value, editor.covers.value = "mine", "A model of mine"
    editor.path.value = str(file)
    editor.save_button.click()
    assert "Saved as" in editor.saved.value
    assert replace(family_in_file(file), file="") == editor.family
    toy = mc.toy("baichuan2")
    assert mc.map(toy, str(file)).specs == mc.map(toy, "baichuan2").specs
    editor.save_button.click()
    assert "MFC401" in editor.saved.value
    editor.overwrite.value = True
    editor.save_button.click()
    assert "Saved as" in editor.saved.value
    editor.choose(1)
    editor.layout_field.value = "("
    editor.save_button.click()
    assert "MFC311" in editor.saved.value
    assert "row 2" in editor.saved.value


@pytest.mark.parametrize("key", ["llama", "deepseek3", "bert", "swin"])
def test_a_built_in_family_is_edited_in_the_form_of_the_names_and_kept_whole(key: str, tmp_path: Path) -> None:
    toy = mc.toy(key)
    editor = mc.author.edit(key, toy, mc.map(toy, key))
    assert editor.judgement.is_complete
    for place in range(len(editor.draft.rows)):
        editor.choose(place)
    assert editor.family == family_named(key)
    file = editor.save(tmp_path / "again.py")
    assert replace(family_in_file(file), file="") == family_named(key)
    assert mc.author.edit(file, toy).family == family_named(key)


def test_one_side_is_enough(editor: RuleEditor) -> None:
    toy = mc.toy("llama")
    alone = mc.author.edit("llama", {spec.name: spec.shape for spec in toy.specs}, config=toy.config)
    assert alone.judgement.matched["hf"] == len(toy)
    assert alone.judgement.is_complete


def test_names_of_strangers_are_shown_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    editor = mc.author.edit(mc.rules.Family("mine", "", (mc.rules.Rule(evil, "b"),), {}), {evil: (1, 2), f"{evil}2": (3,)}, {"b": (2, 1)})
    shown = "".join(w.value for w in (editor.tally, editor.judged, editor.drawing, editor.size_table, editor.line))
    assert "<img" not in shown
    assert "<img" not in editor.report._repr_html_()


def test_the_plain_forms_say_the_same(editor: RuleEditor) -> None:
    editor.choose(place_of(editor, "gate_proj"))
    editor.layout_field.value = "ffn hidden -> hidden ffn"
    rows = editor.report.rows()
    assert rows[editor.place]["mark"] == "✗"
    assert rows[editor.place]["layout"] == "ffn hidden -> hidden ffn"
    assert "3 shape errors" in repr(editor.report)


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    [example] = re.findall(r"<!-- example: edit -->\n```python\n(.*?)```", page, flags=re.S)
    exec(example, {})
    assert (tmp_path / "my_baichuan.py").is_file()


def test_the_form_that_a_row_is_for_can_be_chosen() -> None:
    """A family of the other form: rows of this one are moved to it, and back."""
    toy = mc.toy("llama")
    editor = mc.author.edit("llama", toy, mc.map(toy, "llama"))
    editor.table.picked = place_of(editor, "q_proj")
    before = editor.family
    assert before.rules[editor.place].when == {"qkv_concat": False}
    assert "only in the form with qkv_concat=False" in editor.judged.value
    editor.options["qkv_concat"].value = ()
    assert "ambiguous" in editor.judged.value  # the joined q, k and v of the other forms take this name too
    editor.undo.click()
    assert editor.family == before
    editor.add.click()
    editor.hf.value, editor.mf.value, editor.layout_field.value = "extra.weight", "extra.weight", "hidden"
    editor.options["qkv_concat"].value = (True,)
    assert editor.family.rules[editor.place].when == {"qkv_concat": True}
    assert "for another option" in editor.judged.value


def test_a_value_that_an_option_does_not_have_is_shown_and_judged() -> None:
    rule = mc.rules.Rule("a", "b", "x", when={"taste": "salty"})
    family = mc.rules.Family("mine", "two forms", (rule,), sizes={"x": "x"}, options=(mc.rules.Option("taste", ("sweet", "sour")),))
    editor = mc.author.edit(family, {"a": (2,)}, {"b": (2,)}, config={"x": 2})
    assert "when taste='salty'" in html.unescape(editor.judged.value)
    editor.options["taste"].value = ("sour",)
    assert editor.family.rules[0].when == {"taste": "sour"}
    editor.options["taste"].value = ()
    assert "matches 1 tensor on each side" in editor.judged.value
