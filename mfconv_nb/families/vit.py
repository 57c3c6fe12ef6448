"""Vision Transformer as the MAE repository fine-tunes it (`.pth`): everything but the head under `vit.`, linear weights transposed.

Source: MindFormers 1.3.2, `models/vit`. The golden case `vit-finetuned-fp32` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm, qkv
from mfconv_nb.mapping.rules import ALL_OR_NONE, AnyRule, Family, Rule


def blocks(hf: str, mf: str, width: str, ffn: str) -> tuple[AnyRule, ...]:
    """The transformer blocks of a tower."""
    return (
        *norm(hf + "norm1", mf + "layernorm1", width),
        *qkv(hf + "attn.qkv", mf + "attention", width),
        *linear(hf + "attn.proj", mf + "attention.projection", width, f"from_{width}", transposed=True),
        *norm(hf + "norm2", mf + "layernorm2", width),
        *linear(hf + "mlp.fc1", mf + "output.mapping", ffn, width, transposed=True),
        *linear(hf + "mlp.fc2", mf + "output.projection", width, ffn, transposed=True),
    )


PATCHES = (
    Rule("cls_token", "vit.cls_tokens", "1 1 width"),
    Rule("pos_embed", "vit.pos_embed", "1 positions width"),
    *linear("patch_embed.proj", "vit.patch_embed.proj", "width", "colour patch_y patch_x"),
)

SIZES = {
    "width": "embed_dim | ?",
    "from_width": "embed_dim | ?",
    "ffn": "ffn_dim | ?",
    "block": "depth | ?",
    "positions": "positions | ?",
    "colour": "3",
    "patch_y": "patch_size | ?",
    "patch_x": "patch_size | ?",
    "labels": "num_labels | ?",
}

FAMILY = Family(
    key="vit",
    covers="ViT fine-tuned from MAE",
    sizes=SIZES,
    rules=(
        *PATCHES,
        *blocks("blocks.{block}.", "vit.blocks.{block}.", "width", "ffn"),
        *norm("norm", "vit.norm", "width", optional=ALL_OR_NONE),
        *norm("fc_norm", "vit.fc_norm", "width", optional=ALL_OR_NONE),
        *linear("head", "head", "labels", "width"),
    ),
    toy={"embed_dim": 48, "ffn_dim": 88, "depth": 3, "positions": 17, "patch_size": 4, "num_labels": 11},
    source=LLAMA.source,
)
