"""Small nets from papers, torch Module against MindSpore Cell: `mc.author.suggest` and the table of layers find the same rules, and both
nets compute the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mindspore")

import mindspore
import torch
from mindspore import nn
from torch import nn as tnn

import mfconv_nb as mc
from mfconv_nb.author.suggesting.answering import LIKELY
from mfconv_nb.author.suggesting.suggestion import Suggestion
from mfconv_nb.families.words import cell_ports as ports
from mfconv_nb.mapping.rules import AnyRule
from mfconv_nb.rules import Drop, Family
from tests.author.small_nets import NETS, inputs, outputs, trained

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
CLOSE = 1e-5  # kernels differ; a wrong pair is off by tenths


def shapes_of(net: Any) -> dict[str, tuple[int, ...]]:
    named = net.state_dict() if isinstance(net, tnn.Module) else net.parameters_dict()
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def pairs_of(suggestion: Suggestion) -> set[tuple[str, str, str]]:
    return {(s.hf, s.mf, s.layout) for s in suggestion.suggested}


def reasons_of(net: str) -> dict[str, str]:
    module, cell, _ = NETS[net]
    return {s.hf: s.reason for s in mc.author.suggest(shapes_of(module()), shapes_of(cell())).suggested}


# ---- suggested ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_what_is_suggested_from_names_and_shapes_makes_the_cell_compute_the_same(net: str) -> None:
    new_module, new_cell, shape = NETS[net]
    module, cell, x = trained(new_module()), new_cell(), inputs(shape, words=net == "text")
    assert not np.allclose(*outputs(module, cell, x), atol=CLOSE)
    suggestion = mc.author.suggest(shapes_of(module), shapes_of(cell))
    assert (suggestion.unmatched_hf, suggestion.unmatched_mf) == ((), ())
    mc.assign(mc.map(mc.load(module), suggestion.family("mine"), to="mf"), cell)
    np.testing.assert_allclose(*outputs(module, cell, x), atol=CLOSE)


@pytest.mark.parametrize("net", NETS)
def test_only_what_is_called_something_else_is_a_guess(net: str) -> None:
    module, cell, _ = NETS[net]
    found = {s.hf for s in mc.author.suggest(shapes_of(module()), shapes_of(cell())).suggested if s.confidence != LIKELY}
    assert found == ({"fc.weight", "fc.bias"} if net == "ResNet" else set())  # end_point


@pytest.mark.parametrize("net", NETS)
def test_new_nets_whose_numbers_are_ones_and_zeros_get_the_same_rules(net: str) -> None:
    module, cell, _ = NETS[net]
    assert pairs_of(mc.author.suggest(module(), cell())) == pairs_of(mc.author.suggest(shapes_of(module()), shapes_of(cell())))


def test_with_the_numbers_of_a_ported_net_every_tensor_that_can_tell_is_certain() -> None:
    module, new_cell, _ = NETS["ResNet"]
    source, cell = trained(module()), new_cell()
    mc.assign(mc.map(mc.load(source), mc.author.suggest(shapes_of(source), shapes_of(cell)).family("mine"), to="mf"), cell)
    suggestion = mc.author.suggest(source, cell)
    assert {s.confidence for s in suggestion.suggested if s.status != "dropped"} == {"certain"}
    assert pairs_of(suggestion) == pairs_of(mc.author.suggest(shapes_of(source), shapes_of(cell)))


@pytest.mark.parametrize(
    ("net", "name", "words"),
    [
        ("ResNet", "bn1.running_var", "a BatchNorm: MindSpore calls running_var moving_variance"),
        ("ResNet", "layer2.0.downsample.1.weight", "a BatchNorm: MindSpore calls weight gamma"),
        ("ResNet", "bn1.num_batches_tracked", "torch counts the batches of a BatchNorm; MindSpore does not"),
        ("ResNet", "conv1.weight", "a convolution: both keep its axes in the same order"),
        ("speech", "features.0.weight", "a Conv1d or ConvTranspose1d: MindSpore's weight has an axis of size 1"),
        ("vocoder", "ups.0.weight", "a Conv1d or ConvTranspose1d: MindSpore's weight has an axis of size 1"),
        ("text", "norm.bias", "a LayerNorm or GroupNorm: MindSpore calls bias beta"),
        ("text", "attention.in_proj_weight", "a MultiheadAttention: q, k and v stand in the same order on both sides"),
        ("text", "embedding.weight", "an Embedding: MindSpore calls weight embedding_table"),
        ("U-Net", "mid.norm1.weight", "a LayerNorm or GroupNorm: MindSpore calls weight gamma"),
        ("video", "bn1.running_mean", "a BatchNorm3d: MindSpore calls running_mean bn2d.moving_mean"),
        ("super-resolution", "mid_part.1.weight", "a PReLU: MindSpore calls weight w"),
    ],
)
def test_the_reason_names_the_layer_and_what_mindspore_calls_it(net: str, name: str, words: str) -> None:
    assert words in reasons_of(net)[name]


def test_what_is_dropped_says_why() -> None:
    module, cell, _ = NETS["video"]
    suggestion = mc.author.suggest(shapes_of(module()), shapes_of(cell()))
    whys = {rule.why for rule in suggestion.family("mine").rules if isinstance(rule, Drop)}
    assert whys == {ports.NOT_COUNTED}


def test_a_layer_norm_among_other_names_is_not_taken_for_a_batch_norm() -> None:
    hf, mf = {"n.weight": (4,), "n.bias": (4,), "n.extra": (4, 2)}, {"n.gamma": (4,), "n.beta": (4,), "n.extra": (4, 2)}
    assert not any("BatchNorm" in s.reason or "LayerNorm" in s.reason for s in mc.author.suggest(hf, mf).suggested)


# ---- written ------------------------------------------------------------------------------------------------------------------

# a layer of torch, the cell of MindSpore, the rules, and the shape of an input; the layer stands in a net, under the name `layer`
LAYERS: Mapping[str, tuple[Any, Any, Any, tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: tnn.BatchNorm1d(6), lambda: nn.BatchNorm1d(6), ports.batch_norm, (3, 6)),
    "BatchNorm2d": (lambda: tnn.BatchNorm2d(6), lambda: nn.BatchNorm2d(6), ports.batch_norm, (3, 6, 4, 5)),
    "BatchNorm3d": (lambda: tnn.BatchNorm3d(6), lambda: nn.BatchNorm3d(6), ports.batch_norm_3d, (3, 6, 2, 4, 5)),
    "LayerNorm": (lambda: tnn.LayerNorm(6), lambda: nn.LayerNorm((6,), epsilon=1e-5), ports.layer_norm, (3, 6)),
    "LayerNorm of two axes": (
        lambda: tnn.LayerNorm((4, 6)),
        lambda: nn.LayerNorm((4, 6), begin_norm_axis=1, begin_params_axis=1, epsilon=1e-5),
        lambda hf, mf: ports.layer_norm(hf, mf, "rows columns"),
        (3, 4, 6),
    ),
    "GroupNorm": (lambda: tnn.GroupNorm(2, 6), lambda: nn.GroupNorm(2, 6), ports.group_norm, (3, 6, 4, 5)),
    "Embedding": (lambda: tnn.Embedding(50, 6), lambda: nn.Embedding(50, 6), ports.embedding, (3, 4)),
    "PReLU": (lambda: tnn.PReLU(6), lambda: nn.PReLU(6), ports.prelu, (3, 6, 4)),
    "Conv1d": (lambda: tnn.Conv1d(6, 4, 3), lambda: nn.Conv1d(6, 4, 3, pad_mode="valid", has_bias=True), ports.conv1d, (3, 6, 8)),
    "Conv1d in groups": (
        lambda: tnn.Conv1d(6, 4, 3, groups=2, bias=False),
        lambda: nn.Conv1d(6, 4, 3, pad_mode="valid", group=2),
        lambda hf, mf: ports.conv1d(hf, mf, bias=False),
        (3, 6, 8),
    ),
    "ConvTranspose1d": (
        lambda: tnn.ConvTranspose1d(6, 4, 3),
        lambda: nn.Conv1dTranspose(6, 4, 3, pad_mode="valid", has_bias=True),
        ports.conv1d_transpose,
        (3, 6, 8),
    ),
    "Linear": (lambda: tnn.Linear(6, 4), lambda: nn.Dense(6, 4), ports.alike, (3, 6)),
    "Conv2d": (lambda: tnn.Conv2d(6, 4, 3), lambda: nn.Conv2d(6, 4, 3, pad_mode="valid", has_bias=True), ports.alike, (3, 6, 8, 8)),
    "Conv3d": (lambda: tnn.Conv3d(6, 4, 2), lambda: nn.Conv3d(6, 4, 2, pad_mode="valid", has_bias=True), ports.alike, (3, 6, 4, 4, 4)),
    "ConvTranspose2d": (
        lambda: tnn.ConvTranspose2d(6, 4, 2, 2),
        lambda: nn.Conv2dTranspose(6, 4, 2, 2, pad_mode="valid", has_bias=True),
        ports.alike,
        (3, 6, 4, 4),
    ),
    "LSTM": (lambda: tnn.LSTM(6, 4, batch_first=True), lambda: nn.LSTM(6, 4, batch_first=True), ports.recurrent, (3, 5, 6)),
    "GRU, both ways, two layers": (
        lambda: tnn.GRU(6, 4, 2, bidirectional=True, batch_first=True),
        lambda: nn.GRU(6, 4, 2, bidirectional=True, batch_first=True),
        lambda hf, mf: ports.recurrent(hf, mf, layers=2, bidirectional=True),
        (3, 5, 6),
    ),
    "RNN": (lambda: tnn.RNN(6, 4, batch_first=True), lambda: nn.RNN(6, 4, batch_first=True), ports.recurrent, (3, 5, 6)),
    "MultiheadAttention": (
        lambda: tnn.MultiheadAttention(6, 2, batch_first=True),
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        ports.multihead_attention,
        (3, 5, 6),
    ),
}


class TorchNet(tnn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        y = self.layer(x, x, x) if isinstance(self.layer, tnn.MultiheadAttention) else self.layer(x)
        return y[0] if isinstance(y, tuple) else y


class CellNet(nn.Cell):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.three = layer, isinstance(layer, nn.MultiheadAttention)

    def construct(self, x: Any) -> Any:
        y = self.layer(x, x, x) if self.three else self.layer(x)
        return y[0] if isinstance(y, tuple) else y


def family(*rules: AnyRule) -> Family:
    return Family("mine", "one layer", rules, sizes={})


@pytest.mark.parametrize("layer", LAYERS)
def test_the_rules_of_a_layer_make_the_cell_compute_the_same(layer: str) -> None:
    new_layer, new_cell, rules, shape = LAYERS[layer]
    module, cell, x = trained(TorchNet(new_layer())), CellNet(new_cell()), inputs(shape, words=layer == "Embedding")
    assert not np.allclose(*outputs(module, cell, x), atol=CLOSE)
    mc.assign(mc.map(mc.load(module), family(*rules("layer", "layer")), to="mf"), cell)
    np.testing.assert_allclose(*outputs(module, cell, x), atol=CLOSE)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_way_back_restores_what_mindspore_keeps(layer: str) -> None:
    new_layer, _, rules, _ = LAYERS[layer]
    source, mine = mc.load(trained(TorchNet(new_layer()))), family(*rules("layer", "layer"))
    back = mc.map(mc.map(source, mine, to="mf"), mine, to="hf")
    kept = [t.name for t in source if not t.name.endswith("num_batches_tracked")]
    assert [t.name for t in back if not t.name.endswith("num_batches_tracked")] == kept
    for name in kept:
        np.testing.assert_array_equal(mc.read(back, name), mc.read(source, name))


@pytest.mark.parametrize("layer", ["BatchNorm2d", "PReLU"])
def test_a_cell_that_is_no_part_of_a_net_has_other_names_which_suggest_knows_too(layer: str) -> None:
    new_layer, new_cell, _, _ = LAYERS[layer]
    found = {s.hf: s.mf for s in mc.author.suggest(shapes_of(new_layer()), shapes_of(new_cell())).suggested if s.mf}
    others = {"running_mean": "mean", "running_var": "variance", "weight": "gamma", "bias": "beta"}
    assert found == (others if layer == "BatchNorm2d" else {"weight": "a"})


def test_the_table_of_the_page_works(tmp_path: Path) -> None:
    example = re.search(r"<!-- example: cells -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert example is not None
    (tmp_path / "speech.py").write_text(example[1])
    layers = {"conv": tnn.Conv1d(6, 4, 3), "bn": tnn.BatchNorm1d(4), "act": tnn.PReLU(4), "fc": tnn.Linear(4, 2)}
    cell = nn.Cell()
    cell.conv, cell.bn = nn.Conv1d(6, 4, 3, pad_mode="valid", has_bias=True), nn.BatchNorm1d(4)
    cell.act, cell.end_point = nn.PReLU(4), nn.Dense(4, 2)
    mc.assign(mc.map(mc.load(trained(tnn.ModuleDict(layers))), tmp_path / "speech.py", to="mf"), cell)
    np.testing.assert_array_equal(cell.bn.moving_variance.asnumpy(), layers["bn"].running_var.numpy())


def test_mint_keeps_the_names_of_torch() -> None:
    for name in ("BatchNorm2d", "LayerNorm", "Linear", "PReLU"):
        arguments = (6, 4) if name == "Linear" else (6,)
        made = CellNet(getattr(mindspore.mint.nn, name)(*arguments))
        assert shapes_of(made).keys() == shapes_of(TorchNet(getattr(torch.nn, name)(*arguments))).keys()
