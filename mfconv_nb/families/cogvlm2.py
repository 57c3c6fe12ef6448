"""CogVLM2-Video and CogVLM2-Image: an EVA vision tower, an adapter, and a Llama with a language expert (and, for images, a vision expert).

The rotary buffer stands in every layer on the Hugging Face side and once on the other. For a run that trains adapters (`sft` lora)
MindFormers wraps the language model, which shows in the names.
Source: MindFormers 1.3.2, `models/cogvlm2`, which has the sizes of the 8B model typed in and no way back. Golden cases `cogvlm2-*`.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family, Option, Repeated, Rule, when

HF = "model.layers.{layer}."
VIDEO, IMAGE = "llm_model.{sft}model.layers.{layer}.", "llm_model.model.layers.{layer}."
TOWER_HF, TOWER = "model.vision.transformer.layers.{block}.", "vision_encoder.blocks.{block}."
ADAPTER_HF, ADAPTER = "model.vision.", "mlp_adapter."

VISION_TOWER = (
    Rule(ADAPTER_HF + "patch_embedding.cls_embedding", "vision_encoder.cls_token", "1 width -> 1 1 width"),
    Rule(ADAPTER_HF + "patch_embedding.position_embedding.weight", "vision_encoder.pos_embed", "positions width -> 1 positions width"),
    Rule(ADAPTER_HF + "patch_embedding.proj.weight", "vision_encoder.patch_embed.proj.weight", "width colour patch_y patch_x"),
    Rule(ADAPTER_HF + "patch_embedding.proj.bias", "vision_encoder.patch_embed.proj.bias", "width"),
    *norm(TOWER_HF + "input_layernorm", TOWER + "norm1", "width"),
    *linear(TOWER_HF + "attention.query_key_value", TOWER + "attn.qkv", "(vision_q + vision_k + vision_v)", "width"),
    *linear(TOWER_HF + "attention.dense", TOWER + "attn.proj", "width", "vision_q"),
    *norm(TOWER_HF + "post_attention_layernorm", TOWER + "norm2", "width"),
    *linear(TOWER_HF + "mlp.fc1", TOWER + "mlp.fc1", "vision_ffn", "width"),
    *linear(TOWER_HF + "mlp.fc2", TOWER + "mlp.fc2", "width", "vision_ffn"),
)

VISION_ADAPTER = (
    Rule(ADAPTER_HF + "boi", ADAPTER + "boi", "1 1 hidden"),
    Rule(ADAPTER_HF + "eoi", ADAPTER + "eoi", "1 1 hidden"),
    *linear(ADAPTER_HF + "conv", ADAPTER + "conv", "width", "from_width two_y two_x")[:1],
    Rule(ADAPTER_HF + "conv.bias", ADAPTER + "conv.bias", "width"),
    Rule(ADAPTER_HF + "linear_proj.linear_proj.weight", ADAPTER + "linear_proj.linear_proj.weight", "hidden width"),
    *norm(ADAPTER_HF + "linear_proj.norm1", ADAPTER + "linear_proj.norm1", "hidden"),
    Rule(ADAPTER_HF + "linear_proj.dense_h_to_4h.weight", ADAPTER + "linear_proj.dense_h_to_4h.weight", "adapter_ffn hidden"),
    Rule(ADAPTER_HF + "linear_proj.gate_proj.weight", ADAPTER + "linear_proj.gate_proj.weight", "adapter_ffn hidden"),
    Rule(ADAPTER_HF + "linear_proj.dense_4h_to_h.weight", ADAPTER + "linear_proj.dense_4h_to_h.weight", "hidden adapter_ffn"),
)

VIDEO_LANGUAGE = (
    Rule("model.embed_tokens.weight", "llm_model.{sft}model.tok_embeddings.embedding_weight", "vocab hidden"),
    Rule(
        HF + "self_attn.language_expert_query_key_value.weight",
        (VIDEO + "attention.wq.weight", VIDEO + "attention.wk.weight", VIDEO + "attention.wv.weight"),
        "(q + k + v) hidden -> q hidden, k hidden, v hidden",
    ),
    Rule(HF + "self_attn.language_expert_dense.weight", VIDEO + "attention.wo.weight", "hidden q"),
    Rule(HF + "mlp.language_mlp.gate_proj.weight", VIDEO + "feed_forward.w1.weight", "ffn hidden"),
    Rule(HF + "mlp.language_mlp.up_proj.weight", VIDEO + "feed_forward.w3.weight", "ffn hidden"),
    Rule(HF + "mlp.language_mlp.down_proj.weight", VIDEO + "feed_forward.w2.weight", "hidden ffn"),
    Rule(HF + "input_layernorm.weight", VIDEO + "attention_norm.weight", "hidden"),
    Rule(HF + "post_attention_layernorm.weight", VIDEO + "ffn_norm.weight", "hidden"),
    Rule("model.norm.weight", "llm_model.{sft}model.norm_out.weight", "hidden"),
    Rule("lm_head.weight", "llm_model.{sft}lm_head.weight", "vocab hidden"),
)


def expert(name: str) -> tuple[Rule, ...]:
    """The feed-forward and attention of the language or the vision expert of an image model."""
    return (
        Rule(HF + f"mlp.{name}_mlp.gate_proj.weight", IMAGE + f"mlp.{name}_mlp.w1.weight", "ffn hidden"),
        Rule(HF + f"mlp.{name}_mlp.up_proj.weight", IMAGE + f"mlp.{name}_mlp.w3.weight", "ffn hidden"),
        Rule(HF + f"mlp.{name}_mlp.down_proj.weight", IMAGE + f"mlp.{name}_mlp.w2.weight", "hidden ffn"),
        Rule(HF + f"self_attn.{name}_expert_dense.weight", IMAGE + f"self_attn.{name}_expert_dense.weight", "hidden q"),
        Rule(
            HF + f"self_attn.{name}_expert_query_key_value.weight",
            IMAGE + f"self_attn.{name}_expert_query_key_value.weight",
            "(q + k + v) hidden",
        ),
    )


VISION_BIAS = "self_attn.vision_expert_query_key_value.bias"

IMAGE_LANGUAGE = (
    Rule("model.embed_tokens.weight", "llm_model.model.tok_embeddings.embedding_weight", "vocab hidden"),
    *expert("language"),
    *expert("vision"),
    Rule(HF + VISION_BIAS, IMAGE + VISION_BIAS, "(q + k + v)"),
    Rule(HF + "input_layernorm.weight", IMAGE + "input_layernorm.weight", "hidden"),
    Rule(HF + "post_attention_layernorm.weight", IMAGE + "post_attention_layernorm.weight", "hidden"),
    Rule("model.norm.weight", "llm_model.model.norm_out.weight", "hidden"),
    Rule("lm_head.weight", "llm_model.lm_head.weight", "vocab hidden"),
)

FAMILY = Family(
    key="cogvlm2",
    covers="CogVLM2-Video, CogVLM2-Image (Llama 3)",
    model_types=("cogvlm2", "cogvlm2_video", "cogvlm"),
    options=(
        Option("modal", ("video", "image"), side="both", help="Which model."),
        Option(
            "sft",
            ("none", "lora"),
            spelled={"none": "", "lora": "pet_model.lora_model."},
            help="lora: names for a run that trains adapters.",
        ),
    ),
    run_classes={
        "CogVLM2Config": RunClass(
            {
                "num_multi_query_heads": "num_key_value_heads",
                "vision_config.num_positions": "(vision_config.image_size / vision_config.patch_size) ** 2 + 1",
            },
            parts={"llm_model": "", "vision_model": "vision_config"},
        ),
    },
    sizes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "q": "num_attention_heads * head_dim | hidden_size",
        "k": "num_multi_query_heads * head_dim | num_multi_query_heads * hidden_size / num_attention_heads",
        "v": "num_multi_query_heads * head_dim | num_multi_query_heads * hidden_size / num_attention_heads",
        "frequencies": "head_dim / 2 | hidden_size / num_attention_heads / 2",
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "layer": "num_hidden_layers | ?",
        "block": "vision_config.num_hidden_layers",
        "width": "vision_config.hidden_size",
        "from_width": "vision_config.hidden_size",
        "vision_q": "vision_config.hidden_size",
        "vision_k": "vision_config.hidden_size",
        "vision_v": "vision_config.hidden_size",
        "vision_ffn": "vision_config.intermediate_size",
        "positions": "vision_config.num_positions",
        "colour": "vision_config.in_channels | 3",
        "patch_y": "vision_config.patch_size",
        "patch_x": "vision_config.patch_size",
        "two_y": "2",
        "two_x": "2",
        "adapter_ffn": "adapter_intermediate_size | ?",
    },
    rules=(
        *VISION_TOWER,
        *VISION_ADAPTER,
        *when(*VIDEO_LANGUAGE, modal="video"),
        *when(*IMAGE_LANGUAGE, modal="image"),
        Repeated(HF + "self_attn.rotary_emb.inv_freq", "llm_model.{sft}model.freqs_mgr.freqs", "frequencies", optional=ALL_OR_NONE),
    ),
    toy={
        "architectures": ["CogVLMVideoForCausalLM"],
        "model_type": "cogvlm2_video",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "adapter_intermediate_size": 152,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_multi_query_heads": 2,
        "head_dim": 20,
        "vision_config": {
            "hidden_size": 40,
            "intermediate_size": 72,
            "num_hidden_layers": 2,
            "num_heads": 5,
            "patch_size": 4,
            "in_channels": 3,
            "num_positions": 26,
        },
    },
    source=LLAMA.source,
)
