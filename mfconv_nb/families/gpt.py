"""GPT-2: Conv1D weights stand input first on both sides; q, k and v are split by columns and transposed.

Files have the names with or without `transformer.` before them, and may carry mask buffers; the head is always the embedding.
Source: MindFormers 1.3.2, `models/gpt2`, which finds nothing where the names have the prefix. The golden cases `gpt2-*` hold its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import DENSE, EQUAL, norm
from mfconv_nb.mapping.rules import ALL_OR_NONE, Drop, Family, Option, Rule

HF, MF = "{prefix}h.{layer}.", "backbone.blocks.{layer}."

SIZES = {
    "hidden": "n_embd",
    "from_hidden": "n_embd",
    "heads": "n_head",
    "q": "n_embd",
    "k": "n_embd",
    "v": "n_embd",
    "ffn": "n_inner | 4 * n_embd",
    "vocab": "vocab_size",
    "positions": "n_positions | n_ctx",
    "layer": "n_layer",
}

# GPT2Config and WizardCoderConfig of MindFormers
OF_RUN = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_inner": "intermediate_size | expand_ratio * hidden_size",
}

EMBEDDINGS = (
    Rule("{prefix}wte.weight", "backbone.embedding.word_embedding.embedding_table", "vocab hidden"),
    Rule("{prefix}wpe.weight", "backbone.embedding.position_embedding.embedding_table", "positions hidden"),
)

NORMS = (
    *norm(HF + "ln_1", MF + "layernorm1", "hidden"),
    *norm(HF + "ln_2", MF + "layernorm2", "hidden"),
    *norm("{prefix}ln_f", "backbone.layernorm", "hidden"),
)


def conv1d(hf: str, mf: str, into: str, out: str) -> tuple[Rule, Rule]:
    """A Conv1D: its weight stands input first on both sides."""
    return (Rule(f"{hf}.weight", f"{mf}.weight", f"{into} {out}"), Rule(f"{hf}.bias", f"{mf}.bias", out))


FAMILY = Family(
    key="gpt",
    covers="GPT-2, all sizes",
    model_types=("gpt2",),
    aliases=("gpt2",),
    # the other three have no family, but adapters of them are merged
    conv1d=dict.fromkeys(("gpt2", "openai-gpt", "imagegpt", "decision_transformer"), ("c_attn", "q_attn", "c_proj", "c_fc")),
    run_classes={"GPT2Config": RunClass({**OF_RUN, "n_positions": "seq_length"})},
    mf_words=("embedding_table", ".gamma", ".beta"),
    options=(Option("prefix", ("", "transformer."), side="hf", help="What stands before the names."),),
    sizes=SIZES,
    rules=(
        *EMBEDDINGS,
        *NORMS,
        Rule(HF + "attn.bias", MF + "attention.beta", "1 1 positions context", optional=ALL_OR_NONE),
        Rule(HF + "attn.masked_bias", MF + "attention.masked_beta", optional=ALL_OR_NONE),
        Rule(
            HF + "attn.c_attn.weight",
            tuple(f"{MF}attention.{name}.weight" for name in DENSE),
            "hidden (q + k + v) -> q hidden, k hidden, v hidden",
            sizes=EQUAL,
        ),
        Rule(HF + "attn.c_attn.bias", tuple(f"{MF}attention.{name}.bias" for name in DENSE), "(q + k + v) -> q, k, v", sizes=EQUAL),
        *conv1d(HF + "attn.c_proj", MF + "attention.projection", "q", "hidden"),
        *conv1d(HF + "mlp.c_fc", MF + "output.mapping", "hidden", "ffn"),
        *conv1d(HF + "mlp.c_proj", MF + "output.projection", "ffn", "hidden"),
        Drop("lm_head.weight", "the head, which is the embedding in GPT-2", same_as="{prefix}wte.weight"),
    ),
    toy={
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 331,
        "n_positions": 22,
        "n_ctx": 22,
        "n_embd": 96,
        "n_inner": 176,
        "n_layer": 3,
        "n_head": 6,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "layer_norm_epsilon": 1e-05,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    source=LLAMA.source,
)
