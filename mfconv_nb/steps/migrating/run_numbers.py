"""The numbers of a run: step, epoch, loss scale and whatever it appended; and where MindFormers 2.1.0 reads them.

`common.json` holds those of `CommonInfo` (`checkpoint/checkpoint.py`), which takes no other key. The optimizer reads `global_step` and
`learning_rate` from its own file, the steps as int32: the static graph takes no other dtype, the dynamic one, which counts in int64, takes
both. Any other single number stays in that file, where MindFormers' loader passes over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.core.blocks import whole
from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, Piece
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.errors import UsageError
from mfconv_nb.mapping.kinds import COUNTER, SAVED_NUMBER, Kind
from mfconv_nb.streaming.gather import read_tensor

FIELDS = ("epoch_num", "step_num", "global_step", "loss_scale", "global_batch_size", "consumed_samples", "ckpt_status")
STEPS = "global_step"
OF_FUSED = "exp_avg."  # state of the fused optimizer of the static graph, which counts its steps from -1
ASKED_BY_STATIC = ("epoch_num", "step_num", "global_batch_size")  # `trainer/base_trainer.py` computes with them when a run goes on
HINT_ITERATION = "Say how many steps it has taken: --iteration N (iteration=N in Python)."
HINT_NO_STEPS = "Leave the optimizer out, and say the steps: --weights_only --iteration N (weights_only=True, iteration=N in Python)."
MOST_STEPS = (1 << 31) - 1  # what MindFormers counts in int32


@dataclass(frozen=True)
class RunNumbers:
    """The numbers of a run.

    Attributes:
        common: of `common.json`; those that nobody knows are None.
        tensors: those that stay in the file of the optimizer.
        iteration: how many steps the run has taken.
        notes: sentences a reader should see.
    """

    common: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    iteration: int
    notes: tuple[str, ...] = ()


def numbers_of(source: Checkpoint, kinds: Mapping[str, Kind], iteration: int | None, has_optimizer: bool) -> RunNumbers:
    """The numbers of a run; single numbers are read.

    Args:
        iteration: as the caller says.
        has_optimizer: whether state of the optimizer goes along: then the number of its steps has to be known.
    Raises:
        UsageError: MFC501 where it is not, is no number of steps, or is another one than the run counts.
    """
    tensors = {name: t for name, t in source.tensors.items() if kinds[name] in (COUNTER, SAVED_NUMBER)}
    said = {name: tensor for name, tensor in tensors.items() if name in FIELDS and tensor.spec.elements == 1}
    read = {name: _plain(read_tensor(tensor).reshape(-1)[0]) for name, tensor in said.items() if tensor.pieces}
    if STEPS in read and any(name.startswith(OF_FUSED) for name in source.tensors):
        read[STEPS] += 1
    run: Any = source.history.run
    state = {name: value for name, value in getattr(run, "state", {}).items() if name in FIELDS}
    common: dict[str, Any] = {**dict.fromkeys(FIELDS), **read, **state}
    step = getattr(run, "chosen", None)
    steps = [n for n in (iteration, common[STEPS], getattr(step, "step", None)) if n is not None]
    if not steps and has_optimizer:
        found = "nothing that tells how many steps this optimizer has taken"
        raise UsageError("MFC501", "iteration", found=found, expected=f"{STEPS}, or the step in the name of a folder", hint=HINT_ITERATION)
    if has_optimizer and None not in (iteration, common[STEPS]) and iteration != common[STEPS]:
        found = f"{iteration}, for a run that holds {STEPS} {common[STEPS]}"
        raise UsageError("MFC501", "iteration", found=found, expected="what the run itself counts", hint="Leave it out.")
    if steps and (type(steps[0]) is not int or not 0 <= steps[0] <= MOST_STEPS):
        found = f"{STEPS if iteration is None else 'iteration'} {steps[0]}"
        hint = HINT_ITERATION if iteration is not None else HINT_NO_STEPS
        raise UsageError("MFC501", "iteration", found=found, expected=f"a whole number from 0 to {MOST_STEPS:,}", hint=hint)
    common[STEPS] = steps[0] if steps else 0
    if common["epoch_num"] is None:
        common["epoch_num"] = getattr(step, "epoch", None)
    unknown = [name for name in ASKED_BY_STATIC if common[name] is None]
    notes = [f"assumed: step 0, as nothing tells the step of these weights. {HINT_ITERATION}"] if not steps else []
    if has_optimizer and unknown:
        notes.append(f"common.json lacks {', '.join(unknown)}, which nothing tells; the static graph asks for it when a run goes on")
    kept = {name: tensor for name, tensor in tensors.items() if name not in said or name == STEPS}
    if STEPS in kept:
        kept[STEPS] = _as_int32(kept[STEPS], read.get(STEPS))
    return RunNumbers(common, kept, common[STEPS], tuple(notes))


def _as_int32(tensor: LazyTensor, value: int | float | None) -> LazyTensor:
    """A single int64 as int32, where that holds it: the first four of its bytes, since files have the lowest first."""
    if tensor.dtype != "I64" or len(tensor.pieces) != 1 or value is None or not -(1 << 31) <= value < 1 << 31:
        return tensor
    (piece,) = tensor.pieces
    start = piece.start + piece.block.source_offset * itemsize("I64")
    return LazyTensor(replace(tensor.spec, dtype="I32"), (Piece(piece.source, start, "I32", whole(1)),))


def _plain(number: Any) -> int | float:
    return int(number) if float(number).is_integer() and number.dtype.kind in "iu" else float(number)
