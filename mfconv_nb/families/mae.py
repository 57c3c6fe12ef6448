"""MAE pre-training (`.pth`): the ViT table under `vit.`, with a mask token and a decoder beside it.

MindFormers' converter writes mask token and decoder under `vit.` too, where its network has nothing of these names.
Source: MindFormers 1.3.2, `models/mae`. The golden case `mae-pretrain-fp32` holds its output.
"""

from dataclasses import replace

from mfconv_nb.families.vit import FAMILY as VIT
from mfconv_nb.families.vit import PATCHES, SIZES, blocks
from mfconv_nb.families.words.shorthand import CONVERTER, NAMED_BY, NETWORK, linear, norm
from mfconv_nb.mapping.rules import Family, Rule

DECODER_HF, DECODER = "decoder_blocks.{decoder_block}.", "{named_by}decoder_blocks.{decoder_block}."

FAMILY = Family(
    key="mae",
    covers="MAE pre-training",
    options=(replace(NAMED_BY, spelled={NETWORK: "", CONVERTER: "vit."}),),
    sizes={
        **{axis: sentence for axis, sentence in SIZES.items() if axis != "labels"},
        "decoder_width": "decoder_embed_dim | ?",
        "from_decoder_width": "decoder_embed_dim | ?",
        "decoder_ffn": "decoder_ffn_dim | ?",
        "decoder_block": "decoder_depth | ?",
        "pixels": "3 * patch_size ** 2 | ?",
    },
    rules=(
        *PATCHES,
        Rule("mask_token", "{named_by}mask_tokens", "1 1 decoder_width"),
        Rule("decoder_pos_embed", "{named_by}decoder_pos_embed", "1 positions decoder_width"),
        *blocks("blocks.{block}.", "vit.blocks.{block}.", "width", "ffn"),
        *norm("norm", "vit.norm", "width"),
        *linear("decoder_embed", "{named_by}decoder_embed", "decoder_width", "width"),
        *blocks(DECODER_HF, DECODER, "decoder_width", "decoder_ffn"),
        *norm("decoder_norm", "{named_by}decoder_norm", "decoder_width"),
        *linear("decoder_pred", "{named_by}decoder_pred", "pixels", "decoder_width"),
    ),
    toy={
        "embed_dim": 48,
        "ffn_dim": 88,
        "depth": 3,
        "positions": 17,
        "patch_size": 4,
        "decoder_embed_dim": 40,
        "decoder_ffn_dim": 72,
        "decoder_depth": 2,
    },
    source=VIT.source,
)
