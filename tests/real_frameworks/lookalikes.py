"""Models of transformers whose names are those of one of our families: each is refused, or computes what the family computes.

``make lookalikes`` (``python -m tests.real_frameworks.lookalikes [MODEL_TYPE ...]``) tries every model type for text that the installed
transformers knows, small and with random weights, and prints what became of each. What is accepted goes to MindFormers and back, is
opened in the class of the family, and must give the same logits to the bit. Exit code 1 where one does not.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.families.registry import family_named

TOKENS = 40  # longer than every window and every original length below
MOST = 50_000_000  # parameters that are made; of larger models only the names are looked at
DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL", torch.bfloat16: "BF16", torch.int32: "I32", torch.uint8: "U8"}

# Sizes under every name that configs have for them; a model takes those that its config knows.
SIZES: Mapping[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "moe_intermediate_size": 40,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 56,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MULTI_LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "num_key_value_heads": 6,
}
MORE: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {**MULTI_LATENT, "head_dim": 4},
    "deepseek_v3": MULTI_LATENT,
    "glm4_moe_lite": MULTI_LATENT,
    "deepseek_v32": MULTI_LATENT,
    "glm_moe_dsa": MULTI_LATENT,
    "dots3_note_text": {"num_key_value_heads": 6},
    "bamba": {"mamba_n_heads": 12, "mamba_d_head": 8},
    "granitemoehybrid": {"mamba_n_heads": 12, "mamba_d_head": 8},
    "blenderbot": {"encoder_attention_heads": 6, "decoder_attention_heads": 6},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 12},
}
# What changes the mathematics and no name: where a type is accepted with one of these, its logits must be the same all the same.
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "no window": {"sliding_window": None},
    "a short window": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1, "attention_chunk_size": 6},
    "layers without rotary": {"no_rope_layer_interval": 2},
    "stretched rotary": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "llama_4_scaling_beta": 0.5,
        }
    },
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu"},
}


@dataclass(frozen=True)
class Tried:
    """What became of a model type under one of the switches.

    Attributes:
        family: what it was accepted as; empty where it was refused or could not be made.
        refused: the code of the refusal; empty where it was accepted or could not be made.
        away: the largest difference of logits, where it was accepted as another model; None where it is the family's own type.
        spread: their standard deviation.
        why: why it could not be made, or not compared.
    """

    model_type: str
    switch: str
    family: str = ""
    refused: str = ""
    away: float | None = None
    spread: float = 0.0
    why: str = ""

    @property
    def wrong(self) -> bool:
        return self.away is not None and self.away != 0


def config_of(model_type: str, **more: Any) -> Any:
    """A small config: the sizes that it knows, and those of its parts."""
    kind = transformers.CONFIG_MAPPING[model_type]
    wanted = deepcopy({**SIZES, **MORE.get(model_type, {}), **more})  # some configs write into what they are given
    return kind(**_known(kind, wanted))


def _known(kind: type, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is wanted what a config knows; parts of a model have sizes of their own."""
    parts = {n: k for n, k in getattr(kind, "sub_configs", {}).items() if hasattr(k, "model_type") and k is not transformers.AutoConfig}
    renamed = getattr(kind, "attribute_map", {})
    known = {n: v for n, v in wanted.items() if n in renamed or (hasattr(kind, n) and not isinstance(getattr(kind, n), property))}
    return known | {name: _known(part, wanted) for name, part in parts.items()}


