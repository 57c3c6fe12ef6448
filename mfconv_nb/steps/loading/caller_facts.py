"""What a caller says of a checkpoint beside its path: a config, and the alpha of its adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.run_yaml import ENDINGS, Lora, RunConfig, checked_alpha, read_run_config
from mfconv_nb.core.sizes import PARAMS, read_config, read_params
from mfconv_nb.formats.adapters_of_a_run import RUN_CONFIG_OF_ADAPTERS, read_adapters_of_run
from mfconv_nb.formats.peft_folder import CONFIG, read_adapter_config
from mfconv_nb.steps.loading.beside import config_beside, join_lora

GivenConfig = str | Path | Mapping[str, Any] | None  # a config.json, its folder or its content; a run's YAML; an adapter_config.json


@dataclass(frozen=True)
class CallerFacts:
    """What the caller gave, read.

    Attributes:
        config: the model's config; None where none was given, or an adapter_config.json alone.
        folder: the folder that was given as config.
        loras: what the config and the call say of adapters.
    """

    config: Mapping[str, Any] | None = None
    folder: Path | None = None
    loras: tuple[Lora, ...] = ()

    def config_for(self, path: Path) -> Mapping[str, Any] | None:
        """The config that was given, else the one beside a path. One that lies there is not read where another was given."""
        return self.config if self.config is not None else config_beside(path)

    def add_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with these facts.

        Raises:
            MappingError: MFC319 where the caller and a file give different numbers for the same adapters.
        """
        history = checkpoint.history
        lora = history.lora
        for more in self.loras:
            lora = join_lora(lora, more)
        history = replace(history, lora=lora, config_folder=self.folder or history.config_folder)
        return replace(checkpoint, config=checkpoint.config if self.config is None else self.config, history=history)


def read_caller_facts(config: GivenConfig, alpha: float | None = None) -> CallerFacts:
    """Read what a caller gave as config, and check alpha.

    Raises:
        InputError: MFC101, MFC106. MappingError: MFC319.
    """
    given = _read_given_config(config)
    folder = local_path(config) if isinstance(config, str | Path) else None
    of_call = Lora(checked_alpha(alpha, "lora_alpha"), origin="the call") if alpha is not None else None
    loras = tuple(lora for lora in (given.lora if given is not None else None, of_call) if lora is not None)
    says_sizes = given is not None and (given.config or given.lora is None)  # an adapter_config.json alone says none
    known = given.config if given is not None and says_sizes else None
    return CallerFacts(known, folder if folder is not None and folder.is_dir() else None, loras)


def _read_given_config(config: GivenConfig) -> RunConfig | None:
    if config is None or isinstance(config, Mapping):
        return None if config is None else RunConfig(config, None)
    path = local_path(config)
    if path.suffix.lower() in ENDINGS:
        return read_run_config(path)
    if path.name == CONFIG:
        return RunConfig({}, read_adapter_config(path))
    if path.name == RUN_CONFIG_OF_ADAPTERS:
        return RunConfig({}, read_adapters_of_run(path))
    if os.path.isdir(path):
        return RunConfig(config_beside(path) or read_config(path / "config.json"), None)
    return RunConfig(read_params(path) if path.name == PARAMS else read_config(path), None)
