"""The YAML of a MindFormers run: the model's sizes under the names of config.json, and what it says of LoRA.

The sizes stand below `model.model_config`; in the dynamic graph below `model`; experts in `moe_config` at the top of the file; those of a
model of two parts below `llm_model` and `vision_model` (0.x: `text_config`, `vision_config`). `base_config` names files that are merged
first. Which class reads the sizes (`type`) may change what they mean: a family says so of its classes (`RunClass`).

A size that the file does not give stays absent: the family then says which one is missing. Defaults of a class are no sizes.

Sources: the groups of equal names in MindFormers 2.1.0, `parallel_core/transformer_config_utils.py` (COMMON_CONFIG_MAPPING); the merge of
`base_config` in `tools/register/config.py`; `LoraConfig` in `pet/pet_config.py` and in `pynative/config/config.py`; the run files under
`configs/` and `research/` of MindFormers 0.2 to 2.1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError, MappingError, quote
from mfconv_nb.core.sizes import RUN_CONFIG, SIZES_FROM, read_size
from mfconv_nb.core.yaml_file import ENDINGS, HINT_YAML, read_yaml

MAX_BASES = 16  # files of base_config, with those that they name

GRAPH = "graph"  # key of such a config, "dynamic" where the YAML is one of the dynamic graph; an option of families has this name

# a key of config.json, and the names that MindFormers has for it
NAMES = {
    "num_hidden_layers": ("num_layers", "n_layer"),
    "num_attention_heads": ("num_heads", "n_head"),
    "num_key_value_heads": ("n_kv_heads", "num_query_groups"),
    "intermediate_size": ("ffn_hidden_size",),
    "head_dim": ("kv_channels",),
    "moe_intermediate_size": ("moe_ffn_hidden_size",),
    "num_experts_per_tok": ("num_experts_chosen", "moe_router_topk"),
    "n_shared_experts": ("shared_expert_num",),
    "num_nextn_predict_layers": ("mtp_depth", "mtp_num_layers"),
    "index_head_dim": ("dsa_indexer_head_dim",),
    "index_n_heads": ("dsa_indexer_n_heads",),
    "use_qk_norm": ("qk_layernorm",),
    "hc_mult": ("num_residual_streams",),
}
EXPERTS = ("expert_num", "n_routed_experts", "num_experts", "num_moe_experts", "num_local_experts")  # all of them the routed experts
BIASES = ("qkv_has_bias", "attn_proj_has_bias")  # config.json's attention_bias means both at once
PARTS = {"llm_model": ("llm_model", "text_config"), "vision_model": ("vision_model", "vision_config")}  # and their older names
MAPPINGS = ("rope_scaling", "rope_parameters")
HINT_LORA = "Put the number there that the training had (model.model_config.pet_config in the YAML of a run)."


@dataclass(frozen=True, slots=True)
class RunClass:
    """What a class of MindFormers (`type` in the YAML of a run) takes its keys for, in the words of config.json.

    Attributes:
        sizes: for keys of config.json the sentence (see ``sizes.py``) over the keys of the YAML. ``visual.width`` stands in a part.
        parts: where config.json has ``llm_model`` and ``vision_model``: under this key; empty: at the top.
        unread: keys that the class does not read, though others do.
    """

    sizes: Mapping[str, str] = field(default_factory=dict, hash=False)
    parts: Mapping[str, str] = field(default_factory=dict, hash=False)
    unread: tuple[str, ...] = ()


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
        part_rank: of adapters that lie stacked on the MindFormers side: the rank that each has on the other side.
        targets: the pattern of MindFormers' layers that have adapters, where a file beside a run says it.
    """

    alpha: float | None = None
    rank: int | None = None
    origin: str = ""
    dropout: float | None = None
    content: Mapping[str, Any] = field(default_factory=dict, hash=False)
    problem: MappingError | None = field(default=None, hash=False)
    only_merged: MappingError | None = field(default=None, hash=False)
    part_rank: int | None = None
    targets: str = ""

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
    """A run's YAML.

    Attributes:
        config: its sizes and switches as a config.
        lora: what it says of LoRA; None: nothing.
        sizes_from: the folder of Hugging Face that it takes sizes from; empty: it names none.
    """

    config: Mapping[str, Any]
    lora: Lora | None
    sizes_from: str = ""


def read_run_config(path: Path, classes: Mapping[str, RunClass]) -> RunConfig:
    """The model's sizes and the LoRA settings of a run.

    Args:
        classes: what families say of MindFormers' classes, by name.
    Raises:
        InputError: MFC101 (no such file, or none of ``base_config``) or MFC106. MappingError: MFC319 for LoRA settings that cannot be.
    """
    content = _with_bases(path, read_yaml(path), [path])
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    dynamic = model if "model_type" in model else content.get("model_config")  # the dynamic graph has no level between
    sizes = model.get("model_config", dynamic)
    folder = content.get(SIZES_FROM) or model.get(SIZES_FROM)
    if sizes is None and isinstance(folder, str):
        sizes = {}
    if not isinstance(sizes, dict):
        raise InputError("MFC106", path, found="no model.model_config", expected="the YAML of a MindFormers run", hint=HINT_YAML)
    arch = model.get("arch")
    kind = arch.get("type") if isinstance(arch, dict) else None
    named: dict[str, Any] = {"architectures": [kind]} if isinstance(kind, str) else {}  # the class of the model, as config.json names it
    named |= {GRAPH: "dynamic"} if "model_config" not in model and sizes is dynamic else {}
    experts = content.get("moe_config")
    config = {**config_of({RUN_CONFIG: path.name, **sizes}, classes, experts if isinstance(experts, dict) else {}), **named}
    folder = folder if isinstance(folder, str) else ""
    lora = _lora_settings(content, sizes)
    return RunConfig(
        config | ({SIZES_FROM: folder} if folder else {}), None if lora is None else lora_of(lora, path.name, "lora_rank"), folder
    )


