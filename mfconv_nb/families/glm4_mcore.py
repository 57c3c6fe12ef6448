"""GLM-4 as transformers has it (model type `glm4`), in MindFormers' mcore layout: q, k and v become one matrix, gate and up are one.

The key says mcore, as `glm4` has meant the older layout with ChatGLM's names since MindFormers 1.3 (see `glm-n`). MindFormers runs this
model for inference only, where q, k and v lie end to end: that is the default here.
Source: MindFormers 2.1.0, `models/glm4`: its `weight_mapping`, and the functions that join tensors. No way back; ours is the inverse.
Golden case `glm4_mix_f32`.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.mcore import (
    CONTIGUOUS_ATTENTION,
    EMBEDDING_AND_HEAD,
    FINAL_NORM,
    HF,
    MF,
    SIZES,
    SOURCE,
    attention,
    attention_bias,
    norms,
    prefer_inference,
)
from mfconv_nb.mapping.rules import Family, Rule

FAMILY = Family(
    key="glm4-mcore",
    covers="GLM-4-0414, GLM-Z1 (dense)",
    model_types=("glm4",),
    sizes={**SIZES, "gate": "intermediate_size", "up": "intermediate_size"},
    options=(prefer_inference(CONTIGUOUS_ATTENTION),),
    rules=(
        *EMBEDDING_AND_HEAD,
        *attention(),
        *attention_bias(),
        Rule(HF + "mlp.gate_up_proj.weight", MF + "mlp.linear_fc1.weight", "(gate + up) hidden"),
        Rule(HF + "mlp.down_proj.weight", MF + "mlp.linear_fc2.weight", "hidden ffn"),
        *norms(),
        Rule(HF + "post_self_attn_layernorm.weight", MF + "post_self_attn_layernorm.weight", "hidden"),
        Rule(HF + "post_mlp_layernorm.weight", MF + "post_mlp_layernorm.weight", "hidden"),
        *FINAL_NORM,
    ),
    toy={
        **LLAMA.toy,
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "num_hidden_layers": 3,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "pad_token_id": 0,
    },
    source=SOURCE,
)
