"""The weights that PMA averaged, in place of the weights of the last step, on request.

Refuses (MFC501): a checkpoint without such sums or with both kinds; a step at which they have just begun anew; a run whose settings nobody
gave, as they are nowhere in the checkpoint; a weight that was trained and has no sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.averages import EMA, ROUNDING, SMA, Averaging
from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import CASTABLE
from mfconv_nb.core.errors import UsageError, did_you_mean, quote
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.core.run_yaml import optimizer_of
from mfconv_nb.core.yaml_file import ENDINGS
from mfconv_nb.mapping.kinds import WEIGHTS, category_of, weight_of
from mfconv_nb.steps.loading.company import kinds_told
from mfconv_nb.streaming.averaged import averaged_tensor
from mfconv_nb.streaming.gather import read_tensor

PMA = "pma"
PREFIXES = {EMA: "pma_weight_ema.", SMA: "pma_weight_sma."}
OF_FUSED = "exp_avg."  # state of the fused optimizer, which counts its steps from -1
HINT_LEAVE_OUT = "Leave --weights out (weights= in Python)."
HINT_YAML = "Give the YAML of the run: --config RUN.yaml (config= in Python). Its optimizer: section says how weights are averaged."


@dataclass(frozen=True, repr=False)
class AverageReport(Result):
    """Which weights were averaged, and how."""

    weights: tuple[str, ...]
    averaging: Averaging
    steps: int

    @property
    def changed(self) -> str:
        return f"{how_many(len(self.weights), 'weight')} computed (averages of PMA)"

    def sentence(self) -> str:
        a = self.averaging
        how = f"{a.algorithm}, the last {a.count_at(self.steps)} of one every {how_many(a.interleave_step, 'step')}, at step {self.steps:,}"
        return f"averages of PMA: {how_many(len(self.weights), 'weight')} ({how}); {ROUNDING}"

    def about(self) -> dict[str, Any]:
        a = self.averaging
        said = {"algorithm": a.algorithm, "interleave_step": a.interleave_step, "fused_num": a.fused_num, "ema_alpha": a.ema_alpha}
        return {"averages": PMA, **said, "steps": self.steps, "divided_by": a.total_at(self.steps), "weights": list(self.weights)}

    def table(self) -> Table:
        return Table("", self.sentence(), (Column("weight"),), [(name,) for name in self.weights], row_noun="weights")


def with_averaged_weights(checkpoint: Checkpoint, weights: str, config: object) -> Checkpoint:
    """The checkpoint with the averages that PMA has summed up in place of the weights. Lazy; one number is read.

    Args:
        weights: "pma".
        config: as ``load`` takes it; the YAML of the run is among it.
    """
    if weights != PMA:
        raise _refusal(quote(str(weights)), quote(PMA), did_you_mean(str(weights), (PMA,)) or HINT_LEAVE_OUT)
    algorithm, sums = _sums_of(checkpoint)
    averaging, steps = _averaging_of(algorithm, config), _steps_of(checkpoint)
    total = averaging.total_at(steps)
    if not total:
        begun = averaging.begun_at(steps)
        hint = HINT_LEAVE_OUT
        if begun:
            hint = f"At step {begun:,} the averages took the place of the weights: take that step and leave --weights out."
        raise _refusal(f"nothing was added up between steps {begun:,} and {steps:,}", "a step with averages", hint)
    _check_sums(checkpoint, sums)
    tensors = {n: t for n, t in checkpoint.tensors.items() if t not in sums.values()}
    tensors |= {name: averaged_tensor(checkpoint[name].spec, tensor, total) for name, tensor in sums.items()}
    report = AverageReport(tuple(sums), averaging, steps)
    history = replace(checkpoint.history, merged=report, notes=(*checkpoint.history.notes, report.sentence(), *_rest(checkpoint, sums)))
    return replace(checkpoint, tensors=tensors, history=history)


def _refusal(found: str, expected: str, hint: str) -> UsageError:
    return UsageError("MFC501", "weights", found=found, expected=expected, hint=hint)


def _sums_of(checkpoint: Checkpoint) -> tuple[str, dict[str, LazyTensor]]:
    """The algorithm, and the sum of every weight that has one."""
    by_algorithm = {
        algorithm: {n.removeprefix(prefix): t for n, t in checkpoint.tensors.items() if n.startswith(prefix)}
        for algorithm, prefix in PREFIXES.items()
    }
    there = [(algorithm, sums) for algorithm, sums in by_algorithm.items() if sums]
    if len(there) != 1:
        found = "sums of both kinds" if there else "no averages of PMA in this checkpoint"
        raise _refusal(found, f"tensors whose names begin with {' or '.join(map(quote, PREFIXES.values()))}", HINT_LEAVE_OUT)
    return there[0]


def _averaging_of(algorithm: str, config: object) -> Averaging:
    """How the YAML of the run says that weights are averaged; what it leaves out is as the class has it."""
    given = config if isinstance(config, Sequence) and not isinstance(config, str) else (config,)
    yamls = [Path(c) for c in given if isinstance(c, str | Path) and Path(c).suffix.lower() in ENDINGS]
    settings: Mapping[str, Any] = next((found for path in yamls if (found := optimizer_of(path))), {})
    if "pma" not in str(settings.get("type", "")).lower():
        what = f"the optimizer {quote(str(settings['type']))}" if settings.get("type") else "no settings of PMA"
        raise _refusal(what, "interleave_step, fused_num and ema_alpha of PmaAdamW", HINT_YAML)
    said = {name: settings[name] for name in ("interleave_step", "fused_num", "ema_alpha") if settings.get(name) is not None}
    for name, value in said.items():
        is_right = isinstance(value, float) and 0 < value < 1 if name == "ema_alpha" else type(value) is int and value > 0
        if not is_right:
            raise _refusal(f"{name}: {quote(str(value))}", "a number as PmaAdamW takes it", HINT_YAML)
    if settings.get("fused_algo", EMA) != algorithm:
        other = f"fused_algo {quote(str(settings.get('fused_algo', EMA)))} in the YAML"
        raise _refusal(other, f"{quote(algorithm)}, as the names of the tensors say", "Give the YAML of this run.")
    return Averaging(algorithm, **said)


def _steps_of(checkpoint: Checkpoint) -> int:
    """How many steps the optimizer has taken."""
    counter = checkpoint.tensors.get("global_step")
    if counter is None or counter.spec.elements != 1:
        raise _refusal("no global_step in the checkpoint", "how many steps its optimizer has taken", HINT_LEAVE_OUT)
    is_fused = any(name.startswith(OF_FUSED) for name in checkpoint.tensors)
    return int(read_tensor(counter).reshape(-1)[0]) + is_fused


def _check_sums(checkpoint: Checkpoint, sums: Mapping[str, LazyTensor]) -> None:
    """Raises UsageError (MFC501) for a sum without its weight, or of another shape, and for a trained weight without a sum."""
    for name, tensor in sums.items():
        weight = checkpoint.tensors.get(name)
        if weight is None or weight.shape != tensor.shape or weight.dtype not in CASTABLE or tensor.dtype not in CASTABLE:
            found = f"{quote(tensor.name)} of {list(tensor.shape)}"
            expected = "the weight beside it" if weight is None else f"{list(weight.shape)}, as {quote(name)} is"
            raise _refusal(found, expected, "Fetch the files of the run again.")
    trained = {weight_of(name) for name in checkpoint.tensors} & checkpoint.tensors.keys()
    if lost := sorted(trained - sums.keys()):
        found = f"trained, but without an average: {how_many(len(lost), 'weight')}; first {quote(lost[0])}"
        raise _refusal(found, "one for each", "Fetch the missing files of the optimizer.")


def _rest(checkpoint: Checkpoint, sums: Mapping[str, LazyTensor]) -> list[str]:
    """A note on the weights that were not trained, and so have no average."""
    told = kinds_told(checkpoint)
    rest = [n for n in checkpoint.tensors if n not in sums and category_of(n, told) == WEIGHTS]
    return [f"not trained, and taken as they are: {how_many(len(rest), 'weight')}, such as {rest[0]}"] if rest else []
