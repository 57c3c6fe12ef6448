"""Folders that `mindspore.unified_safetensors` merged: weights by `param_name_map.json`, run state in `hyper_param.safetensors`.

Whatever no strategy file knew ends up among the run state, a weight too. Such a weight was not merged: it is what rank 0 held of it.
Source: mindspore 2.10, `parallel/transform_safetensors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfconv_nb.core.errors import quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.reading import RUN_STATE
from mfconv_nb.mapping.kinds import is_run_state


def notes_on_run_state(names: Iterable[str]) -> tuple[str, ...]:
    """A note that names what lies in `hyper_param.safetensors` and is no run state that is known; nothing where there is none."""
    unknown = [name for name in names if not is_run_state(name)]
    if not unknown:
        return ()
    listed = ", ".join(quoted(n) for n in unknown[:6]) + (f" and {len(unknown) - 6:,} more" if len(unknown) > 6 else "")
    what = f"{how_many(len(unknown), 'tensor')} not known as run state"
    why = "a parameter that was in no strategy file is not merged, but copied from rank 0"
    return (f"{RUN_STATE} holds {what}: {listed}; {why}",)
