"""DeepSeek-V3.2 in MindFormers' mcore layout: DeepSeek-V3 with an indexer in every layer, which chooses the tokens that attention sees.

MindFormers trains it in the dynamic and in the static graph (`experimental_attention_variant: dsa`); it has no network of inference, and
no converter. For the rows of the indexer see `words/indexer.py`.
Source: MindFormers 2.1.0, `pynative` and `parallel_core/training_graph`: whole networks were built on a CPU. transformers 5.23,
`models/deepseek_v32`; the layer that predicts a further token, which transformers leaves out, as in DeepSeek-V3.
"""

from dataclasses import replace

from mfconv_nb.families.deepseekv3 import FAMILY as DEEPSEEKV3
from mfconv_nb.families.words.indexer import HALVES, indexer
from mfconv_nb.families.words.indexer import SIZES as INDEXER_SIZES
from mfconv_nb.families.words.latent import DYNAMIC, GRAPH, STATIC, WITH_Q_RANK
from mfconv_nb.families.words.mcore import MTP_BLOCK, MTP_HF
from mfconv_nb.mapping.rules import derive_family, limit_rules, when

TRAINED = replace(
    GRAPH,
    values=(DYNAMIC, STATIC),
    help="MindFormers' network that holds the tensors: of the dynamic graph (PyNative), or of the static one.",
)

FAMILY = derive_family(
    DEEPSEEKV3,
    key="deepseekv32",
    covers="DeepSeek-V3.2 (bf16, fp8)",
    model_types=("deepseek_v32",),
    told_as="",
    run_keys={**DEEPSEEKV3.run_keys, "experimental_attention_variant": "dsa"},
    sizes={**DEEPSEEKV3.sizes, **INDEXER_SIZES},
    options=tuple(TRAINED if option is GRAPH else option for option in DEEPSEEKV3.options if option is not WITH_Q_RANK),
    rules=(
        *limit_rules(DEEPSEEKV3.rules, graph=TRAINED.values, with_q_rank=1),
        *indexer(HALVES),
        *when(*indexer(HALVES, MTP_HF, MTP_BLOCK), with_mtp=1),
    ),
    toy={
        **DEEPSEEKV3.toy,
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "index_n_heads": 5,
        "index_head_dim": 26,
        "index_topk": 8,
    },
)
