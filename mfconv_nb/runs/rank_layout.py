"""The layout that a caller writes to cut a checkpoint for the devices of a run: its fields, its checks, its JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from mfconv_nb.core.errors import UsageError, did_you_mean, on_one_line, quoted
from mfconv_nb.core.paths import read_small
from mfconv_nb.formats.known import run_endings

RANK_FOLDERS, CHECKPOINT_2 = "rank folders", "checkpoint 2.0"
FORMS = (RANK_FOLDERS, CHECKPOINT_2)
MAX_LAYOUT_BYTES = 64 << 20
MAX_RANKS = 1 << 16
MAX_STEP = 10**12 - 1  # twelve digits: names with more are not read back
MAX_PREFIX_BYTES = 128
HINT_LAYOUT = 'Write such a file, and give it with --layout_of_ranks FILE.json (layout_of_ranks="FILE.json" in Python).'

Cut = str | Sequence[str] | None  # what cuts one axis: a device dimension, several (the coarsest first), or none


@dataclass(frozen=True)
class RankLayout:
    """How a checkpoint is cut for the devices of a run.

    Attributes:
        devices: the dimensions of the device matrix of a pipeline stage, the slowest first: ``{"dp": 2, "tp": 4}`` are 8 ranks; ranks 0
            to 3 are the first data-parallel group.
        cuts: for patterns of names (``*`` stands for anything) what cuts each axis: ``{"*.wq.weight": ("tp", None)}``. The first
            pattern that fits counts; a tensor that no pattern fits is whole on every rank.
        stages: for each pipeline stage the patterns of its tensors; left out, there is one stage. A tensor may be in several stages.
        optimizer_shards: where several ranks would hold the same slice, its first axis is cut into so many parts, if it divides.
        form: "rank folders" (Checkpoint 1.0: `rank_N/` and `strategy/`), or "checkpoint 2.0" (`iteration_N/` with `metadata.json`).
        ending: of the files of rank folders, ".safetensors" or ".ckpt".
        epoch, step: for the names of the files.
        prefix: of the files of rank folders.
        strategy: instead of devices, cuts, stages and shards: the strategy files of the run that will start, a file or a folder.
    """

    devices: Mapping[str, int] = field(default_factory=dict)
    cuts: Mapping[str, Sequence[Cut]] = field(default_factory=dict)
    stages: Sequence[Sequence[str]] = ()
    optimizer_shards: int = 1
    form: str = RANK_FOLDERS
    ending: str = ".safetensors"
    epoch: int = 0
    step: int = 0
    prefix: str = "checkpoint"
    strategy: str | Path = ""

    def __post_init__(self) -> None:
        if isinstance(self.form, str):
            object.__setattr__(self, "form", self.form.lower())  # messages write "Checkpoint 2.0"
        _check_one_of("form", self.form, FORMS)
        _check_one_of("ending", self.ending, run_endings())
        for name in ("epoch", "step"):
            _check(_is_count(getattr(self, name), MAX_STEP), name, getattr(self, name), f"a whole number from 0 to {MAX_STEP:,}")
        _check(_is_prefix(self.prefix), "prefix", self.prefix, "a beginning of file names, such as llama: no / in it, no . at its front")
        _check(isinstance(self.strategy, str | Path), "strategy", self.strategy, "a path")
        if self.strategy:
            if self.devices or self.cuts or self.stages or self.optimizer_shards != 1:
                found = "strategy, and devices, cuts, stages or shards"
                raise UsageError("MFC501", "strategy", found=found, expected="one of them", hint="The strategy files say it all.")
            return
        self._check_devices()
        self._check_cuts()
        shards, most = self.optimizer_shards, math.prod(self.devices.values())
        _check(_is_count(shards, most) and shards > 0, "optimizer_shards", shards, f"a number from 1 to {most:,}, the ranks of a stage")
        stages = self.stages
        of_texts = _is_list(stages) and all(_is_list(stage) and all(isinstance(p, str) for p in stage) for stage in stages)
        _check(of_texts, "stages", stages, 'for each stage a list of patterns: [["*.layers.0.*"], ["*.layers.1.*"]]')

    def _check_devices(self) -> None:
        sizes = self.devices.values() if isinstance(self.devices, Mapping) else ()
        are_counts = bool(sizes) and all(_is_count(n, MAX_RANKS) and n > 0 for n in sizes)
        if not are_counts or self.ranks > MAX_RANKS:
            hint = 'Such as {"dp": 2, "tp": 4}: at most 65,536 ranks.'
            raise UsageError("MFC501", "devices", found=_value_text(self.devices), expected="dimensions with their sizes", hint=hint)

    def _check_cuts(self) -> None:
        form = 'patterns of names, and for every axis what cuts it: {"*.wq.weight": ["tp", null]}'
        _check(isinstance(self.cuts, Mapping), "cuts", self.cuts, form)
        for pattern, axes in self.cuts.items():
            where = f"cuts[{quoted(str(pattern))}]"
            _check(isinstance(pattern, str) and _is_list(axes) and all(_is_cut(cut) for cut in axes), where, axes, form)
            unknown = [n for cut in axes for n in dimensions_of(cut) if n not in self.devices]
            if unknown:
                expected, hint = ", ".join(self.devices), did_you_mean(unknown[0], self.devices) or "Name it in devices too, with its size."
                raise UsageError("MFC501", where, found=quoted(unknown[0]), expected=expected, hint=hint)

    @property
    def ranks(self) -> int:
        """The number of ranks of all stages; not for a layout by strategy files."""
        return math.prod(self.devices.values()) * max(1, len(self.stages))


def _check_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        hint = did_you_mean(str(value), known) or f"Change {name} in the layout of the ranks, or leave it out."
        raise UsageError("MFC501", name, found=_value_text(value), expected=" or ".join(known), hint=hint)


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UsageError("MFC501", name, found=_value_text(value), expected=expected, hint=f"Change {name} in the layout of the ranks.")


def _value_text(value: object) -> str:
    return quoted(value) if isinstance(value, str) else on_one_line(str(value))[:200]


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_cut(cut: object) -> bool:
    return cut is None or isinstance(cut, str) or (isinstance(cut, list | tuple) and all(isinstance(n, str) for n in cut))


def _is_prefix(prefix: object) -> bool:
    """Whether names that begin so stay in their folder, can be printed, and leave room for rank and step in 255 bytes."""
    if not isinstance(prefix, str) or not prefix or prefix[0] == "." or set("/\\") & set(prefix):
        return False
    return prefix.isprintable() and len(prefix.encode()) <= MAX_PREFIX_BYTES


def dimensions_of(cut: Cut) -> tuple[str, ...]:
    """The device dimensions that cut an axis."""
    return () if cut is None else (cut,) if isinstance(cut, str) else tuple(cut)


def read_rank_layout(path: Path) -> RankLayout:
    """Read a layout from a JSON file with the fields of ``RankLayout``.

    Raises:
        UsageError: MFC501.
    """
    try:
        if (raw := read_small(path, MAX_LAYOUT_BYTES)) is None:
            raise ValueError("more than 64 MiB")
        content = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("MFC501", path, found=str(error), expected="a JSON file that says how to cut", hint=HINT_LAYOUT) from None
    known = [f.name for f in fields(RankLayout)]
    if not isinstance(content, dict) or not {"devices", "strategy"} & content.keys():
        raise UsageError("MFC501", path, found="no devices", expected='{"devices": {"dp": 2, "tp": 4}, "cuts": {...}}', hint=HINT_LAYOUT)
    unknown = [name for name in content if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known) or "Take it out of the file."
        raise UsageError("MFC501", path, found=quoted(unknown[0]), expected=", ".join(known), hint=hint)
    return RankLayout(**content)
