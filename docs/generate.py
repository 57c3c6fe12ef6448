"""Write what follows from the code: the parts of pages between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, the evidence for each
family, and the `.ipynb` of a notebook that lies there as `.py` alone. `make docs` runs this.

So a family is added by its file and the `.py` of its notebook.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import grimp
import jupytext
import nbformat

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tables of the tests, where this file is run by itself

from mfconv_nb.author.exporting.converter_ops import OWN_CLASSES, is_loaded_by_template  # noqa: E402
from mfconv_nb.author.exporting.export import export  # noqa: E402
from mfconv_nb.author.exporting.weight_converters import converters_of  # noqa: E402
from mfconv_nb.core.errors import MappingError, MfconvError  # noqa: E402
from mfconv_nb.families.registry import family_named, known_families  # noqa: E402
from mfconv_nb.mapping.forms import all_forms  # noqa: E402
from mfconv_nb.mapping.rules import Family, Repeated, Rule, Tied, default_form, sides_of  # noqa: E402
from mfconv_nb.steps.inspecting.families import keeps_beside  # noqa: E402
from tests.goldens.recipe import case_names, load_case  # noqa: E402
from tests.networks_table import LORA, NETWORKS, PARAMETERS, SAVED, SCORES, Network  # noqa: E402
from tests.real_repos_table import REPOSITORIES  # noqa: E402

ARCHITECTURE = "docs/architecture.md"
EVIDENCE = ROOT / "mfconv_nb" / "families" / "evidence.json"
NOTEBOOKS = ROOT / "notebooks"
LIST_OF_NOTEBOOKS = "notebooks/README.md"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}  # JupyterLab asks for one where none is named


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
    count: str
    converters: tuple[str, ...]
    forms: str
    networks: tuple[str, ...]
    checks: Mapping[str, str]
    graphs: Mapping[str, str]
    cases: str
    repositories: str
    rules: str
    semicolon: str
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
    count="{n}: {keys}",
    converters=("`--model`", "forms", "MindFormers' operations", "operations that the file brings", "needs `--config`"),
    forms="{said} of {all}",
    networks=("`--model`", "networks of MindFormers: version, graph", "how they are checked", "otherwise"),
    checks={PARAMETERS: "written", SAVED: "saved", SCORES: "scores", LORA: "adapters"},
    graphs={"static": "static graph", "dynamic": "dynamic graph", "inference": "inference"},
    cases="recorded: {n}",
    repositories="repos: {n}",
    rules="its rules alone",
    semicolon="; ",
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
    count="{n} 个：{keys}",
    converters=("`--model`", "形态", "MindFormers 的算子", "文件自带的算子", "需要 `--config`"),
    forms="{said} / {all}",
    networks=("`--model`", "MindFormers 的网络：版本、图", "怎样检查", "此外"),
    checks={PARAMETERS: "写出", SAVED: "保存", SCORES: "分数", LORA: "适配器"},
    graphs={"static": "静态图", "dynamic": "动态图", "inference": "推理"},
    cases="录制用例：{n}",
    repositories="仓库：{n}",
    rules="只有规则本身",
    semicolon="；",
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
FAMILY_PAGES: Mapping[str, Words] = {"docs/families.md": ENGLISH, "docs/families.zh.md": CHINESE}
EXPORTS = ("weight_converters", "troubleshooter")  # forms that only some families have; `mindformers` says all but a few


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
    return (f"`{family.key}`", models(family, words), describe_changes(family, words), option_names(family, words), ways, *counts)


def models(family: Family, words: Words) -> str:
    """The models in the language of the page, and the other keys that mean them."""
    text = family.covers if words is ENGLISH else family.covers_zh or family.covers
    for english, other in words.models.items():
        text = text.replace(f" {english}" if other.startswith("（") else english, other).replace(english, other)
    aliases = words.comma.join(f"`{alias}`" for alias in family.aliases)
    return text + (words.also.format(keys=aliases) if aliases else "")


def describe_changes(family: Family, words: Words) -> str:
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


def exported_families(form: str, words: Words) -> str:
    """How many built-in families have a form that another tool can say, and their keys."""
    keys = [f"`{key}`" for key in exported_keys(form)]
    return words.count.format(n=len(keys), keys=words.comma.join(keys))


@cache
def exported_keys(form: str) -> tuple[str, ...]:
    return tuple(sorted(family.key for family in known_families() if can_export(family, form)))


def can_export(family: Family, form: str) -> bool:
    """Whether some form of the family can be exported. The names of a weight map are those of its toy."""
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate(all_forms(family)):
            try:
                export(family, Path(folder) / f"{number}.py", to=form, config=each.toy, **each.chosen)
            except MfconvError as error:
                if error.code != "MFC314":
                    raise
            else:
                return True
    return False


def converters_table(words: Words) -> str:
    """What the lists are made of for families that MindFormers' loader reads with a list: all forms of each, with the config of its toy."""
    rows = ["| " + " | ".join(words.converters) + " |", "|---|---|---|---|---|"]
    for family in (family for family in known_families() if is_loaded_by_template(family)):
        forms, lists, without = list(all_forms(family)), [], 0
        for form in forms:
            with suppress(MappingError):
                lists.append(converters_of(form, form.toy)[0])
            with suppress(MfconvError):
                without += bool(converters_of(form))
        names = {op.name.removesuffix("ConvertOp") for ops in lists for op in ops}
        own = {name.removesuffix("ConvertOp") for name in OWN_CLASSES}
        told = [words.comma.join(f"`{name}`" for name in sorted(part)) for part in (names - own, names & own)]
        needs = words.forms.format(said=len(lists) - without, all=len(lists))
        rows.append("| " + " | ".join([f"`{family.key}`", words.forms.format(said=len(lists), all=len(forms)), *told, needs]) + " |")
    return "\n".join(rows)


