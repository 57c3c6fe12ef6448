"""The formats that are known: every module of this folder that has a `FORMAT`."""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module

from mfconv_nb import formats
from mfconv_nb.formats.format import Format


@lru_cache(maxsize=1)
def known_formats() -> tuple[Format, ...]:
    """The formats, in the order in which they are asked whether a file is theirs."""
    modules = [import_module(f"{formats.__name__}.{m.name}") for m in pkgutil.iter_modules(formats.__path__)]
    return tuple(sorted((m.FORMAT for m in modules if hasattr(m, "FORMAT")), key=lambda f: (f.order, f.name)))


def format_named(name: str) -> Format:
    """The format of a name that ``known_formats`` has."""
    return next(f for f in known_formats() if f.name == name)


def format_with_ending(ending: str) -> Format | None:
    """The format that an ending chooses, ".ckpt"; None for one that no format has."""
    return next((f for f in known_formats() if ending.lower() in f.endings), None)


def weight_endings() -> tuple[str, ...]:
    """What files of weights end in."""
    return tuple(ending for f in known_formats() for ending in f.endings)


def run_endings() -> tuple[str, ...]:
    """What the files with weights of a training run end in."""
    return tuple(ending for f in known_formats() if f.in_runs for ending in f.endings)


def titles() -> str:
    """The formats, as a message lists them: "safetensors, torch or MindSpore .ckpt"."""
    *first, last = (f.title for f in known_formats())
    return f"{', '.join(first)} or {last}"
