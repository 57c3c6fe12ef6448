"""verify with one checkpoint: its bytes against the checksums in the manifest that was written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.errors import InputError
from mfconv_nb.core.progress import OnProgress, progress_for
from mfconv_nb.core.report import how_many
from mfconv_nb.steps.comparing.conditions import FAIL, PASS, Condition
from mfconv_nb.steps.loading.beside import manifest_near
from mfconv_nb.streaming.fill import tensor_checksums
from mfconv_nb.streaming.stored_checksums import check_stored_checksums


def check_against_manifest(checkpoint: Checkpoint, path: Path | None, threads: int, progress: bool | OnProgress) -> list[Condition]:
    """Compare every tensor, or every slice of a run, with its checksum in the manifest beside it.

    Args:
        path: where the checkpoint lies; None for a live object, which has no manifest.
    Raises:
        InputError: MFC110 where no manifest is beside it.
    """
    near = manifest_near(path, checkpoint.tensors) if path is not None else None
    if near is None:
        hint = "Give the original too: mfconv verify ORIGINAL CONVERTED."
        raise InputError(
            "MFC110", path or checkpoint.origin, found="no manifest beside it", expected="a checkpoint that was saved here", hint=hint
        )
    written: dict[str, Any] = {t["name"]: t for t in near[1]["tensors"]}
    names = "Every tensor of the manifest is there, with its shape and dtype."
    specs = {n: TensorSpec(n, tuple(t["shape"]), t["dtype"]) for n, t in written.items()}
    wrong = [n for n in specs.keys() | checkpoint.tensors.keys() if specs.get(n) != _spec_of(checkpoint, n)]
    if wrong:
        return [Condition(names, FAIL, f"{how_many(len(wrong), 'tensor')}; first {sorted(wrong)[0]}")]
    sliced = "slices" in near[1]
    parts = _slices(checkpoint, path) if sliced and path is not None else dict(checkpoint.tensors)
    noted = {_slice_name(t["name"], t["file"]): t["xxh3_128"] for t in near[1]["slices"]} if sliced else _checksums(written)
    with progress_for(progress, sum(t.spec.nbytes for t in parts.values()), "reading") as bar:
        check_stored_checksums(parts.values(), threads, bar)
        found = tensor_checksums(list(parts.values()), threads, bar)
    changed = sorted(n for n in found.keys() | noted.keys() if found.get(n) != noted.get(n))
    noun = "slice" if sliced else "tensor"
    same = f"Every {noun} has the bytes that were written."
    seen = f"{how_many(len(changed), noun)} changed; first {changed[0]}" if changed else f"{how_many(len(found), 'checksum')} equal"
    return [Condition(names, PASS, how_many(len(specs), "tensor")), Condition(same, FAIL if changed else PASS, seen)]


def _checksums(written: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get("xxh3_128") for name, entry in written.items()}


def _slices(checkpoint: Checkpoint, folder: Path) -> dict[str, LazyTensor]:
    """Every slice of a run as a tensor of its own, named by its tensor and its file."""
    slices = checkpoint.run.slices_in(folder) if checkpoint.run is not None else ()
    named = ((_slice_name(name, file), part) for name, file, part in slices)
    return {name: part.renamed(name) for name, part in named}


def _slice_name(name: str, file: str) -> str:
    return f"{name} in {file}"


def _spec_of(checkpoint: Checkpoint, name: str) -> TensorSpec | None:
    tensor: LazyTensor | None = checkpoint.tensors.get(name)
    return tensor.spec if tensor is not None else None
