"""Networks that the installed MindFormers builds on a CPU: what we write are their weights, and what they save comes back whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint
from mfconv_nb.mapping.kinds import kind_of
from tests.mindformers_networks import parameters_of_network
from tests.networks_table import BUILT, Built
from tests.support import Array
from tests.toys import arrays_of, refused_with

pytestmark = pytest.mark.real_frameworks
each = pytest.mark.parametrize("built", BUILT, ids=[built.name for built in BUILT])


@cache
def shapes_of_network(name: str) -> dict[str, tuple[int, ...]]:
    built = next(each for each in BUILT if each.name == name)
    return parameters_of_network(built.graph, **built.settings)


def weights_of_network(built: Built) -> dict[str, tuple[int, ...]]:
    shapes = shapes_of_network(built.name)
    weights = {name: shape for name, shape in shapes.items() if kind_of(name).category == "weights"}
    assert len(shapes) - len(weights) == built.no_weights
    return weights


def toy_of(built: Built) -> Checkpoint:
    """The toy with these sizes; the biases of the output, which no network of MindFormers holds, are zeros."""
    toy = mc.toy(built.key, dtype="fp32", options={**built.toy_options, **built.options}, **built.config)
    return mc.load({n: np.zeros_like(a) if n.endswith("o_proj.bias") else a for n, a in arrays_of(toy).items()}, config=toy.config)


def saved_by(built: Built) -> dict[str, Array]:
    """What the network saves: random numbers, but zeros in biases that transformers has not."""
    random = np.random.default_rng(7)
    saved: dict[str, Array] = {n: random.standard_normal(shape, np.float32) for n, shape in shapes_of_network(built.name).items()}
    for name in saved:
        if name.endswith((".linear_qb.bias", ".linear_kvb.bias")):
            saved[name][:] = 0
        elif name.endswith(".linear_qkv.bias") and "q_lora_rank" in built.config:
            saved[name][: 3 * (14 + 8)] = 0  # of q, which has none; those of the latent follow
    return saved


@each
def test_what_we_write_are_the_weights_of_the_network(built: Built) -> None:
    made = mc.map(toy_of(built), built.key, **built.options, to=MF)
    assert {s.name: s.shape for s in made.specs} == weights_of_network(built)


@each
def test_what_the_network_saves_comes_back_and_goes_there_again(built: Built, tmp_path: Path) -> None:
    toy, weights, saved = toy_of(built), weights_of_network(built), saved_by(built)
    unseen = {name: value for name, value in built.options.items() if name.startswith("use_")}  # names and shapes do not show them
    back = mc.map(mc.load(saved), built.key, **unseen, to=HF, config=toy.config)
    assert {s.name: s.shape for s in back.specs} == {s.name: s.shape for s in toy.specs}
    assert back.report.counts.get("left out", 0) == built.no_weights
    mc.save(back, tmp_path / "hf")
    again = arrays_of(mc.map(mc.load(tmp_path / "hf", config=toy.config), built.key, **built.options, to=MF))
    assert {n: array.tobytes() for n, array in again.items()} == {n: saved[n].tobytes() for n in weights}


BIASED = [(built, built.name) for built in BUILT if built.config.get("attention_bias")]


@pytest.mark.parametrize("built", [built for built, _ in BIASED], ids=[name for _, name in BIASED])
def test_a_bias_that_the_other_side_has_no_place_for_is_refused_by_name(built: Built, tmp_path: Path) -> None:
    toy = toy_of(built)
    out = "model.layers.1.self_attn.o_proj.bias"
    trained = mc.load({**arrays_of(toy), out: np.ones(96, np.float32)}, config=toy.config)
    refused = refused_with("MFC308", lambda: mc.save(mc.map(trained, built.key, **built.options, to=MF), tmp_path / "mf.safetensors"))
    assert out in str(refused)
    assert "the MindFormers side has no place for" in str(refused)
    for name in [
        n for n in weights_of_network(built) if n.endswith(("1.self_attention.linear_qb.bias", "1.self_attention.linear_kvb.bias"))
    ]:
        saved = saved_by(built)
        saved[name][3] = 0.25
        back = mc.map(mc.load(saved), built.key, to=HF, config=toy.config)
        refused = refused_with("MFC308", lambda back=back: mc.save(back, tmp_path / "hf"))  # type: ignore[misc]
        assert name in str(refused)
        assert "the Hugging Face side has no place for" in str(refused)
