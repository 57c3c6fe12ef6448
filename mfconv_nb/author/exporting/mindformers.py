"""export_mindformers: a family as the pair of files of MindFormers' extension form, which run without this package.

`convert_weight.py` defines ``convert_pt_to_ms`` and `convert_reversed.py` ``convert_ms_to_pt``: a table of names and layouts, explicit
numpy operations for every layout, and a small function that applies them. One form of the family: its options are decided here.

Refuses: rules that cannot be said in such a file (two axes in the names of one side, tensors cut over several files, sizes that nothing
tells), naming the rule; files that are there already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mfconv_nb.author.exporting.exported import Exported, form_meant, form_words, write_texts
from mfconv_nb.author.exporting.mindformers_layouts import Sentence, function_text
from mfconv_nb.author.exporting.mindformers_sizes import alternatives_of, always_told
from mfconv_nb.author.exporting.mindformers_texts import BACK, FORWARD, HEAD, README, RUN_STATE
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError, one_line
from mfconv_nb.core.layout import Axis, TensorLayout, describe_tensor
from mfconv_nb.core.paths import local_path
from mfconv_nb.mapping.kinds import COUNTERS, GRADIENT_PREFIXES, LAYER_STATE_ENDINGS, OPTIMIZER_PREFIXES
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import COMMON_OPTIONS, AnyRule, Drop, Family, OptionValue, Repeated, Rule, Tied, is_needed, numbers_of
from mfconv_nb.mapping.solve import Directed, directed_rule, structural_sizes

FILES = {MF: "convert_weight.py", HF: "convert_reversed.py"}
README_NAME = "README.md"
TITLES = {MF: "from Hugging Face to MindFormers", HF: "from MindFormers to Hugging Face"}
MEMORY = {
    MF: "bfloat16 is carried bit by bit.",
    HF: "What the way there left out (a buffer, a tied head) does not come back; optimizer state is left out.",
}
WIDTH = 120  # of a line in the files
NO_FUNCTIONS = "# no layout changes: every tensor keeps its numbers where they are"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def export_mindformers(family: str | Path | Family, folder: str | Path, *, overwrite: bool = False, **options: object) -> Exported:
    """Write `convert_weight.py`, `convert_reversed.py` and a README for one form of a family.

    Args:
        family: a key, a file that defines ``FAMILY``, or a ``Family``.
        folder: where the files go; made where it is not there.
        overwrite: replace files of these names.
        options: what the family takes, such as ``qkv_concat=False``; left out, the defaults.
    Raises:
        MappingError: MFC314 for a rule that such a file cannot say; MFC301, MFC305. OutputError: MFC401, MFC404.
    """
    form = form_meant(family, options)
    target = local_path(folder)
    texts = {target / FILES[to]: module_text(form, to) for to in (MF, HF)}
    module = re.sub(r"\W", "_", target.resolve().name)
    texts[target / README_NAME] = _filled(README, {"KEY": form.key, "NAME": form.key, "MODULE": module, "FORM": form_words(form)})
    files = write_texts(texts, overwrite=overwrite)
    lines = re.findall(r"^\w+\[.*$", texts[target / README_NAME], flags=re.M)
    return Exported(form.key, files, ("Add to the two tables in MindFormers' convert_weight.py:", *(f"  {line}" for line in lines)))


# ---- one file ----------------------------------------------------------------------------------------------------------------


def module_text(form: Family, to: str) -> str:
    """The text of the file for one direction.

    Raises:
        MappingError: MFC314 with the rule that it cannot say.
    """
    directed = [directed_rule(rule, to) for rule in form.rules]
    functions: dict[str, tuple[str, str]] = {}  # layout -> name of its function, its text
    rows = []
    for rule in directed:
        if not isinstance(rule.rule, Drop):
            _check_sayable(rule)
            rows.append(_row(rule, to, _layout_of(rule, form, functions)))
    from_hf = to == MF
    words = {
        "TITLE": f"{_in_docstring(form.covers)}: {TITLES[to]}.",
        "KEY": _in_docstring(form.key),
        "MEMORY": MEMORY[to],
        "FORM": f"{{{', '.join(f'{json.dumps(name)}: {_literal(value)}' for name, value in form.chosen.items())}}}",
        "RULES": "\n".join(rows),
        "TIED": _tuple_text(_tied(form.rules, to)),
        "LEFT_OUT": _tuple_text([(r.pattern, r.why) for r in form.rules if isinstance(r, Drop) and r.side != to]),
        "KEYWORDS": json.dumps({o.name: o.size for o in (*COMMON_OPTIONS, *form.options) if o.size}),
        "SIZES": "\n".join(_size_row(axis, sentence) for axis, sentence in form.sizes.items()),
        "FUNCTIONS": "\n\n\n".join(text for _, text in functions.values()) or NO_FUNCTIONS,
        "LAYOUTS": "\n".join(f"    {json.dumps(layout)}: {name}," for layout, (name, _) in functions.items()),
        "OR_RUN_STATE": "" if from_hf else " or is_run_state(name)",
    }
    prefixes, endings = _tuple_of(OPTIMIZER_PREFIXES + GRADIENT_PREFIXES), _tuple_of(LAYER_STATE_ENDINGS)
    state = {"RUN_STATE": prefixes, "COUNTERS": _tuple_of(sorted(COUNTERS)), "IN_LAYERS": endings}
    text = HEAD + (FORWARD if from_hf else RUN_STATE + "\n" + BACK)
    return re.sub(r"\n{4,}", "\n\n\n", _filled(text, {**words, **state}))


def _in_docstring(text: str) -> str:
    """Words of a family's author as they can stand in a docstring."""
    return one_line(text).replace("\\", "/").replace('"', "'")


