"""TeleChat2 (dense) in MindFormers' mcore layout: k and v, which stand head by head on the Hugging Face side, follow q in one matrix.

Hugging Face names lead to `telechat`, the older layout, unless the caller gives this key; MindFormers' names differ. MindFormers runs this
layout for inference only, so there is no other order of rows.
Source: MindFormers 2.1.0, `models/telechat2`: its `weight_mapping`, the loop that takes k and v apart, and the network of inference, which
was built on a CPU. No way back; ours is the inverse. No case; a test writes out the rows as that loop takes them.
"""

from mfconv_nb.families.telechat import FAMILY as TELECHAT
from mfconv_nb.families.words.mcore import SOURCE
from mfconv_nb.mapping.rules import Rule, derive_family

HF, MF = "transformer.h.{layer}.", "decoder.layers.{layer}."

FAMILY = derive_family(
    TELECHAT,
    key="telechat2-mcore",
    covers="TeleChat2 (dense), mcore",
    model_types=("telechat",),
    told_as="telechat",
    run_classes={},
    options=(),
    sizes={name: size for name, size in TELECHAT.sizes.items() if "{" not in size},
    rules=(
        Rule("transformer.word_embeddings.weight", "embedding.word_embeddings.weight", "vocab hidden"),
        Rule(HF + "input_layernorm.weight", MF + "input_layernorm.weight", "hidden"),
        Rule(
            (HF + "self_attention.query.weight", HF + "self_attention.key_value.weight"),
            MF + "self_attention.linear_qkv.weight",
            "(heads q) hidden, (groups (k + v)) hidden -> (heads q + groups k + groups v) hidden",
        ),
        Rule(HF + "self_attention.dense.weight", MF + "self_attention.linear_proj.weight", "hidden (heads v)"),
        Rule(HF + "self_attention.dense.bias", MF + "self_attention.linear_proj.bias", "hidden"),
        Rule(HF + "post_attention_layernorm.weight", MF + "pre_mlp_layernorm.weight", "hidden"),
        Rule(
            (HF + "mlp.gate_proj.weight", HF + "mlp.up_proj.weight"),
            MF + "mlp.linear_fc1.weight",
            "gate hidden, up hidden -> (gate + up) hidden",
        ),
        Rule(HF + "mlp.down_proj.weight", MF + "mlp.linear_fc2.weight", "hidden ffn"),
        Rule(HF + "mlp.down_proj.bias", MF + "mlp.linear_fc2.bias", "hidden"),
        Rule("transformer.ln_f.weight", "decoder.final_layernorm.weight", "hidden"),
        Rule("lm_head.weight", "output_layer.weight", "vocab hidden"),
    ),
    source=SOURCE,
)
