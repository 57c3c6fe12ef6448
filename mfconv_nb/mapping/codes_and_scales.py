"""Which tensors of a checkpoint are codes, which scales belong to them, and the weight that both stand for. By names, dtypes and shapes.

| codes | scales | weight |
|---|---|---|
| `X`, fp8 | `X_scale_inv` or `X_scale`; of `Y.weight` also `Y.scale` | `X`, of the shape of its codes |
| `Y.weight`, I8 | `Y.scale`, e8m0 | `Y.weight`, e2m1: two codes in a byte, a scale for 32 columns |
| `X_blocks`, U8 | `X_scales`, U8 | `X`, e2m1, a scale for 32 columns; its last two axes are exchanged |

The blocks of fp8 are what the config says (`weight_block_size`, a group of compressed-tensors) and what the shapes of the scales say; the
two must agree. Without a word of the config only one scale for the tensor, or one a row, can be told.
All other schemes have other names or dtypes, and are left to ``quantised.py``.

Sources: published DeepSeek-V3, -V3.1, -V4 and Kimi-K2 (names, blocks), compressed-tensors (`weight_scale`, `config_groups`), gpt-oss
(`_blocks`, `_scales`; transformers 5.23, `integrations/mxfp4.py`, gives the weight as input x output).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import quote
from mfconv_nb.core.report import shape_text
from mfconv_nb.core.scaled_codes import CODE_KINDS, E2M1
from mfconv_nb.mapping.quantised import CONFIG_KEYS, FP8, SUFFIXES, WORDS, claimed_scheme

Shape = tuple[int, ...]
FP4_COLUMNS = 32  # of a block of mxfp4
DTYPES_OF_CODES = FP8 | {"I8", "U8"}
SCALE_DTYPES = frozenset({"F32", "BF16", "F16", "F8_E8M0"})
ENDINGS_OF_SCALES = ("_scale_inv", "_scale", ".scale")  # of `X`; the last in place of `.weight`
BLOCKS, SCALES = "_blocks", "_scales"
OF_ACTIVATIONS = ("input_scale", "k_scale", "v_scale", "kv_scale", "q_scale", "output_scale")  # last words of names
SCHEMES_WE_READ = frozenset({"", "fp8", "compressed-tensors", "MXFP4"})  # as a config calls them; of others the names may say less
NAMES_OF_OTHERS = SUFFIXES.keys() - {"weight_scale_inv", "weight_scale", *WORDS}  # last words of names, in schemes that are not read
HINT_FETCH = "Fetch the files again: codes and scales have to be of one save."
HINT_CONFIG = "Give the config.json that was published with the weights: --config (config= in Python)."
HINT_ONE_SIZE = (
    "Take the block size that is not its own out of the config, or convert these weights alone: --leave_out (leave_out= in Python)."
)


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight as codes and scales.

    Attributes:
        weight: its name and logical shape; the dtype is that of the codes where a byte is one code, else ``E2M1``.
        codes, scales: as they are stored.
        block: rows and columns that one scale is for.
        turned: the weight has the last two axes of its codes exchanged.
    """

    weight: TensorSpec
    codes: TensorSpec
    scales: TensorSpec
    block: tuple[int, int]
    turned: bool = False

    @property
    def kind(self) -> str:
        """The kind of its codes."""
        return self.weight.dtype

    @property
    def rows(self) -> int:
        """Rows of one matrix; a stack has several."""
        return self._matrix[0]

    @property
    def columns(self) -> int:
        return self._matrix[1]

    @property
    def _matrix(self) -> tuple[int, int]:
        rows, columns = self.weight.shape[-2:]
        return (columns, rows) if self.turned else (rows, columns)

    @property
    def scheme(self) -> str:
        """In words, as reports group weights: ``fp8_e4m3 with fp32 scales of 128 x 128``."""
        rows, columns = self.block
        whole_rows, whole_columns = rows >= self.rows, columns >= self.columns
        blocks = f"a scale for {columns} columns" if rows == 1 else f"blocks of {rows} x {columns}"
        blocks = "one scale" if whole_rows and whole_columns else "a scale a row" if rows == 1 and whole_columns else blocks
        name = "fp4 (e2m1)" if self.kind == E2M1 else short_name(self.kind)
        return f"{name}, {blocks} in {'fp8_e8m0' if self.scales.dtype == 'U8' else short_name(self.scales.dtype)}"


@dataclass(frozen=True)
class Pairing:
    """What of a checkpoint are codes with scales.

    Attributes:
        coded: by the name of the weight.
        of_activations: scales of what a network computes, which are no part of a weight.
        problems: (what it is about, found, expected, hint) of what does not fit together; then nothing may be taken for a number.
    """

    coded: Mapping[str, Coded] = field(default_factory=dict)
    of_activations: tuple[str, ...] = ()
    problems: tuple[tuple[str, str, str, str], ...] = ()


