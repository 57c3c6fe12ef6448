"""A run of one network as that of another: weights and optimizer arrive by the same rules, and come back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.formats.checkpoint_metadata import read_metadata
from tests.steps.migrating.runs_with_optimizers import IN_COMMON, NUMBERS, OPTIMIZERS, Arrays, adamw, arrays_of, muon, weights_of
from tests.support import raws, raws_in, same, write_safetensors

Form = dict[str, Any]
CONTIGUOUS, INTERLEAVED = "use_contiguous_weight_layout_attention", "use_interleaved_weight_layout_mlp"
SPLIT, JOINED, DYNAMIC = {"graph": "static", "mla_qkv_concat": False}, {"graph": "static", "mla_qkv_concat": True}, {"graph": "dynamic"}
FORMS: list[tuple[str, Form, Form]] = [
    ("deepseekv3", SPLIT, DYNAMIC),
    ("deepseekv3", JOINED, DYNAMIC),
    ("deepseekv3", DYNAMIC, {**SPLIT, "experts_2d": True}),
    ("deepseekv3", {**SPLIT, INTERLEAVED: False}, DYNAMIC),
    ("telechat3-moe", SPLIT, DYNAMIC),
    ("qwen3", {CONTIGUOUS: False}, {CONTIGUOUS: True}),
    ("qwen3", {INTERLEAVED: True}, {INTERLEAVED: False}),
    ("qwen3-moe", {"experts_2d": True}, {"experts_2d": False}),
    ("qwen3-moe", {"experts_2d": True, CONTIGUOUS: False}, {"experts_2d": False, CONTIGUOUS: True}),
]


def config_of(family: str) -> dict[str, Any]:
    return dict(mc.toy(family).config or {})


def unseen(form: Form) -> Form:
    """Of a form what no name shows."""
    return {name: value for name, value in form.items() if name in (CONTIGUOUS, INTERLEAVED)}


def refused(*args: Any, **more: Any) -> mc.MfconvError:
    with pytest.raises(mc.MfconvError) as error:
        mc.migrate(*args, **more)
    return error.value


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("family", "before", "after"), FORMS, ids=str)
def test_weights_and_state_arrive_by_the_same_rules_and_come_back(
    family: str, before: Form, after: Form, optimizer: str, tmp_path: Path
) -> None:
    weights = weights_of(family, **before)
    tensors = {**weights, **OPTIMIZERS[optimizer](weights), **NUMBERS}
    run = write_safetensors(tmp_path / "run.safetensors", tensors)
    config = config_of(family)
    there = mc.migrate(run, tmp_path / "there", family, config=config, form_of_run=unseen(before), **after)
    found = arrays_of(mc.load(tmp_path / "there"))

    # the weights are those that the two conversions give; each state is what they make of it in the place of the weights
    def by_conversions(arrays: Arrays) -> Arrays:
        given = mc.map(mc.load(arrays, config=config), family, to="hf", **before)
        return arrays_of(mc.map(mc.load(arrays_of(given), config=config), family, to="mf", **after))

    expected = by_conversions(weights)
    for prefix in ("adam_m.", "adam_v.", "muon_m."):
        state = {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}
        made = by_conversions({**{n: np.full_like(a, 777) for n, a in weights.items()}, **state})
        expected |= {prefix + n: a for n, a in made.items() if not (a == 777).any()}
    expected |= {n: NUMBERS[n] for n in ("global_step", "learning_rate")}
    assert same(found, expected)
    assert there.way_back == "exact"

    mc.migrate(tmp_path / "there", tmp_path / "back", family, config=config, **before)  # what it is remembers the manifest
    kept = {n: a for n, a in tensors.items() if n in ("global_step", "learning_rate") or n not in NUMBERS}
    assert same(arrays_of(mc.load(tmp_path / "back")), kept)


