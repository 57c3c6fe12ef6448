"""The parameters of MindFormers' real LoRA networks, read in place where lists of them lie beside the project: nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.networks_table import LISTED_LORA
from tests.support import raws_in, write_hf, write_safetensors
from tests.toys import raws_of

NETWORKS = Path(__file__).parents[3] / "shared" / "networks"
pytestmark = pytest.mark.skipif(not NETWORKS.is_dir(), reason="no shared/networks beside the project: lists of parameters, not copied here")

LISTS = {row.name: str(row.options["adapters"]) for row in LISTED_LORA}
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(params=LISTS)
def listed(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The style of a network's adapters, and its list."""
    return LISTS[request.param], json.loads((NETWORKS / f"{request.param}.json").read_text())


def shapes_in(network: dict[str, Any], *, adapters: bool) -> Shapes:
    return {name: tuple(shape) for name, shape, *_ in network["parameters"] if ("lora" in name) == adapters}


def shapes_of(checkpoint: mc.Checkpoint) -> Shapes:
    return {spec.name: spec.shape for spec in checkpoint.specs}


def config_of(network: dict[str, Any], folder: Path) -> Path:
    write_hf(folder, {}, {"model_type": "qwen3", **network["config"]})
    return folder / "config.json"


def random_numbers(shapes: Shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("targets", "rank"),
    [(("q", "v", "o", "gate", "up", "down"), 4), (("q", "o", "up", "down"), 8), (("q", "k", "o", "gate", "down"), 4)],
    ids=str,
)
def test_adapters_of_peft_become_all_that_the_network_has_to_train(
    targets: tuple[str, ...], rank: int, listed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    style, network = listed
    config = config_of(network, tmp_path / "hf")
    base = mc.map(mc.load(random_numbers(shapes_in(network, adapters=False)), config=config), "qwen3", to="hf")
    halves = {}
    for name, shape in shapes_of(base).items():
        if name.endswith(tuple(f".{target}_proj.weight" for target in targets)):
            module = "base_model.model." + name.removesuffix(".weight")
            halves |= {f"{module}.lora_A.weight": (rank, shape[1]), f"{module}.lora_B.weight": (shape[0], rank)}
    write_safetensors(tmp_path / "peft" / "adapter_model.safetensors", random_numbers(halves))
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}))
    mapped = mc.map(mc.load(tmp_path / "peft", config=config), "qwen3", adapters=style)
    assert shapes_of(mapped) == shapes_in(network, adapters=True)
    assert mapped.history.lora.alpha == network["lora"]["lora_alpha"]
    if style == "mcore":  # the default
        assert list(mc.map(mc.load(tmp_path / "peft", config=config), "qwen3").tensors) == list(mapped.tensors)


def test_what_the_network_saves_becomes_a_peft_folder_and_comes_back(listed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    style, network = listed
    config = config_of(network, tmp_path / "hf")
    adapters, weights = (random_numbers(shapes_in(network, adapters=of)) for of in (True, False))
    saved = mc.load(weights | adapters, config=config, lora_alpha=network["lora"]["lora_alpha"])
    mc.save(mc.map(mc.only_adapters(saved), "qwen3", to="hf"), tmp_path / "peft")
    assert len(raws_in(tmp_path / "peft")) == 2 * 7 * 2  # two layers, seven matrices, two halves
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (8, 16)
    back = mc.map(mc.load(tmp_path / "peft", config=config), "qwen3", adapters=style)
    assert raws_of(back) == raws_of(mc.load(adapters))
    merged = mc.map(mc.merge_adapters(saved), "qwen3", to="hf")
    base = mc.map(mc.load(weights, config=config), "qwen3", to="hf")
    assert raws_of(merged) == raws_of(mc.merge_adapters(base, tmp_path / "peft"))


def test_mindspore_puts_what_we_write_into_parameters_of_these_names(listed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    mindspore = pytest.importorskip("mindspore", reason="mindspore is not installed")
    style, network = listed
    config = config_of(network, tmp_path / "hf")
    saved = random_numbers(shapes_in(network, adapters=True))
    mc.save(mc.map(mc.load(saved, config=config, lora_alpha=16), "qwen3", to="hf"), tmp_path / "peft")
    mc.save(mc.map(mc.load(tmp_path / "peft", config=config), "qwen3", adapters=style), tmp_path / "run.ckpt")
    net = mindspore.nn.Cell()
    for number, (name, shape) in enumerate(shapes_in(network, adapters=True).items()):
        setattr(net, f"p{number}", mindspore.Parameter(mindspore.ops.zeros(shape, mindspore.float32), name=name))
    for parameter, (name, _) in zip(net.get_parameters(), shapes_in(network, adapters=True).items(), strict=True):
        parameter.name = name
    loaded = mindspore.load_checkpoint(str(tmp_path / "run.ckpt"))
    assert mindspore.load_param_into_net(net, loaded, strict_load=True) == ([], [])
    for parameter in net.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), saved[parameter.name])
