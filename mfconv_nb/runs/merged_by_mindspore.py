"""Folders that `mindspore.unified_safetensors` merged: weights by `param_name_map.json`, run state in `hyper_param.safetensors`.

MindSpore puts everything that no strategy file names among the run state, even weights. It does not merge such a weight: it copies the
slice of rank 0.
Source: mindspore 2.10, `parallel/transform_safetensors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfconv_nb.core.report import how_many
from mfconv_nb.formats.reading import RUN_STATE
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.runs.message_text import names_text


def notes_on_run_state(names: Iterable[str]) -> tuple[str, ...]:
    """A note that lists the tensors in `hyper_param.safetensors` that are not known as run state; nothing where there are none."""
    unknown = [name for name in names if not is_run_state(name)]
    if not unknown:
        return ()
    what = f"{how_many(len(unknown), 'tensor')} not known as run state"
    why = "a parameter that was in no strategy file is not merged, but copied from rank 0"
    return (f"{RUN_STATE} holds {what}: {names_text(unknown, 6)}; {why}",)
