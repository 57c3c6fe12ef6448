"""CLIP with OpenAI's names (a state dict, `.pt`): norms become gamma and beta, the token embedding a table; all else keeps its name.

Source: MindFormers 1.3.2, `models/clip`, a script without a way back. The golden case `clip-fp16-pt` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Rule


def same(name: str, layout: str) -> Rule:
    """A tensor with the same name on both sides."""
    return Rule(name, name, layout)


def tower(prefix: str, width: str) -> tuple[AnyRule, ...]:
    """The transformer of the image or the text side."""
    block = prefix + "transformer.resblocks.{" + width + "_block}."
    return (
        Rule(block + "attn.in_proj_weight", block + "attn.in_proj.weight", f"{width}_qkv {width}"),
        Rule(block + "attn.in_proj_bias", block + "attn.in_proj.bias", f"{width}_qkv"),
        *linear(block + "attn.out_proj", block + "attn.out_proj", width, f"from_{width}"),
        *norm(block + "ln_1", block + "ln_1", width),
        *linear(block + "mlp.c_fc", block + "mlp.c_fc", f"{width}_ffn", width),
        *linear(block + "mlp.c_proj", block + "mlp.c_proj", width, f"{width}_ffn"),
        *norm(block + "ln_2", block + "ln_2", width),
    )


FAMILY = Family(
    key="clip",
    covers="CLIP (OpenAI's names)",
    sizes={
        "text": "text_width | ?",
        "from_text": "text_width | ?",
        "text_qkv": "3 * text_width | ?",
        "text_ffn": "4 * text_width | ?",
        "text_block": "text_layers | ?",
        "image": "image_width | ?",
        "from_image": "image_width | ?",
        "image_qkv": "3 * image_width | ?",
        "image_ffn": "4 * image_width | ?",
        "image_block": "image_layers | ?",
        "common": "embed_dim | ?",
        "context": "context_length | ?",
        "grid": "grid | ?",
        "vocab": "vocab_size | ?",
        "colour": "3",
        "patch_y": "patch_size | ?",
        "patch_x": "patch_size | ?",
    },
    rules=(
        same("positional_embedding", "context text"),
        same("text_projection", "text common"),
        same("logit_scale", ""),
        same("visual.class_embedding", "image"),
        same("visual.positional_embedding", "grid image"),
        same("visual.proj", "image common"),
        same("visual.conv1.weight", "image colour patch_y patch_x"),
        *norm("visual.ln_pre", "visual.ln_pre", "image"),
        *tower("visual.", "image"),
        *norm("visual.ln_post", "visual.ln_post", "image"),
        *tower("", "text"),
        Rule("token_embedding.weight", "token_embedding.embedding_table", "vocab text"),
        *norm("ln_final", "ln_final", "text"),
        Drop("input_resolution", "a number of OpenAI's files, no weight"),
        Drop("context_length", "a number of OpenAI's files, no weight"),
        Drop("vocab_size", "a number of OpenAI's files, no weight"),
    ),
    toy={
        "text_width": 48,
        "text_layers": 3,
        "image_width": 40,
        "image_layers": 2,
        "embed_dim": 32,
        "context_length": 13,
        "grid": 10,
        "vocab_size": 331,
        "patch_size": 8,
    },
    source=LLAMA.source,
)