def pair_codes(specs: Iterable[TensorSpec], config: Mapping[str, Any] | None, beside: str = "") -> Pairing:
    """Pair codes with scales, in whatever files they lie. Nothing is paired where the scheme is one that is not read here.

    Args:
        beside: what a file beside the weights says of the scheme.
    """
    by_name = {s.name: s for s in specs}
    if DTYPES_OF_CODES.isdisjoint(s.dtype for s in by_name.values()):
        return Pairing()
    claim = claimed_scheme(config) or beside
    if claim not in SCHEMES_WE_READ or not NAMES_OF_OTHERS.isdisjoint(map(_last, by_name)):
        return Pairing()
    coded: dict[str, Coded] = {}
    problems: list[tuple[str, str, str, str]] = []
    used: set[str] = set()
    alone = []
    blocks = blocks_of(config)
    for spec in by_name.values():
        found = _scales_beside(spec, by_name)
        if len(found) > 1:
            names = " and ".join(quote(s.name) for s in found)
            problems.append((spec.name, f"two scales for it: {names}", "one", HINT_FETCH))
        elif found and (one := _fit_together(spec, found[0], blocks, problems)) is not None:
            coded[one.weight.name] = one
        elif not found and _wants_scale(spec):
            alone.append(spec)
        used |= {s.name for s in found}
    if not coded and not problems:
        alone = [s for s in alone if claim and s.dtype in FP8]
    kind = {one.codes.dtype for one in coded.values()} | ({s.dtype for s in alone} if not coded else set())
    if not kind and not problems:
        return Pairing()
    for spec in (s for s in alone if s.dtype in kind):
        wanted = " or ".join(quote(n) for n in _names_of_scales(spec))
        problems.append((spec.name, f"{short_name(spec.dtype)} codes without their scale", f"{wanted}, in any of the files", HINT_FETCH))
    problems += [
        (name, "a scale without its codes", f"{quote(_codes_of(name))} in {' or '.join(sorted(map(short_name, kind)))}", HINT_FETCH)
        for name, spec in by_name.items()
        if name not in used and _is_scale(spec, by_name)
    ]
    of_activations = tuple(n for n in by_name if n not in used and _last(n) in OF_ACTIVATIONS)
    return Pairing(coded, of_activations, tuple(problems))


def is_possible(coded: Coded) -> bool:
    """Whether names, shapes and dtypes are such as ``pair_codes`` could have paired: for what was remembered, and may have been changed."""
    codes, scales, block = coded.codes, coded.scales, coded.block
    if min(block) < 1 or not _scales_beside(codes, {scales.name: scales}) or _weight_of(codes, scales) != coded.weight:
        return False
    turned = codes.dtype == "U8"
    return coded.turned == turned and scales.shape in _shapes_of_scales(coded.weight.shape[:-2], coded.rows, coded.columns, block)


# ---- names -----------------------------------------------------------------------------------------------------------------


def _names_of_scales(codes: TensorSpec) -> list[str]:
    if codes.name.endswith(BLOCKS) and codes.dtype == "U8":
        return [codes.name.removesuffix(BLOCKS) + SCALES]
    stem = codes.name.removesuffix(".weight")
    names = [f"{codes.name}_scale_inv", f"{codes.name}_scale"] if codes.dtype in FP8 else []
    return [*names, *([f"{stem}.scale"] if stem != codes.name else [])]


def _scales_beside(spec: TensorSpec, by_name: Mapping[str, TensorSpec]) -> list[TensorSpec]:
    """The tensors that are scales of these codes; none where it holds no codes, or those of another scheme."""
    if spec.dtype not in DTYPES_OF_CODES or len(spec.shape) < 2 or (spec.dtype in FP8 and _last(spec.name).endswith("scale")):
        return []
    if spec.dtype == "U8" and not spec.name.endswith(BLOCKS):
        return []
    dtypes = {"I8": frozenset({"F8_E8M0"}), "U8": frozenset({"U8"})}.get(spec.dtype, SCALE_DTYPES)
    return [s for n in _names_of_scales(spec) if (s := by_name.get(n)) is not None and s.dtype in dtypes]


def _wants_scale(spec: TensorSpec) -> bool:
    return (spec.dtype in FP8 and len(spec.shape) >= 2 and not _last(spec.name).endswith("scale")) or (
        spec.dtype == "I8" and len(spec.shape) == 2 and spec.name.endswith(".weight")
    )


def _is_scale(spec: TensorSpec, by_name: Mapping[str, TensorSpec]) -> bool:
    """Whether a name, beside codes that have their scales, can be nothing but that of a scale."""
    name = spec.name
    if name.endswith((".weight_scale_inv", "_scale_inv", ".weight_scale")) or (name.endswith(SCALES) and spec.dtype == "U8"):
        return True
    return name.endswith(".scale") and (spec.dtype == "F8_E8M0" or f"{name.removesuffix('.scale')}.weight" in by_name)


def _codes_of(scales: str) -> str:
    if scales.endswith(SCALES):
        return scales.removesuffix(SCALES) + BLOCKS
    if scales.endswith(".scale"):
        return f"{scales.removesuffix('.scale')}.weight"
    return scales.removesuffix("_scale_inv").removesuffix("_scale")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


# ---- blocks ----------------------------------------------------------------------------------------------------------------


