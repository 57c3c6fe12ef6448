"""Take off what trainers put into names (`module.`, `_orig_mod.`), where the caller asks for it; a note says what it was."""

from __future__ import annotations

from dataclasses import replace

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import quote
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.remedies import WRAPPERS, split_wrappers, without_wrappers
from mfconv_nb.steps.loading.sides import side_of_names


def take_off_wrappers(source: Checkpoint) -> tuple[Checkpoint, str]:
    """The checkpoint without them, and a note.

    Raises:
        UsageError: MFC501 where two tensors would have one name then.
    """
    changed = [name for name in source.tensors if without_wrappers(name) != name]
    if not changed:
        return source, "nothing to take off: no name has what a wrapper puts there"
    texts = dict.fromkeys(text for name in changed for text in split_wrappers(name)[0])
    note = f"taken off: {' and '.join(f'{quote(text)} ({WRAPPERS[text]})' for text in texts)}, of {how_many(len(changed), 'name')}"
    plain = source.renamed(without_wrappers)
    return replace(plain, side=side_of_names(plain.tensors) or source.side), note
