"""Texts of rules from strangers: nothing in them is run, and whatever they are, the answer is drafts, findings, or one short refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.author.importing.regex import objection_to
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import table_text
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.rules import sides_of
from tests.hostile.made import HOSTILE_NAME, refusal
from tests.support import work_of


def test_code_in_a_text_leaves_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    touch = f"__import__('os').system('touch {trace}')"
    text = f"""{touch}
import sys; sys.exit(3)
@{touch}
class A({touch}):
    x = {touch}
    weight_converters = [
        RenameConvertOp("a", "b"),
        RenameConvertOp({touch}, "c"),
        RenameConvertOp("d", f"{{{touch}}}"),
        {touch},
        *[RenameConvertOp(x, x) for x in {touch}],
        Rename(lambda: {touch}),
    ]
"""
    imported = mc.author.import_rules(text)
    assert [(d.hf, d.mf) for d in imported.drafted] == [("a", "b")]
    assert len(imported.findings) == 5
    mc.author.import_rules(f"weight_mapping = [('a', 'b'), ({touch}, 'c')]\n", names=["a.w"])
    mc.author.import_rules(f"[WeightRenaming('a', {touch}), WeightConverter('a', 'b', [Transpose({touch})])]")
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100 + "]" * 100,
        "x = " + "-" * 200_000 + "1",
        "x = " + "not " * 100_000 + "1",
        "x = a" + ".a" * 200_000,
        "x = " + "1 if 1 else " * 50_000 + "1",
        "x = " + "1+" * 100_000 + "1",
        "x = 1\0",
        "x = " + "9" * 10_000,
        "weight_converters = [\n  RenameConvertOp('a' 'b'",
        "weight_converters = ['\ud800']",
        "\n" + "#" * 2_000_000,
        "def f():\n" + "".join(" " * n + "if 1:\n" for n in range(1, 200)),
        '[{"a": 1}, ' + "[" * 100_000,
        '[{"a": "b"}]',
        '[{"a": "b"}, {}, {}]',
        '[{"a": "b"}, 5]',
        "weight_mapping = f(1)\n[",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_text_that_cannot_be_read_gets_one_short_refusal(text: str) -> None:
    refusal(lambda: mc.author.import_rules(text + "\n", names=["a"]), "MFC315", memory=200 << 20)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\x80\x04\x95weight_converters = []")
    refusal(lambda: mc.author.import_rules(tmp_path / "a.py"), "MFC315", names="a.py")
    (tmp_path / "b.py").write_bytes(b"")
    refusal(lambda: mc.author.import_rules(tmp_path / "b.py"), "MFC315")
    refusal(lambda: mc.author.import_rules(tmp_path), "MFC101")
    refusal(lambda: mc.author.import_rules("no/such/file"), "MFC101")
    refusal(lambda: mc.author.import_rules("a\0b"), "MFC101")
    refusal(lambda: mc.author.import_rules("~nobody_of_this_name/x"), "MFC101")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    refusal(lambda: mc.author.import_rules(tmp_path / "large.json"), "MFC315")


def test_names_that_stand_for_each_other_end() -> None:
    doubled = "".join(f"A{n} = A{n + 1} + A{n + 1}\n" for n in range(50)) + "A50 = []\nweight_converters = A0\n"
    nested = "".join(f"B{n} = [B{n + 1}, B{n + 1}]\n" for n in range(50)) + "B50 = 'x'\nweight_converters = [RenameConvertOp(B0, 'a')]\n"
    circle = "A = B\nB = A\nC = C + C\nweight_converters = [A, B, *A, *C, RenameConvertOp(C, A)]\n"
    for text in (doubled, nested, circle):
        assert outcome(text) == "MFC315"


def outcome(text: str) -> str:
    """The code of the refusal of a text; the same where nothing in it could be read."""
    try:
        imported = mc.author.import_rules(text)
    except mc.MfconvError as error:
        return error.code
    return "MFC315" if imported.findings and not imported.drafted else "drafted"


CATASTROPHES = [
    r"(a+)+$",
    r"(a*)*b",
    r"(a|a)*b",
    r"(.*a){20}",
    ".*" * 12 + "x",
    r"a{1,900}" * 3,
    "(a|a)" * 40 + "b",
    r"(\d+)+x",
    r"\1",
    "a?" * 40 + "a" * 40,
    "*." * 30 + "x",
]


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_a_pattern_that_could_search_for_ever_is_not_searched_for(pattern: str) -> None:
    names = ["a" * 250, "1" * 250, "a." * 125, *(f"{'a' * 200}.{n}" for n in range(50))]
    imported = mc.author.import_rules(f"[WeightRenaming({pattern!r}, 'x'), WeightRenaming('k', 'l')]", names=names)
    assert next(f.kind for f in imported.findings) == "not understood"


@settings(max_examples=200)
@given(st.text(alphabet=r"a1.*+?()|\d^$[]:!<=", max_size=14))
def test_a_pattern_that_is_admitted_is_searched_to_the_end(pattern: str) -> None:
    if not objection_to(pattern):
        mc.author.import_rules(f"[WeightRenaming({pattern or 'x'!r}, 'x')]", names=["a1." * 90])


def many_rules(count: int) -> str:
    return "[" + ",".join(f"RenameConvertOp('a{n}.{{}}.{{}}', 'b{n}.{{}}.{{}}')" for n in range(count)) + "]"


def test_many_rules_and_long_names_take_no_more_work_than_pairs_of_rules() -> None:
    assert work_of(lambda: mc.author.import_rules(many_rules(300))) < 5 * work_of(lambda: mc.author.import_rules(many_rules(150)))
    assert len(mc.author.import_rules(many_rules(1500)).drafted) == 1500
    refusal(lambda: mc.author.import_rules("[" + "RenameConvertOp('a', 'b')," * 2500 + "]"), "MFC315", memory=64 << 20)
    growing = [("a", "aa")] * 300
    assert mc.author.import_rules(growing, names=["a"]).drafted is not None
    weights = {f"layer_{n}.{m}.weight": f"l_{n}.{m}.w" for n in range(100) for m in range(500)}
    assert len(mc.author.import_rules(json.dumps([weights, {}])).drafted) == 100


def test_calls_that_their_own_classes_would_refuse_are_findings() -> None:
    text = """[
    GroupWeightRename(["a", "b"], ["c"]), Inkling2IndexOffsetWeightRename(r"l.(\\d+)", r"m.\\1", None),
    WeightConverter("a", "b", []), WeightConverter(["a", "b"], ["c", "d"], [Concatenate(0)]), PrefixChange("a", "b"),
    WeightRenaming(1, 2)]"""
    imported = mc.author.import_rules(text, names=["a", "b", "l.3"])
    assert len([f for f in imported.findings if f.kind == "not understood"]) == 5


def test_hostile_names_are_shown_as_escapes() -> None:
    imported = mc.author.import_rules(f"[RenameConvertOp({HOSTILE_NAME!r}, 'b'), RenameConvertOp('a{{}}', {HOSTILE_NAME!r})]")
    assert not imported.drafted
    assert len(imported.findings) == 2
    other = mc.author.import_rules(
        json.dumps([{HOSTILE_NAME: "a", "{x}": "{y}", "b": HOSTILE_NAME, "c": "{c}"}, {HOSTILE_NAME: HOSTILE_NAME}])
    )
    third = mc.author.import_rules([(HOSTILE_NAME, "x"), ("y", HOSTILE_NAME)], names=[HOSTILE_NAME, "y", "{a}", "{0}", "#", "a.00.b"])
    for each in (imported, other, third):
        assert all(c.isprintable() or c == "\n" for c in table_text(each.table(), None))
        each.family("f")


WORDS = st.sampled_from(
    [
        "a.{}",
        "a.{}.b",
        "a.0.b",
        "b",
        "{",
        "a.{}.{}",
        "",
        "experts.{}.w",
        ".",
        "q",
        "a.*.b",
        "^a$",
        r"\.a\.",
        "(a)",
        r"\1",
        "A" * 301,
        "é",
        "{}{}",
    ]
)
NAMES = WORDS | st.lists(WORDS, max_size=4)
VALUES = st.none() | st.integers(-2, 9) | st.booleans() | NAMES | st.floats() | st.binary(max_size=3)
OPS = st.sampled_from(
    [
        "RenameConvertOp",
        "ConcatConvertOp",
        "StackConvertOp",
        "QKVConvertOp",
        "QKVBiasConvertOp",
        "ExpertsConvertOp",
        "ScaleSplitConvertOp",
        "WeightRenaming",
        "WeightConverter",
        "GroupWeightRename",
        "PrefixChange",
        "Inkling2IndexOffsetWeightRename",
        "Transpose",
    ]
)
KEYS = st.sampled_from(
    [
        "hf_names",
        "mf_names",
        "dim",
        "split_sizes",
        "interleaved",
        "source_patterns",
        "target_patterns",
        "operations",
        "prefix_to_add",
        "offset",
    ]
)


@st.composite
def calls(draw: st.DrawFn) -> str:
    """A call of one of theirs, with arguments of any kind."""
    arguments = [repr(draw(VALUES)) for _ in range(draw(st.integers(0, 3)))]
    keywords = draw(st.dictionaries(KEYS, VALUES, max_size=3))
    chain = draw(
        st.sampled_from(["", "[Chunk(0)]", "[MergeModulelist(dim=0), Concatenate(dim=1)]", "[Transpose(0, 1)]", "[Interleave()]", "[X()]"])
    )
    arguments += [f"{key}={value!r}" for key, value in keywords.items() if key != "operations" or not chain]
    return f"{draw(OPS)}({', '.join(arguments + ([f'operations={chain}'] if chain and 'operations' not in keywords else []))})"


@settings(max_examples=300)
@given(st.lists(calls(), max_size=6), st.lists(WORDS, max_size=5, unique=True), st.booleans())
def test_any_list_of_calls_gives_drafts_that_make_a_family_or_a_refusal(found: list[str], names: list[str], config: bool) -> None:
    text = f"weight_converters = [{', '.join(found)}]\n"
    for each in (text, f"[{', '.join(found)}]\n"):
        try:
            imported = mc.author.import_rules(
                each, names=[n for n in names if n] or None, config={"num_attention_heads": 4} if config else None
            )
        except mc.MfconvError:
            continue
        repr(imported)
        imported.to_json()
        check_family(imported.family("f"))


@settings(max_examples=300)
@given(st.text(max_size=80) | st.text(alphabet="[](){}'\",:ab=\n *+weight_mapping", max_size=60))
@example("[('a', 'b')]\n")
@example("[{}]\n")
@example('[{"a": NaN}, {}]')
def test_any_text_gives_a_result_or_one_refusal(text: str) -> None:
    for form in (None, "weight_converters", "weight_mapping", "transformers", "troubleshooter"):
        try:
            repr(mc.author.import_rules(text + "\n", form=form, names=["a.0.b", "b"]))
        except mc.MfconvError as error:
            str(error)


PARTS = st.sampled_from(["a", "b", "norm", "0", "1", "2", "10", "w1", "layers", "experts", "00", "{x}", "#"])
DOTTED = st.lists(PARTS, min_size=1, max_size=6).map(".".join)
TEXTS = st.sampled_from(["a.", ".b", "norm", "layers.", ".1.", "1", "w", "", "experts.0", "c", "{}", "."])


@settings(max_examples=400)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.lists(DOTTED, min_size=1, max_size=12, unique=True))
@example([("layers.1.", "x."), ("layers.", "d.")], ["layers.0.a", "layers.1.a", "layers.2.a"])
@example([("0.", "1.")], ["a.0.b", "a.1.b"])
def test_any_pairs_on_any_names_are_rules_that_do_what_they_do(pairs: list[tuple[str, str]], names: list[str]) -> None:
    if not pairs:
        return
    imported = mc.author.import_rules(pairs, names=names)
    check_family(imported.family("f"))
    for name in names:
        template, numbers = fold(name)
        for rule in imported.rules:
            (old,), (new,) = sides_of(rule, "mf")
            at = old.match(numbers) if old.template == template else None
            if at is not None:
                expected = name
                for text, other in pairs:
                    expected = expected.replace(text, other) if text else expected
                assert new.fill(at) == expected
        taken = sum(
            old.template == template and old.match(numbers) is not None for rule in imported.rules for old in sides_of(rule, "mf")[0]
        )
        assert taken == (name not in imported.unmatched)
