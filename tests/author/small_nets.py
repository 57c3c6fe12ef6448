"""Small nets as papers have them, each as a torch Module and as the MindSpore Cell that a port of it is.

Names differ as they do in MindSpore's own models: `end_point`, `down_sample_layer`, `dense1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mindspore
import numpy as np
import torch
from mindspore import nn, ops
from torch import nn as tnn

Array = np.ndarray[Any, Any]


# ---- a ResNet's blocks -------------------------------------------------------------------------------------------------


class TorchBlock(tnn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(into, out, 3, stride, 1, bias=False), tnn.BatchNorm2d(out)
        self.conv2, self.bn2 = tnn.Conv2d(out, out, 3, 1, 1, bias=False), tnn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1:
            self.downsample = tnn.Sequential(tnn.Conv2d(into, out, 1, stride, bias=False), tnn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class CellBlock(nn.Cell):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv2d(into, out, 3, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = conv2d(out, out, 3), nn.BatchNorm2d(out)
        self.down_sample = stride > 1
        if self.down_sample:
            self.down_sample_layer = nn.SequentialCell([nn.Conv2d(into, out, 1, stride, pad_mode="valid"), nn.BatchNorm2d(out)])

    def construct(self, x: Any) -> Any:
        y = self.bn2(self.conv2(ops.relu(self.bn1(self.conv1(x)))))
        return ops.relu(y + (self.down_sample_layer(x) if self.down_sample else x))


def conv2d(into: int, out: int, kernel: int, stride: int = 1, *, has_bias: bool = False) -> nn.Cell:
    return nn.Conv2d(into, out, kernel, stride, pad_mode="pad", padding=kernel // 2, has_bias=has_bias)


class TorchResNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(3, 8, 7, 2, 3, bias=False), tnn.BatchNorm2d(8)
        self.layer1 = tnn.Sequential(TorchBlock(8, 8, 1), TorchBlock(8, 8, 1))
        self.layer2 = tnn.Sequential(TorchBlock(8, 16, 2), TorchBlock(16, 16, 1))
        self.fc = tnn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.fc(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


class CellResNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv2d(3, 8, 7, 2), nn.BatchNorm2d(8)
        self.layer1 = nn.SequentialCell([CellBlock(8, 8, 1), CellBlock(8, 8, 1)])
        self.layer2 = nn.SequentialCell([CellBlock(8, 16, 2), CellBlock(16, 16, 1)])
        self.end_point = nn.Dense(16, 10)

    def construct(self, x: Any) -> Any:
        return self.end_point(self.layer2(self.layer1(ops.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


# ---- a speech net of one-dimensional convolutions -----------------------------------------------------------------------


class TorchSpeech(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = tnn.Sequential(
            *(tnn.Conv1d(13, 24, 5), tnn.BatchNorm1d(24), tnn.ReLU(), tnn.Conv1d(24, 24, 5), tnn.BatchNorm1d(24), tnn.ReLU())
        )
        self.blocks = tnn.ModuleList(tnn.Sequential(tnn.Conv1d(24, 24, 3), tnn.BatchNorm1d(24)) for _ in range(3))
        self.lstm = tnn.LSTM(24, 12, batch_first=True)
        self.classifier = tnn.Linear(12, 7)

    def forward(self, x: Any) -> Any:
        y = self.features(x)
        for block in self.blocks:
            y = torch.relu(block(y))
        return self.classifier(self.lstm(y.transpose(1, 2))[0].mean(1))


class CellSpeech(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.SequentialCell(
            [conv1d(13, 24, 5), nn.BatchNorm1d(24), nn.ReLU(), conv1d(24, 24, 5), nn.BatchNorm1d(24), nn.ReLU()]
        )
        self.blocks = nn.CellList([nn.SequentialCell([conv1d(24, 24, 3), nn.BatchNorm1d(24)]) for _ in range(3)])
        self.lstm = nn.LSTM(24, 12, batch_first=True)
        self.classifier = nn.Dense(12, 7)

    def construct(self, x: Any) -> Any:
        y = self.features(x)
        for block in self.blocks:
            y = ops.relu(block(y))
        return self.classifier(self.lstm(y.swapaxes(1, 2))[0].mean(1))


def conv1d(into: int, out: int, kernel: int) -> nn.Cell:
    return nn.Conv1d(into, out, kernel, pad_mode="valid", has_bias=True)


# ---- text: an embedding, a GRU, attention -------------------------------------------------------------------------------


class TorchText(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = tnn.Embedding(50, 16), tnn.LayerNorm(16)
        self.gru = tnn.GRU(16, 8, 2, bidirectional=True, batch_first=True)
        self.attention, self.norm2 = tnn.MultiheadAttention(16, 4, batch_first=True), tnn.LayerNorm(16)
        self.linear1, self.linear2 = tnn.Linear(16, 16), tnn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        y = self.gru(self.norm(self.embedding(x)))[0]
        y = self.norm2(y + self.attention(y, y, y, need_weights=False)[0])
        return self.linear2(torch.relu(self.linear1(y)))


class CellText(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, 16), nn.LayerNorm((16,), epsilon=1e-5)
        self.gru = nn.GRU(16, 8, 2, bidirectional=True, batch_first=True)
        self.attention, self.norm2 = nn.MultiheadAttention(16, 4, batch_first=True), nn.LayerNorm((16,), epsilon=1e-5)
        self.dense1, self.dense2 = nn.Dense(16, 16), nn.Dense(16, 5)

    def construct(self, x: Any) -> Any:
        y = self.gru(self.norm(self.embedding(x)))[0]
        y = self.norm2(y + self.attention(y, y, y, need_weights=False)[0])
        return self.dense2(ops.relu(self.dense1(y)))


# ---- a U-Net's blocks with group norms ----------------------------------------------------------------------------------


class TorchGroupBlock(tnn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = tnn.GroupNorm(4, into), tnn.Conv2d(into, out, 3, 1, 1)
        self.norm2, self.conv2 = tnn.GroupNorm(4, out), tnn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = tnn.Conv2d(into, out, 1)

    def forward(self, x: Any) -> Any:
        y = self.conv1(torch.relu(self.norm1(x)))
        return self.conv2(torch.relu(self.norm2(y))) + self.shortcut(x)


class CellGroupBlock(nn.Cell):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, into), conv2d(into, out, 3, has_bias=True)
        self.norm2, self.conv2 = nn.GroupNorm(4, out), conv2d(out, out, 3, has_bias=True)
        self.short_cut = conv2d(into, out, 1, has_bias=True)

    def construct(self, x: Any) -> Any:
        y = self.conv1(ops.relu(self.norm1(x)))
        return self.conv2(ops.relu(self.norm2(y))) + self.short_cut(x)


class TorchUNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc = tnn.Conv2d(3, 8, 3, 1, 1)
        self.down, self.mid = TorchGroupBlock(8, 16), TorchGroupBlock(16, 16)
        self.up, self.up_block = tnn.ConvTranspose2d(16, 8, 2, 2), TorchGroupBlock(16, 8)
        self.norm_out, self.outc = tnn.GroupNorm(2, 8), tnn.Conv2d(8, 1, 1)

    def forward(self, x: Any) -> Any:
        first = self.inc(x)
        y = self.mid(torch.nn.functional.max_pool2d(self.down(first), 2))
        return self.outc(self.norm_out(self.up_block(torch.cat([self.up(y), first], 1))))


class CellUNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.inc = conv2d(3, 8, 3, has_bias=True)
        self.down, self.mid = CellGroupBlock(8, 16), CellGroupBlock(16, 16)
        self.up, self.up_block = nn.Conv2dTranspose(16, 8, 2, 2, pad_mode="valid", has_bias=True), CellGroupBlock(16, 8)
        self.norm_out, self.outc = nn.GroupNorm(2, 8), conv2d(8, 1, 1, has_bias=True)
        self.pool = nn.MaxPool2d(2, 2)

    def construct(self, x: Any) -> Any:
        first = self.inc(x)
        y = self.mid(self.pool(self.down(first)))
        return self.outc(self.norm_out(self.up_block(ops.cat([self.up(y), first], 1))))


# ---- video: three-dimensional batch norms -------------------------------------------------------------------------------


class TorchVideo(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv3d(3, 6, 3), tnn.BatchNorm3d(6)
        self.conv2, self.bn2 = tnn.Conv3d(6, 6, 3), tnn.BatchNorm3d(6)
        self.fc = tnn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(y))).mean((2, 3, 4)))


class CellVideo(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, 6, 3, pad_mode="valid", has_bias=True), nn.BatchNorm3d(6)
        self.conv2, self.bn2 = nn.Conv3d(6, 6, 3, pad_mode="valid", has_bias=True), nn.BatchNorm3d(6)
        self.fc = nn.Dense(6, 4)

    def construct(self, x: Any) -> Any:
        y = ops.relu(self.bn1(self.conv1(x)))
        return self.fc(ops.relu(self.bn2(self.conv2(y))).mean((2, 3, 4)))


# ---- super-resolution: PReLU and a transposed convolution ---------------------------------------------------------------


class TorchSuperResolution(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_part = tnn.Sequential(tnn.Conv2d(1, 12, 5, padding=2), tnn.PReLU(12))
        layers: list[Any] = [tnn.Conv2d(12, 6, 1), tnn.PReLU(6)]
        for _ in range(2):
            layers += [tnn.Conv2d(6, 6, 3, padding=1), tnn.PReLU(6)]
        self.mid_part = tnn.Sequential(*layers, tnn.Conv2d(6, 12, 1), tnn.PReLU(12))
        self.last_part = tnn.ConvTranspose2d(12, 1, 3, 3)

    def forward(self, x: Any) -> Any:
        return self.last_part(self.mid_part(self.first_part(x)))


class CellSuperResolution(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first_part = nn.SequentialCell([conv2d(1, 12, 5, has_bias=True), nn.PReLU(12)])
        layers: list[Any] = [conv2d(12, 6, 1, has_bias=True), nn.PReLU(6)]
        for _ in range(2):
            layers += [conv2d(6, 6, 3, has_bias=True), nn.PReLU(6)]
        self.mid_part = nn.SequentialCell([*layers, conv2d(6, 12, 1, has_bias=True), nn.PReLU(12)])
        self.last_part = nn.Conv2dTranspose(12, 1, 3, 3, pad_mode="valid", has_bias=True)

    def construct(self, x: Any) -> Any:
        return self.last_part(self.mid_part(self.first_part(x)))


# ---- a vocoder: transposed one-dimensional convolutions -----------------------------------------------------------------


class TorchVocoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = tnn.Conv1d(10, 16, 5)
        self.ups = tnn.ModuleList([tnn.ConvTranspose1d(16, 8, 4, 2), tnn.ConvTranspose1d(8, 4, 4, 2)])
        self.act, self.conv_post = tnn.PReLU(), tnn.Conv1d(4, 1, 5)

    def forward(self, x: Any) -> Any:
        y = self.conv_pre(x)
        for up in self.ups:
            y = up(self.act(y))
        return self.conv_post(y)


class CellVocoder(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = conv1d(10, 16, 5)
        self.ups = nn.CellList([nn.Conv1dTranspose(a, b, 4, 2, pad_mode="valid", has_bias=True) for a, b in ((16, 8), (8, 4))])
        self.act, self.conv_post = nn.PReLU(), conv1d(4, 1, 5)

    def construct(self, x: Any) -> Any:
        y = self.conv_pre(x)
        for up in self.ups:
            y = up(self.act(y))
        return self.conv_post(y)


# ---- all of them -------------------------------------------------------------------------------------------------------

Pair = tuple[Callable[[], Any], Callable[[], Any], tuple[int, ...]]
NETS: Mapping[str, Pair] = {
    "ResNet": (TorchResNet, CellResNet, (2, 3, 16, 16)),
    "speech": (TorchSpeech, CellSpeech, (2, 13, 40)),
    "text": (TorchText, CellText, (2, 9)),
    "U-Net": (TorchUNet, CellUNet, (2, 3, 8, 8)),
    "video": (TorchVideo, CellVideo, (2, 3, 8, 8, 8)),
    "super-resolution": (TorchSuperResolution, CellSuperResolution, (2, 1, 6, 6)),
    "vocoder": (TorchVocoder, CellVocoder, (2, 10, 20)),
}


def trained(module: Any, seed: int = 3) -> Any:
    """The module with random numbers everywhere, running means and variances too: nothing stays 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
                if name.endswith("running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


def inputs(shape: tuple[int, ...], *, words: bool) -> Array:
    rng = np.random.default_rng(7)
    return rng.integers(0, 50, shape).astype(np.int32) if words else rng.standard_normal(shape).astype(np.float32)


def outputs(module: Any, cell: Any, x: Array) -> tuple[Array, Array]:
    """What both make of the same input, neither in training."""
    cell.set_train(False)
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy(), cell(mindspore.Tensor(x)).asnumpy()
