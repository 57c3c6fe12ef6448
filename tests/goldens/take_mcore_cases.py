"""Make the lean copies of the golden cases of MindFormers' mcore layout that lie in `cases/`, in the form that `take_cases.py` writes.

    python -m tests.goldens.take_mcore_cases FOLDER_OF_RECORDED_CASES

These cases were recorded in another form: one list of tensors for each way in which MindFormers makes them. `TAKEN` says which lists are
taken as runs, and with which options. What is not taken, and why, is in `NOT_TAKEN`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.goldens.take_cases import CASES, Pool, text_of
from tests.support import TORCH

Json = Mapping[str, Any]
NAMES = {spelled: name for name, spelled in TORCH.items()}  # "BF16" as torch says it

ATTENTION, MLP, EXPERTS = "use_contiguous_weight_layout_attention", "use_interleaved_weight_layout_mlp", "experts_2d"


@dataclass(frozen=True)
class Taken:
    """One list of a recorded case as a run: a second list, where there is one, has other shapes of some of its tensors."""

    lists: tuple[str, ...]
    options: Mapping[str, Any]
    dtype: str | None = None
    without: tuple[str, ...] = ()  # tensors that are a mistake of the reference, or that it has under names of no network
    not_compared: tuple[str, ...] = ()  # patterns of our names for the latter


def _trained(lists: Sequence[str] = ("ms",), **options: Any) -> Taken:
    """A run with MindFormers' default layouts."""
    return Taken(tuple(lists), options)


QWEN3 = {ATTENTION: False, MLP: True}
OF_MOE = (_trained(**{ATTENTION: False, EXPERTS: False}), _trained(("ms", "ms_experts_2d"), **{ATTENTION: False, EXPERTS: True}))
INFERENCE_AND_TRAINING = (Taken(("ms_infer",), {ATTENTION: True, MLP: False}), Taken(("ms_megatron",), QWEN3))
TOOLKIT = Taken(("ms",), {MLP: True, EXPERTS: True}, "bf16")
APART_AND_JOINED = (Taken(("ms",), {}), Taken(("ms_qkv_concat",), {"qkv_concat": True}))
APART: dict[str, Any] = {
    "without": ("*.mlp.experts.*", "*.self_attn.?_norm.weight"),
    "not_compared": ("*.mlp.experts.weight?", "*.self_attention.?_layernorm.weight"),
}
OF_LATENT = tuple(
    Taken((name,), {MLP: interleaved, EXPERTS: True}, without=("*.mlp.experts.*",), not_compared=("*.mlp.experts.weight?",))
    for name, interleaved in (("ms_infer", False), ("ms_megatron", True))
)

# the key of the family, and what is taken
TAKEN: Mapping[str, tuple[str, tuple[Taken, ...]]] = {
    "deepseek_v4_template": (
        "deepseek4",
        (Taken(("ms",), {MLP: True, EXPERTS: False}), Taken(("ms", "ms_experts_2d"), {MLP: True, EXPERTS: True})),
    ),
    "glm4_mix_f32": ("glm4-mcore", (Taken(("ms_infer",), {ATTENTION: True}), Taken(("ms_megatron",), {ATTENTION: False}))),
    # experts each for itself, and norms of heads as Hugging Face calls them: no network of MindFormers has these names
    "glm4_moe_mix_f32": ("glm4-moe", tuple(replace(t, options={**t.options, EXPERTS: False}, **APART) for t in INFERENCE_AND_TRAINING)),
    # the fault of mtp0: where there is no such layer, the head is written a second time
    "deepseek_v3_toolkit_bf16_mtp0": ("deepseekv3", (replace(TOOLKIT, without=("mtp.output_layer.weight",)),)),
    "deepseek_v3_toolkit_bf16_mtp1": ("deepseekv3", (TOOLKIT,)),
    "deepseek_v3_toolkit_fp32out": ("deepseekv3", (replace(TOOLKIT, dtype="fp32"),)),
    "deepseek_v3_legacy_bmm": ("deepseek3", (Taken(("ms",), {"use_grouped_gemm": False}, "bf16"),)),
    "deepseek_v3_legacy_gmm": ("deepseek3", (Taken(("ms",), {"use_grouped_gemm": True}, "bf16"),)),
    "qwen2_5_mix_f32": ("qwen2-mcore", INFERENCE_AND_TRAINING),
    "qwen2_5_research_f32": ("qwen2", APART_AND_JOINED),
    "qwen2_5_research_tied_bf16": ("qwen2", (Taken(("ms",), {}),)),
    "telechat3_mix_mla": ("telechat3-moe", OF_LATENT),
    "telechat3_moe_mix_mla": ("telechat3-moe", OF_LATENT),
    "telechat2_research_f32": ("telechat2", APART_AND_JOINED),
    "telechat3_research_f32": ("llama", (Taken(("ms",), {}),)),
    "qwen3_mix_names": ("qwen3", INFERENCE_AND_TRAINING),
    "qwen3_moe_template_bf16": ("qwen3-moe", OF_MOE),
    "qwen3_moe_template_f32": ("qwen3-moe", OF_MOE),
    "qwen3_moe_train_interleaved": ("qwen3-moe", (_trained(**{ATTENTION: False, EXPERTS: True}),)),
    "qwen3_template_bf16": ("qwen3", (_trained(**QWEN3),)),
    "qwen3_template_contiguous_mlp_f32": ("qwen3", (_trained(**{ATTENTION: False, MLP: False}),)),
    "qwen3_template_f32": ("qwen3", (_trained(**QWEN3),)),
    "qwen3_template_tied_f32": ("qwen3", (_trained(**QWEN3),)),
    "qwen3_train_contiguous": ("qwen3", (_trained(**{ATTENTION: True, MLP: False}),)),
    "qwen3_train_interleaved": ("qwen3", (_trained(**QWEN3),)),
}

