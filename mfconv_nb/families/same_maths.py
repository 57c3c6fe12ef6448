"""Which models a family is for, by what their config.json says. Equal names are not equal mathematics, so everything that is said counts:
``model_type``, the classes in ``architectures``, the model types of parts (a language model inside LLaVA), and a window of attention.

``SAME_MATHS`` lists the model types of transformers that have a family's names and compute what it computes, though they are not its
own. ``tests/real_frameworks/test_lookalikes.py`` holds every entry by the logits of both classes; ``make lookalikes`` tries all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mfconv_nb.core.errors import quoted
from mfconv_nb.core.run_yaml import RUN_CONFIG
from mfconv_nb.mapping.rules import Family

MAX_DEPTH = 8  # of parts within parts; published configs have two


SAME_MATHS: Mapping[str, tuple[str, ...]] = {"llama": ("mistral", "internlm3", "iquestcoder"), "qwen2": ("seed_oss",)}


@dataclass(frozen=True, slots=True)
class Window:
    """How far back attention looks where transformers limits it (``sliding_window``), which MindFormers does not read from a config.

    Source: the configs of Qwen2 and Qwen3 in MindFormers 2.1.0 mark these keys as useless.

    Attributes:
        switch: the config key that switches it on; empty where it is on unless it is null.
        unsaid, positions_unsaid: what transformers takes for window and longest text where the config lacks them.
    """

    switch: str = ""
    unsaid: int | None = 4096
    positions_unsaid: int = 32768


QWEN_WINDOW = Window("use_sliding_window")
WINDOWS: Mapping[str, Window] = {
    "mistral": Window(positions_unsaid=131_072),
    "mixtral": Window(unsaid=None, positions_unsaid=131_072),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), QWEN_WINDOW),
}

# what follows the model in the name of a class: LlamaForCausalLM, GPT2LMHeadModel, ChatGLMModel
_TASK = re.compile(r"(For[A-Z]\w*|(With)?LMHeadModel|DoubleHeadsModel|Model)$")


def listed_types(family: Family) -> tuple[str, ...]:
    """The model types that a family is for: its own, and those that compute the same."""
    return (*family.model_types, *SAME_MATHS.get(family.key, ()))


def model_type_of(config: Mapping[str, Any] | None) -> Any:
    """The ``model_type`` that a config says; None where it says nothing (an empty text is what transformers writes for "no type")."""
    return (config or {}).get("model_type") or None


def said_otherwise(family: Family, config: Mapping[str, Any]) -> str | None:
    """What a config says of its model that the family does not list, in a clause; None where all of it is listed."""
    model_type = model_type_of(config)
    if model_type is not None and model_type not in listed_types(family):
        return f"model_type {quoted(str(model_type))}"
    return _window_said(config) or _part_said(family, config) or _class_said(family, config)


def _window_said(config: Mapping[str, Any]) -> str | None:
    """A window that hides something: one that is shorter than the longest text."""
    model_type = model_type_of(config)
    rule = WINDOWS.get(model_type) if isinstance(model_type, str) else None
    if rule is None or (rule.switch and not config.get(rule.switch)):
        return None
    window = config.get("sliding_window", rule.unsaid)
    positions = config.get("max_position_embeddings", rule.positions_unsaid)
    if window is None or (isinstance(window, int) and isinstance(positions, int) and window >= positions):
        return None
    return f"model_type {quoted(str(model_type))} with sliding_window={quoted(str(window))} for {quoted(str(positions))} positions"


def _part_said(family: Family, config: Mapping[str, Any]) -> str | None:
    for place, model_type in _parts(config):
        if model_type not in family.part_types.get(place, ()):
            return f"model_type {quoted(str(model_type))} in {quoted(place)}"
    return None


def _parts(config: Mapping[str, Any], beginning: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The model types of what stands inside a config, each with its place: ``text_config``, ``thinker_config.text_config``."""
    for key, part in config.items():
        if isinstance(part, Mapping) and depth < MAX_DEPTH:
            if (model_type := model_type_of(part)) is not None:
                yield f"{beginning}{key}", model_type
            yield from _parts(part, f"{beginning}{key}.", depth + 1)


def _class_said(family: Family, config: Mapping[str, Any]) -> str | None:
    """A class that is of another model, or changes the family's (LlamaEncoderModel). The YAML of a run names a class of MindFormers.

    A family whose toy names no class has no say in it.
    """
    classes, own = _texts(config.get("architectures")), _texts(family.toy.get("architectures"))
    if not own or RUN_CONFIG in config or (model_type_of(config) is None and is_named_in(family, config)):
        return None
    models = (*listed_types(family), family.key, *family.aliases, *(_TASK.sub("", c) for c in own))
    known = {_letters(model) for model in models}
    return next((f"the class {quoted(c)}" for c in classes if _letters(_TASK.sub("", c)) not in known), None)


def _texts(found: Any) -> list[str]:
    """The names in a list; of a list of one some leave the brackets out."""
    return [c for c in (found if isinstance(found, list) else [found]) if isinstance(c, str)]


def is_named_in(family: Family, config: Mapping[str, Any]) -> bool:
    """Whether the class of the model has the family's key in its name: `Baichuan7BV2ForCausalLM`, as config.json or a run's YAML say it."""
    word = re.sub(r"[^a-z]", "", family.key.lower())  # empty for a key of digits, which no class is named by
    return bool(word) and any(word in c.lower() for c in _texts(config.get("architectures")))


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())
