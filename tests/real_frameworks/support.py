"""A small Llama of transformers. Torch and transformers are imported where they are used: without them the tests are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def llama_config(**more: Any) -> Any:
    """All sizes differ: a swapped axis cannot hide."""
    import transformers

    sizes = {"vocab_size": 211, "hidden_size": 48, "intermediate_size": 104, "num_hidden_layers": 3, "max_position_embeddings": 64}
    return transformers.LlamaConfig(**sizes, num_attention_heads=6, num_key_value_heads=2, head_dim=10, **more)


def saved_llama(folder: Path, *, tied: bool = False) -> Any:
    """A small Llama in bf16, saved by transformers in several shards, and opened by it again: that keeps the rotary table in fp32."""
    import torch
    import transformers

    torch.manual_seed(7)
    config = llama_config(tie_word_embeddings=tied)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    return opened_llama(folder)


def opened_llama(folder: Path) -> Any:
    """The network in a folder, in the dtype that its config says."""
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype="auto").eval()


def logits(model: Any) -> Any:
    """What a network makes of the tokens 1 to 29."""
    import torch

    with torch.no_grad():
        return model(torch.arange(1, 30).reshape(1, -1)).logits
