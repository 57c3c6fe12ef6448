"""Swin Transformer in Microsoft's own `.pth` files, fine-tuned or from SimMIM pre-training; this key also stands for Hugging Face's names.

The widths of a stage follow from its number. Tables of positions are integers and stay what they are.
Source: MindFormers 1.3.2, `models/swin`. The golden cases `swin-*` hold its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm, qkv
from mfconv_nb.mapping.rules import ALL_OR_NONE, ANYWHERE, Family, Option, Rule, when

HF, MF = "{is_pretrain}layers.{stage}.", "encoder.layers.{stage}."
BLOCK_HF, BLOCK = HF + "blocks.{block}.", MF + "blocks.{block}."
MERGE_HF, MERGE = "{is_pretrain}layers.{merging_stage}.downsample.", "encoder.layers.{merging_stage}.downsample."
BIAS_TABLE = BLOCK + "attn.relative_position_bias.relative_position_bias_table"
BIAS_INDEX = BLOCK + "attn.relative_position_bias.relative_position_index"

SIZES = {
    "hidden": "embed_dim | ?",
    "patch_y": "patch_size | 4",
    "patch_x": "patch_size | 4",
    "colour": "num_channels | 3",
    "stage": "len(depths)",
    "block": "depths[{stage}]",
    "width": "embed_dim * 2 ** {stage}",
    "from_width": "embed_dim * 2 ** {stage}",
    "ffn": "int(embed_dim * 2 ** {stage} * mlp_ratio) | embed_dim * 2 ** {stage} * 4",
    "heads": "num_heads[{stage}]",
    "positions": "(2 * window_size - 1) ** 2",
    "window": "window_size ** 2",
    "other": "window_size ** 2",
    "merging_stage": "len(depths) - 1",
    "merged": "embed_dim * 2 ** {merging_stage} * 2",
    "four": "embed_dim * 2 ** {merging_stage} * 4",
    "last": "embed_dim * 2 ** (len(depths) - 1)",
    "labels": "num_labels | len(id2label) | ?",
    "stride": "encoder_stride | ?",
}

FAMILY = Family(
    key="swin",
    covers="Swin, all sizes (Microsoft's .pth)",
    also=("swin_hf",),
    options=(
        Option(
            "is_pretrain",
            (False, True),
            side="both",
            spelled={False: "", True: "encoder."},
            help="A checkpoint of pre-training, with a mask token and a decoder.",
        ),
    ),
    sizes=SIZES,
    rules=(
        *linear("{is_pretrain}patch_embed.proj", "encoder.patch_embed.projection", "hidden", "colour patch_y patch_x"),
        *norm("{is_pretrain}patch_embed.norm", "encoder.patch_embed.norm", "hidden"),
        *norm(BLOCK_HF + "norm1", BLOCK + "norm1", "width"),
        Rule(BLOCK_HF + "attn.relative_position_bias_table", BIAS_TABLE, "positions heads"),
        Rule(BLOCK_HF + "attn.relative_position_index", BIAS_INDEX, "window other", optional=ALL_OR_NONE),
        *qkv(BLOCK_HF + "attn.qkv", BLOCK + "attn", "width", names=("q", "k", "v")),
        *linear(BLOCK_HF + "attn.proj", BLOCK + "attn.proj", "width", "from_width"),
        *norm(BLOCK_HF + "norm2", BLOCK + "norm2", "width"),
        *linear(BLOCK_HF + "mlp.fc1", BLOCK + "mlp.mapping", "ffn", "width", transposed=True),
        *linear(BLOCK_HF + "mlp.fc2", BLOCK + "mlp.projection", "width", "ffn", transposed=True),
        Rule(BLOCK_HF + "attn_mask", BLOCK + "attn_mask", "windows window other", optional=ANYWHERE),
        Rule(MERGE_HF + "reduction.weight", MERGE + "reduction.weight", "merged four"),
        *norm(MERGE_HF + "norm", MERGE + "norm", "four"),
        *norm("{is_pretrain}norm", "encoder.norm", "last"),
        *when(*linear("head", "head", "labels", "last", optional=ALL_OR_NONE), is_pretrain=False),
        *when(
            Rule("encoder.mask_token", "encoder.mask_token", "1 1 hidden"),
            Rule("decoder.0.weight", "decoder.weight", "pixels last 1 1", optional=ALL_OR_NONE),
            Rule("decoder.0.bias", "decoder.bias", "pixels", optional=ALL_OR_NONE),
            is_pretrain=True,
        ),
    ),
    toy={
        "embed_dim": 24,
        "depths": [2, 3],
        "num_heads": [3, 6],
        "window_size": 3,
        "patch_size": 4,
        "mlp_ratio": 4.0,
        "num_labels": 17,
    },
    source=LLAMA.source,
)
