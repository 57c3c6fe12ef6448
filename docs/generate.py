"""The generated parts of the documentation, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`. `make docs` writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.rules import Drop, Family, Rule, Tied

ROOT = Path(__file__).parents[1]
ENGLISH = {
    "head": ("`--model`", "models", "what changes", "after"),
    "names": "names only",
    "layouts": "{n} layouts: {axes}",
    "tied": "a tied head is written out",
    "dropped": "kept beside: {names}",
    "and": "; ",
}
CHINESE = {
    "head": ("`--model`", "模型", "变化", "依据"),
    "names": "只改名字",
    "layouts": "{n} 种布局变化：{axes}",
    "tied": "共享的输出层会单独写出",
    "dropped": "另存在旁边：{names}",
    "and": "；",
}
PAGES: Mapping[str, Mapping[str, object]] = {"README.md": ENGLISH, "README_CN.md": CHINESE}


def family_table(words: Mapping[str, object]) -> str:
    """Every built-in family as a row of a Markdown table."""
    head = words["head"]
    assert isinstance(head, tuple)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [f"| `{f.key}` | {f.covers} | {what_changes(f, words)} | {f.source} |" for f in known_families()]
    return "\n".join(lines)


def what_changes(family: Family, words: Mapping[str, object]) -> str:
    """In a clause each: layouts that move numbers, a tied head, tensors that the other side has no place for."""
    moved = list(dict.fromkeys(r.layout for r in family.rules if isinstance(r, Rule) and r.layout and "->" in r.layout))
    axes = ", ".join(f"`{layout}`" for layout in moved[:2]) + (" …" if len(moved) > 2 else "")
    dropped = [f"`{r.pattern.rpartition('}.')[2]}`" for r in family.rules if isinstance(r, Drop)]
    clauses = [str(words["layouts"]).format(n=len(moved), axes=axes) if moved else str(words["names"])]
    clauses += [str(words["tied"])] if any(isinstance(r, Tied) for r in family.rules) else []
    clauses += [str(words["dropped"]).format(names=", ".join(dropped))] if dropped else []
    return str(words["and"]).join(clauses)


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
    words = PAGES[name]
    return with_generated((ROOT / name).read_text(encoding="utf-8"), {"families": lambda: family_table(words)})


def main() -> None:
    """Write every page, and say which changed."""
    for name in PAGES:
        new = page(name)
        changed = new != (ROOT / name).read_text(encoding="utf-8")
        (ROOT / name).write_text(new, encoding="utf-8")
        print(f"{name}: {'written' if changed else 'up to date'}")


if __name__ == "__main__":
    main()
