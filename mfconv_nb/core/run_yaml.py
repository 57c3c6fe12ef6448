"""The YAML of a MindFormers run as untrusted input: the model's sizes under the names of config.json, and what it says of LoRA.

Refuses: a file over 1 MiB, broken YAML, tags that would build objects, nesting deeper than 64, aliases that unfold to more than 100,000
nodes, anything but a mapping. A size that the file does not give stays absent: the family then says which one is missing.

Sources: the groups of equal names in MindFormers 2.1.0, `parallel_core/transformer_config_utils.py` (COMMON_CONFIG_MAPPING); the sizes
of `LlamaConfig` and `ChatGLM2Config`; `LoraConfig` in `pet/pet_config.py` and in `pynative/config/config.py`; the run files under
`configs/` of MindFormers 1.3.2 and 2.1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError, MappingError, quote
from mfconv_nb.core.paths import read_small

ENDINGS = (".yaml", ".yml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000  # with aliases unfolded; run files have some hundred
MAX_NUMBER = 1000  # characters of a value without letters; a chat template may be longer

RUN_CONFIG = "mindformers_run"  # key of a config that was read from a run's YAML: its sizes serve, but it is no config.json to publish

# a key of config.json, and the names that MindFormers has for it
NAMES = {
    "num_hidden_layers": ("num_layers", "n_layer"),
    "num_attention_heads": ("num_heads", "n_head"),
    "num_key_value_heads": ("n_kv_heads", "num_query_groups"),
    "intermediate_size": ("ffn_hidden_size",),
    "head_dim": ("kv_channels",),
    "moe_intermediate_size": ("moe_ffn_hidden_size",),
    "num_experts_per_tok": ("num_experts_chosen", "moe_router_topk"),
}
EXPERTS = ("expert_num", "n_routed_experts", "num_experts", "num_moe_experts", "num_local_experts")  # all of them the routed experts
BIASES = ("qkv_has_bias", "attn_proj_has_bias")  # config.json's attention_bias means both at once
HINT_LORA = "Put the number there that the training had (model.model_config.pet_config in the YAML of a run)."
HINT_YAML = "Give the YAML that the run was started with, or a config.json."


@dataclass(frozen=True)
class Lora:
    """What is known of LoRA adapters besides their numbers. Nothing here is a default: what nobody said is None.

    Attributes:
        alpha: the scale is alpha / rank.
        rank: as a config says it; the tensors have the last word, and must agree.
        origin: where alpha was read: "run.yaml", "adapter_config.json", "the call".
        dropout: of the training run.
        content: the whole adapter_config.json, where there was one.
        problem: why these are no adapters that can be used; raised when they are, so that looking at a folder is always possible.
        only_merged: why they are no plain LoRA, where merging them is possible and anything else is not.
    """

    alpha: float | None = None
    rank: int | None = None
    origin: str = ""
    dropout: float | None = None
    content: Mapping[str, Any] = field(default_factory=dict, hash=False)
    problem: MappingError | None = field(default=None, hash=False)
    only_merged: MappingError | None = field(default=None, hash=False)

    def sentence(self) -> str:
        """One line for a summary."""
        if (problem := self.problem or self.only_merged) is not None:
            return f"no plain LoRA: {problem.found}"
        return "LoRA: alpha is not known" if self.alpha is None else f"LoRA: alpha {self.alpha:g}, from {self.origin}"

    def check(self) -> None:
        """Raises MappingError (MFC319) where these are no plain LoRA."""
        if (problem := self.problem or self.only_merged) is not None:
            raise problem


@dataclass(frozen=True)
class RunConfig:
    """A run's YAML: the sizes as a config, and what it says of LoRA (None: nothing)."""

    config: Mapping[str, Any]
    lora: Lora | None


