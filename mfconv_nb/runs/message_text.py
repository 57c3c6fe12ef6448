"""Short lists of names and ranks for messages: the first few, and how many more there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mfconv_nb.core.errors import quoted


def names_text(names: Iterable[str], most: int = 4) -> str:
    """``'a', 'b' and 12 more``"""
    return _first_few(list(map(quoted, names)), most)


def numbers_text(numbers: Iterable[int]) -> str:
    """``0, 1, 2, 3, 4, 5 and 12 more``"""
    return _first_few(list(map(str, numbers)), 6)


def groups_text(groups: Sequence[tuple[int, ...]]) -> str:
    """Groups of ranks that hold copies: ``rank 3 (or its copy 7), rank 4 (or its copy 8)``; eight of them at most."""
    texts = []
    for first, *others in groups:
        instead = f" (or its copy {others[0]})" if len(others) == 1 else f" (or a copy of it: {numbers_text(others)})" if others else ""
        texts.append(f"rank {first}{instead}")
    return _first_few(texts, 8)


def _first_few(texts: Sequence[str], most: int) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")
