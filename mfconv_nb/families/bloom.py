"""BLOOM and BLOOMZ: q, k and v fused head by head; the other weights transposed. Names with or without `transformer.` before them.

Source: MindFormers 1.3.2, `models/bloom`, whose way back breaks on the prefix. The golden cases `bloom-*` hold its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import DENSE, EQUAL, linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family, Option, Rule

HF, MF = "{prefix}h.{layer}.", "{prefix}blocks.{layer}."

FAMILY = Family(
    key="bloom",
    covers="BLOOM, BLOOMZ, all sizes",
    model_types=("bloom",),
    options=(Option("prefix", ("", "transformer."), side="both", help="What stands before the names."),),
    sizes={
        "hidden": "hidden_size | n_embed",
        "from_hidden": "hidden_size | n_embed",
        "heads": "n_head | num_attention_heads",
        "q": "hidden_size / n_head | hidden_size / num_attention_heads | n_embed / n_head | n_embed / num_attention_heads",
        "ffn": "4 * hidden_size | 4 * n_embed",
        "vocab": "vocab_size",
        "layer": "n_layer | num_hidden_layers",
    },
    rules=(
        Rule("{prefix}word_embeddings.weight", "{prefix}embedding.word_embedding.embedding_table", "vocab hidden"),
        *norm("{prefix}word_embeddings_layernorm", "{prefix}embedding.norm", "hidden"),
        *norm(HF + "input_layernorm", MF + "layernorm1", "hidden"),
        Rule(
            HF + "self_attention.query_key_value.weight",
            tuple(f"{MF}attention.{name}.weight" for name in DENSE),
            "(heads (q + k + v)) hidden -> (heads q) hidden, (heads k) hidden, (heads v) hidden",
            sizes=EQUAL,
        ),
        Rule(
            HF + "self_attention.query_key_value.bias",
            tuple(f"{MF}attention.{name}.bias" for name in DENSE),
            "(heads (q + k + v)) -> (heads q), (heads k), (heads v)",
            sizes=EQUAL,
        ),
        *linear(HF + "self_attention.dense", MF + "attention.projection", "hidden", "from_hidden", transposed=True),
        *norm(HF + "post_attention_layernorm", MF + "layernorm2", "hidden"),
        *linear(HF + "mlp.dense_h_to_4h", MF + "output.mapping", "ffn", "hidden", transposed=True),
        *linear(HF + "mlp.dense_4h_to_h", MF + "output.projection", "hidden", "ffn", transposed=True),
        *norm("{prefix}ln_f", "{prefix}ln_f", "hidden"),
        Rule("lm_head.weight", "head.weight", "vocab hidden", optional=ALL_OR_NONE, same_as="{prefix}word_embeddings.weight"),
    ),
    toy={
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": 331,
        "hidden_size": 96,
        "n_layer": 3,
        "n_head": 6,
        "layer_norm_epsilon": 1e-05,
        "tie_word_embeddings": True,
    },
    source=LLAMA.source,
)
