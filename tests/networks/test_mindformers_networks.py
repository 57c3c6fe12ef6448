"""The parameters of real networks of MindFormers, read in place where their lists lie beside the project: what we write for such a config
has their names and shapes, and what such a network saves comes back whole. Networks with latent attention and with LoRA have tests of
their own.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from tests.networks_table import LISTED, Listed
from tests.support import cell_of
from tests.toys import raws_of

NETWORKS = Path(__file__).parents[3] / "shared" / "networks"

pytestmark = pytest.mark.skipif(
    not NETWORKS.is_dir(), reason="no shared/networks beside the project: lists of real networks, not copied here"
)

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "int32": np.int32}


@cache
def list_of(listed: Listed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((NETWORKS / f"{listed.name}.json").read_text(encoding="utf-8"))
    return found


def shapes_in(listed: Listed) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape, *_ in list_of(listed)["parameters"]}


def toy_of(listed: Listed) -> mc.Checkpoint:
    named = {name: value for name, value in listed.options.items() if name == "with_mtp"}
    return mc.toy(listed.key, dtype="fp32", options=named, **{**list_of(listed)["config"], **listed.config})


def saved_by(listed: Listed) -> dict[str, Any]:
    """What such a network saves: every number another one, but where experts lie, in their places."""
    random = np.random.default_rng(5)
    return {name: _numbers(name, tuple(shape), DTYPES[dtype], random) for name, shape, dtype, _ in list_of(listed)["parameters"]}


def _numbers(name: str, shape: tuple[int, ...], dtype: Any, random: np.random.Generator) -> Any:
    return np.arange(*shape, dtype=dtype) if name.endswith(".expert_mapping") else random.standard_normal(shape).astype(dtype)


each = pytest.mark.parametrize("listed", LISTED, ids=[listed.name for listed in LISTED])


@each
def test_what_we_write_for_its_config_has_the_names_and_shapes_of_the_network(listed: Listed) -> None:
    written = {s.name: s.shape for s in mc.map(toy_of(listed), listed.key, **listed.options).specs}
    shapes = shapes_in(listed)
    assert len(shapes) == listed.tensors
    assert len(shapes.keys() - written.keys()) == listed.no_weights
    assert written == {name: shape for name, shape in shapes.items() if name in written}


@each
def test_what_the_network_saves_comes_back_whole(listed: Listed) -> None:
    toy, saved = toy_of(listed), saved_by(listed)
    back = mc.map(mc.load(saved), to="hf", config=toy.config)
    assert {s.name: s.shape for s in back.specs} == {s.name: s.shape for s in toy.specs}
    assert back.report.counts.get("left out", 0) == listed.no_weights
    weights = mc.map(toy, listed.key, **listed.options).tensors
    again = raws_of(mc.map(back, to="mf"))
    assert {name: raw.data for name, raw in again.items()} == {name: saved[name].tobytes() for name in weights}


@each
@pytest.mark.real_frameworks
def test_every_weight_of_the_network_is_filled_and_nothing_else_is_asked_for(listed: Listed) -> None:
    saved = saved_by(listed)
    cell = cell_of(saved)
    mapped = mc.map(toy_of(listed), listed.key, **listed.options)
    report = mc.assign(mapped, cell, progress=False)
    assert set(report.assigned) == set(mapped.tensors)
    assert len(report.missing) == listed.no_weights
    assert report.unexpected == ()
    held = {name: parameter.float().asnumpy() for name, parameter in cell.parameters_dict().items()}
    assert all(np.array_equal(held[name], mc.read(mapped, name).astype(saved[name].dtype).astype(np.float32)) for name in mapped.tensors)
    assert all(np.array_equal(held[name], saved[name].astype(np.float32)) for name in report.missing)


@pytest.mark.real_frameworks
def test_experts_that_are_not_in_their_places_are_not_filled() -> None:
    listed = next(listed for listed in LISTED if listed.name == "qwen3-moe-static-counters")
    saved = saved_by(listed)
    name = "decoder.layers.1.mlp.expert_mapping"
    saved[name] = saved[name][::-1].copy()
    with pytest.raises(mc.MfconvError) as refused:
        mc.assign(mc.map(toy_of(listed), listed.key), cell_of(saved), progress=False)
    assert refused.value.code == "MFC408"
    assert name in str(refused.value)
    assert "fi_accu" not in str(refused.value)
