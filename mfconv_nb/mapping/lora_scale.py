"""The scale of each adapter by its config: alpha / rank, or alpha / sqrt(rank) for rsLoRA. Patterns may set ranks and alphas.

Patterns are regular expressions from strangers, so only a small part is allowed: names, `.*`, `\\d+`, `[0-9]+` and a choice `(q|v)`, of
limited number; nothing that could take long to match. The first that matches counts.
Source: PEFT 0.21, `LoraModel._create_and_replace`, `get_pattern_key`, `LoraLayer.update_layer`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.run_yaml import Lora, checked_alpha
from mfconv_nb.mapping.adapters import HINT_ALPHA, STYLES, Adapter, half_of, rank_of

MAX_PATTERNS, MAX_LENGTH = 20_000, 200
HINT_RUN = "Give the adapter_config.json, or the YAML, of the run that made these adapters: --config PATH (config= in Python)."
MAX_CHOICES = 3  # of how much to match, or of what; each multiplies the time
_PATTERN = re.compile(r"\^?(?:[\w-]|\\\.|\.[*+]?|\\d\+?|\[0-9\]\+?|\((?:[\w.-]+\|)*[\w.-]+\))+\$?")


@dataclass(frozen=True, slots=True)
class ScaledAdapter:
    """An adapter, its alpha and what its product is multiplied by."""

    adapter: Adapter
    alpha: float
    scale: float


def scaled_adapters(adapters: Sequence[Adapter], lora: Lora | None, where: str) -> tuple[ScaledAdapter, ...]:
    """Every adapter with its scale. Where there are patterns, the adapters have PEFT's names.

    Raises:
        MappingError: MFC319 where nothing says alpha, a rank is not that of the config, or a pattern cannot be read.
    """
    lora = lora or Lora()
    if lora.problem is not None:
        raise lora.problem
    if lora.alpha is None:
        raise MappingError("MFC319", where, found="no lora_alpha", expected="the alpha of the run", hint=HINT_ALPHA)
    alpha = checked_alpha(lora.alpha, lora.origin)
    ranks, alphas = (_read_patterns(lora.content.get(key) or {}, key) for key in ("rank_pattern", "alpha_pattern"))
    if not lora.content.get("rank_pattern"):
        rank_of(adapters, replace(lora, only_merged=None))
    root = bool(lora.content.get("use_rslora"))
    return tuple(_scale_adapter(adapter, lora, ranks(adapter.module), alphas(adapter.module) or alpha, root) for adapter in adapters)


def check_targets(lora: Lora | None, names: Iterable[str]) -> None:
    """Raises MappingError (MFC319) for an adapter in a layer that the config of its run does not name: it is that of another run.

    MindFormers looks for the pattern anywhere in the name of a layer. One that is not simple is not checked.
    """
    patterns = lora.targets.split("|") if lora is not None and lora.targets else []
    if lora is None or not patterns or len(patterns) > MAX_PATTERNS or not all(map(_is_simple, patterns)):
        return
    read = [re.compile(pattern) for pattern in patterns]
    for half in map(half_of, names):
        if half is not None and half.style in STYLES and not any(pattern.search(half.module[:MAX_LENGTH]) for pattern in read):
            expected = f"layers that target_modules in {lora.origin or 'the config'} names: {lora.targets[:80]}"
            raise MappingError("MFC319", quote(half.module), found="an adapter", expected=expected, hint=HINT_RUN)


def _is_simple(pattern: str) -> bool:
    choices = sum(pattern.count(c) for c in (".*", ".+", "("))
    return len(pattern) <= MAX_LENGTH and choices <= MAX_CHOICES and _PATTERN.fullmatch(pattern) is not None


def _scale_adapter(adapter: Adapter, lora: Lora, told: float | None, alpha: float, root: bool) -> ScaledAdapter:
    rank = lora.rank if told is None else told
    if rank is not None and rank != adapter.rank:
        expected = f"{rank:g}, as {'the config' if told is None else 'rank_pattern'} says"
        raise MappingError("MFC319", quote(adapter.module), found=f"rank {adapter.rank} in the tensors", expected=expected, hint=HINT_RUN)
    return ScaledAdapter(adapter, alpha, alpha / (math.sqrt(adapter.rank) if root else adapter.rank))


def _read_patterns(patterns: object, key: str) -> Callable[[str], float | None]:
    """For a layer's name the number that the first matching pattern gives; None where there is none."""
    if not isinstance(patterns, Mapping) or len(patterns) > MAX_PATTERNS:
        raise MappingError("MFC319", key, found=str(patterns)[:80], expected="patterns of names, each with a number", hint=HINT_RUN)
    read = [(_compile_pattern(pattern, key), checked_alpha(number, key)) for pattern, number in patterns.items()]
    by_name: dict[str, float | None] = {}

    def number_of(name: str) -> float | None:
        if name not in by_name:
            by_name[name] = next((number for pattern, number in read if pattern.fullmatch(name[:MAX_LENGTH])), None)
        return by_name[name]

    return number_of


def _compile_pattern(pattern: str, key: str) -> re.Pattern[str]:
    if not _is_simple(pattern):
        hint = "Name the layers themselves in adapter_config.json, each with its number."
        raise MappingError("MFC319", key, found=quote(pattern), expected="a name, with .*, \\d+ or (a|b) in it", hint=hint)
    return re.compile(rf"(?:.*\.)?(?:{pattern})")
