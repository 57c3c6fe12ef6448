"""run_converter: a converter in MindFormers' own form, run as it is in a process of its own, and compared with a family.

The form: a folder with ``convert_weight.py`` and ``convert_reversed.py``, which define ``convert_pt_to_ms`` and ``convert_ms_to_pt``
(``input_path``, ``output_path``, ``dtype``, keywords). This is the one place where code of a stranger's folder runs, and only because
the caller named that folder.

Refuses: a folder without the function, output that cannot be read as a checkpoint, a function that did not return.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import dtype_after_cast, requested_dtype
from mfconv_nb.core.errors import FormatError, InputError, MfconvError, OutputError, quote, to_one_line
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table, bytes_text, how_many, seconds_text
from mfconv_nb.families.registry import family_meant
from mfconv_nb.formats.folders import checkpoint_files
from mfconv_nb.mapping.forms import options_of
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.comparing.diff import diff
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_view import DifferenceExploration
from mfconv_nb.steps.converting.map import map as map_names
from mfconv_nb.steps.foreign.folder import Converter, absolute, find_converter
from mfconv_nb.steps.foreign.process import OnLine, failure_error, run_in_child
from mfconv_nb.steps.loading.load import load
from mfconv_nb.streaming.journal import NO_LOCK, hold_lock
from mfconv_nb.streaming.manifest import side_folder
from mfconv_nb.streaming.staging import refused_writes
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable

WORKING = ".mfconv-running"


def run_converter(
    folder: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    reversed: bool = False,
    dtype: str | None = None,
    against: str | Path | Family | Checkpoint | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    show: bool | OnLine = True,
    threads: int = 2,
    progress: bool | OnProgress = True,
    **kwargs: object,
) -> ConverterReport:
    """Run the code in ``folder`` to convert ``source`` to ``target``, in a Python process of its own. Memory and time are the converter's.

    Args:
        folder: holds ``convert_weight.py`` with ``convert_pt_to_ms``, or ``convert_reversed.py`` with ``convert_ms_to_pt``.
        source: handed over as it is (made absolute): some converters want the folder, others a file in it.
        target: the file or folder that the converter is asked to write; it appears when the converter has ended well.
        reversed: from MindFormers to Hugging Face.
        dtype: "fp32", "bf16" or "fp16", handed over as mindspore's (reversed: torch's) dtype. Left out: the function's own default.
        against: a family (key, file, ``Family``), or a checkpoint: the output is compared with what that gives, byte by byte.
        config: a config.json or its folder, handed over as ``config`` and used for ``against``.
        overwrite: replace an existing file.
        show: print what the converter prints, and every ten seconds how long it runs; or a function that gets each line.
        kwargs: handed over to the function; those that the family of ``against`` takes are used for it too.
    Raises:
        MappingError: MFC317 for a folder that cannot be used, MFC318 when the converter fails; MFC3xx of ``against``.
        OutputError: MFC401, MFC402, MFC404, MFC406. InputError: MFC101.
    """
    begun = time.monotonic()
    to = HF if reversed else MF
    converter = find_converter(folder, to)
    origin, final = absolute(source), absolute(target)
    _check_source(origin)
    _check_target(origin, final, overwrite=overwrite)
    wanted = requested_dtype(dtype)
    told = {"config": str(absolute(config))} if config is not None else {}
    expected = _expected_checkpoint(against, origin, to, wanted, config, kwargs) if against is not None else None
    say = show if callable(show) else _print if show else _print_nothing
    with _working_folder(final, say) as work:
        keywords = {**kwargs, **told, "input_path": str(origin), "output_path": str(work / "out" / final.name)}
        lines = run_in_child(converter, keywords, wanted, work, say)
        written = _check_written(converter, work / "out", final, lines)
        _publish(work, final, overwrite=overwrite)
    seconds = time.monotonic() - begun
    difference = None
    if expected is not None:
        difference = diff(expected, load(target), values=True, threads=threads, progress=progress)
    return ConverterReport(str(converter.file), str(target), written[0], written[1], seconds, tuple(lines), difference)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_nothing(line: str) -> None:
    pass


# ---- checks before anything runs ----------------------------------------------------------------------------------------------


def _check_source(source: Path) -> None:
    """MindFormers' script takes a name that is not there in the folder of a checkpoint: most of its converters look at the folder only."""
    if not source.exists() and not (source.parent.is_dir() and checkpoint_files(source.parent)):
        raise InputError("MFC101", source, found="no such file or folder", expected="a checkpoint")


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if target == source or (target.is_dir() and target in source.parents):
        hint = "Choose another target: nothing is ever written into the source."
        raise OutputError("MFC402", target, found="what is being read", expected="another name", hint=hint)
    if target.parent.exists() and not target.parent.is_dir():
        raise OutputError("MFC404", target.parent, found="a file", expected="a folder", hint="Choose another target.")
    if target.is_dir() and any(target.iterdir()):
        raise OutputError("MFC401", target, found="a folder with files in it", expected="a new name", hint="Choose another name.")
    there = [path for path in (target, side_folder(target)) if path.exists() and not (path == target and target.is_dir())]
    if there and not overwrite:
        hint = "Use --force (overwrite=True in Python), or choose another name."
        raise OutputError("MFC401", there[0], found="an existing file", expected="a new name", hint=hint)