def blocks_of(config: Mapping[str, Any] | None) -> tuple[tuple[int, int], ...] | None:
    """The blocks that a config says; (0, 0) stands for one scale a tensor, (1, 0) for one a row. None where it says nothing."""
    found: list[tuple[int, int]] = []
    for settings in _settings_of(config):
        found += _block_sizes(settings.get("weight_block_size"))
        groups = settings.get("config_groups")
        for group in groups.values() if isinstance(groups, Mapping) else ():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            found += _blocks_of_group(weights) if isinstance(weights, Mapping) else []
    return tuple(dict.fromkeys(found)) or None


def _settings_of(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    for part in (config or {}, *(v for v in (config or {}).values() if isinstance(v, Mapping))):
        yield from (part[key] for key in CONFIG_KEYS if isinstance(part.get(key), Mapping))


def _block_sizes(value: object) -> list[tuple[int, int]]:
    is_pair = isinstance(value, Sequence) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)
    return [(value[0], value[1])] if is_pair and isinstance(value, Sequence) else []


def _blocks_of_group(weights: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Source: `QuantizationArgs` of compressed-tensors: strategy, block_structure, group_size."""
    strategy = weights.get("strategy")
    if strategy == "group" and type(weights.get("group_size")) is int and weights["group_size"] > 0:
        return [(1, weights["group_size"])]
    return {"tensor": [(0, 0)], "channel": [(1, 0)]}.get(str(strategy)) or _block_sizes(weights.get("block_structure"))


def _fit_together(
    codes: TensorSpec, scales: TensorSpec, blocks: tuple[tuple[int, int], ...] | None, problems: list[tuple[str, str, str, str]]
) -> Coded | None:
    """The weight of codes and scales; None, and a problem more, where their shapes do not fit together."""
    weight = _weight_of(codes, scales)
    if weight is None:
        problems.append(
            (codes.name, f"{shape_text(codes.shape)} with scales {shape_text(scales.shape)}", "16 bytes for a scale", HINT_FETCH)
        )
        return None
    turned = codes.dtype == "U8"
    *stack, rows, columns = (*weight.shape[:-2], *reversed(weight.shape[-2:])) if turned else weight.shape
    choices = ((1, FP4_COLUMNS),) if weight.dtype == E2M1 else blocks or ((0, 0), (1, 0))
    sizes = [(up or max(1, rows), across or max(1, columns)) for up, across in choices]
    fitting = {
        (min(block[0], max(1, rows)), min(block[1], max(1, columns))): block
        for block in reversed(sizes)
        if scales.shape in _shapes_of_scales(tuple(stack), rows, columns, block)
    }
    if len(fitting) > 1:
        found = f"{shape_text(scales.shape)}, which fits {' and '.join(_block_text(b) for b in reversed(fitting.values()))}"
        problems.append((scales.name, found, "one size of blocks", HINT_ONE_SIZE))
        return None
    if fitting:
        return Coded(weight, codes, scales, next(iter(fitting.values())), turned)
    wanted = dict.fromkeys(shape_text(_shapes_of_scales(tuple(stack), rows, columns, block)[0]) for block in sizes)
    said = " in ".join(["blocks", "config.json"]) if blocks else "no block size in the config"
    of = f"for {shape_text(weight.shape)}, with " + (
        " or ".join(_block_text(b) for b in choices) if blocks or weight.dtype == E2M1 else said
    )
    hint = HINT_FETCH if blocks or weight.dtype == E2M1 else HINT_CONFIG
    problems.append((scales.name, f"{shape_text(scales.shape)}", f"{' or '.join(wanted)}, {of}", hint))
    return None


def _block_text(block: tuple[int, int]) -> str:
    return {(0, 0): "one scale", (1, 0): "a scale a row"}.get(block, f"blocks of {block[0]} x {block[1]}")


def _weight_of(codes: TensorSpec, scales: TensorSpec) -> TensorSpec | None:
    """Name, logical shape and kind of codes."""
    if codes.dtype in FP8:
        return TensorSpec(codes.name, codes.shape, codes.dtype)
    if codes.dtype == "I8":
        return TensorSpec(codes.name, (*codes.shape[:-1], 2 * codes.shape[-1]), E2M1)
    if codes.shape[:-1] != scales.shape or 2 * codes.shape[-1] != FP4_COLUMNS or len(codes.shape) < 3:
        return None
    *stack, rows, groups, width = codes.shape
    return TensorSpec(codes.name.removesuffix(BLOCKS), (*stack, groups * width * CODE_KINDS[E2M1], rows), E2M1)


def _shapes_of_scales(stack: Shape, rows: int, columns: int, block: tuple[int, int]) -> list[Shape]:
    """The shapes that scales of such blocks may have: a stack of grids; one a row without its second axis, one in all as a scalar."""
    grid = (math.ceil(rows / block[0]), math.ceil(columns / block[1]))
    shapes: list[Shape] = [(*stack, *grid)]
    if block[1] >= columns and block[0] == 1:
        shapes.append((*stack, rows))
    if grid == (1, 1):
        shapes += [(*stack, 1), stack]
    return shapes
