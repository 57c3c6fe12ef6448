"""The generated parts of the documentation, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, and the evidence for each family.

`make docs` writes them.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tables of the tests, where this file is run by itself

from mfconv_nb.families.registry import family_named, known_families  # noqa: E402
from mfconv_nb.mapping.rules import Family, Repeated, Rule, Tied, default_form, sides_of  # noqa: E402
from mfconv_nb.steps.inspecting.families import keeps_beside  # noqa: E402
from tests.goldens.recipe import case_names, load_case  # noqa: E402
from tests.real_repos_table import REPOSITORIES  # noqa: E402

ARCHITECTURE = "docs/architecture.md"
EVIDENCE = ROOT / "mfconv_nb" / "families" / "evidence.json"


@dataclass(frozen=True)
class Words:
    """The words of a page in its language. ``models``: what families say of themselves in English words, in this language."""

    head: tuple[str, ...]
    also: str
    alike: str
    names: str
    split: str
    joined: str
    stacked: str
    transposed: str
    reordered: str
    added: str
    zeros: str
    copies: str
    tied: str
    sizes: str
    exact: str
    beside: str
    none: str
    comma: str
    models: Mapping[str, str] = field(default_factory=dict)


ENGLISH = Words(
    head=("`--model`", "models", "what changes", "options", "both ways", "cases", "repos"),
    also=" (also {keys})",
    alike="as `{key}`",
    names="names only",
    split="fused matrices split",
    joined="matrices joined",
    stacked="experts stacked",
    transposed="some matrices transposed",
    reordered="numbers reordered",
    added="an axis of one added",
    zeros="zeros filled in",
    copies="equal copies kept once",
    tied="a tied head written out",
    sizes="{n} sizes",
    exact="yes",
    beside="beside",
    none="So far without a case and a repository: {keys}.",
    comma=", ",
)
CHINESE = Words(
    head=("`--model`", "模型", "变化", "选项", "双向", "用例", "仓库"),
    also="（也可写 {keys}）",
    alike="同 `{key}`",
    names="只改名字",
    split="拆开合并的矩阵",
    joined="合并矩阵",
    stacked="专家堆叠",
    transposed="部分矩阵转置",
    reordered="重排数值",
    added="增加长度为 1 的维度",
    zeros="补零",
    copies="相同的副本只留一份",
    tied="共享的输出层会单独写出",
    sizes="{n} 个尺寸",
    exact="是",
    beside="另存",
    none="目前既没有用例也没有仓库的：{keys}。",
    comma="、",
    models={
        ", with its pre-training head": "（含预训练输出层）",
        ", first stage (Q-Former)": " 第一阶段（Q-Former）",
        ", any number of experts": "，专家数不限",
        ", all sizes": "，各种规模",
        "(OpenAI's names)": "（OpenAI 的命名）",
        "(Microsoft's .pth)": "（微软的 .pth）",
        "(Hugging Face)": "（Hugging Face 的命名）",
        "(the first version)": "（第一版）",
        "(the first)": "（第一代）",
        "(dense)": "（稠密）",
        "(one key/value head)": "（单个 KV 头）",
        "in Meta's own files (consolidated.*.pth)": "（Meta 原始文件 consolidated.*.pth）",
        "small to 11B": "small 至 11B",
        "tiny to large-v3": "tiny 至 large-v3",
        "MAE pre-training": "MAE 预训练",
        "ViT fine-tuned from MAE": "由 MAE 微调的 ViT",
    },
)
PAGES: Mapping[str, Words] = {"README.md": ENGLISH, "README_CN.md": CHINESE}


# ---- evidence ----------------------------------------------------------------------------------------------------------


@cache
def evidence() -> dict[str, dict[str, int]]:
    """For every built-in family: the golden cases that are converted with its key, and the repositories that are planned with it."""
    cases = Counter(family_named(load_case(name).key).key for name in case_names())
    planned = Counter(key for repository in REPOSITORIES.values() for key in {family_named(key).key for key in repository.keys})
    return {f.key: {"cases": cases[f.key], "repositories": planned[f.key]} for f in known_families()}


def evidence_text() -> str:
    """The evidence as JSON, a line a family, in the order of the keys."""
    lines = [f"  {json.dumps(key)}: {json.dumps(found)}" for key, found in sorted(evidence().items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


# ---- the table of families ---------------------------------------------------------------------------------------------


def family_table(words: Words) -> str:
    """Every built-in family as a row of a Markdown table, and those that nothing outside speaks for."""
    lines = ["| " + " | ".join(words.head) + " |", "|---" * (len(words.head) - 2) + "|--:" * 2 + "|"]
    lines += ["| " + " | ".join(family_row(family, words)) + " |" for family in known_families()]
    bare = [f"`{key}`" for key, found in evidence().items() if not any(found.values())]
    return "\n".join([*lines, *(["", words.none.format(keys=words.comma.join(bare))] if bare else [])])


def family_row(family: Family, words: Words) -> tuple[str, ...]:
    found = evidence()[family.key]
    ways = words.beside if keeps_beside(family) else words.exact
    counts = str(found["cases"]), str(found["repositories"])
    return (f"`{family.key}`", models(family, words), what_changes(family, words), option_names(family, words), ways, *counts)


def models(family: Family, words: Words) -> str:
    """The models in the language of the page, and the other keys that mean them."""
    text = family.covers
    for english, other in words.models.items():
        text = text.replace(f" {english}" if other.startswith("（") else english, other).replace(english, other)
    aliases = words.comma.join(f"`{alias}`" for alias in family.aliases)
    return text + (words.also.format(keys=aliases) if aliases else "")


def what_changes(family: Family, words: Words) -> str:
    """What happens to tensors in the default form, in a few words; the same table as another family's is not said again."""
    if family.told_as and family.rules == family_named(family.told_as).rules:
        return words.alike.format(key=family.told_as)
    rules = [rule for rule in default_form(family).rules if isinstance(rule, Rule) and "->" in (rule.layout or "")]
    moved = [move for rule in rules for move in _moves(rule, words)]
    kinds = {type(rule) for rule in default_form(family).rules}
    clauses = list(dict.fromkeys(moved)) or [words.names]
    clauses += [words.copies] if Repeated in kinds else []
    clauses += [words.tied] if Tied in kinds else []
    return words.comma.join(clauses)