def _literal(value: OptionValue) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _filled(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"<<([A-Z_0-9]+)>>", lambda m: words[m[1]], text)


def _tuple_text(rows: list[tuple[str, ...]]) -> str:
    return "(" + "".join(f"\n    {_tuple_of(row)}," for row in rows) + ("\n)" if rows else ")")


def _tied(rules: tuple[AnyRule, ...], to: str) -> list[tuple[str, ...]]:
    heads = [r for r in rules if isinstance(r, Tied)]
    return [((r.hf, r.mf) if to == MF else (r.mf, r.hf)) + (r.same_as, r.only_if) for r in heads]


def _size_row(axis: str, sentence: str) -> str:
    alternatives = [f"lambda config, at: ({first}, {last})" for first, last in alternatives_of(sentence)]
    if len(alternatives) < 2:
        return f'    "{axis}": ({"".join(f"{a}," for a in alternatives)}),'
    return "\n".join([f'    "{axis}": (', *(f"        {a}," for a in alternatives), "    ),"])


# ---- one rule ----------------------------------------------------------------------------------------------------------------


def _check_sayable(directed: Directed) -> None:
    """Raises MappingError (MFC314) for a rule that the exported files have no words for."""
    rule = directed.rule
    if any("/" in pattern.text for pattern in (*directed.source, *directed.target)):
        raise _cannot(directed, "a tensor that is cut over several files")
    if numbers_of(rule):
        raise _cannot(directed, f"a number of the config in a name: {', '.join(sorted(numbers_of(rule)))}")
    if isinstance(rule, Repeated):
        return
    for pattern in (*directed.source, *directed.target):
        if len(_own(pattern, directed)) > 1:
            raise _cannot(directed, f"several axes in one name: {', '.join(_own(pattern, directed))}")


def _cannot(directed: Directed, found: object) -> MappingError:
    where = f"{_names_text(directed.source)} -> {_names_text(directed.target)}"
    expected = "renames, and reshapes, transposes, splits and joins whose sizes are told"
    return MappingError("MFC314", where, found=found, expected=expected, hint="Convert it with mfconv itself: mfconv convert.")


def _own(pattern: Pattern, directed: Directed) -> tuple[str, ...]:
    return tuple(p for p in pattern.placeholders if p not in directed.loops)


def _names_text(patterns: tuple[Pattern, ...]) -> str:
    return ", ".join(p.text for p in patterns)


