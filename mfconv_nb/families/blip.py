"""BLIP-2, first stage, in Salesforce's `.pth`: an EVA vision tower and a Q-Former.

The tower has biases for q and v only; MindFormers has one for k too, of zeros. It keeps the two feed-forward weights under each other's
names, transposed, and the biases under their own.
Source: MindFormers 1.3.2, `models/blip2`; its way back does not join q, k and v, ours does. The golden case `blip2-qformer-fp32`.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import DENSE, EQUAL, linear, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, ANYWHERE, AnyRule, Family, Rule

HF, MF = "visual_encoder.blocks.{block}.", "visual_encoder.blocks.{block}."
Q_HF, Q = "Qformer.bert.encoder.layer.{layer}.", "qformer.bert.encoder.layer.{layer}."
EMBED_HF, EMBED = "Qformer.bert.embeddings.", "qformer.bert.embeddings."
PREDICT_HF, PREDICT = "Qformer.cls.predictions.", "qformer.cls.predictions."

VISION_TOWER = (
    Rule("visual_encoder.cls_token", "visual_encoder.cls_tokens", "1 1 width"),
    Rule("visual_encoder.pos_embed", "visual_encoder.pos_embed", "1 positions width"),
    *linear("visual_encoder.patch_embed.proj", "visual_encoder.patch_embed.proj", "width", "colour patch_y patch_x"),
    *norm(HF + "norm1", MF + "layernorm1", "width"),
    Rule(
        (HF + "attn.q_bias", HF + "attn.v_bias"),
        tuple(f"{MF}attention.{name}.bias" for name in DENSE),
        "q, v -> q, (0 k), v",
        sizes=EQUAL,
    ),
    Rule(
        HF + "attn.qkv.weight",
        tuple(f"{MF}attention.{name}.weight" for name in DENSE),
        "(q + k + v) width -> q width, k width, v width",
        sizes=EQUAL,
    ),
    *linear(HF + "attn.proj", MF + "attention.projection", "width", "from_width", transposed=True),
    *norm(HF + "norm2", MF + "layernorm2", "width"),
    Rule(HF + "mlp.fc1.weight", MF + "output.projection.weight", "ffn width -> width ffn"),
    Rule(HF + "mlp.fc1.bias", MF + "output.mapping.bias", "ffn"),
    Rule(HF + "mlp.fc2.weight", MF + "output.mapping.weight", "width ffn -> ffn width"),
    Rule(HF + "mlp.fc2.bias", MF + "output.projection.bias", "width"),
    *norm("ln_vision", "ln_vision", "width"),
)


def attention(name: str, into: str, optional: str) -> tuple[AnyRule, ...]:
    """Self-attention, or attention to the image, which only every other layer has."""
    hf, mf = f"{Q_HF}{name}.", f"{Q}{name}."
    return (
        *linear(hf + "self.query", mf + "self_att.query", "hidden", "from_hidden", optional=optional),
        *linear(hf + "self.key", mf + "self_att.key", "hidden", into, optional=optional),
        *linear(hf + "self.value", mf + "self_att.value", "hidden", into, optional=optional),
        *linear(hf + "output.dense", mf + "output.dense", "hidden", "from_hidden", optional=optional),
        *norm(hf + "output.LayerNorm", mf + "output.layernorm", "hidden", optional=optional),
    )


def feed_forward(query: str) -> tuple[AnyRule, ...]:
    """The feed-forward of the text, or of the queries."""
    return (
        *linear(f"{Q_HF}intermediate{query}.dense", f"{Q}intermediate{query}.dense", "query_ffn", "hidden"),
        *linear(f"{Q_HF}output{query}.dense", f"{Q}output{query}.dense", "hidden", "query_ffn"),
        *norm(f"{Q_HF}output{query}.LayerNorm", f"{Q}output{query}.layernorm", "hidden"),
    )


Q_FORMER = (
    Rule("query_tokens", "query_tokens", "1 queries hidden"),
    Rule("temp", "temp", ""),
    Rule(EMBED_HF + "position_ids", EMBED + "position_ids", "1 tokens", optional=ALL_OR_NONE),
    Rule(EMBED_HF + "word_embeddings.weight", EMBED + "word_embeddings.embedding_table", "vocab hidden"),
    Rule(EMBED_HF + "position_embeddings.weight", EMBED + "position_embeddings.embedding_table", "tokens hidden"),
    *norm(EMBED_HF + "LayerNorm", EMBED + "layernorm", "hidden"),
    *attention("attention", "from_hidden", ""),
    *attention("crossattention", "width", ANYWHERE),
    *feed_forward(""),
    *feed_forward("_query"),
    Rule(PREDICT_HF + "bias", PREDICT + "bias", "vocab"),
    *linear(PREDICT_HF + "transform.dense", PREDICT + "transform.dense", "hidden", "from_hidden"),
    *norm(PREDICT_HF + "transform.LayerNorm", PREDICT + "transform.layernorm", "hidden"),
    *linear(PREDICT_HF + "decoder", PREDICT + "decoder", "vocab", "hidden"),
    *linear("vision_proj", "vision_proj", "common", "hidden"),
    *linear("text_proj", "text_proj", "common", "hidden"),
    *linear("itm_head", "itm_head", "two", "hidden"),
)

FAMILY = Family(
    key="blip",
    covers="BLIP-2, first stage (Q-Former)",
    sizes={
        "width": "width | ?",
        "from_width": "width | ?",
        "q": "width | ?",
        "ffn": "ffn_dim | ?",
        "block": "depth | ?",
        "positions": "positions | ?",
        "colour": "3",
        "patch_y": "patch_size | ?",
        "patch_x": "patch_size | ?",
        "hidden": "hidden_size | ?",
        "from_hidden": "hidden_size | ?",
        "query_ffn": "intermediate_size | ?",
        "layer": "num_hidden_layers | ?",
        "queries": "num_queries | ?",
        "tokens": "max_position_embeddings | ?",
        "vocab": "vocab_size | ?",
        "common": "embed_dim | ?",
        "two": "2",
    },
    rules=(*VISION_TOWER, *Q_FORMER),
    toy={
        "width": 40,
        "ffn_dim": 72,
        "depth": 2,
        "positions": 10,
        "patch_size": 4,
        "hidden_size": 48,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_queries": 5,
        "max_position_embeddings": 12,
        "vocab_size": 331,
        "embed_dim": 16,
    },
    source=LLAMA.source,
)