def _moves(rule: Rule, words: Words) -> list[str]:
    """What a rule does to its tensors, in a word or two each."""
    hf, mf = sides_of(rule, "mf")
    counted = {p for pattern in hf for p in pattern.placeholders} - {p for pattern in mf for p in pattern.placeholders}
    moves = [words.stacked if "expert" in counted else words.joined] if counted else []
    if len(hf) != len(mf) and not counted:
        moves.append(words.split if len(hf) < len(mf) else words.joined)
    left, right = (re.findall(r"[a-z]\w*|(?<![\w.])0(?= )", side) for side in (rule.layout or "").split(" -> "))
    once = {axis for axis in left if left.count(axis) == right.count(axis) == 1}
    if [axis for axis in left if axis in once] != [axis for axis in right if axis in once]:
        moves.append(words.reordered if "(" in str(rule.layout) else words.transposed)
    if "0" in right:
        moves.append(words.zeros)
    return moves or [words.added]


def option_names(family: Family, words: Words) -> str:
    """The options that choose between forms by name; several sizes are counted."""
    sizes = [o.name for o in family.options if not o.values]
    named = [f"`{o.name}`" for o in family.options if o.values or len(sizes) <= 2]
    return words.comma.join([*named, *([words.sizes.format(n=len(sizes))] if len(sizes) > 2 else [])])


# ---- the rooms of the package ------------------------------------------------------------------------------------------


def rooms_table() -> str:
    """Every room of the package, what its first line says of it, and which rooms it imports, as they stand in the code."""
    lines = ["| room | what it is | imports |", "|---|---|---|"]
    rooms = sorted(rooms_of_package(), key=lambda room: (-floor_of(room), room))
    for room in rooms:
        first = (ROOT / "mfconv_nb" / room / "__init__.py").read_text(encoding="utf-8").split('"""')[1].strip().splitlines()[0]
        imported = ", ".join(f"`{other}`" for other in sorted(imports_of_rooms()[room])) or "nothing"
        lines.append(f"| `{room}/` | {first.replace('``', '`')} | {imported} |")
    return "\n".join(lines)


@cache
def rooms_of_package() -> tuple[str, ...]:
    """Top-level folders; for those that are made of folders, these."""
    top = sorted(p.parent for p in (ROOT / "mfconv_nb").glob("*/__init__.py"))
    inner = {folder: sorted(p.parent for p in folder.glob("*/__init__.py")) for folder in top if folder.name in ("steps", "author")}
    folders = [each for folder in top for each in (folder, *inner.get(folder, ())) if folder.name != "steps" or each is not folder]
    return tuple(folder.relative_to(ROOT / "mfconv_nb").as_posix() for folder in folders)


@cache
def imports_of_rooms() -> Mapping[str, frozenset[str]]:
    """Of each room the others that its modules import, inside functions too."""
    graph = grimp.build_graph("mfconv_nb", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for room in rooms_of_package()}
    for module in graph.modules:
        here = room_of(module)
        for imported in graph.find_modules_directly_imported_by(module) if here else ():
            there = room_of(imported)
            if there and there != here:
                found[here].add(there)
    return {room: frozenset(others) for room, others in found.items()}


def room_of(module: str) -> str:
    """The room that a module lies in; empty for the package itself."""
    path = module.split(".", 1)[-1].replace(".", "/") + "/"
    return max((room for room in rooms_of_package() if path.startswith(f"{room}/")), key=len, default="")


@cache
def floor_of(room: str) -> int:
    """0 for a room that imports no other; else one above the highest room that it imports."""
    return max((floor_of(other) + 1 for other in imports_of_rooms()[room]), default=0)


# ---- the pages ---------------------------------------------------------------------------------------------------------


def with_generated(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """``text`` with each part between its markers written anew. Raises ValueError for a part without markers."""
    for name, make in parts.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        content = make()
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.S)
        if count != 1:
            raise ValueError(f"markers of {name}: found {count} pairs, expected one")
    return text


def page(name: str) -> str:
    """A page as it should be, with its generated parts made anew."""
    parts = {"rooms": rooms_table} if name == ARCHITECTURE else {"families": lambda: family_table(PAGES[name])}
    return with_generated((ROOT / name).read_text(encoding="utf-8"), parts)


def main() -> None:
    """Write the evidence and every page, and say which changed."""
    written = {EVIDENCE: evidence_text(), **{ROOT / name: page(name) for name in (*PAGES, ARCHITECTURE)}}
    for path, new in written.items():
        changed = not path.is_file() or path.read_text(encoding="utf-8") != new
        path.write_text(new, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'written' if changed else 'up to date'}")


if __name__ == "__main__":
    main()
