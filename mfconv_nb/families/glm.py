"""ChatGLM-6B, the first: norms become gamma and beta, the embedding a table; all else keeps its name, the rotary buffers too.

Every tensor keeps its own dtype; MindFormers halves the model first and forces `input_layernorm` to float16.
Source: MindFormers 1.3.2, `models/glm`. The golden case `glm-6b-fp16-binshards` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family, Rule

LAYER = "transformer.layers.{layer}."
QKV, DENSE, UP, DOWN = (LAYER + name for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"))
ROTARY = LAYER + "attention.rotary_emb.inv_freq"
IN_NORM, OUT_NORM, LAST_NORM = LAYER + "input_layernorm", LAYER + "post_attention_layernorm", "transformer.final_layernorm"

FAMILY = Family(
    key="glm",
    covers="ChatGLM-6B (the first)",
    model_types=("chatglm",),
    sizes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "q": "hidden_size",
        "k": "hidden_size",
        "v": "hidden_size",
        "ffn": "inner_hidden_size | 4 * hidden_size",
        "vocab": "vocab_size",
        "layer": "num_layers",
    },
    rules=(
        Rule("transformer.word_embeddings.weight", "transformer.word_embeddings.embedding_table", "vocab hidden"),
        *norm(IN_NORM, IN_NORM, "hidden"),
        Rule(ROTARY, ROTARY, "frequencies", optional=ALL_OR_NONE),
        *linear(QKV, QKV, "(q + k + v)", "hidden"),
        *linear(DENSE, DENSE, "hidden", "q"),
        *norm(OUT_NORM, OUT_NORM, "hidden"),
        *linear(UP, UP, "ffn", "hidden"),
        *linear(DOWN, DOWN, "hidden", "ffn"),
        *norm(LAST_NORM, LAST_NORM, "hidden"),
        Rule("lm_head.weight", "lm_head.weight", "vocab hidden"),
    ),
    toy={
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "vocab_size": 331,
        "hidden_size": 96,
        "inner_hidden_size": 176,
        "num_layers": 3,
        "num_attention_heads": 6,
    },
    source=LLAMA.source,
)
