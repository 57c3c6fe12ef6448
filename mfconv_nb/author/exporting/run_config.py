"""A config of Hugging Face as the YAML of a MindFormers run, and back.

MindFormers' networks of today read the keys of config.json under their own names, so the YAML repeats them and adds what decides the layout
of the tensors (the options of the family) and which tensors there are (``Family.run_keys``). Source: `merge_model_config` in MindFormers
2.1.0, `models/build_config.py`, and `search_names` in `models/*/configuration_*.py`.

Refuses: a model type that no such network reads, quantised weights, a config that lacks a size; on the way back a rotary embedding that
config.json says in other words. Older classes (`type: LlamaConfig`) are read, not written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.errors import InputError, MappingError, OutputError, UsageError, did_you_mean, quote
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.sizes import RUN_CONFIG, config_name, read_sizes
from mfconv_nb.families.registry import family_meant, known_families
from mfconv_nb.families.same_maths import listed_types, model_type_of
from mfconv_nb.mapping.forms import checked_options, configured_options
from mfconv_nb.mapping.quantised import claimed_scheme
from mfconv_nb.mapping.rules import NUMBERS, Family, Option, OptionValue, default_form
from mfconv_nb.steps.loading.caller_facts import CallerFacts, OneConfig, read_caller_facts

YAML, JSON = "yaml", "json"

# the models that MindFormers 2.1.0 has a network for which reads config.json's keys
READ_BY_MINDFORMERS = (
    "deepseek_v3",
    "deepseek_v4",
    "glm4",
    "glm4_moe",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "telechat3",
    "telechat3_moe",
)

# of config.json: where the model came from and what transformers writes for itself
NOT_OF_THE_MODEL = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache")

# keys of config.json that a run's YAML has too, besides sizes
OF_BOTH = (
    *(
        "model_type",
        "architectures",
        "intermediate_size",
        "mlp_bias",
        "tie_word_embeddings",
        "max_position_embeddings",
        "initializer_range",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"),
    *("partial_rotary_factor", "attention_bias", "attention_dropout", "num_key_value_heads", "head_dim", "num_experts_per_tok"),
    *("n_shared_experts", "n_group", "topk_group", "topk_method", "norm_topk_prob", "scoring_func", "routed_scaling_factor"),
    *("decoder_sparse_step", "mlp_only_layers", "router_aux_loss_coef", "sliding_window", "use_sliding_window", "max_window_layers"),
    *("num_hash_layers", "compress_ratios", "compress_rope_theta", "index_topk", "hc_eps", "hc_sinkhorn_iters", "swiglu_limit"),
)
ONLY_OF_RUNS = ("add_qkv_bias", "moe_shared_expert_intermediate_size")  # keys that sizes are read from, and config.json does not have
ACTIVATIONS = {"swiglu": "silu", "fusedswiglu": "silu"}  # MindFormers' names for a gate with silu
PLAIN_ROTARY = (None, "none", "rope")  # position_embedding_type of a run that config.json need not speak of


@dataclass(frozen=True)
class TranslatedConfig:
    """A config in the words of the other side.

    Attributes:
        text: the file's content.
        family: the family by which it was translated.
        target: where it was written; None: nowhere.
        notes: what a reader should know.
    """

    text: str
    family: str
    target: Path | None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The text, or where it was written; then the notes."""
        first = self.text.rstrip("\n") if self.target is None else f"✓ {self.family}: {self.target}"
        return "\n".join([first, *(f"note: {note}" for note in self.notes)])


def translate_config(
    config: OneConfig,
    target: str | Path | None = None,
    *,
    to: str,
    family: str | Path | Family | None = None,
    overwrite: bool = False,
    **options: object,
) -> TranslatedConfig:
    """A config.json as the YAML of a MindFormers run, or the YAML of a run as a config.json.

    Args:
        config: a config.json, its folder or its content; or a run's YAML.
        target: the file to write. Left out: none is written.
        to: "yaml" or "json".
        family: as for ``map``. Left out: told from ``model_type``.
        overwrite: replace the target.
        options: of the family, those that a run's YAML says, such as ``use_interleaved_weight_layout_mlp=False``; left out: the default.
    Raises:
        MappingError: MFC107 for a size that it does not give, MFC302 for a model that MindFormers has no such network for, MFC312.
        InputError: MFC101, MFC106. OutputError: MFC401, MFC404.
    """
    if to not in (YAML, JSON):
        raise UsageError("MFC501", "to", found=quote(to), expected="'yaml' or 'json'", hint=did_you_mean(to, (YAML, JSON)))
    facts = read_caller_facts(config)
    content = facts.config if facts.config is not None else facts.fallback or {}
    if (RUN_CONFIG in content) != (to == JSON):
        found, wanted = ("the YAML of a run", "a config.json") if to == YAML else ("no YAML of a run", "a YAML of a run")
        hint = "Say --to json (to='json' in Python)." if to == YAML else "Say --to yaml (to='yaml' in Python)."
        raise UsageError("MFC501", "to", found=found, expected=wanted, hint=hint)
    form = _form_for(content, family, options, facts)
    read_sizes(content, form.sizes)  # refused by name where one is missing
    said, notes = _run_of(content, form) if to == YAML else _config_of(content, form)
    text = _yaml_text(said) if to == YAML else json.dumps(said, indent=2) + "\n"
    path = None if target is None else local_path(target)
    if path is not None:
        _write(path, text, overwrite=overwrite)
    return TranslatedConfig(text, form.key, path, notes)


