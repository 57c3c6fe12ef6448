"""T5 (the first version, not gated): one table serves encoder and decoder; `o`, `wi` and `wo` are transposed, q, k and v are not.

MindFormers' network has a bias between decoder and encoder, zeros until it is trained; a trained one is refused.
Source: MindFormers 1.3.2, `models/t5`, a script without a way back. The golden case `t5-fp32-bin` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import DENSE
from mfconv_nb.mapping.rules import ZEROS, AnyRule, Drop, Family, Repeated, Rule

BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
CROSS_BIAS = "layer.1.EncDecAttention.relative_attention_bias.weight"
MF_BIAS = "attention.bias_generator.embeddings_table"


def block(side: str, feed_forward: int) -> tuple[AnyRule, ...]:
    """What the blocks of encoder and decoder have in common; the feed-forward is the last of their layers."""
    hf, mf = side + ".block.{" + side + "_layer}.layer.", "t5_model.tfm_" + side + ".blocks.{" + side + "_layer}."
    return (
        *attention(hf + "0.SelfAttention.", mf + "attention."),
        Rule(hf + "0.layer_norm.weight", mf + "layernorm1.gamma", "hidden"),
        Rule(f"{hf}{feed_forward}.DenseReluDense.wi.weight", mf + "output.mapping.weight", "ffn hidden -> hidden ffn"),
        Rule(f"{hf}{feed_forward}.DenseReluDense.wo.weight", mf + "output.projection.weight", "hidden ffn -> ffn hidden"),
        Rule(f"{hf}{feed_forward}.layer_norm.weight", mf + "layernorm2.gamma", "hidden"),
        Rule(f"{side}.block.0.{BIAS}", f"t5_model.tfm_{side}.blocks.0.{MF_BIAS}", "distances heads"),
        Rule(f"{side}.final_layer_norm.weight", f"t5_model.{side}_layernorm.gamma", "hidden"),
    )


def attention(hf: str, mf: str) -> tuple[Rule, ...]:
    """q, k, v and o of one attention."""
    return (
        Rule(hf + "q.weight", f"{mf}{DENSE[0]}.weight", "inner hidden"),
        Rule(hf + "k.weight", f"{mf}{DENSE[1]}.weight", "inner hidden"),
        Rule(hf + "v.weight", f"{mf}{DENSE[2]}.weight", "inner hidden"),
        Rule(hf + "o.weight", f"{mf}projection.weight", "hidden inner -> inner hidden"),
    )


CROSS_HF, CROSS = "decoder.block.{decoder_layer}.layer.1.", "t5_model.tfm_decoder.blocks.{decoder_layer}."

FAMILY = Family(
    key="t5",
    covers="T5 small to 11B (the first version)",
    model_types=("t5",),
    sizes={
        "hidden": "d_model | ?",
        "inner": "num_heads * d_kv | ?",
        "heads": "num_heads | ?",
        "ffn": "d_ff | ?",
        "distances": "relative_attention_num_buckets | 32",
        "encoder_layer": "num_layers | ?",
        "decoder_layer": "num_decoder_layers | num_layers | ?",
        "vocab": "vocab_size | ?",
    },
    rules=(
        Repeated(
            "shared.weight",
            "t5_model.tfm_embedding_lookup.embedding_table",
            "vocab hidden",
            may_be=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        ),
        *block("encoder", 1),
        *block("decoder", 2),
        *attention(CROSS_HF + "EncDecAttention.", CROSS + "cross_attention."),
        Drop(f"decoder.block.0.{CROSS_BIAS}", "published files have it, and transformers does not read it"),
        Drop(
            "t5_model.tfm_decoder.blocks.0.cross_attention.cross_bias",
            "transformers adds no bias between decoder and encoder",
            side="mf",
            holds=ZEROS,
        ),
        Rule(CROSS_HF + "layer_norm.weight", CROSS + "cross_attention_layernorm.gamma", "hidden"),
    ),
    toy={
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": 331,
        "d_model": 96,
        "d_kv": 20,
        "d_ff": 176,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 6,
        "relative_attention_num_buckets": 32,
    },
    source=LLAMA.source,
)
