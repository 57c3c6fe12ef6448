"""The known formats: every module of this folder that has a `FORMAT`."""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module

from mfconv_nb import formats
from mfconv_nb.formats.format import Format


@lru_cache(maxsize=1)
def known_formats() -> tuple[Format, ...]:
    """The formats, in the order of their field ``order``."""
    modules = [import_module(f"{formats.__name__}.{m.name}") for m in pkgutil.iter_modules(formats.__path__)]
    return tuple(sorted((m.FORMAT for m in modules if hasattr(m, "FORMAT")), key=lambda f: (f.order, f.name)))


def format_named(name: str) -> Format:
    """The known format with this name."""
    return next(f for f in known_formats() if f.name == name)


def format_with_ending(ending: str) -> Format | None:
    """The format with an ending such as ".ckpt"; None if no format has it."""
    return next((f for f in known_formats() if ending.lower() in f.endings), None)


def weight_endings() -> tuple[str, ...]:
    """The endings of files of weights."""
    return tuple(ending for f in known_formats() for ending in f.endings)


def run_endings() -> tuple[str, ...]:
    """The endings of files of weights that a training run writes."""
    return tuple(ending for f in known_formats() if f.in_runs for ending in f.endings)


def list_titles() -> str:
    """The formats as a message lists them: "safetensors, torch or MindSpore .ckpt"."""
    *first, last = (f.title for f in known_formats())
    return f"{', '.join(first)} or {last}"