def read_run_config(path: Path) -> RunConfig:
    """The model's sizes and the LoRA settings of a run.

    Raises:
        InputError: MFC101 (no such file) or MFC106. MappingError: MFC319 for LoRA settings that cannot be.
    """
    content = _read_yaml(path)
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    sizes = model.get("model_config", model if "model_type" in model else None)  # the dynamic graph has no level between
    if not isinstance(sizes, dict):
        raise InputError("MFC106", path, found="no model.model_config", expected="the YAML of a MindFormers run", hint=HINT_YAML)
    lora = next((found for found in (sizes.get("pet_config"), content.get("lora_config")) if isinstance(found, dict)), None)
    arch = model.get("arch")
    kind = arch.get("type") if isinstance(arch, dict) else None
    named = {"architectures": [kind]} if isinstance(kind, str) else {}  # the class of the model, as config.json names it
    return RunConfig({RUN_CONFIG: path.name, **config_of(sizes), **named}, None if lora is None else lora_of(lora, path.name, "lora_rank"))


def optimizer_of(path: Path) -> Mapping[str, Any]:
    """The `optimizer` section of a run's YAML; empty where there is none. Raises InputError (MFC101, MFC106) as ``read_run_config``."""
    section = _read_yaml(path).get("optimizer")
    return section if isinstance(section, dict) else {}


def config_of(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The `model_config` of a run with the names of config.json added. Only what is exactly so."""
    plain = {key: value for key, value in sizes.items() if isinstance(value, bool | int | float | str | list)}
    plain = {key: value for key, value in plain.items() if value != "None"}  # YAML has `null`; many run files spell Python's word
    config = {key: value for key, value in plain.items() if key not in ("type", *BIASES)}
    for key, names in NAMES.items():
        found = next((plain[name] for name in names if name in plain), None)
        if key not in plain and found is not None:
            config[key] = found
    experts = sizes.get("moe_config")
    number = next((c[n] for c in (plain, experts if isinstance(experts, dict) else {}) for n in EXPERTS if n in c), None)
    if isinstance(number, int) and number > 1:  # 1 is MindFormers' word for a dense model
        config |= dict.fromkeys(EXPERTS[1:], number)
    if sizes.get("type") == "LlamaConfig":
        config |= _llama_sizes(plain, config)
    if isinstance(plain.get("architectures"), str):  # a list in config.json; run files have both
        config["architectures"] = [plain["architectures"]]
    return config


def _llama_sizes(plain: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What `LlamaConfig` computes: the width of the feed-forward, and a bias that stands for both kinds."""
    found: dict[str, Any] = {}
    hidden, multiple = plain.get("hidden_size"), plain.get("multiple_of", 256)  # 256: LlamaConfig's own, where a run says nothing
    if (
        "intermediate_size" not in config
        and isinstance(hidden, int)
        and isinstance(multiple, int)
        and multiple > 0
        and 0 < hidden < 1 << 32
    ):
        factor = plain.get("ffn_dim_multiplier")
        width = 4 * hidden
        if isinstance(factor, int | float) and 0 < factor < 1 << 16:
            width = int((factor + 0.01) * width)
        width = int(2 * width / 3)
        found["intermediate_size"] = multiple * -(-width // multiple)
    biases = {bool(plain.get(name, False)) for name in BIASES}
    if len(biases) == 1 and "attention_bias" not in config:
        found["attention_bias"] = biases.pop()
    return found


def lora_of(content: Mapping[str, Any], origin: str, *rank_keys: str) -> Lora:
    """The settings in a mapping, checked: `lora_alpha`, and the rank under the first of ``rank_keys`` that is there.

    Raises:
        MappingError: MFC319 for what is no number above zero.
    """
    alpha, dropout = content.get("lora_alpha"), content.get("lora_dropout")
    rank = next((content[key] for key in rank_keys if content.get(key) is not None), None)
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank < 1 << 20):
        raise MappingError("MFC319", origin, found=f"a rank of {quote(str(rank))}", expected="a whole number above 0", hint=HINT_LORA)
    fraction = float(dropout) if isinstance(dropout, int | float) and not isinstance(dropout, bool) and 0 <= dropout <= 1 else None
    return Lora(None if alpha is None else checked_alpha(alpha, origin), rank, origin if alpha is not None else "", fraction)


def checked_alpha(alpha: object, origin: str) -> float:
    """Raises MappingError (MFC319) for what is no number above zero."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1 << 40 or not math.isfinite(alpha):
        raise MappingError("MFC319", origin, found=f"lora_alpha: {quote(str(alpha)[:80])}", expected="a number above 0", hint=HINT_LORA)
    return alpha


# ---- YAML ----------------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path) -> dict[str, Any]:
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
