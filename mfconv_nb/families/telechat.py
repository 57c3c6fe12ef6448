"""TeleChat 7B, 12B, 52B and TeleChat2: `telechat_type` or their names decide.

7B has no prefix and no head; 12B and TeleChat2 have `transformer.` and a head; 52B has GPT-2's names and its weights input first. The
52B form regroups q, k, v and gate, up for `mp` cards, as MindFormers' script does; where shapes show the weights output first, `conv1d`
is false. k and v of the others stay packed, head by head; with `qkv_concat` all k and then all v follow q.
Source: MindFormers 1.4.0-beta2, `research/telechat`, and 1.3.2, `research/telechat2`; `qkv_concat` is that of July 2026. The golden cases
`telechat*` hold their output; for 52B there is none.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import FFN_OF_RUN
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Option, Rule, when

HF, MF = "{telechat_type}h.{layer}.", "model.layers.{layer}."
GPT = "transformer.h.{layer}."
QUERY, KEY_VALUE = HF + "self_attention.query.weight", HF + "self_attention.key_value.weight"
GATE, UP = HF + "mlp.gate_proj.weight", HF + "mlp.up_proj.weight"
JOINED_QKV = "(heads q) hidden, (groups (k + v)) hidden -> (heads q + groups k + groups v) hidden"

RULES = (
    Rule("{telechat_type}word_embeddings.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),
    Rule(HF + "input_layernorm.weight", MF + "attention_norm.weight", "hidden"),
    Rule(HF + "self_attention.dense.weight", MF + "attention.wo.weight", "hidden from_hidden"),
    Rule(HF + "self_attention.dense.bias", MF + "attention.wo.bias", "hidden"),
    Rule(HF + "post_attention_layernorm.weight", MF + "ffn_norm.weight", "hidden"),
    Rule(HF + "mlp.down_proj.weight", MF + "feed_forward.w2.weight", "hidden ffn"),
    Rule(HF + "mlp.down_proj.bias", MF + "feed_forward.w2.bias", "hidden"),
    Rule("{telechat_type}ln_f.weight", "model.norm_out.weight", "hidden"),
    *when(
        Rule(QUERY, MF + "attention.wq.weight", "hidden from_hidden"),
        Rule(KEY_VALUE, MF + "attention.wk_v.weight", "(groups (k + v)) hidden"),
        Rule(GATE, MF + "feed_forward.w1.weight", "ffn hidden"),
        Rule(UP, MF + "feed_forward.w3.weight", "ffn hidden"),
        qkv_concat=False,
    ),
    *when(
        Rule((QUERY, KEY_VALUE), MF + "attention.w_qkv.weight", JOINED_QKV),
        Rule((GATE, UP), MF + "feed_forward.w_gate_hidden.weight", "gate hidden, up hidden -> (gate + up) hidden"),
        qkv_concat=True,
    ),
)

HEAD = Rule("lm_head.weight", "lm_head.weight", "vocab hidden")

LIKE_GPT = (
    Rule("transformer.wte.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),
    Rule(GPT + "ln_1.weight", MF + "attention_norm.weight", "hidden"),
    Rule(GPT + "ln_2.weight", MF + "ffn_norm.weight", "hidden"),
    Rule("transformer.ln_f.weight", "model.norm_out.weight", "hidden"),
    HEAD,
    Drop(GPT + "attn.masked_bias", "a constant of the attention mask"),
    Drop(GPT + "attn.bias", "the attention mask, computed on both sides"),
)


def weight(hf: str, mf: str, hf_out: str, mf_out: str, into: str) -> tuple[AnyRule, ...]:
    """A weight of the 52B model, output first on the MindFormers side; input first, or not, on the other."""
    output_first = f"{hf_out} {into}"
    layout = output_first if hf_out == mf_out else f"{output_first} -> {mf_out} {into}"
    return (
        *when(Rule(GPT + hf, MF + mf, f"{into} {hf_out} -> {mf_out} {into}"), conv1d=True),
        *when(Rule(GPT + hf, MF + mf, layout), conv1d=False),
    )


FOR_ONE_CARD = (
    *weight("attn.c_attn.weight", "attention.w_qkv.weight", "(heads q + heads k + heads v)", "(heads (q + k + v))", "hidden"),
    *weight("mlp.c_fc.weight", "feed_forward.w_gate_hidden.weight", "(gate + up)", "(gate + up)", "hidden"),
)

FOR_CARDS = (
    *weight(
        "attn.c_attn.weight",
        "attention.w_qkv.weight",
        "(cards card_heads q + cards card_heads k + cards card_heads v)",
        "(cards (card_heads q + card_heads k + card_heads v))",
        "hidden",
    ),
    *weight(
        "mlp.c_fc.weight",
        "feed_forward.w_gate_hidden.weight",
        "(cards card_gate + cards card_up)",
        "(cards (card_gate + card_up))",
        "hidden",
    ),
)

FAMILY = Family(
    key="telechat",
    covers="TeleChat 7B, 12B, 52B, TeleChat2",
    model_types=("telechat",),
    aliases=("telechat2",),
    run_classes={
        "TelechatConfig": RunClass(
            {"ffn_hidden_size": FFN_OF_RUN, "n_inner": FFN_OF_RUN, "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
        ),
    },
    options=(
        Option(
            "telechat_type",
            ("telechat_12b", "telechat_7b", "telechat_52b"),
            side="both",
            spelled={"telechat_12b": "transformer.", "telechat_7b": "", "telechat_52b": ""},
            help="Which model; TeleChat2 is as 12B.",
        ),
        # 52B has them joined in any case
        Option("qkv_concat", (False, True), first_counts=True, help="q, k, v as one matrix, gate and up too."),
        Option("mp", (4, 1, 2, 8, 16), help="52B only: for how many cards q, k, v and gate, up are regrouped."),
        Option("conv1d", (True, False), side="hf", help="52B only: weights stand input first on the Hugging Face side."),
    ),
    sizes={
        "hidden": "hidden_size | n_embd",
        "from_hidden": "hidden_size | n_embd",
        "heads": "n_head",
        "groups": "num_key_value_heads | n_head",
        "q": "hidden_size / n_head | n_embd / n_head",
        "k": "hidden_size / n_head | n_embd / n_head",
        "v": "hidden_size / n_head | n_embd / n_head",
        "ffn": "ffn_hidden_size | n_inner",
        "gate": "ffn_hidden_size | n_inner",
        "up": "ffn_hidden_size | n_inner",
        "cards": "{mp}",
        "card_heads": "n_head / {mp} | ?",
        "card_gate": "n_inner / {mp} | ?",
        "card_up": "n_inner / {mp} | ?",
        "vocab": "vocab_size",
        "layer": "n_layer",
    },
    rules=(
        *when(*RULES, HEAD, telechat_type="telechat_12b"),
        *when(*RULES, telechat_type="telechat_7b"),
        *when(
            *LIKE_GPT,
            *weight("attn.c_proj.weight", "attention.wo.weight", "hidden", "hidden", "from_hidden"),
            *weight("mlp.c_proj.weight", "feed_forward.w2.weight", "hidden", "hidden", "ffn"),
            *when(*FOR_ONE_CARD, mp=1),
            *(rule for cards in (2, 4, 8, 16) for rule in when(*FOR_CARDS, mp=cards)),
            telechat_type="telechat_52b",
        ),
    ),
    toy={
        "architectures": ["TelechatForCausalLM"],
        "model_type": "telechat",
        "vocab_size": 331,
        "hidden_size": 96,
        "ffn_hidden_size": 176,
        "n_inner": 176,
        "n_layer": 3,
        "n_head": 16,
        "num_key_value_heads": 2,
        "layer_norm_epsilon": 1e-05,
        "embed_layernorm": False,
    },
    source="MindFormers 1.4.0-beta2",
)
