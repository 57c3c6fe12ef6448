"""Whisper, any size: names stay, norms become gamma and beta, embeddings `embedding_weight`, and the two convolutions get an axis of one.

Source: MindFormers 1.3.2, `models/whisper`, which fails on bfloat16. The golden cases `whisper-*` hold its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family, Rule

ENCODER, DECODER = "model.encoder.layers.{encoder_layer}.", "model.decoder.layers.{decoder_layer}."


def attention(name: str) -> tuple[Rule, ...]:
    """One attention: k has no bias."""
    biased = (linear(f"{name}.{part}_proj", f"{name}.{part}_proj", "hidden", "from_hidden") for part in ("q", "v", "out"))
    key = Rule(f"{name}.k_proj.weight", f"{name}.k_proj.weight", "hidden from_hidden")
    return (key, *(rule for rules in biased for rule in rules), *same_norm(f"{name}_layer_norm"))


def same_norm(name: str) -> tuple[Rule, ...]:
    return norm(name, name, "hidden")


def feed_forward(layer: str, ffn: str) -> tuple[Rule, ...]:
    """The two linear layers and the norm behind them."""
    return (
        *linear(layer + "fc1", layer + "fc1", ffn, "hidden"),
        *linear(layer + "fc2", layer + "fc2", "hidden", ffn),
        *same_norm(layer + "final_layer_norm"),
    )


def embedding(name: str, axis: str) -> Rule:
    """An embedding under the names of both sides."""
    return Rule(f"{name}.weight", f"{name}.embedding_weight", f"{axis} hidden")


FAMILY = Family(
    key="whisper",
    covers="Whisper, tiny to large-v3",
    model_types=("whisper",),
    sizes={
        "hidden": "d_model",
        "from_hidden": "d_model",
        "heads": "encoder_attention_heads",
        "mel": "num_mel_bins",
        "three": "3",
        "encoder_ffn": "encoder_ffn_dim",
        "decoder_ffn": "decoder_ffn_dim",
        "frames": "max_source_positions",
        "positions": "max_target_positions",
        "vocab": "vocab_size",
        "encoder_layer": "encoder_layers",
        "decoder_layer": "decoder_layers",
    },
    rules=(
        Rule("model.encoder.conv1.weight", "model.encoder.conv1.weight", "hidden mel three -> hidden mel 1 three"),
        Rule("model.encoder.conv1.bias", "model.encoder.conv1.bias", "hidden"),
        Rule("model.encoder.conv2.weight", "model.encoder.conv2.weight", "hidden from_hidden three -> hidden from_hidden 1 three"),
        Rule("model.encoder.conv2.bias", "model.encoder.conv2.bias", "hidden"),
        embedding("model.encoder.embed_positions", "frames"),
        *attention(ENCODER + "self_attn"),
        *feed_forward(ENCODER, "encoder_ffn"),
        *same_norm("model.encoder.layer_norm"),
        embedding("model.decoder.embed_tokens", "vocab"),
        embedding("model.decoder.embed_positions", "positions"),
        *attention(DECODER + "self_attn"),
        *attention(DECODER + "encoder_attn"),
        *feed_forward(DECODER, "decoder_ffn"),
        *same_norm("model.decoder.layer_norm"),
        Rule("proj_out.weight", "proj_out.weight", "vocab hidden", optional=ALL_OR_NONE, same_as="model.decoder.embed_tokens.weight"),
    ),
    toy={
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": 331,
        "d_model": 96,
        "encoder_ffn_dim": 152,
        "decoder_ffn_dim": 176,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "num_mel_bins": 10,
        "max_source_positions": 26,
        "max_target_positions": 22,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    },
    source=LLAMA.source,
)
