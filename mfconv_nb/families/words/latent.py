"""Latent attention and its experts in MindFormers' mcore layout, as each of its networks holds them: other names, other order of rows.

Trained in the static graph, with its projections apart or joined (`mla_qkv_concat`); trained in the dynamic graph, always joined; and in
inference, with a third kind of names. The names tell which it is.

In inference the rotary rows stand in halves, keys and values lie apart, and the latent of keys and values comes before that of queries:
so the parameters lie in memory. MindFormers' own loader of inference makes this of a folder of the static graph with projections apart,
and does it again with what is in this order already; `ms.load_param_into_net` and `mc.assign` take it as it is.

No family: a module of this folder counts as one only where it has a `FAMILY`.
Source: MindFormers 2.1.0, `parallel_core/training_graph/transformer/multi_latent_attention.py`, `pynative/transformers` (its
`multi_latent_attention.py`, `mlp.py` and `moe/`), `parallel_core/inference/transformer/multi_latent_attention.py`, and `weights_utils.py`
and `tensor_parallel/layers.py` beside it. The parameters of the networks of all three were listed, built on a CPU.
"""

from __future__ import annotations

from mfconv_nb.families.words.mcore import HF, MF, joined_mlp, stacked_experts
from mfconv_nb.mapping.rules import ZEROS, AnyRule, Drop, Option, Rule, when

STATIC, DYNAMIC, INFERENCE = "static", "dynamic", "inference"
TRAINED = (STATIC, DYNAMIC)

# first_counts: what is left of a checkpoint (adapters, say) may fit all three, and only training leaves such parts
GRAPH = Option(
    "graph",
    (STATIC, DYNAMIC, INFERENCE),
    help="MindFormers' network that holds the tensors: trained in the static or the dynamic graph, or for inference, as it lies in memory.",
    yaml_key="graph",
    first_counts=True,
)
# False: the run files of MindFormers for the static graph say so, its converter writes it, its loader of inference reads it
JOINED = Option(
    "mla_qkv_concat",
    (False, True),
    help="Latent attention in the static graph: projections apart; True: linear_qkv, linear_qb, linear_kvb, as the class has them.",
    yaml_key="mla_qkv_concat",
)
WITH_Q_RANK = Option("with_q_rank", (1, 0), side="both", help="Whether q comes from a low rank; 0: from one matrix (q_lora_rank null).")

SIZES = {
    "pair": "qk_rope_head_dim / 2",
    "attention_bias": "attention_bias | add_qkv_bias | 0",
    "q_rows": "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)",
    "kv_rows": "num_attention_heads * (qk_nope_head_dim + v_head_dim)",
}


def latent_attention(hf: str = HF, mf: str = MF) -> tuple[AnyRule, ...]:
    """Multi-head latent attention in each of its forms."""
    hf, mf = hf + "self_attn.", mf + "self_attention."
    return (
        *when(*_separate_projections(hf, mf), graph=STATIC, mla_qkv_concat=False),
        *when(*_joined_projections(hf, mf), graph=STATIC, mla_qkv_concat=True),
        *when(*_joined_projections(hf, mf), graph=DYNAMIC),
        *when(*_rows_of_inference(hf, mf), graph=INFERENCE),
        *when(Rule(hf + "q_a_layernorm.weight", mf + "q_layernorm.weight", "q_rank"), with_q_rank=1),
        Rule(hf + "o_proj.weight", mf + "linear_proj.weight", "hidden (heads value)"),
        *_biases(hf, mf),
    )