NOT_TAKEN = {
    "deepseek3_mix_names": "names of inference, with the further layer as number 61 only: no network has them where there are three layers",
    "deepseek_v3_toolkit_bf16_mtp1_distinct_shared": "which of two embeddings was kept depends on PYTHONHASHSEED; refused here",
    "deepseek_v3_toolkit_fp8_mtp1": "weights in fp8, which are refused here",
    "telechat2_moe_research_f32": "TeleChat2 with experts, which no family covers",
}


def lean(case: Json) -> dict[str, Any]:
    """A recorded case, as its copy."""
    key, taken = TAKEN[case["case"]]
    pool = Pool()
    fills = case["fill_as"]
    tensors = [{**_plain(t), **({"fill": f"same:{fills[t['name']]}"} if t["name"] in fills else {})} for t in case["hf"]]
    copy = {"case": case["case"], "model_key": key, "family": case["source"], "seed": case["seed"]}
    files = [{"name": "model.safetensors", "tensors": len(tensors)}]
    copy |= {"hf": {"config": case["config"], "index": None, "files": files, "tensors": pool.put(tensors)}}
    copy["runs"] = [
        {
            "number": number,
            "dtype": run.dtype,
            "kwargs": run.options,
            **({"not_compared": run.not_compared} if run.not_compared else {}),
            "tensors": pool.put(_made(case, run)),
        }
        for number, run in enumerate(taken)
    ]
    return copy | {"name_lists": pool.name_lists, "blobs": pool.blobs}


def _made(case: Json, run: Taken) -> list[Json]:
    """The tensors that a run gave, each name once."""
    made = {t["name"]: _plain(t) for name in run.lists for t in _listed(case[name])}
    return [tensor for name, tensor in made.items() if not any(fnmatchcase(name, pattern) for pattern in run.without)]


def _listed(found: Any) -> list[Json]:
    """A list of tensors, or those of several files."""
    return [t for file in found["files"].values() for t in file.get("tensors", ())] if isinstance(found, dict) else found


def _plain(tensor: Json) -> dict[str, Any]:
    """A tensor as a copy has it. A joined bias was recorded as a column, as the function that joins weights gives it: it is a row."""
    name, shape = tensor["name"], tensor["shape"]
    shape = shape[:1] if name.endswith("linear_qkv.bias") else shape
    return {"name": name, "shape": shape, "dtype": NAMES[tensor["dtype"]], "sha256": tensor["sha256"]}


def main(recorded: Path) -> None:
    """Write a copy of every case that is taken."""
    for name in TAKEN:
        copy = lean(json.loads((recorded / f"{name}.json").read_text(encoding="utf-8")))
        (CASES / f"{name}.json").write_text(text_of(copy), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
