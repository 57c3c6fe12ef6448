"""What a caller says of a checkpoint beside its path: configs, and the alpha of its adapters.

Two configs may be given: sizes are those of the config.json, switches those of the run's YAML; they must not contradict each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MappingError, UsageError, quote
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.run_yaml import Lora, RunConfig, checked_alpha, read_run_config
from mfconv_nb.core.sizes import PARAMS, RUN_CONFIG, SIZES_FROM, config_name, read_config, read_params, says_sizes
from mfconv_nb.core.yaml_file import ENDINGS
from mfconv_nb.families.registry import known_families, run_classes
from mfconv_nb.formats.adapters_of_a_run import RUN_CONFIG_OF_ADAPTERS, read_adapters_of_run
from mfconv_nb.formats.peft_folder import CONFIG, read_adapter_config
from mfconv_nb.steps.loading.beside import config_beside, join_lora
from mfconv_nb.steps.loading.manifest_proof import prove_own_manifest

OneConfig = str | Path | Mapping[str, Any]  # a config.json, its folder or its content; a run's YAML; an adapter_config.json
GivenConfig = OneConfig | Sequence[OneConfig] | None
HINT_TWO = "Give at most one of each: a config.json or its folder for the sizes, the YAML of the run for its switches."


@dataclass(frozen=True)
class CallerFacts:
    """What the caller gave, read.

    Attributes:
        config: the model's config; None where none was given, an adapter_config.json alone, or a YAML that gives no sizes.
        switches: what the YAML of a run says, under its own keys and those of config.json.
        fallback: the config of a YAML that gives no sizes, where nothing else has a config: errors name what is missing in it.
        folder: the folder that was given as config.
        loras: what the config and the call say of adapters.
        notes: sentences a reader should see.
    """

    config: Mapping[str, Any] | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    fallback: Mapping[str, Any] | None = None
    folder: Path | None = None
    loras: tuple[Lora, ...] = ()
    notes: tuple[str, ...] = ()

    def config_for(self, path: Path) -> Mapping[str, Any] | None:
        """The config that was given, else the one beside a path. One that lies there is not read where another was given.

        Raises:
            MappingError: MFC304 where the YAML that was given contradicts the one beside the path.
        """
        if self.config is not None:
            return self.config
        beside = config_beside(path)
        if beside is not None and self.switches:
            check_no_contradiction(beside, self.switches)
        return beside

    def add_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with these facts.

        Raises:
            MappingError: MFC319 where the caller and a file give different numbers for the same adapters. A manifest counts only where it
                is of these numbers, which is looked at where it contradicts the caller.
        """
        history = checkpoint.history
        try:
            lora = reduce(join_lora, self.loras, history.lora)
        except MappingError:
            proven, stale = prove_own_manifest(checkpoint)
            checkpoint = replace(proven, history=replace(proven.history, notes=(*proven.history.notes, stale)))
            history = checkpoint.history
            lora = reduce(join_lora, self.loras, history.lora)
        history = replace(
            history,
            lora=lora,
            config_folder=self.folder or history.config_folder,
            switches=self.switches or history.switches,
            notes=history.notes + tuple(n for n in self.notes if n not in history.notes),
        )
        config = checkpoint.config if self.config is None else self.config
        return replace(checkpoint, config=self.fallback if config is None else config, history=history)


def read_caller_facts(config: GivenConfig, alpha: float | None = None) -> CallerFacts:
    """Read what a caller gave as config, and check alpha.

    Raises:
        InputError: MFC101, MFC106. MappingError: MFC319; MFC304 where a config.json and a YAML contradict each other. UsageError: MFC501
            for two configs of one kind.
    """
    given = _as_list(config)
    read = [_read_given_config(one) for one in given]
    models = [one.config for one in read if one.config and RUN_CONFIG not in one.config]
    runs = [one for one in read if RUN_CONFIG in one.config]
    for kind, found in (("config.json", models), ("YAML of a run", runs)):
        if len(found) > 1:
            raise UsageError("MFC501", "config", found=f"{len(found)} of the kind {kind}", expected="one of each kind", hint=HINT_TWO)
    folder = next((path for one in given if isinstance(one, str | Path) and (path := local_path(one)).is_dir()), None)
    of_call = Lora(checked_alpha(alpha, "lora_alpha"), origin="the call") if alpha is not None else None
    facts = CallerFacts(folder=folder, loras=tuple(lora for lora in (*(one.lora for one in read), of_call) if lora is not None))
    if runs:
        return _with_run(facts, runs[0], models[0] if models else None)
    if not models and any(one.lora is None for one in read):  # an adapter_config.json alone says no sizes
        models = [{}]
    return replace(facts, config=models[0] if models else None)