def random_model(config: Any) -> Any:
    """A model with random weights: norms around 1, biases too, so that what is left out shows."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
    model.tie_weights()
    return model


def logits_of(model: Any) -> Any:
    """The logits of one text that has every token once and repeats none of them at the same distance."""
    ids = (torch.arange(TOKENS) * 37 + 5) % SIZES["vocab_size"]
    with torch.no_grad():
        return model(ids.view(1, -1)).logits


def largest_difference(folder: Path, family: str) -> tuple[float, float]:
    """How far the logits of a saved model are from those that the class of a family gives with its weights, and their spread.

    The weights go to MindFormers and back. Every name must be one of the class, and every name of the class must be there.
    """
    twin = family_named(family)
    there = mc.map(mc.load(folder), family)
    back = folder.with_name(f"{folder.name}-as-{family}")
    mc.save(mc.map(there, to="hf"), back, assets=folder, overwrite=True)
    config = json.loads((folder / "config.json").read_text())
    if "mlp_layer_types" in config:  # as the class of the family says it
        config["first_k_dense_replace"] = config["mlp_layer_types"].count("dense")
    (back / "config.json").write_text(json.dumps({**config, "model_type": twin.model_types[0], "architectures": twin.toy["architectures"]}))
    of = transformers.AutoModelForCausalLM
    theirs = logits_of(of.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval())
    opened, told = of.from_pretrained(back, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), (family, told)
    return float((logits_of(opened.eval()) - theirs).abs().max()), float(theirs.std())


def outcome(model_type: str, switch: str, folder: Path) -> Tried:
    """Make a model, save it, map it without a word, and compare where it is accepted."""
    try:
        config = config_of(model_type, **SWITCHES[switch])
        source = _source(config, folder)
    except Exception as error:  # whatever a class of transformers does with sizes that it does not like
        return Tried(model_type, switch, why=f"{type(error).__name__}: {' '.join(str(error).split())[:90]}")
    try:
        family = str(mc.map(source).family)
    except MfconvError as error:
        return Tried(model_type, switch, refused=error.code)
    if config.model_type in family_named(family).model_types:
        return Tried(model_type, switch, family)
    try:
        return Tried(model_type, switch, family, "", *largest_difference(folder, family))
    except Exception as error:  # accepted, and the family's class cannot open or run it
        return Tried(model_type, switch, family, away=math.inf, why=f"{type(error).__name__}: {' '.join(str(error).split())[:90]}")


def _source(config: Any, folder: Path) -> Checkpoint:
    """The model as transformers saves it; of one that is too large to make the names and shapes that it has in memory."""
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    if sum(p.numel() for p in empty.parameters()) <= MOST:
        random_model(config).save_pretrained(folder)
        return mc.load(folder)
    specs = [TensorSpec(n, tuple(t.shape), DTYPES[t.dtype]) for n, t in empty.state_dict().items()]
    return Checkpoint({s.name: LazyTensor(s, ()) for s in specs}, side="hf", config=json.loads(config.to_json_string()))


def all_types() -> list[str]:
    """Every model type that transformers has a causal language model for."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_all(model_types: list[str], folder: Path) -> Iterator[Tried]:
    for model_type in model_types:
        for number, switch in enumerate(SWITCHES):
            yield outcome(model_type, switch, folder / f"{model_type}-{number}")


def quieten() -> None:
    """transformers warns of sizes that are odd on purpose."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()


def main(asked: list[str]) -> int:
    quieten()
    torch.set_num_threads(1)
    found: list[Tried] = []
    with tempfile.TemporaryDirectory() as folder:
        for tried in try_all(asked or all_types(), Path(folder)):
            found.append(tried)
            if tried.family or asked:
                print(line_of(tried), flush=True)
    print("\n".join(summary(found)))
    return int(any(t.wrong for t in found))


def line_of(tried: Tried) -> str:
    said = (
        f"not made: {tried.why}"
        if tried.why and not tried.family
        else f"refused, {tried.refused}"
        if tried.refused
        else f"accepted as {tried.family}"
    )
    apart = "" if tried.away is None else f": logits {tried.away:g} apart (spread {tried.spread:.2g}) {tried.why}"
    return f"{'✗' if tried.wrong else '✓' if apart else ' '} {tried.model_type:<24} {tried.switch:<22} {said}{apart}"


def summary(found: list[Tried]) -> list[str]:
    """What became of the types, each named once under the worst that happened to it."""
    kinds: dict[str, set[str]] = {}
    for tried in found:
        kind = (
            "wrong" if tried.wrong else "same" if tried.away is not None else "own" if tried.family else "refused" if tried.refused else ""
        )
        kinds.setdefault(tried.model_type, set()).add(kind)
    words = {"wrong": "ACCEPTED WITH OTHER LOGITS", "same": "accepted, equal logits", "own": "a family's own", "refused": "refused"}
    first = {model_type: next((w for w in words if w in told), "") for model_type, told in kinds.items()}
    counts = Counter(first.values())
    lines = [f"transformers {transformers.__version__}: {len(first)} model types"]
    for kind, text in {**words, "": "not made"}.items():
        names = ", ".join(t for t, k in first.items() if k == kind)
        lines += [f"{text}: {counts[kind]}" + (f" ({names})" if kind != "refused" else "")] if counts[kind] else []
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