def optimizer_of(path: Path) -> Mapping[str, Any]:
    """The `optimizer` section of a run's YAML; empty where there is none. Raises InputError (MFC101, MFC106) as ``read_run_config``."""
    section = _with_bases(path, read_yaml(path), [path]).get("optimizer")
    return section if isinstance(section, dict) else {}


def _with_bases(path: Path, content: dict[str, Any], open_files: list[Path]) -> dict[str, Any]:
    """A YAML with the files that its `base_config` names: the later one counts, key by key at the top; the YAML itself at every depth.

    Args:
        open_files: those read so far; they are added to it.
    """
    named = content.pop("base_config", [])
    bases: dict[str, Any] = {}
    for name in named if isinstance(named, list) else [named]:
        base = path.parent / str(name)
        if not isinstance(name, str) or base.suffix.lower() not in ENDINGS or len(open_files) >= MAX_BASES:
            found = f"more than {MAX_BASES} files" if len(open_files) >= MAX_BASES else quote(str(name)[:80])
            raise InputError("MFC106", path, found=f"base_config: {found}", expected="YAML files beside it", hint=HINT_YAML)
        if not base.is_file():
            hint = "Put it there, as it was in the folder of MindFormers, or give the model's config.json (--config, config= in Python)."
            raise InputError("MFC101", path, found=f"base_config: {quote(name)}, which is not there", expected="the file", hint=hint)
        open_files.append(base)
        bases |= _with_bases(base, read_yaml(base), open_files)
    return _merge(bases, content)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _lora_settings(content: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where a run has its LoRA settings: in the model, in the language model of two parts, at the top in the dynamic graph."""
    language = _parts_of(sizes).get("llm_model", {})
    places = (sizes.get("pet_config"), language.get("pet_config"), content.get("lora_config"))
    return next((found for found in places if isinstance(found, dict)), None)


def _parts_of(sizes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a model, such as images and text, by the names they have today."""
    found = {part: next((sizes[n] for n in names if isinstance(sizes.get(n), dict)), None) for part, names in PARTS.items()}
    inner = {part: said.get("model_config", said) for part, said in found.items() if said is not None}
    return {part: said for part, said in inner.items() if isinstance(said, dict)}


def config_of(sizes: Mapping[str, Any], classes: Mapping[str, RunClass], experts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `model_config` of a run with the names of config.json added. Only what is exactly so.

    Args:
        classes: what families say of MindFormers' classes.
        experts: the `moe_config` of the file; one below `model_config` counts before it.
    """
    reader = classes.get(str(sizes.get("type")), RunClass())
    plain = _plain(sizes)
    inside = sizes.get("moe_config")
    plain = {**_routing_of({**(experts or {}), **(inside if isinstance(inside, dict) else {})}), **plain}
    config = {key: value for key, value in plain.items() if key not in ("type", *BIASES)}
    for part, said in _parts_of(sizes).items():
        place = reader.parts.get(part)
        if place is not None:
            inner = config_of({RUN_CONFIG: sizes.get(RUN_CONFIG), **said}, classes)
            config = {**inner, **config} if place == "" else {**config, place: {k: v for k, v in inner.items() if k != RUN_CONFIG}}
    _add_names(config, reader)
    known = {**plain, **config}
    for key, sentence in reader.sizes.items():
        if (size := read_size(known, sentence)) is not None:
            _put(config, key, size.value)
    if isinstance(plain.get("architectures"), str):  # a list in config.json; run files have both
        config["architectures"] = [plain["architectures"]]
    return config


def _plain(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, words, lists and nothing, which many run files spell as Python does; and what config.json has as a mapping too."""
    kept = {k: v for k, v in sizes.items() if v is None or isinstance(v, bool | int | float | str | list) or k in MAPPINGS}
    return {k: v for k, v in kept.items() if v != "None"}


def _routing_of(experts: Mapping[str, Any]) -> dict[str, Any]:
    """What a `moe_config` says; nothing where it has one expert, MindFormers' word for a dense model."""
    number = experts.get("expert_num")
    return _plain(experts) if isinstance(number, int) and number > 1 else {}


def _add_names(config: dict[str, Any], reader: RunClass) -> None:
    """Add the names of config.json for MindFormers' own."""
    for key, names in NAMES.items():
        found = next((config[name] for name in names if config.get(name) is not None and name not in reader.unread), None)
        if config.get(key) is None and found is not None:
            config[key] = found
    number = next((config[n] for n in EXPERTS if config.get(n) is not None), None)
    if isinstance(number, int) and number > 1:
        config |= dict.fromkeys(EXPERTS[1:], number)


def _put(config: dict[str, Any], key: str, value: int) -> None:
    """Set ``a.b`` in the part ``a`` of a config."""
    part, dot, inner = key.partition(".")
    if dot:
        config[part] = {**config.get(part, {}), inner: value}
    else:
        config[key] = value


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