def _form_for(content: Mapping[str, Any], family: str | Path | Family | None, options: Mapping[str, object], facts: CallerFacts) -> Family:
    """The form of the family that the config is of, among those whose layout a run's YAML says."""
    model_type = model_type_of(content)
    known = [f for f in known_families() if _has_switches(f) and model_type in listed_types(f)]
    if family is None and (not known or model_type not in READ_BY_MINDFORMERS):
        expected = f"one of {', '.join(READ_BY_MINDFORMERS)}"
        hint = "MindFormers has no network that reads config.json's keys for other models: write their YAML after one of its own."
        raise MappingError("MFC302", config_name(content), found=f"model_type {quote(str(model_type))}", expected=expected, hint=hint)
    meant = known[0] if family is None else family_meant(family)
    if claim := claimed_scheme(content):
        hint = "Take the config of the original weights."
        raise MappingError("MFC312", config_name(content), found=claim, expected="weights as numbers, not as codes", hint=hint)
    given = checked_options(meant, options)
    for name in given.keys() - {o.name for o in meant.options if _is_said_by_runs(o)}:
        raise UsageError("MFC501", name, found="an option that no YAML says", expected="one that decides a layout", hint="Leave it out.")
    return default_form(meant, {**configured_options(meant, facts.switches, MF), **given})


def _has_switches(family: Family) -> bool:
    return any(map(_is_said_by_runs, family.options))


def _is_said_by_runs(option: Option) -> bool:
    return option.side == NUMBERS or bool(option.yaml_key)


def _run_of(config: Mapping[str, Any], form: Family) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of the YAML: the keys of config.json, and what decides tensors and layout."""
    said = {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL}
    content = {"use_legacy": False, "model": {"model_config": {**said, **form.run_keys, **_switches_of(form)}}}
    return content, ("data, devices and precision of a run are not in it: add them after one of MindFormers' own files",)


def _switches_of(form: Family) -> dict[str, OptionValue]:
    """The options of a form that a run's YAML says, under its keys and in its words."""
    found: dict[str, OptionValue] = {}
    for option in filter(_is_said_by_runs, family_meant(form.key).options):
        chosen = form.chosen[option.name]
        found[option.yaml_key or option.name] = next((said for said, value in option.yaml_values.items() if value == chosen), chosen)
    return found


def _config_of(run: Mapping[str, Any], form: Family) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of config.json as far as a run says it.

    Raises:
        InputError: MFC106 for a rotary embedding that config.json says in other words.
    """
    rotary = run.get("position_embedding_type")
    if rotary not in PLAIN_ROTARY and not run.get("rope_scaling") and not run.get("rope_parameters"):
        hint = "Take rope_scaling from the config.json of the original: put it below model_config."
        found = f"position_embedding_type: {quote(str(rotary))} without rope_scaling"
        raise InputError("MFC106", config_name(run), found=found, expected="rope_scaling, as config.json has it", hint=hint)
    _check_shared_experts(run)
    words = {word for sentence in form.sizes.values() for word in re.findall(r"[a-z_][a-z0-9_]*", sentence)}
    words -= {*ONLY_OF_RUNS, *form.sizes.get("expert", "").split(" | ")[1:]}  # one of the names of the number of experts
    said = {key: value for key, value in run.items() if key in OF_BOTH or key in words}
    if "v_head_dim" in form.sizes.get("head", "") and "head_dim" not in said:  # DeepSeek-V4, whose heads have one size
        said["head_dim"] = run["v_head_dim"]
    if "add_qkv_bias" in run:
        said.setdefault("attention_bias", run["add_qkv_bias"])
    if isinstance(act := run.get("hidden_act"), str):
        said["hidden_act"] = ACTIVATIONS.get(act, act)
    note = "what the YAML leaves to the defaults of its class is not in it: compare it with the config.json of the original"
    return said, (note,)


def _check_shared_experts(run: Mapping[str, Any]) -> None:
    """Raises InputError (MFC106) for shared experts of a width that config.json has no key for: there it is that of the routed ones."""
    width, each, number = (run.get(k) for k in ("moe_shared_expert_intermediate_size", "moe_intermediate_size", "n_shared_experts"))
    if width is not None and isinstance(each, int) and width != each * (number or 1):
        found = f"moe_shared_expert_intermediate_size: {width} for {number} x {each}"
        hint = "A model of Hugging Face with these weights would need code of its own."
        raise InputError("MFC106", config_name(run), found=found, expected=f"{each * (number or 1)}", hint=hint)


def _yaml_text(content: Mapping[str, Any]) -> str:
    import yaml  # 15 ms, and most calls write no YAML

    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=140))


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    """Raises OutputError: MFC401 where it is there, MFC404 where it cannot be written."""
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        hint = "Choose another name, or replace it with --force (overwrite=True in Python)."
        raise OutputError("MFC401", path, found="a file of this name", expected="none", hint=hint) from None
    except OSError as error:
        raise OutputError("MFC404", path, found=error.strerror or error, expected="a file that can be written") from None