def _expected_checkpoint(against: Any, source: Path, to: str, dtype: str | None, config: Any, kwargs: Mapping[str, object]) -> Checkpoint:
    """What the family gives from the same source; a plan, nothing is read."""
    if isinstance(against, Checkpoint):
        return _with_dtype(against, dtype)
    family = family_meant(against)
    options: dict[str, Any] = {name: value for name, value in kwargs.items() if name in options_of(family)}
    checkpoint = load(source if source.exists() else source.parent, config=config)
    return _with_dtype(map_names(checkpoint, against, to=to, **options), dtype)


def _with_dtype(checkpoint: Checkpoint, dtype: str | None) -> Checkpoint:
    """The dtypes that ``save`` would write."""
    tensors: dict[str, LazyTensor] = {}
    for tensor in checkpoint:
        fixed = tensor.name in checkpoint.history.fixed_dtypes
        after = tensor.dtype if fixed else dtype_after_cast(tensor.dtype, dtype)
        tensors[tensor.name] = replace(tensor, spec=TensorSpec(tensor.name, tensor.shape, after))
    return replace(checkpoint, tensors=tensors)


# ---- what was written ---------------------------------------------------------------------------------------------------------


@contextmanager
def _working_folder(target: Path, say: OnLine) -> Iterator[Path]:
    """A folder beside the target, gone at the end whatever happens; folders above it that were made for it go too.

    What a run that was killed has left in it is removed. Raises OutputError (MFC404, MFC406).
    """
    made = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    work = target.with_name(f"{target.name}{WORKING}")
    with refused_writes(target):
        work.mkdir(parents=True, exist_ok=True)
        held = os.open(work / "lock", os.O_RDWR | os.O_CREAT)
        if not hold_lock(held, work / "lock"):
            say(f"note: {NO_LOCK}")
    for path in work.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / "out").mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(held)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _check_written(converter: Converter, out: Path, target: Path, lines: Sequence[str]) -> tuple[int, int]:
    """The tensors and bytes of the output. Raises MappingError (MFC318) where there is none, or none that can be read."""
    names = sorted(path.name for path in out.iterdir())
    if target.name not in names:
        like = next((n for n in names if n.startswith(target.name)), None)
        hint = f"The converter adds an ending: give {quote(like)} as the target." if like else None
        raise failure_error(converter, f"it returned, and wrote {', '.join(names) or 'nothing'}", f"{target.name}", lines, hint=hint)
    try:
        checkpoint = load(out / target.name)
    except (InputError, FormatError) as error:
        raise failure_error(converter, _error_text(error), f"a checkpoint that can be read, {target.name}", lines) from None
    if not checkpoint.tensors:
        raise failure_error(converter, "a checkpoint without tensors", "tensors", lines)
    return len(checkpoint.tensors), checkpoint.nbytes


def _error_text(error: MfconvError) -> str:
    return to_one_line(f"{error.code}: {error.found}" if error.found is not None else error.code)


def _publish(work: Path, target: Path, *, overwrite: bool) -> None:
    """Move what was written to its place by renames, the target last."""
    out, home = work / "out", target.parent
    others = [path for path in sorted(out.iterdir()) if path.name != target.name]
    for path in others:
        if (home / path.name).exists() and not (overwrite and (home / path.name).is_file()):
            raise OutputError(
                "MFC401", home / path.name, found="an existing file", expected="a new name", hint="The converter writes it too."
            )
    if target.exists() and not overwrite and not target.is_dir():
        hint = "Something else wrote it meanwhile: choose another name, or say --force (overwrite=True in Python)."
        raise OutputError("MFC401", target, found="a file that was not there before", expected="a new name", hint=hint)
    with refused_writes(target):
        if side_folder(target).is_dir():  # of the checkpoint that is replaced
            os.replace(side_folder(target), work / "old")
        for path in [*others, out / target.name]:
            os.replace(path, home / path.name)


# ---- the result -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ConverterReport(Explorable):
    """What a converter wrote; with ``against``, how that differs from what the family gives.

    Attributes:
        file: the file whose function was run.
        lines: the last lines that it printed.
        difference: first what the family gives, second what the converter wrote; None where nothing was compared.
    """

    file: str
    target: str
    tensors: int
    nbytes: int
    seconds: float
    lines: tuple[str, ...] = ()
    difference: DiffReport | None = None

    @property
    def equal(self) -> bool | None:
        """Whether every name, shape, dtype and byte is what the family gives; None where nothing was compared."""
        return None if self.difference is None else self.difference.equal

    def table(self) -> Table:
        wrote = f"{Path(self.file).name} wrote {how_many(self.tensors, 'tensor')}, {bytes_text(self.nbytes)}, to {self.target}"
        wrote += f" in {seconds_text(self.seconds)}"
        if self.difference is None:
            return Table("✓ Converted.", wrote, facts=("Nothing was compared: against=..., --against MODEL.",))
        compared = self.difference.table()
        return replace(compared, facts=(wrote, *compared.facts))

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a tensor that was compared."""
        return self.difference.rows() if self.difference is not None else super().rows()

    def exploration(self) -> Exploration:
        """The view of the comparison. Raises NotImplementedError where there is none: a notebook then shows the text."""
        if self.difference is None:
            raise NotImplementedError
        return DifferenceExploration(self.difference, self.table())
