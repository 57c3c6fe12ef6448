"""From a target path to a plan of every file: its ending chooses the format; a folder gets shards with an index. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.errors import OutputError, UsageError, quoted
from mfconv_nb.core.file_plan import FilePlan, OutputPlan
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.known import format_with_ending, weight_endings

DEFAULT_SHARD_BYTES = 5_000_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str | int) -> int:
    """``5GB``, ``500MB``, ``2GiB`` or a plain number, in bytes.

    Raises:
        UsageError: MFC501.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", str(text).lower())
    if match is None or match.group(2) not in _UNITS or (size := int(float(match.group(1)) * _UNITS[match.group(2)])) <= 0:
        hint = "Give --max_shard_size 5GB (max_shard_size='5GB' in Python), or leave it out."
        raise UsageError("MFC501", "max_shard_size", found=quoted(str(text)), expected="a size such as 5GB, 500MB or 2GiB", hint=hint)
    return size


def is_folder(target: Path) -> bool:
    """True for a folder, and for a target without an ending. An ending begins with a letter: `Llama-3.1-8B` has none."""
    return target.is_dir() or not re.match(r"\.[a-z]", target.suffix.lower())


@makes_many_objects
def plan_output(specs: Sequence[TensorSpec], target: Path, side: str | None, max_shard_size: str | int | None = None) -> OutputPlan:
    """Every file that saving ``specs`` to ``target`` will write, with every offset and the total size.

    Args:
        side: "mf" for MindSpore's flavour of safetensors and index; anything else for Hugging Face's.
        max_shard_size: of the shards of a folder; a larger tensor gets a shard of its own. Left out: 5 GB.
    Raises:
        OutputError: MFC405, MFC407. UsageError: MFC501.
    """
    ending = target.suffix.lower()
    if is_folder(target):
        return _plan_folder(specs, side, parse_bytes(DEFAULT_SHARD_BYTES if max_shard_size is None else max_shard_size))
    chosen = format_with_ending(ending)
    if chosen is None:
        expected = f"{', '.join(weight_endings())}, or a folder (no ending)"
        hint = "Change the ending of the target: it chooses the format."
        raise OutputError("MFC407", target, found=f"ending {quoted(ending)}", expected=expected, hint=hint)
    if max_shard_size is None:
        return OutputPlan((plan_file(target.name, specs, side),), folder=False)
    if not chosen.is_sharded:
        hint = f"Give a folder instead: {target.with_suffix('')}"
        raise UsageError("MFC501", "max_shard_size", found=f"a {ending}, which is one file", expected="a folder", hint=hint)
    shards = _split_by_size(specs, parse_bytes(max_shard_size))
    names = _shard_names(target.stem, ending, len(shards))
    return _plan_shards(shards, names, f"{target.name}.index.json" if len(shards) > 1 else None, side, folder=False)


def plan_file(name: str, specs: Sequence[TensorSpec], side: str | None) -> FilePlan:
    """Plan one file with these tensors. Its ending, which must be known, chooses the format."""
    chosen = format_with_ending(Path(name).suffix)
    assert chosen is not None, name
    return chosen.plan_file(name, specs, side)


def _plan_folder(specs: Sequence[TensorSpec], side: str | None, limit: int) -> OutputPlan:
    shards = _split_by_size(specs, limit)
    if side == MF:
        names = [f"part{n}.safetensors" for n in range(len(shards))]
        return _plan_shards(shards, names, index_files.MINDSPORE, side, folder=True)
    names = _shard_names("model", ".safetensors", len(shards))
    return _plan_shards(shards, names, index_files.HF_SAFETENSORS if len(shards) > 1 else None, side, folder=True)


def _shard_names(stem: str, ending: str, count: int) -> list[str]:
    """Names of shards, numbered as transformers does; a single one is not numbered."""
    return [f"{stem}{ending}"] if count == 1 else [f"{stem}-{n + 1:05}-of-{count:05}{ending}" for n in range(count)]


def _plan_shards(
    shards: Sequence[Sequence[TensorSpec]], names: Sequence[str], index: str | None, side: str | None, *, folder: bool
) -> OutputPlan:
    files = tuple(plan_file(name, shard, side or HF) for name, shard in zip(names, shards, strict=True))
    if index is None:
        return OutputPlan(files, folder=folder)
    places = {s.name: name for name, shard in zip(names, shards, strict=True) for s in shard}
    total = sum(s.nbytes for shard in shards for s in shard)
    return OutputPlan(files, folder=folder, indexes={index: index_files.index_bytes(places, total)})


def _split_by_size(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Distribute tensors in their order; a new shard begins where the limit would be exceeded."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards
