"""The algorithm that is documented and taught: load the whole model, rename the state dict, save it. Both directions.

python -m benchmarks.documented forward HF_FOLDER OUT.ckpt
python -m benchmarks.documented back IN.ckpt OUT.bin

Written anew from its description (transformers `from_pretrained`, rename, `mindspore.save_checkpoint`; back: `load_checkpoint`,
rename, `torch.save`), in its most favourable form: dtype="auto", no copy that is not needed. bfloat16 goes through a float32 array,
because neither framework hands bfloat16 to numpy.
"""

from __future__ import annotations

import sys
from typing import Any

NAMES = (  # Hugging Face, MindFormers
    ("embed_tokens.weight", "tok_embeddings.embedding_weight"),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("model.norm.", "model.norm_out."),
)


def mindformers_name(name: str) -> str:
    """The name on the other side, by plain replacement."""
    for hf, mf in NAMES:
        name = name.replace(hf, mf)
    return name


def hugging_face_name(name: str) -> str:
    """The way back."""
    for hf, mf in NAMES:
        name = name.replace(mf, hf)
    return name


def forward(source: str, target: str) -> None:
    """Hugging Face to MindFormers."""
    import mindspore
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(source, dtype="auto")
    entries = [{"name": mindformers_name(n), "data": _to_mindspore(t)} for n, t in model.state_dict().items()]
    mindspore.save_checkpoint(entries, target)


def _to_mindspore(tensor: Any) -> Any:
    import mindspore
    import torch

    if tensor.dtype == torch.bfloat16:
        return mindspore.Tensor(tensor.detach().to(torch.float32).numpy(), dtype=mindspore.bfloat16)
    return mindspore.Tensor(tensor.detach().numpy())


def back(source: str, target: str) -> None:
    """MindFormers to Hugging Face."""
    import mindspore
    import torch

    parameters = mindspore.load_checkpoint(source)
    torch.save({hugging_face_name(n): _to_torch(p) for n, p in parameters.items()}, target)


def _to_torch(parameter: Any) -> Any:
    import mindspore
    import torch

    if parameter.dtype == mindspore.bfloat16:
        return torch.from_numpy(parameter.astype(mindspore.float32).asnumpy()).to(torch.bfloat16)
    return torch.from_numpy(parameter.asnumpy())


if __name__ == "__main__":
    {"forward": forward, "back": back}[sys.argv[1]](*sys.argv[2:])
