"""What the tensors of a checkpoint tell about each other: state of a run that no name of its own shows."""

from __future__ import annotations

from collections.abc import Mapping

from mfconv_nb.core.checkpoint import HF, Checkpoint
from mfconv_nb.mapping.kinds import COUNTER, SAVED_NUMBER, WEIGHT, Kind, kind_of, kinds_by_company


def kinds_told(checkpoint: Checkpoint) -> Mapping[str, Kind]:
    """Of the tensors whose kind only the others show, or the files of the run that hold them, that kind. Empty on the Hugging Face side."""
    if checkpoint.side == HF:
        return {}
    run = checkpoint.history.run
    return kinds_by_company(checkpoint.tensors, run.of_optimizer if run is not None else ())


def saved_numbers(checkpoint: Checkpoint) -> Mapping[str, Kind]:
    """Single numbers that a run saved beside its weights under names of its own: what `append_info=[{"lr": 0.1}]` leaves.

    Of such a number the name has no point, as no parameter of a layer has. It counts where a counter of a run is there too, or where
    it stands behind all parameters of a MindSpore file: those of a network itself stand before those of its layers.
    Source: mindspore 2.10.0, `save_checkpoint` (what is appended is written last) and `Cell.parameters_and_names`.
    """
    bare = [t.name for t in checkpoint if "." not in t.name and t.shape == () and kind_of(t.name) is WEIGHT]
    if not bare or checkpoint.side == HF:
        return {}
    if not any(kind_of(name) is COUNTER for name in checkpoint.tensors):
        files, names = checkpoint.history.files, list(checkpoint.tensors)
        last = max((at for at, name in enumerate(names) if "." in name), default=len(names))
        bare = [name for name in bare if name in names[last:]] if files and all(str(f).endswith(".ckpt") for f in files) else []
    return dict.fromkeys(bare, SAVED_NUMBER)
