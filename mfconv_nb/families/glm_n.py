"""ChatGLM2, ChatGLM3 (32K too) and GLM-4: every tensor keeps its name but the embedding; q, k, v and gate, up stay together.

Older MindFormers files call the embedding `embedding_table`. Some repositories list the head a second time, as `lm_head.weight`.
Source: MindFormers 1.3.2, `models/glm2`; its way back looks for the older name, ours is the inverse. Golden cases `glm2-*` to `glm4-*`.
"""

from typing import Any

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import ALL_OR_NONE, Drop, Family, Option, Rule

LAYER = "transformer.encoder.layers.{layer}."
EMBEDDING = "transformer.embedding.word_embeddings.weight"


def same(name: str, layout: str, **more: Any) -> Rule:
    """A tensor with the same name on both sides."""
    return Rule(name, name, layout, **more)


RULES = (
    Rule(EMBEDDING, "transformer.embedding.{embedding}", "vocab hidden"),
    same("transformer.rotary_pos_emb.inv_freq", "frequencies", optional=ALL_OR_NONE),
    same(LAYER + "input_layernorm.weight", "hidden"),
    same(LAYER + "self_attention.query_key_value.weight", "(q + k + v) hidden"),
    same(LAYER + "self_attention.query_key_value.bias", "(q + k + v)", only_if="qkv_bias"),
    same(LAYER + "self_attention.dense.weight", "hidden q"),
    same(LAYER + "post_attention_layernorm.weight", "hidden"),
    same(LAYER + "mlp.dense_h_to_4h.weight", "(gate + up) hidden"),
    same(LAYER + "mlp.dense_4h_to_h.weight", "hidden ffn"),
    same("transformer.encoder.final_layernorm.weight", "hidden"),
    same("transformer.output_layer.weight", "vocab hidden"),
    Drop("lm_head.weight", "transformer.output_layer.weight again, which some repositories list twice"),
)

FAMILY = Family(
    key="glm-n",
    covers="ChatGLM2, ChatGLM3, ChatGLM3-32K, GLM-4",
    model_types=("chatglm", "glm2"),  # the second: as MindFormers writes it
    aliases=("glm2", "glm3", "glm4"),
    options=(Option("embedding", ("embedding_weight", "embedding_table"), help="The embedding's name; older files have the second."),),
    sizes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "q": "kv_channels * num_attention_heads | hidden_size",
        "k": "kv_channels * multi_query_group_num | hidden_size",
        "v": "kv_channels * multi_query_group_num | hidden_size",
        "qkv_bias": "add_qkv_bias | add_bias_linear | 1",
        "gate": "ffn_hidden_size",
        "up": "ffn_hidden_size",
        "ffn": "ffn_hidden_size",
        "vocab": "padded_vocab_size | vocab_size",
        "layer": "num_layers | num_hidden_layers",
    },
    rules=RULES,
    toy={
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "padded_vocab_size": 331,
        "hidden_size": 96,
        "ffn_hidden_size": 176,
        "num_layers": 3,
        "num_attention_heads": 6,
        "kv_channels": 20,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "rmsnorm": True,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
