"""Recognise what DeepSpeed, FSDP and Megatron-LM write while they train, by file names, and name the tool that makes whole weights of it.

Opens no file.

Source: the files of DeepSpeed 0.14 to 0.18 (`latest`, `global_stepN/`, `zero_to_fp32.py`), of `torch.distributed.checkpoint`
(`.metadata`, `__0_0.distcp`) and of Megatron-LM (`latest_checkpointed_iteration.txt`, `iter_0000100/mp_rank_00/model_optim_rng.pt`).
"""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

from mfconv_nb.core.errors import as_place

DEEPSPEED = re.compile(r"global_step\d+|zero_to_fp32\.py|.*mp_rank_\d+_model_states\.pt|.*_optim_states\.pt")
MEGATRON = re.compile(r"iter_\d{7}|mp_rank_\d\d(_\d{3})*|latest_checkpointed_iteration\.txt|model_optim_rng\.pt|distrib_optim\.pt")
SHARDED = re.compile(r"__\d+_\d+\.distcp")
MOST_ENTRIES = 2000  # a folder is looked through up to here: it may have millions of files


def hint_of_foreign_run(path: Path, culprit: object = None) -> str | None:
    """Which tool makes whole weights of the files here; None if no name is known. Looks at the path, its folder and the folder above.

    Args:
        culprit: the file that cannot be read. If its name is none of these tools', such as a damaged `model.safetensors`, there is no hint.
    """
    file = Path(str(culprit))
    if os.path.isfile(file) and not any(pattern.fullmatch(file.name) for pattern in (SHARDED, DEEPSPEED, MEGATRON)):
        return None
    for folder in (path, *list(path.absolute().parents)[: 1 if os.path.isdir(path) else 2]):
        names = _names_in(folder) if os.path.isdir(folder) else [folder.name]
        if any(SHARDED.fullmatch(name) for name in names):
            return (
                "torch.distributed.checkpoint (FSDP) wrote slices of the weights. Make one file of them: "
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {as_place(folder)} OUT.pt"
            )
        if any(DEEPSPEED.fullmatch(name) for name in names):
            home = folder.parent if re.fullmatch(r"global_step\d+", folder.name) else folder
            return (
                f"DeepSpeed wrote slices of the weights (ZeRO). Gather them with its own tool: python zero_to_fp32.py {as_place(home)} OUT "
                "(the script lies in the folder of the training, and in deepspeed.utils)"
            )
        if any(MEGATRON.fullmatch(name) for name in names):
            return (
                "Megatron-LM wrote this, with names and slices of its own. Export it to Hugging Face with the tool that trained it "
                "(Megatron-Bridge, or tools/checkpoint/convert.py of Megatron-LM), then convert that."
            )
    return None


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MOST_ENTRIES)]
    except OSError:
        return []