# ---- the networks that families are checked against --------------------------------------------------------------------


def networks_table(words: Words) -> str:
    """Of every built-in family the networks that tests check it against and how, and what else speaks for it; a row for each way."""
    lines = ["| " + " | ".join(words.networks) + " |", "|---" * len(words.networks) + "|"]
    for family in known_families():
        rows = list(_networks_of(family.key, words)) or [("–", "–")]
        for number, (networks, how) in enumerate(rows):
            lines.append(f"| `{family.key}` | {networks} | {how} | {_otherwise(family.key, words, rows) if not number else ''} |")
    return "\n".join(lines)


def _networks_of(key: str, words: Words) -> Iterator[tuple[str, str]]:
    """The networks of a family that are of one version and checked in the same ways; and these ways."""
    groups: dict[tuple[str, tuple[str, ...]], list[Network]] = {}
    for network in NETWORKS:
        if network.key == key:
            groups.setdefault((network.version, tuple(network.checks)), []).append(network)
    for (version, checks), networks in groups.items():
        named = [words.graphs[n.graph] + (f" (`{n.form}`)" if n.form else "") for n in networks]
        yield f"{version}: {words.semicolon.join(named)}", words.comma.join(words.checks[check] for check in checks)


def _otherwise(key: str, words: Words, networks: Sequence[tuple[str, str]]) -> str:
    """Recorded outputs of MindFormers' converters, planned repositories; or that there is nothing."""
    found = evidence()[key]
    clauses = [words.cases.format(n=found["cases"])] if found["cases"] else []
    clauses += [words.repositories.format(n=found["repositories"])] if found["repositories"] else []
    return words.comma.join(clauses) or (words.rules if networks == [("–", "–")] else "")


# ---- notebooks ---------------------------------------------------------------------------------------------------------


def list_of_notebooks(listed: str) -> str:
    """The notebooks of the families by title. What ``listed`` says of one stays; of a new one it is what its table says."""
    said = dict(re.findall(r"\(families/(\w+)\.ipynb\): (.*)", listed))
    titles = {path.stem: title_of(path) for path in sorted((NOTEBOOKS / "families").glob("*.py"))}
    by_stem = {family.key.replace("-", "_"): family for family in known_families()}
    for stem in titles.keys() - said.keys():
        said[stem] = describe_changes(by_stem[stem], ENGLISH)
    ordered = sorted(titles, key=lambda stem: titles[stem].casefold())
    return "\n".join(f"- [{titles[stem]}](families/{stem}.ipynb): {said[stem]}" for stem in ordered)


def title_of(notebook: Path) -> str:
    """The first heading of a notebook that is kept as `.py`."""
    return next(line.removeprefix("# # ") for line in notebook.read_text(encoding="utf-8").splitlines() if line.startswith("# # "))


def missing_notebooks() -> dict[Path, str]:
    """The `.ipynb` of each notebook that lies there as `.py` alone."""
    return {p.with_suffix(".ipynb"): notebook_text(p) for p in sorted(NOTEBOOKS.rglob("*.py")) if not p.with_suffix(".ipynb").is_file()}


def notebook_text(path: Path) -> str:
    """The notebook that a `.py` is the twin of. Cells are numbered, so that every call gives the same text."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return f"{nbformat.writes(notebook)}\n"


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
        pattern = rf"(<!-- {name}: begin -->\n?)(.*?)(\n?<!-- {name}: end -->)"
        content = make()
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}{m[3]}", text, flags=re.S)
        if count != 1:
            raise ValueError(f"markers of {name}: found {count} pairs, expected one")
    return text


def page(name: str) -> str:
    """A page as it should be, with its generated parts made anew."""
    text = (ROOT / name).read_text(encoding="utf-8")
    parts: dict[str, Callable[[], str]] = {"families": lambda: family_table(PAGES[name])}
    if name == ARCHITECTURE:
        parts = {"rooms": rooms_table}
    elif name == LIST_OF_NOTEBOOKS:
        parts = {"families": lambda: list_of_notebooks(text)}
    elif name in FAMILY_PAGES:
        parts = {form: partial(exported_families, form, FAMILY_PAGES[name]) for form in EXPORTS}
        parts["converters"] = partial(converters_table, FAMILY_PAGES[name])
        parts["networks"] = partial(networks_table, FAMILY_PAGES[name])
    return with_generated(text, parts)


def main() -> None:
    """Write the evidence, notebooks and every page, and say which changed."""
    pages = (*PAGES, *FAMILY_PAGES, LIST_OF_NOTEBOOKS, ARCHITECTURE)
    written = {EVIDENCE: evidence_text(), **missing_notebooks(), **{ROOT / name: page(name) for name in pages}}
    for path, new in written.items():
        changed = not path.is_file() or path.read_text(encoding="utf-8") != new
        path.write_text(new, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'written' if changed else 'up to date'}")


if __name__ == "__main__":
    main()
