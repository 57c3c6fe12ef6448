"""Swin Transformer under the names of Hugging Face's SwinForImageClassification: q, k and v apart; the same names on MindFormers' side.

Source: the names of `transformers`' Swin model; MindFormers' side as in `swin`.
"""

from mfconv_nb.families.swin import BIAS_INDEX, BIAS_TABLE, BLOCK, MERGE, SIZES
from mfconv_nb.families.swin import FAMILY as SWIN
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Drop, Family, Rule

HF = "swin.encoder.layers.{stage}.blocks.{block}."
MERGE_HF = "swin.encoder.layers.{merging_stage}.downsample."

FAMILY = Family(
    key="swin_hf",
    covers="Swin, all sizes (Hugging Face)",
    model_types=("swin",),
    sizes=SIZES,
    rules=(
        *linear("swin.embeddings.patch_embeddings.projection", "encoder.patch_embed.projection", "hidden", "colour patch_y patch_x"),
        *norm("swin.embeddings.norm", "encoder.patch_embed.norm", "hidden"),
        *norm(HF + "layernorm_before", BLOCK + "norm1", "width"),
        Rule(HF + "attention.self.relative_position_bias_table", BIAS_TABLE, "positions heads"),
        Rule(HF + "attention.self.relative_position_index", BIAS_INDEX, "window other", optional=ALL_OR_NONE),
        *linear(HF + "attention.self.query", BLOCK + "attn.q", "width", "from_width"),
        *linear(HF + "attention.self.key", BLOCK + "attn.k", "width", "from_width"),
        *linear(HF + "attention.self.value", BLOCK + "attn.v", "width", "from_width"),
        *linear(HF + "attention.output.dense", BLOCK + "attn.proj", "width", "from_width"),
        *norm(HF + "layernorm_after", BLOCK + "norm2", "width"),
        *linear(HF + "intermediate.dense", BLOCK + "mlp.mapping", "ffn", "width", transposed=True),
        *linear(HF + "output.dense", BLOCK + "mlp.projection", "width", "ffn", transposed=True),
        Drop(BLOCK + "attn_mask", "transformers computes the mask of shifted windows", side="mf"),
        Rule(MERGE_HF + "reduction.weight", MERGE + "reduction.weight", "merged four"),
        *norm(MERGE_HF + "norm", MERGE + "norm", "four"),
        *norm("swin.layernorm", "encoder.norm", "last"),
        *linear("classifier", "head", "labels", "last", optional=ALL_OR_NONE),
    ),
    toy={**SWIN.toy, "architectures": ["SwinForImageClassification"], "model_type": "swin", "image_size": 24},
    source=SWIN.source,
)
