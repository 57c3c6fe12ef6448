"""Rules for the layers of a small net: what torch's layers call their tensors, and what MindSpore's cells call them.

For a net from a paper that somebody wrote again with `mindspore.nn`. Each function returns the rules of one layer, for the rules of a
family: `*batch_norm("layer1.{block}.bn1", "layer1.{block}.bn1")`. `suggest` uses the same table, `PORTS`.

No family: a module of this folder counts as one only where it has a `FAMILY`. Checked against mindspore 2.10 and torch 2: tests build
both nets and compare their outputs. `mindspore.mint.nn` keeps torch's names for everything, and needs none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mfconv_nb.mapping.rules import Drop, Rule

NOT_COUNTED = "torch counts the batches of a BatchNorm; MindSpore does not, and neither needs it to compute"


@dataclass(frozen=True, slots=True)
class Port:
    """A layer of torch and the cell of MindSpore that does the same.

    Attributes:
        layer: in words.
        names: what torch calls its tensors, and what MindSpore calls them inside a net.
        alone: names on the MindSpore side if the cell is no part of a net: those that its parameters were made with.
        inner: the cell inside the cell that holds the tensors, where there is one.
        dropped: tensors that only torch has, and why.
        axis: whether MindSpore's weight has one axis of size 1 more, the third.
        note: a remark for a layer with the same names on both sides.
    """

    layer: str
    names: Mapping[str, str]
    alone: Mapping[str, str] = field(default_factory=dict)
    inner: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    axis: bool = False
    note: str = ""


_GAIN = {"weight": "gamma", "bias": "beta"}
_RUNNING = {**_GAIN, "running_mean": "moving_mean", "running_var": "moving_variance"}
_ALONE = {"running_mean": "mean", "running_var": "variance"}
_COUNT = {"num_batches_tracked": NOT_COUNTED}
_JOINT = {"in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias"}
_SAME = {"weight": "weight", "bias": "bias"}

NORM = Port("a LayerNorm or GroupNorm", _GAIN)
BATCH_NORM = Port("a BatchNorm", _RUNNING, _ALONE, dropped=_COUNT)
BATCH_NORM_3D = Port("a BatchNorm3d", _RUNNING, inner="bn2d", dropped=_COUNT)
EMBEDDING = Port("an Embedding", {"weight": "embedding_table"})
PRELU = Port("a PReLU", {"weight": "w"}, {"weight": "a"})
CONV_1D = Port("a Conv1d or ConvTranspose1d", _SAME, axis=True, note="MindSpore's weight has an axis of size 1 before the kernel's")
ATTENTION = Port("a MultiheadAttention", _JOINT, note="q, k and v stand in the same order on both sides")

PORTS = (NORM, BATCH_NORM_3D, BATCH_NORM, EMBEDDING, PRELU, CONV_1D, ATTENTION)  # the first that fits counts


def batch_norm(hf: str, mf: str, axis: str = "channels") -> tuple[Rule | Drop, ...]:
    """BatchNorm1d, BatchNorm2d, SyncBatchNorm, and InstanceNorm with running means: gamma, beta, moving_mean, moving_variance."""
    return _rules_of_port(BATCH_NORM, hf, mf, axis)


def batch_norm_3d(hf: str, mf: str, axis: str = "channels") -> tuple[Rule | Drop, ...]:
    """BatchNorm3d: the same, in a cell `bn2d` inside the cell."""
    return _rules_of_port(BATCH_NORM_3D, hf, mf, axis)


def layer_norm(hf: str, mf: str, axes: str = "width") -> tuple[Rule | Drop, ...]:
    """LayerNorm: gamma and beta. MindSpore adds 1e-7 to the variance where torch adds 1e-5, unless `epsilon` is given."""
    return _rules_of_port(NORM, hf, mf, axes)


def group_norm(hf: str, mf: str, axis: str = "channels") -> tuple[Rule | Drop, ...]:
    """GroupNorm: gamma and beta."""
    return _rules_of_port(NORM, hf, mf, axis)


def embedding(hf: str, mf: str, axes: str = "words width") -> tuple[Rule | Drop, ...]:
    """Embedding and EmbeddingLookup: embedding_table."""
    return _rules_of_port(EMBEDDING, hf, mf, axes)


def prelu(hf: str, mf: str, axis: str = "channels") -> tuple[Rule | Drop, ...]:
    """PReLU: w."""
    return _rules_of_port(PRELU, hf, mf, axis)


def conv1d(hf: str, mf: str, axes: str = "out into kernel", *, bias: bool = True) -> tuple[Rule, ...]:
    """Conv1d: MindSpore computes it as a Conv2d of height 1, so the weight has an axis of size 1 before the kernel's."""
    first, second, kernel = axes.split()
    weight = Rule(f"{hf}.weight", f"{mf}.weight", f"{axes} -> {first} {second} 1 {kernel}")
    return (weight, Rule(f"{hf}.bias", f"{mf}.bias")) if bias else (weight,)


def conv1d_transpose(hf: str, mf: str, axes: str = "into out kernel", *, bias: bool = True) -> tuple[Rule, ...]:
    """ConvTranspose1d, Conv1dTranspose in MindSpore: the same axis more; both keep the input's channels first."""
    return conv1d(hf, mf, axes, bias=bias)


def alike(hf: str, mf: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """Linear (Dense), Bilinear (BiDense), Conv2d, Conv3d, ConvTranspose2d (Conv2dTranspose), ConvTranspose3d: the same tensors."""
    return tuple(Rule(f"{hf}.{leaf}", f"{mf}.{leaf}") for leaf in ("weight", "bias")[: 1 + bias])


def recurrent(hf: str, mf: str, *, layers: int = 1, bidirectional: bool = False, bias: bool = True) -> tuple[Rule, ...]:
    """RNN, LSTM and GRU: the same tensors, the gates in the same order."""
    ways = ("", "_reverse") if bidirectional else ("",)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if bias else ("weight_ih", "weight_hh")
    leaves = (f"{kind}_l{layer}{way}" for layer in range(layers) for way in ways for kind in kinds)
    return tuple(Rule(f"{hf}.{leaf}", f"{mf}.{leaf}") for leaf in leaves)


def multihead_attention(hf: str, mf: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """MultiheadAttention: the same tensors, q, k and v in one matrix on both sides."""
    leaves = ("in_proj_weight", "out_proj.weight", *(("in_proj_bias", "out_proj.bias") if bias else ()))
    return tuple(Rule(f"{hf}.{leaf}", f"{mf}.{leaf}") for leaf in leaves)


def _rules_of_port(port: Port, hf: str, mf: str, axes: str) -> tuple[Rule | Drop, ...]:
    inside = f"{mf}.{port.inner}" if port.inner else mf
    rules = tuple(Rule(f"{hf}.{torch}", f"{inside}.{mindspore}", axes) for torch, mindspore in port.names.items())
    return (*rules, *(Drop(f"{hf}.{name}", why) for name, why in port.dropped.items()))
