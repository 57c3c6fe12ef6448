"""A YAML file as untrusted input.

Refuses: a file over 1 MiB, broken YAML, tags that would build objects, nesting deeper than 64, aliases that unfold to more than 100,000
nodes, numbers of any length, anything but a mapping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError
from mfconv_nb.core.paths import read_small

ENDINGS = (".yaml", ".yml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000  # with aliases unfolded; run files have some hundred
MAX_NUMBER = 1000  # characters of a value without letters; a chat template may be longer
HINT_YAML = "Give the YAML that the run was started with, or a config.json."


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: MFC101 (no such file) or MFC106.
    """
    import yaml  # 15 ms, and most calls read no YAML

    try:
        if (raw := read_small(path, MAX_BYTES)) is None:
            raise InputError("MFC106", path, found="more than 1 MiB", expected="the YAML of a run", hint=HINT_YAML)
        text = raw.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError("MFC101", path, found=getattr(error, "strerror", None) or error, expected="a readable YAML file") from None
    try:
        _check_size(path, yaml.parse(text, Loader=yaml.SafeLoader))
        content = yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # a tag that does not fit its value ends in whatever its reader stumbles over: a KeyError, say
        broken = isinstance(error, yaml.YAMLError)
        said = " ".join(str(error).split())[:200] if broken else f"a value that does not fit its tag ({error!r:.80})"
        raise InputError("MFC106", path, found=f"broken YAML: {said}", expected="the YAML of a run", hint=HINT_YAML) from None
    if not isinstance(content, dict):
        raise InputError("MFC106", path, found=f"a YAML {type(content).__name__}", expected="a mapping", hint=HINT_YAML)
    if _has_huge_number(content):
        raise InputError("MFC106", path, found="a whole number of more than 64 bits", expected="the YAML of a run", hint=HINT_YAML)
    return content


def _has_huge_number(value: Any) -> bool:
    """Whether a whole number is in it that no size is, and that cannot even be printed: 0xfff... takes any length."""
    if isinstance(value, dict):
        return any(map(_has_huge_number, value)) or any(map(_has_huge_number, value.values()))
    return any(map(_has_huge_number, value)) if isinstance(value, list | tuple | set) else isinstance(value, int) and abs(value) >> 64 > 0


def _check_size(path: Path, events: Any) -> None:
    """Raises InputError (MFC106) for what would grow when it is built: deep nesting, aliases of aliases."""
    import yaml  # the same

    sizes: dict[str, int] = {}  # nodes below an anchor, aliases unfolded
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, MAX_NODES + 1)  # an alias inside its own anchor would have no end
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if len(event.value) > MAX_NUMBER and not any(map(str.isalpha, event.value)):  # 1:59:59:... is a number to YAML, however long
                found = f"a number of {len(event.value):,} characters"
                raise InputError("MFC106", path, found=found, expected="the YAML of a run", hint=HINT_YAML)
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > MAX_NODES or len(open_nodes) > MAX_DEPTH:
            found = f"more than {MAX_NODES:,} nodes with aliases unfolded" if total > MAX_NODES else f"more than {MAX_DEPTH} levels"
            raise InputError("MFC106", path, found=found, expected="the YAML of a run", hint=HINT_YAML)
