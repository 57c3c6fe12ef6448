"""Errors say what to do next: counted over every place in the package that makes one, and tried where a code has a next step of its own."""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import mfconv
from mfconv_nb.core.errors import CODES, NEXT_STEPS, MfconvError
from tests.support import numbered, write_safetensors, written

PACKAGE = Path(__file__).parents[2] / "mfconv_nb"


class Site(NamedTuple):
    place: str
    code: str
    tells: bool
    """whether it gives a hint that is never None"""


class Module(NamedTuple):
    path: Path
    tree: ast.Module


@cache
def modules() -> tuple[Module, ...]:
    return tuple(Module(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py")))


@cache
def kinds_of_errors() -> frozenset[str]:
    """The names of MfconvError and of every class under it."""
    bases = {n.name: {ast.unparse(b) for b in n.bases} for m in modules() for n in ast.walk(m.tree) if isinstance(n, ast.ClassDef)}
    found = {"MfconvError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return frozenset(found)


@cache
def may_return_none() -> frozenset[str]:
    functions = [n for m in modules() for n in ast.walk(m.tree) if isinstance(n, ast.FunctionDef)]
    return frozenset(f.name for f in functions if f.returns is not None and "None" in ast.unparse(f.returns))


def may_be_empty(hint: ast.expr | None, scope: ast.AST) -> bool:
    """Whether a hint may be None or "": what is given by a branch, by a function or a parameter that may be None, or by a record."""
    match hint:
        case None | ast.Constant(value=None | ""):
            return True
        case ast.IfExp():
            return may_be_empty(hint.body, scope) or may_be_empty(hint.orelse, scope)
        case ast.BoolOp(op=ast.Or()):
            return may_be_empty(hint.values[-1], scope)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in may_return_none()
        case ast.Attribute():
            return True
        case ast.Name(id=name):
            return any(may_be_empty(value, scope) for value in values_of(name, scope))
    return False


def values_of(name: str, scope: ast.AST) -> Iterator[ast.expr | None]:
    """What a name is given in a function: as a parameter that may be None (yields None), or by assignments."""
    for node in ast.walk(scope):
        if isinstance(node, ast.arg) and node.arg == name and "None" in ast.unparse(node.annotation or ast.Constant("")):
            yield None
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from (v for t, v in zip(target.elts, node.value.elts, strict=True) if ast.unparse(t) == name)


@cache
def sites() -> tuple[Site, ...]:
    """Every call in the package that makes an error with a code."""
    found: dict[tuple[Path, int, int], Site] = {}
    for path, tree in modules():
        for scope in (tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))):  # the innermost function last
            for call in (c for n in ast.walk(scope) if isinstance(n, ast.Call) and makes_an_error(c := without_partial(n))):
                code = ast.literal_eval(call.args[0]) if isinstance(call.args[0], ast.Constant) else "a variable"
                hint = next((k.value for k in call.keywords if k.arg == "hint"), None)
                place = f"{path.relative_to(PACKAGE.parent)}:{call.lineno}"
                found[path, call.lineno, call.col_offset] = Site(place, code, not may_be_empty(hint, scope))
    return tuple(found.values())


def without_partial(call: ast.Call) -> ast.Call:
    """`partial(InputError, "MFC101", ...)`, which refuses several times, as `InputError("MFC101", ...)`."""
    if ast.unparse(call.func) != "partial" or len(call.args) < 2:
        return call
    return ast.copy_location(ast.Call(call.args[0], call.args[1:], call.keywords), call)


def makes_an_error(call: ast.Call) -> bool:
    """`InputError("MFC101", ...)`, also as `super().__init__("MFC408", ...)`; not a subclass that knows its code itself."""
    made = ast.unparse(call.func)
    is_coded = bool(call.args) and not (isinstance(call.args[0], ast.Constant) and not re.fullmatch(r"MFC\d{3}", str(call.args[0].value)))
    if made == "super().__init__":
        return bool(call.args) and isinstance(call.args[0], ast.Constant) and str(call.args[0].value) in CODES
    return made in kinds_of_errors() and is_coded and ast.unparse(call.args[0]) != "plan"


def test_nine_of_ten_places_that_raise_an_error_say_what_to_do_next() -> None:
    silent = [site for site in sites() if not site.tells and site.code not in NEXT_STEPS]
    listed = "\n".join(f"{site.place} {site.code}" for site in silent)
    assert len(sites()) > 300
    assert len(silent) <= len(sites()) / 10, f"{len(silent)} of {len(sites())} places give no hint:\n{listed}"


def test_a_hint_of_the_place_counts_before_that_of_the_code() -> None:
    assert MfconvError("MFC201").hint == NEXT_STEPS["MFC201"]
    assert MfconvError("MFC201", hint="").hint == NEXT_STEPS["MFC201"]
    assert MfconvError("MFC201", hint="Another.").hint == "Another."
    assert str(MfconvError("MFC404", "x")) == f"MFC404 {CODES['MFC404']}: x\n  hint      {NEXT_STEPS['MFC404']}"
    assert MfconvError("MFC501").hint is None


# ---- what hints name is there ------------------------------------------------------------------------------------------------


def texts_of_hints() -> set[str]:
    """Every text that stands in a hint, as far as it stands there: a keyword, an assignment, a constant, the table of codes."""
    found = set(NEXT_STEPS.values())
    for _, tree in modules():
        for node in ast.walk(tree):
            values: list[ast.expr | None] = [node.value] if isinstance(node, ast.keyword) and node.arg == "hint" else []
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    values += [v for t, v in zip(target.elts, node.value.elts, strict=True) if ast.unparse(t) == "hint"]
                elif re.match(r"hint$|HINT", ast.unparse(target)):
                    values.append(node.value)  # type: ignore[attr-defined]
            found |= {c.value for v in values if v for c in ast.walk(v) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return found


def commands() -> dict[str, click.Command]:
    context = click.Context(mfconv)
    return {name: c for name in mfconv.list_commands(context) if (c := mfconv.get_command(context, name)) is not None}


def test_flags_commands_and_functions_that_hints_name_exist() -> None:
    texts = texts_of_hints()
    flags = {flag for c in commands().values() for p in c.params for flag in p.opts} | {"--help"}
    assert {flag for text in texts for flag in re.findall(r"(?<!\w)--[a-z_]{2,}", text)} - flags == {"--local"}  # of `hf download`
    assert {name for text in texts for name in re.findall(r"mfconv ([a-z]+)\b", text)} - commands().keys() == {"itself"}
    assert [name for text in texts for name in re.findall(r"\bmc\.([a-z_]+)", text) if not hasattr(mc, name)] == []
    functions = [getattr(room, name) for room in (mc, mc.author) for name in room.__all__]
    taken = {name for function in functions if callable(function) for name in inspect.signature(function).parameters}
    asked = {a for text in texts for said in re.findall(r"\(([^()]*) in Python\)", text) for a in re.findall(r"\b([a-z_]+)=", said)}
    assert asked - taken == set()


# ---- a real error of every code that has a next step of its own --------------------------------------------------------------


def file_of(path: Path, header: object) -> Path:
    """A safetensors file with a header and no numbers."""
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    return path


def beside_a_broken_config(folder: Path) -> object:
    write_safetensors(folder / "model.safetensors", {"a": numbered(2)})
    written(folder / "config.json", "[")
    return mc.load(folder)


def with_strategies_from_nowhere(folder: Path) -> object:
    layout = mc.RankLayout({"tp": 2}, {"*.wq.weight": ("tp", None)})
    mc.save(mc.map(mc.toy("llama")), folder / "run", layout_of_ranks=layout)
    (folder / "nothing").mkdir()
    return mc.load(folder / "run", strategy=folder / "nothing")


def one_rule(hf: str, mf: str) -> mc.rules.Family:
    return mc.rules.Family("x", "x", rules=(mc.rules.Rule(hf, mf),), sizes={"layer": "n"})


def with_rows_of_a_moved_weight(folder: Path) -> object:
    toy = mc.toy("qwen3")
    mapped = mc.map(toy, to="mf")
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    arrays = {n: np.array(mc.read(mapped, n)) for n in mapped.tensors}
    run = mc.load({**arrays, f"exp_avg_sq_row_{name}": numbered(3), "global_step": np.int32(1)})
    return mc.migrate(run, folder / "out", "qwen3", config=toy.config, use_contiguous_weight_layout_attention=True)


REFUSED: dict[str, Callable[[Path], object]] = {
    "MFC101": lambda folder: mc.load(folder / "absent.safetensors"),
    "MFC102": mc.load,
    "MFC103": lambda folder: mc.load(written(folder / "x.dat", "hello")),
    "MFC104": lambda folder: mc.load(written(folder / "model.safetensors.index.json", "[1").parent),
    "MFC106": beside_a_broken_config,
    "MFC109": lambda folder: mc.load({"a": np.zeros(2, "datetime64[s]")}),
    "MFC114": with_strategies_from_nowhere,
    "MFC201": lambda folder: mc.load(file_of(folder / "x.safetensors", [1])),
    "MFC205": lambda folder: mc.load(file_of(folder / "x.safetensors", {"a": {"dtype": "X9", "shape": [0], "data_offsets": [0, 0]}})),
    "MFC301": lambda folder: mc.map(mc.toy("llama"), "zzqqzz"),
    "MFC305": lambda folder: mc.map(mc.toy("llama"), zzqq=1),
    "MFC307": lambda folder: mc.expected(one_rule("a.{layer}", "b.{layer}"), {"n": 2}),
    "MFC309": lambda folder: mc.toy("llama")["zzzzzzzz"],
    "MFC310": lambda folder: mc.save(mc.expected("llama", mc.toy("llama").config), folder / "x.safetensors"),
    "MFC311": lambda folder: mc.map({"a.0": numbered(2, 2)}, one_rule("a.{layer}", "b"), to="mf"),
    "MFC313": lambda folder: mc.map(mc.toy("llama"), written(folder / "mine.py", "raise ValueError('x')")),
    "MFC315": lambda folder: mc.author.import_rules("{broken("),
    "MFC317": lambda folder: mc.run_converter(written(folder / "convert_weight.py", "").parent, folder, folder / "x.ckpt"),
    "MFC320": with_rows_of_a_moved_weight,
    "MFC404": lambda folder: mc.diff(mc.toy("llama"), mc.toy("llama")).export(folder / "absent" / "x.html"),
    "MFC405": lambda folder: mc.save(mc.toy("llama").renamed(lambda name: name + "\ud800"), folder / "x.safetensors"),
}


@pytest.mark.parametrize("code", NEXT_STEPS)
def test_the_next_step_of_a_code_is_told_by_a_real_error_of_it(code: str, tmp_path: Path) -> None:
    with pytest.raises(MfconvError, match=code) as refused:
        REFUSED[code](tmp_path)
    assert (refused.value.code, refused.value.hint) == (code, NEXT_STEPS[code])
    assert f"hint      {NEXT_STEPS[code]}" in str(refused.value)