def _biases(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """Biases of what reads the hidden state, and of the output, where the config has `attention_bias`.

    MindFormers' networks with projections joined hold those of the former, and besides of what comes after the norms, where transformers
    has none; with projections apart, and in inference, they hold none. No network holds that of the output.
    """
    kv, out = hf + "kv_a_proj_with_mqa.bias", hf + "o_proj.bias"
    qkv, q_b, kv_b = (mf + f"linear_{name}.bias" for name in ("qkv", "qb", "kvb"))
    with_rank = Rule(
        (hf + "q_a_proj.bias", kv, out),
        (qkv, q_b, kv_b),
        "q_rank, (kv_rank + rope), (0 hidden) -> (q_rank + kv_rank + rope), (0 q_rows), (0 kv_rows)",
        only_if="attention_bias",
    )
    without = Rule(
        (kv, out),
        (qkv, kv_b),
        "(kv_rank + rope), (0 hidden) -> (0 q_rows + kv_rank + rope), (0 kv_rows)",
        only_if="attention_bias",
    )
    joined = (*when(with_rank, with_q_rank=1), *when(without, with_q_rank=0))
    why, names = "this network of MindFormers has no bias there", (hf + "q_a_proj.bias", kv, out)
    none = tuple(Drop(name, why, holds=ZEROS) for name in names)
    return (
        *when(*none, graph=STATIC, mla_qkv_concat=False),
        *when(*joined, graph=STATIC, mla_qkv_concat=True),
        *when(*joined, graph=DYNAMIC),
        *when(*none, graph=INFERENCE),
    )


def _separate_projections(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """New names; every row stays where Hugging Face has it."""
    return (
        *when(
            Rule(hf + "q_a_proj.weight", mf + "linear_q_down_proj.weight", "q_rank hidden"),
            Rule(hf + "q_b_proj.weight", mf + "linear_q_up_proj.weight", "(heads (nope + rope)) q_rank"),
            with_q_rank=1,
        ),
        *when(Rule(hf + "q_proj.weight", mf + "linear_q_proj.weight", "(heads (nope + rope)) hidden"), with_q_rank=0),
        Rule(hf + "kv_a_proj_with_mqa.weight", mf + "linear_kv_down_proj.weight", "(kv_rank + rope) hidden"),
        Rule(hf + "kv_a_layernorm.weight", mf + "kv_layernorm.weight", "kv_rank"),
        Rule(hf + "kv_b_proj.weight", mf + "linear_kv_up_proj.weight", "(heads (nope + value)) kv_rank"),
    )


def _joined_projections(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """What reads the hidden state as one matrix: the rows of q, then those of the latent and of the rotary key."""
    kv, qkv = hf + "kv_a_proj_with_mqa.weight", mf + "linear_qkv.weight"
    return (
        *when(
            Rule((hf + "q_a_proj.weight", kv), qkv, "q_rank hidden, (kv_rank + rope) hidden -> (q_rank + kv_rank + rope) hidden"),
            Rule(hf + "q_b_proj.weight", mf + "linear_qb.weight", "(heads (nope + rope)) q_rank"),
            with_q_rank=1,
        ),
        *when(
            Rule(
                (hf + "q_proj.weight", kv),
                qkv,
                "(heads (nope + rope)) hidden, (kv_rank + rope) hidden -> (heads (nope + rope) + kv_rank + rope) hidden",
            ),
            with_q_rank=0,
        ),
        Rule(hf + "kv_a_layernorm.weight", mf + "k_layernorm.weight", "kv_rank"),
        Rule(hf + "kv_b_proj.weight", mf + "linear_kvb.weight", "(heads (nope + value)) kv_rank"),
    )


def _rows_of_inference(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """The latent before q, rotary rows in halves, keys of all heads before values of all heads."""
    halves, kv = {"half": 2}, hf + "kv_a_proj_with_mqa.weight"
    return (
        *when(
            Rule(
                (hf + "q_a_proj.weight", kv),
                mf + "linear_qkv_down_proj.weight",
                "q_rank hidden, (kv_rank + pair half) hidden -> (kv_rank + half pair + q_rank) hidden",
                sizes=halves,
            ),
            Rule(
                hf + "q_b_proj.weight",
                mf + "linear_q_up_proj.weight",
                "(heads (nope + pair half)) q_rank -> (heads (nope + half pair)) q_rank",
                sizes=halves,
            ),
            with_q_rank=1,
        ),
        *when(
            Rule(
                hf + "q_proj.weight",
                mf + "linear_q_proj.weight",
                "(heads (nope + pair half)) hidden -> (heads (nope + half pair)) hidden",
                sizes=halves,
            ),
            Rule(kv, mf + "linear_kv_down_proj.weight", "(kv_rank + pair half) hidden -> (kv_rank + half pair) hidden", sizes=halves),
            with_q_rank=0,
        ),
        Rule(hf + "kv_a_layernorm.weight", mf + "kv_layernorm.weight", "kv_rank"),
        Rule(
            hf + "kv_b_proj.weight",
            mf + "linear_kv_up_proj.weight",
            "(heads (nope + value)) kv_rank -> (heads nope + heads value) kv_rank",
        ),
    )


def mlp(hf: str, mf: str, ffn: str) -> tuple[AnyRule, ...]:
    """Gate and up as one matrix, in inference always as two halves; and down."""
    in_turn, halves, down = joined_mlp(hf, mf, ffn)
    return (
        *when(in_turn, graph=TRAINED, use_interleaved_weight_layout_mlp=True),
        *when(halves, graph=TRAINED, use_interleaved_weight_layout_mlp=False),
        *when(halves, graph=INFERENCE),
        down,
    )


def mixture(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """The feed-forward of a layer with a corrected router, routed experts and shared ones."""
    hf, mf = hf + "mlp.", mf + "mlp."
    bias = hf + "gate.e_score_correction_bias"
    return (
        Rule(hf + "gate.weight", mf + "router.weight", "expert hidden"),
        *when(Rule(bias, mf + "router.expert_bias", "expert", dtype="F32"), graph=(STATIC, INFERENCE)),
        *when(Rule(bias, mf + "expert_bias", "expert", dtype="F32"), graph=DYNAMIC),
        *_experts(hf + "experts.{expert}.", mf + "experts."),
        *mlp(hf + "shared_experts.", mf + "shared_experts.", "shared_ffn"),
    )


def _experts(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """Two axes in the static graph, three in the others.

    Without a rank of q the network of inference has the names of the static graph and other rows: only its three axes tell it. So there
    the static graph has two, whatever is asked for.
    """
    two_axes, three_axes = stacked_experts(hf, mf)
    return (
        *when(*two_axes, graph=STATIC, experts_2d=True),
        *when(*two_axes, graph=STATIC, experts_2d=False, with_q_rank=0, mla_qkv_concat=False),
        *when(*three_axes, graph=STATIC, experts_2d=False, with_q_rank=0, mla_qkv_concat=True),
        *when(*three_axes, graph=STATIC, experts_2d=False, with_q_rank=1),
        *when(*three_axes, graph=(DYNAMIC, INFERENCE)),
    )
