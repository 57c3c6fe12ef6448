"""LLaVA-1.5: a CLIP tower whose q, k and v become one matrix, a projector, and the Llama table under `language_model.`.

Source: MindFormers 1.4.0-beta2, `research/llava`, which has no way back. The golden case `llava-fp16-st` holds its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import ATTENTION, EMBEDDING, FEED_FORWARD, FINAL_NORM_AND_HEAD, NORMS, ROTARY_BUFFER
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import Family, Option, Rule, rename_rules

PREFIX = {"model.": "language_model.model.", "lm_head": "language_model.lm_head"}
TOWER_HF, TOWER = "vision_tower.{tower}", "vision_encoder."
BLOCK_HF, BLOCK = TOWER_HF + "encoder.layers.{block}.", TOWER + "transformer.resblocks.{block}."
Q, K, V = (BLOCK_HF + f"self_attn.{name}_proj." for name in "qkv")

VISION_TOWER = (
    Rule(TOWER_HF + "embeddings.class_embedding", TOWER + "class_embedding", "width"),
    Rule(TOWER_HF + "embeddings.patch_embedding.weight", TOWER + "conv1.weight", "width colour patch_y patch_x"),
    Rule(TOWER_HF + "embeddings.position_embedding.weight", TOWER + "positional_embedding", "positions width"),
    *norm(TOWER_HF + "pre_layrnorm", TOWER + "ln_pre", "width"),
    Rule((Q + "weight", K + "weight", V + "weight"), BLOCK + "attn.in_proj.weight", "q width, k width, v width -> (q + k + v) width"),
    Rule((Q + "bias", K + "bias", V + "bias"), BLOCK + "attn.in_proj.bias", "q, k, v -> (q + k + v)"),
    *linear(BLOCK_HF + "self_attn.out_proj", BLOCK + "attn.out_proj", "width", "q"),
    *norm(BLOCK_HF + "layer_norm1", BLOCK + "ln_1", "width"),
    *linear(BLOCK_HF + "mlp.fc1", BLOCK + "mlp.c_fc", "vision_ffn", "width"),
    *linear(BLOCK_HF + "mlp.fc2", BLOCK + "mlp.c_proj", "width", "vision_ffn"),
    *norm(BLOCK_HF + "layer_norm2", BLOCK + "ln_2", "width"),
    *norm(TOWER_HF + "post_layernorm", TOWER + "ln_post", "width"),
)

PROJECTOR = (
    *linear("multi_modal_projector.linear_1", "adapter.adapter", "hidden", "width"),
    *linear("multi_modal_projector.linear_2", "adapter.adapter_2", "hidden", "from_hidden"),
)

FAMILY = Family(
    key="llava",
    covers="LLaVA-1.5",
    model_types=("llava",),
    part_types={"text_config": ("llama",), "vision_config": ("clip_vision_model",)},
    options=(Option("tower", ("vision_model.", ""), side="hf", help="What stands after vision_tower.: transformers 5 writes nothing."),),
    run_classes={"LlavaConfig": RunClass(parts={"llm_model": "text_config", "vision_model": "vision_config"})},
    sizes={
        "hidden": "text_config.hidden_size | ?",
        "from_hidden": "text_config.hidden_size | ?",
        "heads": "text_config.num_attention_heads | ?",
        "groups": "text_config.num_key_value_heads | text_config.num_attention_heads | ?",
        "head": "text_config.head_dim | text_config.hidden_size / text_config.num_attention_heads | ?",
        "ffn": "text_config.intermediate_size | ?",
        "vocab": "text_config.vocab_size | ?",
        "layer": "text_config.num_hidden_layers | ?",
        "tied": "text_config.tie_word_embeddings | 0",
        "block": "vision_config.num_hidden_layers",
        "width": "vision_config.hidden_size",
        "q": "vision_config.hidden_size",
        "k": "vision_config.hidden_size",
        "v": "vision_config.hidden_size",
        "vision_ffn": "vision_config.intermediate_size",
        "positions": "(vision_config.image_size / vision_config.patch_size) ** 2 + 1 | ?",
        "colour": "3",
        "patch_y": "vision_config.patch_size | ?",
        "patch_x": "vision_config.patch_size | ?",
    },
    rules=(
        *VISION_TOWER,
        *PROJECTOR,
        *rename_rules((*EMBEDDING, *ATTENTION, *FEED_FORWARD, *NORMS, *FINAL_NORM_AND_HEAD, *ROTARY_BUFFER), hf=PREFIX, mf=PREFIX),
    ),
    toy={
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {
            "model_type": "llama",
            "vocab_size": 331,
            "hidden_size": 96,
            "intermediate_size": 176,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 20,
        },
        "vision_config": {
            "hidden_size": 40,
            "intermediate_size": 72,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "image_size": 16,
            "patch_size": 4,
        },
    },
    source="MindFormers 1.4.0-beta2",
)
