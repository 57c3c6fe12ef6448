"""GLM-5 (model type `glm_moe_dsa`) in MindFormers' mcore layout: the table of DeepSeek-V3.2, with indexers that may be on some layers only.

`indexer_types` says which layers have one, or `index_topk_freq` and what belongs to it; the others take over what the last one chose. The
layer that predicts a further token always has its own. Only the networks of MindFormers' dynamic graph share indexers
(`dsa_indexer_types`), so there is no other form. MindFormers 2.1.0 makes no network whose indexer has other than 64 heads of 128, while the
default config of transformers has 32: the names and layouts here are those of its cells.
Source: MindFormers 2.1.0, `pynative` and `MLATransformerConfig`: whole networks were built on a CPU. transformers 5.23,
`models/glm_moe_dsa`.
"""

from mfconv_nb.families.deepseekv3 import FAMILY as DEEPSEEKV3
from mfconv_nb.families.deepseekv32 import FAMILY as DEEPSEEKV32
from mfconv_nb.families.deepseekv32 import TRAINED
from mfconv_nb.families.words.indexer import PAIRS, indexer
from mfconv_nb.families.words.latent import DYNAMIC, JOINED
from mfconv_nb.families.words.mcore import EXPERTS_2D, MTP_BLOCK, MTP_HF
from mfconv_nb.mapping.rules import derive_family, limit_rules, when

INDEXER_LAYER = "layers.{indexer_layer}."
# transformers counts its offset from 1, MindFormers from 0; nothing said: an indexer in every layer
WITH_INDEXER = (
    "places(indexer_types, full)",
    "places(index_topk_pattern, F)",
    "places(index_topk_pattern, full)",
    "every(index_topk_freq, index_skip_topk_offset - 1, num_hidden_layers)",
    "every(index_topk_freq, 1, num_hidden_layers)",
    "places(dsa_indexer_types, full)",
    "every(dsa_index_topk_freq, dsa_index_skip_topk_offset, num_hidden_layers)",
    "every(dsa_index_topk_freq, 0, num_hidden_layers)",
    "num_hidden_layers",
)

FAMILY = derive_family(
    DEEPSEEKV32,
    key="glm5",
    covers="GLM-5",
    model_types=("glm_moe_dsa",),
    adapters="lora",  # its network is of the dynamic graph
    run_keys=DEEPSEEKV32.run_keys,
    sizes={**DEEPSEEKV32.sizes, "indexer_layer": " | ".join(WITH_INDEXER)},
    options=tuple(option for option in DEEPSEEKV32.options if option not in (TRAINED, JOINED, EXPERTS_2D)),
    rules=limit_rules(
        (
            *limit_rules(DEEPSEEKV3.rules, with_q_rank=1),
            *indexer(PAIRS, "model." + INDEXER_LAYER, "decoder." + INDEXER_LAYER),
            *when(*indexer(PAIRS, MTP_HF, MTP_BLOCK), with_mtp=1),
        ),
        graph=DYNAMIC,
    ),
    toy={
        **DEEPSEEKV32.toy,
        "architectures": ["GlmMoeDsaForCausalLM"],
        "model_type": "glm_moe_dsa",
        "num_hidden_layers": 4,
        "index_topk_freq": 2,
        "index_skip_topk_offset": 1,
    },
)
