"""config.json as untrusted input, and the sizes of named axes that a family reads from it.

Refuses: a file over 16 MiB, broken JSON, anything but an object, deep nesting. Runs nothing: `auto_map`, `trust_remote_code` and the
like are plain strings here.

A family says where each size stands as a short sentence: ``"head_dim | hidden_size / num_attention_heads"``. Alternatives are
tried from left to right; a key that is absent or null makes its alternative fail; a number stands for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfconv_nb.errors import InputError, MappingError, quoted

MAX_CONFIG_BYTES = 16 << 20
MAX_AXIS = 1 << 40  # larger than any axis of a tensor that fits on a disk; keeps arithmetic honest
HINT_CONFIG = "Does this config.json belong to these weights? Another one can be given with --config (config= in Python)."


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a named axis, and the config keys it was read from."""

    value: int
    origin: str


Sizes = Mapping[str, Size]


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        InputError: MFC101 (no such file) or MFC106 (not a JSON object, too large, too deep).
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError("MFC106", path, found="more than 16 MiB", expected="a small JSON object")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte or a lone surrogate
        raise InputError("MFC101", path, found=getattr(error, "strerror", error), expected="a readable config.json") from None
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError("MFC106", path, found=f"broken JSON: {error}", expected="a JSON object") from None
    if not isinstance(config, dict):
        raise InputError("MFC106", path, found=f"a JSON {type(config).__name__}", expected="a JSON object")
    return config


def read_sizes(config: Mapping[str, Any], sentences: Mapping[str, str]) -> dict[str, Size]:
    """The size of each axis in ``sentences``, read from ``config``.

    Raises:
        MappingError: MFC107 when no alternative of a sentence has a value, with the keys that were looked for.
    """
    return {axis: _read_size(config, axis, sentence) for axis, sentence in sentences.items()}


def _read_size(config: Mapping[str, Any], axis: str, sentence: str) -> Size:
    for alternative in sentence.split("|"):
        value = _evaluate(config, alternative.split())
        if value is not None:
            return Size(value, alternative.strip())
    raise MappingError("MFC107", f"axis {quoted(axis)}", found="no value", expected=sentence.replace("|", "or"), hint=HINT_CONFIG)


def _evaluate(config: Mapping[str, Any], tokens: list[str]) -> int | None:
    """``a``, ``a * b``, ``a / b`` from left to right; None when a key is absent. A division must come out even."""
    total = _term(config, tokens[0])
    for operator, token in zip(tokens[1::2], tokens[2::2], strict=True):
        right = _term(config, token)
        if total is None or right is None:
            return None
        if operator == "*":
            total *= right
        elif right == 0 or total % right:
            raise MappingError(
                "MFC107",
                " ".join(tokens),
                found=f"{total} / {right}",
                expected="a division without remainder",
                hint=HINT_CONFIG,
            )
        else:
            total //= right
    return total


def _term(config: Mapping[str, Any], token: str) -> int | None:
    if re.fullmatch(r"\d+", token):
        return int(token)
    value = config.get(token)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not 0 <= value <= MAX_AXIS:
        raise MappingError(
            "MFC106",
            f"{quoted(token)} in config.json",
            found=quoted(str(value)),
            expected="a whole number, not negative",
            hint=HINT_CONFIG,
        )
    return int(value)
