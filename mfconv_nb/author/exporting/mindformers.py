"""A family as the two files of MindFormers' extension form, which run without this package.

`convert_weight.py` defines ``convert_pt_to_ms`` and `convert_reversed.py` ``convert_ms_to_pt``: a table of names and layouts, explicit
numpy operations for every layout, and the program of `standalone.py` that applies them. The options of the family are decided here.

Refuses, naming the rule: two axes in the names of one side, tensors that are cut over several files, sizes that neither a shape nor the
config gives.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.exported import Files, cannot_say, form_words, rule_text
from mfconv_nb.author.exporting.mindformers_layouts import Sentence, function_text
from mfconv_nb.author.exporting.mindformers_sizes import alternatives_of, is_always_known
from mfconv_nb.author.exporting.program_text import program_text
from mfconv_nb.author.family_text import Code, Node, node_of
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError, to_one_line
from mfconv_nb.core.layout import Axis, TensorLayout, describe_tensor
from mfconv_nb.core.sizes import is_choice
from mfconv_nb.mapping.kinds import COUNTERS, GRADIENT_PREFIXES, LAYER_STATE_ENDINGS, OPTIMIZER_PREFIXES
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import COMMON_OPTIONS, Drop, Family, Repeated, Rule, Tied, is_needed, numbers_of
from mfconv_nb.mapping.solve import Directed, directed_rule, needs_sizes, structural_sizes

FILES = {MF: "convert_weight.py", HF: "convert_reversed.py"}
FUNCTIONS = {MF: "convert_pt_to_ms", HF: "convert_ms_to_pt"}
README_NAME = "README.md"
TITLE = """{covers}: {direction}.

Written by `mfconv export {key} --to mindformers`; it needs numpy, torch, safetensors and mindspore, and nothing else. The table RULES
says what becomes what; each layout in it has one function below that does it. The whole model is loaded into memory at once, as
MindFormers' own converters do. {memory}
"""
DIRECTIONS = {MF: "from Hugging Face to MindFormers", HF: "from MindFormers to Hugging Face"}
MEMORY = {
    MF: "bfloat16 is carried bit by bit.",
    HF: "What the way there left out (a buffer, a tied head) does not come back; optimizer state is left out.",
}
README = """\
# {key}: a converter for MindFormers

`convert_weight.py` defines `convert_pt_to_ms`, `convert_reversed.py` defines `convert_ms_to_pt`. Put this folder where MindFormers can
import it, as `research/{module}`, and add one line to each of the two tables in MindFormers' `convert_weight.py`:

```python
convert_map["{key}"] = "research.{module}.convert_weight.convert_pt_to_ms"
reversed_convert_map["{key}"] = "research.{module}.convert_reversed.convert_ms_to_pt"
```

