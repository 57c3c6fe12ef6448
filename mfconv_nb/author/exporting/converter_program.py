"""Operations that an exported `weight_converters` list brings along, where MindFormers' own cannot do what a rule says, or stop.

`program_text.py` copies the classes that a list needs out of this module. Therefore it imports nothing of the package. Never imported.
Source: mindformers 2.1.0, ``checkpoint/converter`` and ``checkpoint/reshard.py``: what their template and their loader ask of an operation.
"""

# ruff: noqa: B905 (zip(strict=...) needs Python 3.10)
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindformers.checkpoint.converter.convert_op import ConvertOp, ExpertsConvertOp, QKVConvertOp, RenameConvertOp
from mindspore import Parameter

# a layout -> the functions that carry it out, towards MindFormers and back
LAYOUTS: dict[str, Any] = {}


def as_array(weight: Any) -> Any:
    """The numbers of a weight: an array, or a tensor of mindspore."""
    return weight.asnumpy() if hasattr(weight, "asnumpy") else np.asarray(weight)


def check_zeros(array: Any) -> None:
    """Raises ValueError where numbers would be lost: the other side has no place for them."""
    if np.any(array):
        raise ValueError("numbers that have no place on the other side are not all zero")


@dataclass
class LayoutConvertOp(QKVConvertOp):
    """Whole tensors, put in another order as a layout sentence says; ``sizes`` are those of the config that the list was exported for.

    A QKVConvertOp, whatever it joins: only where a list has one that takes whole tensors, MindFormers' loader leaves q_proj, k_proj and
    v_proj to the list. Else it joins them by group, also where the list says otherwise, and stops at their biases.
    """

    layout: str = ""
    sizes: Any = ()

    def __post_init__(self) -> None:
        ConvertOp.__post_init__(self)

    def set_model_config(self, config: Any) -> None:
        self.mf_config = config
        self.num_query_groups = self.tensor_model_parallel_size = self.optimizer_parallel_size = 1
        if (getattr(config, "tensor_model_parallel_size", 1) or 1) > 1:
            raise ValueError(
                f"{self.mf_names}: made of whole tensors only. Convert with mfconv, then load the result with tensor parallel."
            )

    def _arrange(self, direction: int, weights: Any) -> Any:
        if (self.optimizer_parallel_size or 1) > 1:
            raise ValueError(f"{self.mf_names}: made of whole tensors only, not of shards. Convert with mfconv, then load the result.")
        made = LAYOUTS[self.layout][direction](dict(self.sizes).__getitem__, *map(as_array, weights))
        return [np.ascontiguousarray(array) for array in made]

    def _hf_to_mf(self, weights: Any) -> Any:
        return self._arrange(0, weights)

    def _mf_to_hf(self, weights: Any) -> Any:
        return self._arrange(1, weights)


@dataclass
class EachExpertConvertOp(ExpertsConvertOp):
    """The experts of a layer, one by one as Hugging Face files have them, in one tensor of two or three axes.

    ExpertsConvertOp itself expects them stacked, and makes two axes. A name with ``(?=61.)`` before its first ``{}`` is of layer 61 alone.
    """

    axes: int = 2
    optimizer_parallel_size: Any = None

    def set_model_config(self, config: Any) -> None:
        super().set_model_config(config)
        self.optimizer_parallel_size = max(self.optimizer_parallel_size or 1, 1)  # outside of a parallel run they say -1

    def __call__(self, name_to_weight: Any, mf_to_hf: bool = False) -> Any:
        return self.mf_to_hf(name_to_weight) if mf_to_hf else self.hf_to_mf(name_to_weight)

    def hf_to_mf(self, name_to_weight: Any) -> Any:
        """One tensor of the experts of a layer; None until all of them are there."""
        patterns = [re.compile(name.replace(".", r"\.").replace("{}", "([0-9]+)")) for name in self.hf_names]
        parts: list[dict[int, Any]] = [{} for _ in patterns]
        layer = ""
        for name, weight in name_to_weight.items():
            matches = [(part, match) for part, pattern in zip(parts, patterns) if (match := pattern.fullmatch(name))]
            if not matches:
                raise ValueError(f"{name}: no weight of an expert; MindFormers' matching gives it to {self.hf_names}")
            for part, match in matches:
                layer, expert = match.groups()
                part[int(expert)] = as_array(weight)
        if any(set(part) != set(range(self.num_moe_experts)) for part in parts):
            return None
        stacked = [np.stack([part[expert] for expert in sorted(part)]).transpose(0, 2, 1) for part in parts]
        joined = np.concatenate(stacked, axis=2)
        return {self.mf_names[0].format(layer): joined if self.axes == 3 else joined.reshape(-1, joined.shape[2])}

    def mf_to_hf(self, name_to_weight: Any) -> Any:
        """The weights of every expert; of two axes or of three."""
        made = {}
        for name, weight in name_to_weight.items():
            match = re.fullmatch(self.mf_names[0].replace(".", r"\.").replace("{}", "([0-9]+)"), name)
            if match is None:
                raise ValueError(f"{name}: MindFormers' matching gives it to {self.mf_names}")
            for pattern, experts in zip(self.hf_names, self._mf_to_hf([as_array(weight)])):
                plain = re.sub(r"\(\?=([0-9]+)\.\)\{\}", r"\1", pattern)
                made.update({plain.format(*match.groups(), number): array for number, array in enumerate(experts)})
        return made


@dataclass
class CopiesConvertOp(ConvertOp):
    """Equal tensors on the Hugging Face side, one tensor on the other."""

    def _hf_to_mf(self, weights: Any) -> Any:
        if any(as_array(weight).tobytes() != as_array(weights[0]).tobytes() for weight in weights):
            raise ValueError(f"{self.hf_names} must be equal, and are not: there is one place for them, {self.mf_names}")
        return weights[:1]

    def _mf_to_hf(self, weights: Any) -> Any:
        return weights[:1] * len(self.hf_names)


@dataclass
class FixedDtypeConvertOp(RenameConvertOp):
    """A rename to a tensor that keeps a dtype of its own, whatever params_dtype says; on the way back it has that dtype still."""

    dtype: str = "float32"

    def hf_to_mf(self, name_to_weight: Any) -> Any:
        """A Parameter: their template casts whatever else it gets."""
        made = super().hf_to_mf(name_to_weight)
        return {name: Parameter(as_array(weight).astype(self.dtype), name=name) for name, weight in made.items()}
