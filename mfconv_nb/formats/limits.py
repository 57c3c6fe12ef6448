"""Names, numbers and shapes that no format or none of its readers takes. Refused before the first byte is written."""

from __future__ import annotations

from collections.abc import Iterable

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.errors import OutputError, quote

MAX_AXES = 32  # numpy's limit; MindSpore and this package read through numpy
MAX_AXIS = 1 << 48
HINT_CODES = "Cast it before, or leave it out. Of fp8 codes that have scales: numbers, by --dtype bf16 (dtype= in Python)."


def has_sound_shape(shape: tuple[int, ...]) -> bool:
    """Whether a shape can be read back. Each axis is checked: beside one of length 0 the others could have any length."""
    return len(shape) <= MAX_AXES and all(n < MAX_AXIS for n in shape)


def are_counts(numbers: Iterable[object], limit: int = MAX_AXIS) -> bool:
    """Whether all are whole numbers from 0 to below ``limit``. True and False do not count as numbers."""
    for n in numbers:  # noqa: SIM110 - called a million times: all() with a generator took twice as long
        if type(n) is not int or not 0 <= n < limit:
            return False
    return True


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: half of a surrogate pair cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def check_can_be_written(spec: TensorSpec, file: str) -> None:
    """Raises OutputError (MFC405)."""
    where = f"{quote(spec.name)} for {quote(file)}"
    if not is_text(spec.name):
        raise OutputError("MFC405", where, found="half of a surrogate pair in the name", expected="a name that is text")
    if not has_sound_shape(spec.shape):
        found = f"{len(spec.shape)} axes" if len(spec.shape) > MAX_AXES else f"an axis of {max(spec.shape):,}"
        raise OutputError("MFC405", where, found=found, expected=f"at most {MAX_AXES} axes, each below {MAX_AXIS:,}")
