"""The parameters of real networks of MindFormers, read in place where their lists lie beside the project: what we write for such a config
has their names and shapes, and what such a network saves comes back whole. Networks with latent attention and with LoRA have tests of
their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from tests.support import cell_of
from tests.toys import raws_of

NETWORKS = Path(__file__).parents[3] / "shared" / "networks"

pytestmark = pytest.mark.skipif(
    not NETWORKS.is_dir(), reason="no shared/networks beside the project: lists of real networks, not copied here"
)

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "int32": np.int32}


@dataclass(frozen=True)
class Listed:
    """What the tests know of a list.

    Attributes:
        key: the family; options: what makes it write what this network has.
        no_weights: how many of its tensors are no weights.
        config: what the published configs of the model say, where the list follows MindFormers' defaults instead.
    """

    file: str
    key: str
    tensors: int
    no_weights: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((NETWORKS / f"{self.file}.json").read_text(encoding="utf-8"))
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, shape, *_ in self.content["parameters"]}

    def toy(self) -> mc.Checkpoint:
        named = {name: value for name, value in self.options.items() if name == "with_mtp"}
        return mc.toy(self.key, dtype="fp32", options=named, **{**self.content["config"], **self.config})

    def saved(self) -> dict[str, Any]:
        """What such a network saves: every number another one, but where experts lie, in their places."""
        random = np.random.default_rng(5)
        return {name: _numbers(name, tuple(shape), DTYPES[dtype], random) for name, shape, dtype, _ in self.content["parameters"]}


def _numbers(name: str, shape: tuple[int, ...], dtype: Any, random: np.random.Generator) -> Any:
    return np.arange(*shape, dtype=dtype) if name.endswith(".expert_mapping") else random.standard_normal(shape).astype(dtype)


LISTS = [
    Listed("qwen3-static", "qwen3", 19),
    Listed("qwen3-dynamic", "qwen3", 19),
    Listed("qwen3-dynamic-bf16", "qwen3", 19),
    Listed("qwen3-inference", "qwen3", 19),
    Listed("qwen3-moe-static", "qwen3-moe", 23, 2),
    Listed("qwen3-moe-static-counters", "qwen3-moe", 33, 12),
    Listed("qwen3-moe-inference", "qwen3-moe", 21, options={"experts_2d": False}),
    Listed("qwen2-inference", "qwen2-mcore", 17),
    Listed("glm4-inference", "glm4-mcore", 21, config={"attention_bias": True}),
    Listed("glm4-moe-inference", "glm4-moe", 38, options={"with_mtp": 0}, config={"num_nextn_predict_layers": 0}),
    Listed("telechat3-static", "telechat3", 15),
    Listed("telechat3-inference", "telechat3", 15),
]
each = pytest.mark.parametrize("listed", LISTS, ids=[listed.file for listed in LISTS])


@each
def test_what_we_write_for_its_config_has_the_names_and_shapes_of_the_network(listed: Listed) -> None:
    written = {s.name: s.shape for s in mc.map(listed.toy(), listed.key, **listed.options).specs}
    shapes = listed.shapes()
    assert len(shapes) == listed.tensors
    assert len(shapes.keys() - written.keys()) == listed.no_weights
    assert written == {name: shape for name, shape in shapes.items() if name in written}


@each
def test_what_the_network_saves_comes_back_whole(listed: Listed) -> None:
    toy, saved = listed.toy(), listed.saved()
    back = mc.map(mc.load(saved), to="hf", config=toy.config)
    assert {s.name: s.shape for s in back.specs} == {s.name: s.shape for s in toy.specs}
    assert back.report.counts.get("left out", 0) == listed.no_weights
    weights = mc.map(toy, listed.key, **listed.options).tensors
    again = raws_of(mc.map(back, to="mf"))
    assert {name: raw.data for name, raw in again.items()} == {name: saved[name].tobytes() for name in weights}


@each
@pytest.mark.real_frameworks
def test_every_weight_of_the_network_is_filled_and_nothing_else_is_asked_for(listed: Listed) -> None:
    saved = listed.saved()
    cell = cell_of(saved)
    mapped = mc.map(listed.toy(), listed.key, **listed.options)
    report = mc.assign(mapped, cell, progress=False)
    assert set(report.assigned) == set(mapped.tensors)
    assert len(report.missing) == listed.no_weights
    assert report.unexpected == ()
    held = {name: parameter.float().asnumpy() for name, parameter in cell.parameters_dict().items()}
    assert all(np.array_equal(held[name], mc.read(mapped, name).astype(saved[name].dtype).astype(np.float32)) for name in mapped.tensors)
    assert all(np.array_equal(held[name], saved[name].astype(np.float32)) for name in report.missing)


@pytest.mark.real_frameworks
def test_experts_that_are_not_in_their_places_are_not_filled() -> None:
    listed = LISTS[5]
    saved = listed.saved()
    name = "decoder.layers.1.mlp.expert_mapping"
    saved[name] = saved[name][::-1].copy()
    with pytest.raises(mc.MfconvError) as refused:
        mc.assign(mc.map(listed.toy(), listed.key), cell_of(saved), progress=False)
    assert refused.value.code == "MFC408"
    assert name in str(refused.value)
    assert "fi_accu" not in str(refused.value)
