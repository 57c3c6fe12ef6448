"""The indexer of DeepSeek's sparse attention (DSA), in MindFormers' mcore layout: what chooses the tokens that a token looks at.

A head of the indexer has rotary rows, then the others. transformers turns the rotary rows as two halves (DeepSeek-V3.2) or in pairs
(GLM-5). MindFormers has one order for both models: in the dynamic graph rotary rows first, in halves; in the static graph last, in pairs,
as it splits `q_nope` before `q_pe` and turns both as latent attention does. Rows of queries, of keys and of the keys' norm move together,
so every score stays what it was.

No family: a module of this folder counts as one only where it has a `FAMILY`.
Source: MindFormers 2.1.0, `pynative/transformers/experimental_attention_variant/dsa_indexer.py` and
`parallel_core/training_graph/transformer/dsa/dsa_indexer.py`; transformers 5.23, `models/deepseek_v32` and `models/glm_moe_dsa`. The
networks of both graphs were built on a CPU, and the scores of their indexers compared with those of transformers.
"""

from __future__ import annotations

from mfconv_nb.families.words.latent import DYNAMIC, STATIC
from mfconv_nb.families.words.mcore import HF, MF
from mfconv_nb.mapping.rules import AnyRule, Rule, when

HALVES, PAIRS = "half pair", "pair half"
SIZES = {
    "pair": "qk_rope_head_dim / 2",
    "index_heads": "index_n_heads | dsa_indexer_n_heads",
    "index_plain": "index_head_dim - qk_rope_head_dim | dsa_indexer_head_dim - qk_rope_head_dim",
}


def indexer(rotary: str, hf: str = HF, mf: str = MF) -> tuple[AnyRule, ...]:
    """The indexer of a layer; ``rotary``: the order of the rotary rows on the Hugging Face side, ``HALVES`` or ``PAIRS``."""
    hf, mf = hf + "self_attn.indexer.", mf + "self_attention.core_attention.indexer."
    head = f"{rotary} + index_plain"
    return (
        *when(*_rows_of_a_head(hf, mf, head, f"{HALVES} + index_plain"), graph=DYNAMIC),
        *when(*_rows_of_a_head(hf, mf, head, f"index_plain + {PAIRS}"), graph=STATIC),
        Rule(hf + "weights_proj.weight", mf + "linear_weights_proj.weight", "index_heads hidden"),
    )


def _rows_of_a_head(hf: str, mf: str, left: str, right: str) -> tuple[Rule, ...]:
    """Queries, keys and the norm of the keys, with the rows of each head in another order."""
    halves = {"half": 2}
    return (
        Rule(
            hf + "wq_b.weight", mf + "linear_wq_b.weight", f"(index_heads ({left})) q_rank -> (index_heads ({right})) q_rank", sizes=halves
        ),
        Rule(hf + "wk.weight", mf + "linear_wk.weight", f"({left}) hidden -> ({right}) hidden", sizes=halves),
        Rule(hf + "k_norm.weight", mf + "k_norm.gamma", f"({left}) -> ({right})", sizes=halves),
        Rule(hf + "k_norm.bias", mf + "k_norm.beta", f"({left}) -> ({right})", sizes=halves),
    )
