"""Mixtral 8x7B, 8x22B, any number of experts: the Llama table, with the experts of a layer stacked into one tensor.

Source: MindFormers 1.3.2, `research/mixtral`, which knows 8 experts only. The golden cases `mixtral-*` hold its output.
"""

from mfconv_nb.families.llama import ATTENTION, EMBEDDING, FINAL_NORM_AND_HEAD, LAYER, NORMS, SIZES
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import experts
from mfconv_nb.mapping.rules import Family, Option, Rule, Window, when

HF_EXPERT, MF_EXPERTS, NAMES = LAYER + "block_sparse_moe.experts.{expert}.", LAYER + "feed_forward.ffn.", ("w1", "w3", "w2")
USE_GMM = Option("use_gmm", (False, True), help="Experts transposed, for grouped matrix multiplication.")

FAMILY = Family(
    key="mixtral",
    covers="Mixtral 8x7B, 8x22B, any number of experts",
    model_types=("mixtral",),
    windows={"mixtral": Window(unsaid=None, positions_unsaid=131_072)},
    sizes={**SIZES, "expert": "num_local_experts"},
    options=(USE_GMM,),
    rules=(
        *EMBEDDING,
        *ATTENTION,
        Rule(LAYER + "block_sparse_moe.gate.weight", LAYER + "feed_forward.router.dense.weight", "expert hidden"),
        *when(*experts(HF_EXPERT, MF_EXPERTS, "ffn", names=NAMES), use_gmm=False),
        *when(*experts(HF_EXPERT, MF_EXPERTS, "ffn", names=NAMES, transposed=True), use_gmm=True),
        *NORMS,
        *FINAL_NORM_AND_HEAD,
    ),
    toy={
        **LLAMA.toy,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_hidden_layers": 2,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    source=LLAMA.source,
)
