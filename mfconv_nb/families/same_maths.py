"""Check by config.json whether a model is one that a family is for. Equal names are not equal mathematics, so all of it has to fit:
``model_type``, the classes in ``architectures``, the model types of parts (a language model inside LLaVA), and a window of attention.

A family lists its model types, and those that compute the same (``same_maths``); ``make lookalikes`` tries all others of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mfconv_nb.core.errors import quote
from mfconv_nb.core.sizes import RUN_CONFIG
from mfconv_nb.mapping.rules import Family, Window

# keys that say how a network computes, while its names stay the same; the value that a family is for stands in its toy
SWITCHES = ("hidden_act", "hidden_activation", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
SAME_ACTIVATION = {"swish": "silu", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu"}  # forms of gelu differ by 5e-4
MAX_DEPTH = 8  # of parts within parts; published configs have two

# what follows the model in the name of a class: LlamaForCausalLM, GPT2LMHeadModel, ChatGLMModel
_TASK = re.compile(r"(For[A-Z]\w*|(With)?LMHeadModel|DoubleHeadsModel|Model)$")


def listed_types(family: Family) -> tuple[str, ...]:
    """The model types of a family: its own, and those that compute the same."""
    return (*family.model_types, *family.same_maths)


def model_type_of(config: Mapping[str, Any] | None) -> Any:
    """The ``model_type`` of a config; None where there is none (an empty text is what transformers writes for "no type")."""
    return (config or {}).get("model_type") or None


def describe_unlisted(family: Family, config: Mapping[str, Any], window: Window | None) -> str | None:
    """What a config says that the family does not list, in a clause; None where all of it is listed.

    Args:
        window: how a config of this model type limits attention, see ``registry.window_of``.
    """
    model_type = model_type_of(config)
    if model_type is not None and model_type not in listed_types(family):
        return f"model_type {quote(str(model_type))}"
    return (window and _window_said(window, config)) or _part_said(family, config) or _class_said(family, config)


def switches_said(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    """What a config.json says of how its network computes, where the family is for something else, each in a clause.

    The YAML of a run says it in MindFormers' words, which the network reads: nothing is compared.
    """
    for key in SWITCHES if RUN_CONFIG not in config else ():
        found, expected = config.get(key), family.toy.get(key)
        if found is not None and expected is not None and _same_word(found) != _same_word(expected):
            yield f"{key} {quote(str(found))}, where {family.key} is for {quote(str(expected))}"


def _same_word(value: object) -> object:
    return SAME_ACTIVATION.get(value, value) if isinstance(value, str) else value


def _window_said(limit: Window, config: Mapping[str, Any]) -> str | None:
    """A window that hides something: one that is shorter than the longest text."""
    if limit.switch and not config.get(limit.switch):
        return None
    window = config.get("sliding_window", limit.unsaid)
    positions = config.get("max_position_embeddings", limit.positions_unsaid)
    if window is None or (isinstance(window, int) and isinstance(positions, int) and window >= positions):
        return None
    model_type = quote(str(model_type_of(config)))
    return f"model_type {model_type} with sliding_window={quote(str(window))} for {quote(str(positions))} positions"


def _part_said(family: Family, config: Mapping[str, Any]) -> str | None:
    for place, model_type in _parts(config):
        if model_type not in family.part_types.get(place, ()):
            return f"model_type {quote(str(model_type))} in {quote(place)}"
    return None


def _parts(config: Mapping[str, Any], beginning: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The model types of what stands inside a config, each with its place: ``text_config``, ``thinker_config.text_config``."""
    for key, part in config.items():
        if isinstance(part, Mapping) and depth < MAX_DEPTH:
            if (model_type := model_type_of(part)) is not None:
                yield f"{beginning}{key}", model_type
            yield from _parts(part, f"{beginning}{key}.", depth + 1)


def _class_said(family: Family, config: Mapping[str, Any]) -> str | None:
    """A class of another model, or one that changes the family's (LlamaEncoderModel). The YAML of a run names a class of MindFormers.

    If the toy of the family names no class, none is refused.
    """
    classes, own = _texts(config.get("architectures")), _texts(family.toy.get("architectures"))
    if not own or RUN_CONFIG in config or (model_type_of(config) is None and is_named_in(family, config)):
        return None
    models = (*listed_types(family), family.key, *family.aliases, *(_TASK.sub("", c) for c in own))
    known = {_letters(model) for model in models}
    return next((f"the class {quote(c)}" for c in classes if _letters(_TASK.sub("", c)) not in known), None)


def _texts(found: Any) -> list[str]:
    """The names in a list; some configs leave out the brackets of a list of one."""
    return [c for c in (found if isinstance(found, list) else [found]) if isinstance(c, str)]


def is_named_in(family: Family, config: Mapping[str, Any]) -> bool:
    """Whether the class of the model has the family's key in its name: `Baichuan7BV2ForCausalLM`, as config.json or a run's YAML say it."""
    word = re.sub(r"[^a-z]", "", family.key.lower())  # empty for a key of digits, which no class is named by
    return bool(word) and any(word in c.lower() for c in _texts(config.get("architectures")))


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())
