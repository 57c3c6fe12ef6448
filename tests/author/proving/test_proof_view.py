"""The view of a proof, without a browser: every kind of mistake of every family can be inspected, and what is said is true."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.proving.consequences import consequence_of, consequence_of_config, noticed_by, noticed_in_config
from mfconv_nb.author.proving.proof import Caught
from mfconv_nb.author.proving.proof_pictures import maps_html, misplaced_numbers, pictures_of
from mfconv_nb.author.proving.proof_view import ProofExploration
from mfconv_nb.author.proving.prove import ExplorableProof
from mfconv_nb.rules import Family, Rule
from tests.support import text_of

FAMILIES = [family.key for family in mc.known_families()]


def view_of(key: str) -> tuple[ExplorableProof, ProofExploration]:
    report = mc.author.prove(key)
    view = report.exploration()
    assert isinstance(view, ProofExploration)
    return report, view


def row_of(view: ProofExploration, status: str, kind: str) -> int:
    return next(n for n, line in enumerate(view.table.rows) if line[:2] == (status, kind))


def caught_of(report: ExplorableProof, kind: str, what: str) -> Caught:
    return next(c for c in report.caught if c.kind == kind and what in c.what)


@pytest.mark.parametrize("key", FAMILIES)
def test_every_kind_of_mistake_can_be_inspected_and_says_what_noticed_it(key: str) -> None:
    report, view = view_of(key)
    members = [view.members(row) for row in range(len(view.statuses))]
    assert sum(map(len, members)) == len(report.proved) + len(report.caught) == sum(view.counts.values())
    for row, (status, kind, *_) in enumerate(view.table.rows):
        for member in {members[row][0], members[row][-1]}:
            said = view.inspect(row, member)
            assert len(said) < 120_000
            assert kind in text_of(said)
            if status in ("sentence", "names", "shapes", "numbers"):
                assert f"Noticed by the {status}" in text_of(said)
                assert said.count("<svg") >= (2 if status == "numbers" else 0)
            if status == "numbers":
                assert re.search(r"[\d,]+ of [\d,]+ numbers would have gone elsewhere; the first: element \(", text_of(said))


@pytest.mark.parametrize("key", ["llama", "bloom", "internlm2", "mixtral", "swin", "cogvlm2"])
def test_what_is_drawn_agrees_with_what_the_proof_says_and_the_count_with_a_recount(key: str) -> None:
    report = mc.author.prove(key)
    for caught in report.caught:
        form = report.forms[caught.form]
        if caught.mutation is not None:
            found = consequence_of(form, caught.mutation)
            assert found.by == caught.by == noticed_by(form, caught.mutation)
        else:
            assert caught.config is not None
            found = consequence_of_config(form, caught.config)
            assert found.by == caught.by == noticed_in_config(form, caught.config)
        misplaced = misplaced_numbers(found)
        assert (misplaced is not None and misplaced.wrong > 0) == (caught.by == "numbers")
        if misplaced is None or misplaced.place is None:
            continue
        assert found.wrong is not None
        right = np.concatenate([found.right[n].reshape(-1) for n in found.right])
        wrong = np.concatenate([found.wrong[n].reshape(-1) for n in found.right])
        assert (misplaced.wrong, misplaced.total) == (np.count_nonzero(right != wrong), right.size)
        name, index = misplaced.place
        before = np.ravel_multi_index(index, found.right[name].shape) if index else 0
        assert (found.right[name].reshape(-1)[:before] == found.wrong[name].reshape(-1)[:before]).all()  # it is the first
        if misplaced.owner is not None:
            assert found.right[misplaced.owner[0]][misplaced.owner[1]] == found.wrong[name][index]


def test_with_gate_and_up_swapped_the_targets_have_exchanged_colours() -> None:
    report, _ = view_of("llama")
    caught = caught_of(report, "targets swapped", "w1.weight")
    assert caught.mutation is not None
    pictures = pictures_of(consequence_of(report.forms[caught.form], caught.mutation))
    assert pictures.right is not None
    assert pictures.wrong is not None
    roles = [{box.name.split(".")[-2]: box.cells[0].role for box in picture.targets} for picture in (pictures.right, pictures.wrong)]
    assert roles == [{"w1": "gate_proj", "w3": "up_proj"}, {"w1": "up_proj", "w3": "gate_proj"}]
    assert [box.name for box in pictures.right.targets] == [box.name for box in pictures.wrong.targets]


def test_with_k_and_v_swapped_their_bands_have_changed_places() -> None:
    report, _ = view_of("llama")
    caught = next(c for c in report.caught if c.kind == "roles swapped" and c.by == "numbers" and "True" in c.form and "weight" in c.what)
    assert caught.mutation is not None
    pictures = pictures_of(consequence_of(report.forms[caught.form], caught.mutation))
    assert pictures.right is not None
    assert pictures.wrong is not None
    assert [cell.role for cell in pictures.right.targets[0].cells] == ["q", "k", "v"]
    assert [cell.role for cell in pictures.wrong.targets[0].cells] == ["q", "v", "k"]


def test_a_head_count_that_cuts_through_roles_shows_them_mixed() -> None:
    report, _ = view_of("bloom")
    caught = caught_of(report, "wrong head count", "n_head 6 as 12")
    assert caught.config is not None
    pictures = pictures_of(consequence_of_config(report.forms[caught.form], caught.config))
    assert pictures.wrong is not None
    assert {cell.role for box in pictures.wrong.targets for cell in box.cells} == {"q + k", "q + v", "k + v"}


def test_what_differs_in_a_rule_is_marked_and_the_rest_is_not() -> None:
    _, view = view_of("bloom")
    row = row_of(view, "numbers", "factors reordered")
    said = view.inspect(row, view.members(row)[0])
    assert [word.strip() for word in re.findall(r"<b class='mfconv-bad'>(.*?)</b>", said)] == ["heads", "heads"]
    assert "((q + k + v) heads) hidden" in text_of(said)


def test_a_rule_that_is_gone_shows_the_refusal_that_a_user_would_see() -> None:
    _, view = view_of("llama")
    row = row_of(view, "names", "rule dropped")
    member = next(m for m in view.members(row) if "gate_proj" in m)
    said = text_of(view.inspect(row, member))
    assert "no rule" in said
    assert "MFC303" in said
    assert "unmatched" in said
    assert "there is no second picture" in said


def test_the_map_marks_the_wrong_numbers_and_only_those() -> None:
    right = np.arange(1, 13).reshape(3, 4)
    wrong = right.copy()
    wrong[2, [0, 1]] = wrong[2, [1, 0]]
    report, _ = view_of("llama")
    caught = caught_of(report, "targets swapped", "w1.weight")
    assert caught.mutation is not None
    found = consequence_of(report.forms[caught.form], caught.mutation)
    one = misplaced_numbers(type(found)("numbers", {}, {"t": right}, {"t": wrong}, None, None))
    assert one is not None
    assert one.sentence == "2 of 12 numbers would have gone elsewhere; the first: element (2, 0) of t would hold what belongs to (2, 1)."
    assert re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)"', maps_html(one)) == [("0", "8", "8")]
    everything = misplaced_numbers(found)
    assert everything is not None
    assert everything.wrong == everything.total
    assert maps_html(everything) == ""


def test_a_mistake_that_survives_and_a_condition_that_fails_are_shown_as_such() -> None:
    split = Rule("a.{layer}.qkv", ("a.{layer}.q", "a.{layer}.k"), "(heads q + heads k) hidden -> (heads q) hidden, (heads k) hidden")
    config = {"layer": 2, "heads": 1, "q": 4, "k": 5, "hidden": 6}
    report = mc.author.prove(Family("small", "nothing that exists", rules=(split,), sizes={key: key for key in config}, toy=config))
    view = report.exploration()
    assert view.counts["nothing"] == len(report.survivors) > 0
    row = list(view.statuses).index("nothing")
    assert "Not noticed" in text_of(view.inspect(row, view.members(row)[0]))
    unsized = mc.author.prove(Family("small", "nothing that exists", rules=(split,), sizes={"layer": "nowhere"}, toy=config))
    view = unsized.exploration()
    row = list(view.statuses).index("fails")
    assert "✗" in view.inspect(row, view.members(row)[0])


def test_nothing_is_worked_out_before_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    original = consequence_of
    monkeypatch.setattr("mfconv_nb.author.proving.proof_view.consequence_of", lambda *a: calls.update(["worked out"]) or original(*a))
    _, view = view_of("llama")
    assert [view.search_text(row) for row in range(len(view.statuses))]
    assert view.overview()
    assert not calls
    row = row_of(view, "numbers", "targets swapped")
    view.inspect(row, view.members(row)[0])
    assert calls == {"worked out": 1}


def test_a_search_finds_a_mistake_by_the_whole_name_that_it_is_about() -> None:
    _, view = view_of("llama")
    row = row_of(view, "numbers", "targets swapped")
    assert "model.layers.{layer}.feed_forward.w3.weight" in view.search_text(row)
    assert any(member.startswith("…w1.weight and …w3.weight") for member in view.members(row))