def _layout_of(directed: Directed, form: Family, functions: dict[str, tuple[str, str]]) -> str:
    """The layout of a rule as it stands in the table, with its function added to ``functions``; empty where only names change."""
    layouts = directed.layouts
    own = [name for p in (*directed.source, *directed.target) for name in _own(p, directed)]
    if layouts is None or isinstance(directed.rule, Repeated) or (layouts[0] == layouts[1] and len(layouts[0]) == 1 and not own):
        return ""
    constants, same = structural_sizes(directed.rule)
    sides = ((directed.source, layouts[0]), (directed.target, layouts[1]))
    text = " -> ".join(_side_with_own(patterns, side, directed) for patterns, side in sides)
    known = [f"{a} = {b}" for a, b in (*constants.items(), *same.items())]
    layout = "; ".join([text, *([", ".join(known)] if known else [])])
    if layout not in functions:
        name = _function_name(directed, {name for name, _ in functions.values()})
        told = frozenset(axis for axis, sentence in form.sizes.items() if always_told(sentence))
        source, target = (_with_own(patterns, side, directed) for patterns, side in sides)
        sentence = Sentence(source, target, constants, same, told, frozenset(form.sizes))
        try:
            functions[layout] = (name, function_text(name, sentence, f"{layout}."))
        except MappingError as error:
            raise _cannot(directed, f"{layout}: {error.found}") from None
    return layout


def _with_own(patterns: tuple[Pattern, ...], side: tuple[TensorLayout, ...], directed: Directed) -> tuple[TensorLayout, ...]:
    """The tensors of a side, with the axis that stands in their names before the others."""
    return tuple((*(Axis(p) for p in _own(pattern, directed)), *tensor) for pattern, tensor in zip(patterns, side, strict=True))


def _side_with_own(patterns: tuple[Pattern, ...], side: tuple[TensorLayout, ...], directed: Directed) -> str:
    """A side of a layout as text; ``[expert] ffn hidden`` for tensors that are stacked along an axis in their names."""
    tensors = []
    for pattern, tensor in zip(patterns, side, strict=True):
        own = "".join(f"[{p}] " for p in _own(pattern, directed))
        tensors.append(own + describe_tensor(tensor))
    return ", ".join(tensors)


def _function_name(directed: Directed, taken: set[str]) -> str:
    """A name that says what the function makes: `to_dense1_weight`."""
    words = [w for w in re.sub(r"\{[^}]*\}", "", directed.target[0].text).split(".") if w and not w.isdigit()]
    name = re.sub(r"\W", "_", "to_" + "_".join(words[-2:]))
    return next(n for n in _numbered(name) if n not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name}_{number}"


def _row(directed: Directed, to: str, layout: str) -> str:
    """One line of the table."""
    rule = directed.rule
    target = directed.target
    if isinstance(rule, Repeated) and to == HF:
        target = tuple(p for place, p in enumerate(target) if is_needed(rule, place))  # only a manifest knows of the others
    parts = [_tuple_of(p.text for p in directed.source), _tuple_of(p.text for p in target)]
    parts += [json.dumps(layout)] if layout else []
    if (isinstance(rule, Rule | Repeated) and (rule.optional or rule.only_if)) or (isinstance(rule, Tied) and to == MF):
        parts.append("needed=False")
    if isinstance(rule, Rule) and rule.dtype and to == MF:
        parts.append(f"dtype={json.dumps(DTYPES[rule.dtype])}")
    if isinstance(rule, Repeated):
        parts.append("copies=True")
    line = f"    Move({', '.join(parts)}),"
    return line if len(line) <= WIDTH and "\n" not in line else "\n".join(["    Move(", *(f"        {part}," for part in parts), "    ),"])


def _tuple_of(texts: Iterable[str]) -> str:
    """Texts as a tuple, one a line where they are too long for one."""
    quoted = [json.dumps(text, ensure_ascii=False) for text in texts]
    line = f"({quoted[0]},)" if len(quoted) == 1 else f"({', '.join(quoted)})"
    return line if len(line) <= WIDTH - 10 else "\n".join(["(", *(f"            {text}," for text in quoted), "        )"])