The form: {form}. Both load the whole model into memory. Sizes are read from the `config.json` beside the input, else from the file
that the keyword `config` names, else from keywords named as in `config.json`. Nothing is remembered beside a converted checkpoint: what
is left out on the way there does not come back.
"""
EXPECTED = "renames, and reshapes, transposes, splits and joins whose sizes are known"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def mindformers_files(form: Family, folder: Path) -> Files:
    """`convert_weight.py`, `convert_reversed.py` and a README, and the two lines that make MindFormers know them.

    Raises:
        MappingError: MFC314 for a rule that such a file cannot say.
    """
    texts = {folder / FILES[to]: module_text(form, to) for to in (MF, HF)}
    module = re.sub(r"\W", "_", folder.resolve().name)
    readme = README.format(key=form.key, module=module, form=form_words(form))
    lines = re.findall(r"^\w+\[.*$", readme, flags=re.M)
    notes = ("Add to the two tables in MindFormers' convert_weight.py:", *(f"  {line}" for line in lines))
    return {**texts, folder / README_NAME: readme}, notes


# ---- one file ----------------------------------------------------------------------------------------------------------------


def module_text(form: Family, to: str) -> str:
    """The text of the file for one direction.

    Raises:
        MappingError: MFC314 with the rule that it cannot say.
    """
    layouts: dict[str, Code] = {}  # layout -> the name of its function
    functions: list[str] = []
    rows = []
    for rule in (directed_rule(rule, to) for rule in form.rules):
        if not isinstance(rule.rule, Drop):
            _check_sayable(rule, form)
            rows.append(_move_node(rule, to, _add_layout(rule, form, layouts, functions)))
    heads = [rule for rule in form.rules if isinstance(rule, Tied)]
    tables: dict[str, Any] = {
        "FORM": form.chosen,
        "TIED": tuple(((r.hf, r.mf) if to == MF else (r.mf, r.hf)) + (r.same_as, r.only_if) for r in heads),
        # not what must hold certain numbers, which the file would not check: there it is a name that no rule knows
        "LEFT_OUT": tuple((r.pattern, r.why) for r in form.rules if isinstance(r, Drop) and r.side != to and not r.holds),
        "SIZES": {
            axis: tuple(Code(f"lambda config, at: ({first}, {last})") for first, last in alternatives_of(sentence))
            for axis, sentence in form.sizes.items()
        },
        "KEYWORDS": {o.name: o.size for o in (*COMMON_OPTIONS, *form.options) if o.size},
        "LAYOUTS": layouts,
    }
    if to == HF:
        tables["RUN_STATE"] = (OPTIMIZER_PREFIXES + GRADIENT_PREFIXES, LAYER_STATE_ENDINGS, tuple(sorted(COUNTERS)))
    covers, key = (to_one_line(text).replace("\\", "/").replace('"', "'") for text in (form.covers, form.key))  # they stand in a docstring
    title = TITLE.format(covers=covers, direction=DIRECTIONS[to], key=key, memory=MEMORY[to])
    nodes = {"RULES": ("(", [("", row) for row in rows], ")"), **{name: node_of(content) for name, content in tables.items()}}
    return program_text(title, FUNCTIONS[to], nodes, functions)


# ---- one rule ----------------------------------------------------------------------------------------------------------------


def _check_sayable(directed: Directed, form: Family) -> None:
    """Raises MappingError (MFC314) for a rule that the exported files have no words for."""
    rule = directed.rule
    if listed := [p for p in directed.loops if any(map(is_choice, form.sizes.get(p, "").split("|")))]:
        raise _cannot(directed, f"layers that the config lists one by one: {', '.join(listed)}")
    if any("/" in pattern.text for pattern in (*directed.source, *directed.target)):
        raise _cannot(directed, "a tensor that is cut over several files")
    if numbers_of(rule):
        raise _cannot(directed, f"a number of the config in a name: {', '.join(sorted(numbers_of(rule)))}")
    if isinstance(rule, Repeated):
        return
    for pattern in (*directed.source, *directed.target):
        own = _own_placeholders(pattern, directed.loops)
        if len(own) > 1:
            raise _cannot(directed, f"several axes in one name: {', '.join(own)}")


def _cannot(directed: Directed, found: str) -> MappingError:
    return cannot_say(rule_text(directed), found, EXPECTED)


def _own_placeholders(pattern: Pattern, loops: Sequence[str]) -> list[str]:
    return [p for p in pattern.placeholders if p not in loops]


def _add_layout(directed: Directed, form: Family, layouts: dict[str, Code], functions: list[str]) -> str:
    """The layout of a rule as it stands in the table, with its function added; empty where only names change."""
    if directed.layouts is None or not needs_sizes(directed):
        return ""
    constants, same = structural_sizes(directed.rule)
    source_text, source = _stacked_side(directed.source, directed.layouts[0], directed.loops)
    target_text, target = _stacked_side(directed.target, directed.layouts[1], directed.loops)
    known = ", ".join(f"{a} = {b}" for a, b in (*constants.items(), *same.items()))
    layout = f"{source_text} -> {target_text}" + (f"; {known}" if known else "")
    if layout not in layouts:
        name = function_name(directed, layouts.values())
        always = frozenset(axis for axis, sentence in form.sizes.items() if is_always_known(sentence))
        sentence = Sentence(source, target, constants, same, always, frozenset(form.sizes))
        try:
            functions.append(function_text(name, sentence, f"{layout}."))
        except MappingError as error:
            raise _cannot(directed, f"{layout}: {error.found}") from None
        layouts[layout] = Code(name)
    return layout


def _stacked_side(patterns: Sequence[Pattern], side: Sequence[TensorLayout], loops: Sequence[str]) -> tuple[str, tuple[TensorLayout, ...]]:
    """A side of a layout, as text and as tensors. Tensors that their names count are stacked, the count first: ``[expert] ffn hidden``."""
    counts = [_own_placeholders(pattern, loops) for pattern in patterns]
    texts = ["".join(f"[{p}] " for p in own) + describe_tensor(tensor) for own, tensor in zip(counts, side, strict=True)]
    return ", ".join(texts), tuple((*map(Axis, own), *tensor) for own, tensor in zip(counts, side, strict=True))


def function_name(directed: Directed, taken: Collection[str]) -> str:
    """A name that says what the function makes: `to_dense1_weight`. No function of the program begins with ``to_``."""
    words = [w for w in re.sub(r"\{[^}]*\}", "", directed.target[0].text).split(".") if w and not w.isdigit()]
    name = re.sub(r"\W", "_", "to_" + "_".join(words[-2:]))
    return next(free for free in (name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))) if free not in taken)


def _move_node(directed: Directed, to: str, layout: str) -> Node:
    """One line of the table."""
    rule, target = directed.rule, directed.target
    if isinstance(rule, Repeated) and to == HF:
        target = tuple(p for place, p in enumerate(target) if is_needed(rule, place))  # only a manifest knows of the others
    parts = [("", node_of(tuple(p.text for p in patterns))) for patterns in (directed.source, target)]
    parts += [("", node_of(layout))] if layout else []
    if (isinstance(rule, Rule | Repeated) and (rule.optional or rule.only_if)) or isinstance(rule, Tied):
        parts.append(("needed=", "False"))
    if isinstance(rule, Rule) and rule.dtype and to == MF:
        parts.append(("dtype=", node_of(DTYPES[rule.dtype])))
    if isinstance(rule, Repeated):
        parts.append(("copies=", "True"))
    return "Move(", parts, ")"
