"""What bytes tell of a checkpoint that is not whole: checksums that do not fit, matrices of zeros.

Where a download broke off, a file may have its full size, and zeros for the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.errors import FormatError, MfconvError, quote
from mfconv_nb.core.report import bytes_text, how_many
from mfconv_nb.formats.hub_cache import sha256_in_name
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.steps.inspecting.diagnosis import DECIDE, FINE, STOP, TOLD, Finding
from mfconv_nb.streaming.gather import Gatherer, panels
from mfconv_nb.streaming.stored_checksums import check_stored_checksums, sources_of
from mfconv_nb.streaming.zeros import ZEROS, is_matrix

QUICK_BYTES = 256 << 20  # so much is read without being asked: less than half a second
LOOKED_AT = 512  # matrices, evenly over the checkpoint
PLACES, SPAN = 5, 64  # of a matrix: so many runs of so many numbers
CONFIRMED_BYTES = 4 << 20


def damage_findings(checkpoint: Checkpoint, *, asked: bool) -> Iterator[Finding]:
    """What can be compared of a checkpoint's bytes, and a look at its matrices.

    Args:
        asked: compare checksums however large the files are; else up to 256 MiB.
    """
    try:
        yield from _findings(checkpoint, asked=asked)
    except (MfconvError, OSError) as error:  # a file that changes, or a disk that fails, while it is read
        yield Finding(STOP, "reading", str(error).partition("\n")[0])


def _findings(checkpoint: Checkpoint, *, asked: bool) -> Iterator[Finding]:
    carried = [s for s in sources_of(checkpoint) if s.checksums]
    blobs = {path: told for path in checkpoint.files if (told := sha256_in_name(path)) is not None}
    nbytes = sum(c.nbytes for s in carried for c in s.checksums) + sum(path.stat().st_size for path in blobs)
    if nbytes > QUICK_BYTES and not asked:
        yield Finding(TOLD, "checksums", f"not compared, {bytes_text(nbytes)} to read: mfconv doctor --checksums, a save and a proof do")
    elif blobs or carried:
        yield from _checksum_findings(checkpoint, blobs)
    zeros = zero_matrices([t for t in checkpoint if not is_adapter(t.name)])
    if zeros:
        yield Finding(DECIDE, "zeros", f"{how_many(len(zeros), 'matrix', 'matrices')} of zeros, such as {zeros[0]}: {ZEROS}")


def _checksum_findings(checkpoint: Checkpoint, blobs: Mapping[Path, str]) -> Iterator[Finding]:
    wrong = next((path for path, told in blobs.items() if _sha256(path) != told), None)
    if wrong is not None:
        yield Finding(
            STOP, "checksums", f"{quote(wrong.name)} is not what the cache says: its sha256 is not the name of its blob; fetch it again"
        )
    elif blobs:
        yield Finding(FINE, "checksums", f"{how_many(len(blobs), 'file')} of the hub cache: sha256 as the cache says")
    try:
        count = check_stored_checksums(checkpoint)
    except FormatError as error:
        yield Finding(STOP, "checksums", f"{error.code}, {error.where}: {error.found}; expected {error.expected}; fetch the file again")
        return
    if count:
        yield Finding(FINE, "checksums", f"{how_many(count, 'checksum')} that the files carry (CRC-32): the bytes fit")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


# ---- zeros ---------------------------------------------------------------------------------------------------------------------


def zero_matrices(tensors: Sequence[LazyTensor]) -> list[str]:
    """Names of matrices that hold zeros wherever they were looked at; at most 512 are looked at."""
    matrices = [t for t in tensors if is_matrix(t.spec) and t.pieces]
    step = max(1, -(-len(matrices) // LOOKED_AT))
    return [t.name for t in (*matrices[::step], *matrices[-1:][: step > 1]) if _looks_zero(t)]


def _looks_zero(tensor: LazyTensor) -> bool:
    last = max(0, tensor.spec.elements - SPAN)
    places = dict.fromkeys(last * n // (PLACES - 1) for n in range(PLACES))
    if any(_has_nonzero(tensor, at, min(tensor.spec.elements, at + SPAN)) for at in places):
        return False
    most = min(tensor.spec.elements, CONFIRMED_BYTES // itemsize(tensor.dtype))
    return not any(_has_nonzero(tensor, start, stop) for start, stop in panels(tensor, tensor.dtype, 0, most))


def _has_nonzero(tensor: LazyTensor, start: int, stop: int) -> bool:
    buffer = np.empty((stop - start) * itemsize(tensor.dtype), np.uint8)
    Gatherer().fill(tensor, tensor.dtype, start, stop, buffer)
    return bool(buffer.any())