def _as_list(config: GivenConfig) -> list[OneConfig]:
    if config is None:
        return []
    return [config] if isinstance(config, str | Path | Mapping) else list(config)


def _with_run(facts: CallerFacts, run: RunConfig, model: Mapping[str, Any] | None) -> CallerFacts:
    """The facts with the YAML of a run: its switches, and its sizes where no config.json gives them.

    A run takes from the folder that it names what the YAML does not say, and what the YAML says counts. Source: `merge_model_config` in
    MindFormers 2.1.0, `models/build_config.py`.
    """
    if model is not None:
        check_no_contradiction(model, run.config)
        return replace(facts, config=model, switches=run.config)
    if run.sizes_from and (found := _config_in(run.sizes_from)) is not None:
        said = {key: value for key, value in run.config.items() if key != SIZES_FROM}
        return replace(facts, config={**found, **said}, switches=said)
    if not says_sizes(run.config):
        return replace(facts, fallback=run.config, switches=run.config)
    notes: tuple[str, ...] = ()
    if run.sizes_from:
        notes = (f"{run.config[RUN_CONFIG]} takes what it does not say from {quote(run.sizes_from)}, which is not here: not read",)
    return replace(facts, config=run.config, switches=run.config, notes=notes)


def _config_in(folder: str) -> Mapping[str, Any] | None:
    """The config.json of the folder that a run names; None where it has none here, as after a move to another machine."""
    path = local_path(folder)
    return config_beside(path) if path.is_dir() else None


def check_no_contradiction(model: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raises MappingError (MFC304) where a config.json and the YAML of a run give different values for a size that some family reads."""
    words = _words_of_sizes()
    mine, theirs = _flat(model), _flat(run)
    for key in theirs:
        if key in mine and key in words and mine[key] != theirs[key]:
            name = quote(config_name(run))
            hint = f"Is this the YAML of these weights? A run's YAML counts before the folder that its {SIZES_FROM} names: "
            hint += "put the folder there and give the YAML alone."
            raise MappingError(
                "MFC304", quote(key), found=f"{theirs[key]} in {name}", expected=f"{mine[key]}, as in config.json", hint=hint
            )


def _words_of_sizes() -> set[str]:
    """The keys of configs that some family reads a size from; dotted ones inside a part."""
    sentences = (sentence for family in known_families() for sentence in family.sizes.values())
    return {word for sentence in sentences for word in re.findall(r"[a-z_][a-z0-9_.]*", sentence)}


def _flat(config: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a config by key; `a.b` for those in a part."""
    found = {key: value for key, value in config.items() if isinstance(value, int | float)}
    inner = {f"{part}.{key}": v for part, said in config.items() if isinstance(said, Mapping) for key, v in said.items()}
    return found | {key: value for key, value in inner.items() if isinstance(value, int | float)}


def _read_given_config(config: OneConfig) -> RunConfig:
    if isinstance(config, Mapping):
        return RunConfig(config, None)
    path = local_path(config)
    if path.suffix.lower() in ENDINGS:
        return read_run_config(path, run_classes())
    if path.name == CONFIG:
        return RunConfig({}, read_adapter_config(path))
    if path.name == RUN_CONFIG_OF_ADAPTERS:
        return RunConfig({}, read_adapters_of_run(path))
    if os.path.isdir(path):
        return RunConfig(config_beside(path) or read_config(path / "config.json"), None)
    return RunConfig(read_params(path) if path.name == PARAMS else read_config(path), None)
