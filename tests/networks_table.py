"""The networks of MindFormers that the families are checked against, and how. The tests are made from these rows, and so is the table in
docs/families.md: a network is in the table because a test builds it or reads its list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.mindformers_networks import DYNAMIC, EXPERTS, INFERENCE, LATENT, STATIC

PARAMETERS, SAVED, SCORES, LORA = "parameters", "saved", "scores", "lora"  # how a network is checked: the words of the table
BUILT_BY, LISTED_IN = "2.1.0", "1.9.0, July 2026"

BUILT_TESTS, LIST_TESTS = "tests/networks/test_built_networks.py", "tests/networks/test_mindformers_networks.py"
LATENT_TESTS, LORA_TESTS = "tests/families/test_latent_attention.py", "tests/networks/test_lora_networks.py"
SPARSE_TESTS = "tests/families/test_sparse_attention.py"


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is checked.

    Attributes:
        name: of the row, and of its list where it has one.
        form: what names the network besides its graph, as the settings of MindFormers say it.
        version: of MindFormers.
        checks: how it is checked, each with the test that does: file::function. Each is made once for a row, by its name.
    """

    name: str
    key: str
    graph: str
    version: str
    checks: Mapping[str, str]
    form: str = ""


# ---- networks that the tests build ---------------------------------------------------------------------------------------------

OF_BUILT = {
    PARAMETERS: f"{BUILT_TESTS}::test_what_we_write_are_the_weights_of_the_network",
    SAVED: f"{BUILT_TESTS}::test_what_the_network_saves_comes_back_and_goes_there_again",
}


@dataclass(frozen=True, eq=False)
class Built(Network):
    """A network that the installed MindFormers builds on a CPU.

    Attributes:
        settings: its transformer config.
        config: changes to the config of the family's toy, whose sizes it has.
        options: what makes the family write what it holds; toy_options: what makes the toy.
        no_weights: how many of its tensors are no weights.
    """

    version: str = BUILT_BY
    checks: Mapping[str, str] = field(default_factory=lambda: OF_BUILT)
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    toy_options: Mapping[str, Any] = field(default_factory=dict)
    no_weights: int = 0


DENSE = {"num_layers": 3, "hidden_size": 96, "ffn_hidden_size": 176, "num_attention_heads": 6, "num_query_groups": 2, "vocab_size": 331}
QWEN3 = {**DENSE, "kv_channels": 20, "qk_layernorm": True}
QWEN3_MOE = {**QWEN3, "num_layers": 2, "num_moe_experts": 5, "moe_ffn_hidden_size": 28, "moe_router_topk": 2, "moe_grouped_gemm": True}
OF_INFERENCE = {"use_contiguous_weight_layout_attention": True, "use_interleaved_weight_layout_mlp": False}
V3 = {
    **LATENT,
    **EXPERTS,
    "num_layers": 3,
    "hidden_size": 96,
    "ffn_hidden_size": 176,
    "num_attention_heads": 3,
    "vocab_size": 331,
    "q_lora_rank": 40,
    "kv_lora_rank": 44,
    "qk_head_dim": 14,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 18,
    "num_moe_experts": 6,
    "moe_ffn_hidden_size": 28,
    "moe_router_topk": 2,
    "first_k_dense_replace": 1,
    "moe_shared_expert_intermediate_size": 56,
    "shared_expert_num": 2,
}
APART, JOINED = {"mla_qkv_concat": False}, {"mla_qkv_concat": True}
BIASES, WITH_BIASES = {"add_qkv_bias": True}, {"attention_bias": True}
NO_RANK = {"config": {"q_lora_rank": None}, "toy_options": {"with_q_rank": 0}}
# the only sizes of an indexer that MindFormers makes
INDEXED = {
    "experimental_attention_variant": "dsa",
    "kv_lora_rank": 512,
    "qk_pos_emb_head_dim": 64,
    "dsa_indexer_n_heads": 64,
    "dsa_indexer_head_dim": 128,
    "dsa_indexer_topk": 8,
    "dsa_indexer_loss_coeff": 0.1,
}
OF_INDEXED = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_n_heads": 64, "index_head_dim": 128}
V32, GLM5 = {**V3, **INDEXED}, {**V3, **INDEXED, "num_layers": 4}
OF_SPARSE = {**OF_BUILT, SCORES: f"{SPARSE_TESTS}::test_the_indexer_of_the_network_scores_tokens_as_that_of_transformers_does"}

BUILT = (
    Built("qwen3-static", "qwen3", STATIC, settings=QWEN3),
    Built("qwen3-dynamic", "qwen3", DYNAMIC, settings=QWEN3),
    Built("qwen3-inference", "qwen3", INFERENCE, settings=QWEN3, options=OF_INFERENCE),
    Built("qwen3-static-biases", "qwen3", STATIC, form="add_qkv_bias: True", settings={**QWEN3, **BIASES}, config=WITH_BIASES),
    Built("qwen3-dynamic-biases", "qwen3", DYNAMIC, form="add_qkv_bias: True", settings={**QWEN3, **BIASES}, config=WITH_BIASES),
    Built("qwen3-moe-static", "qwen3-moe", STATIC, settings=QWEN3_MOE, no_weights=2),
    Built("qwen3-moe-dynamic", "qwen3-moe", DYNAMIC, settings=QWEN3_MOE, options={"experts_2d": False}, no_weights=2),
    Built(
        "qwen3-moe-static-biases",
        "qwen3-moe",
        STATIC,
        form="add_qkv_bias: True",
        settings={**QWEN3_MOE, **BIASES},
        config=WITH_BIASES,
        no_weights=2,
    ),
    Built("telechat3-static", "telechat3", STATIC, settings={**DENSE, "kv_channels": 20}),
    Built("telechat3-dynamic", "telechat3", DYNAMIC, settings={**DENSE, "kv_channels": 20}),
    Built(
        "telechat3-static-biases",
        "telechat3",
        STATIC,
        form="add_qkv_bias: True",
        settings={**DENSE, "kv_channels": 20, **BIASES},
        config=WITH_BIASES,
    ),
    Built("telechat3-moe-apart", "telechat3-moe", STATIC, form="mla_qkv_concat: False", settings={**V3, **APART}, no_weights=6),
    Built(
        "telechat3-moe-joined",
        "telechat3-moe",
        STATIC,
        form="mla_qkv_concat: True",
        settings={**V3, **JOINED},
        options=JOINED,
        no_weights=6,
    ),
    Built("qwen2-mcore-inference", "qwen2-mcore", INFERENCE, settings={**DENSE, "kv_channels": 16, **BIASES}),
    Built(
        "telechat2-mcore-inference",
        "telechat2-mcore",
        INFERENCE,
        settings={
            **DENSE,
            "num_attention_heads": 16,
            "add_bias_linear": True,
            "add_mlp_fc1_bias_linear": False,
            "add_mlp_fc2_bias_linear": True,
        },
    ),
    Built("deepseekv3-apart", "deepseekv3", STATIC, form="mla_qkv_concat: False", settings={**V3, **APART}, no_weights=6),
    Built("deepseekv3-joined", "deepseekv3", STATIC, form="mla_qkv_concat: True", settings={**V3, **JOINED}, options=JOINED, no_weights=6),
    Built("deepseekv3-dynamic", "deepseekv3", DYNAMIC, settings=V3, options={"graph": DYNAMIC}, no_weights=3),
    Built(
        "deepseekv3-apart-no-rank",
        "deepseekv3",
        STATIC,
        form="mla_qkv_concat: False, q_lora_rank: null",
        settings={**V3, **APART, "q_lora_rank": None},
        no_weights=6,
        **NO_RANK,
    ),
    Built(
        "deepseekv3-dynamic-no-rank",
        "deepseekv3",
        DYNAMIC,
        form="q_lora_rank: null",
        settings={**V3, "q_lora_rank": None},
        options={"graph": DYNAMIC},
        no_weights=3,
        **NO_RANK,
    ),
    Built(
        "deepseekv3-joined-biases",
        "deepseekv3",
        STATIC,
        form="mla_qkv_concat: True, add_qkv_bias: True",
        settings={**V3, **JOINED, **BIASES},
        config=WITH_BIASES,
        options=JOINED,
        no_weights=6,
    ),
    Built(
        "deepseekv3-dynamic-biases",
        "deepseekv3",
        DYNAMIC,
        form="add_qkv_bias: True",
        settings={**V3, **BIASES},
        config=WITH_BIASES,
        options={"graph": DYNAMIC},
        no_weights=3,
    ),
    Built(
        "deepseekv3-dynamic-no-rank-biases",
        "deepseekv3",
        DYNAMIC,
        form="q_lora_rank: null, add_qkv_bias: True",
        settings={**V3, "q_lora_rank": None, **BIASES},
        config={"q_lora_rank": None, **WITH_BIASES},
        toy_options={"with_q_rank": 0},
        options={"graph": DYNAMIC},
        no_weights=3,
    ),
    Built("deepseekv32-dynamic", "deepseekv32", DYNAMIC, checks=OF_SPARSE, settings=V32, config=OF_INDEXED, no_weights=3),
    Built(
        "deepseekv32-apart",
        "deepseekv32",
        STATIC,
        checks=OF_SPARSE,
        form="mla_qkv_concat: False",
        settings={**V32, **APART},
        config=OF_INDEXED,
        options={"graph": STATIC},
        no_weights=6,
    ),
    Built(
        "deepseekv32-joined",
        "deepseekv32",
        STATIC,
        form="mla_qkv_concat: True",
        settings={**V32, **JOINED},
        config=OF_INDEXED,
        options={"graph": STATIC, **JOINED},
        no_weights=6,
    ),
    Built(
        "glm5-dynamic",
        "glm5",
        DYNAMIC,
        checks=OF_SPARSE,
        form="dsa_indexer_types",
        settings={**GLM5, "dsa_indexer_types": ["full", "shared", "full", "shared"]},
        config=OF_INDEXED,
        no_weights=4,
    ),
    Built(
        "glm5-dynamic-every-second",
        "glm5",
        DYNAMIC,
        form="dsa_index_topk_freq: 2",
        settings={**GLM5, "dsa_index_topk_freq": 2},
        config=OF_INDEXED,
        no_weights=4,
    ),
)


# ---- networks whose parameters were listed -------------------------------------------------------------------------------------

OF_LIST = {
    PARAMETERS: f"{LIST_TESTS}::test_what_we_write_for_its_config_has_the_names_and_shapes_of_the_network",
    SAVED: f"{LIST_TESTS}::test_what_the_network_saves_comes_back_whole",
}
OF_LATENT = {
    PARAMETERS: f"{LATENT_TESTS}::test_what_is_written_for_the_config_of_a_network_are_its_weights",
    SAVED: f"{LATENT_TESTS}::test_what_a_network_saves_comes_back_and_the_next_way_there_gives_it_again",
}
OF_LORA = {LORA: f"{LORA_TESTS}::test_what_the_network_saves_becomes_a_peft_folder_and_comes_back"}


@dataclass(frozen=True, eq=False)
class Listed(Network):
    """A network whose parameters were listed where it was built; its row is named as the list.

    Attributes:
        tensors: how many it has; no_weights: how many of them are no weights.
        options: what makes the family write what this network has.
        config: what the published configs of the model say, where the list follows MindFormers' defaults instead.
    """

    version: str = LISTED_IN
    checks: Mapping[str, str] = field(default_factory=lambda: OF_LIST)
    tensors: int = 0
    no_weights: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


COUNTERS = "print_expert_load, track_max_attention_logit"
LISTED = (
    Listed("qwen3-static", "qwen3", STATIC, tensors=19),
    Listed("qwen3-dynamic", "qwen3", DYNAMIC, tensors=19),
    Listed("qwen3-dynamic-bf16", "qwen3", DYNAMIC, form="params_dtype: bfloat16", tensors=19),
    Listed("qwen3-inference", "qwen3", INFERENCE, tensors=19),
    Listed("qwen3-moe-static", "qwen3-moe", STATIC, tensors=23, no_weights=2),
    Listed("qwen3-moe-static-counters", "qwen3-moe", STATIC, form=COUNTERS, tensors=33, no_weights=12),
    Listed("qwen3-moe-inference", "qwen3-moe", INFERENCE, tensors=21, options={"experts_2d": False}),
    Listed("qwen2-inference", "qwen2-mcore", INFERENCE, tensors=17),
    Listed("glm4-inference", "glm4-mcore", INFERENCE, tensors=21, config={"attention_bias": True}),
    Listed("glm4-moe-inference", "glm4-moe", INFERENCE, tensors=38, options={"with_mtp": 0}, config={"num_nextn_predict_layers": 0}),
    Listed("telechat3-static", "telechat3", STATIC, tensors=15),
    Listed("telechat3-inference", "telechat3", INFERENCE, tensors=15),
)

OF_V3, OF_V4 = {"model_type": "deepseek_v3"}, {"model_type": "deepseek_v4"}
NO_MTP = {"num_nextn_predict_layers": 0}
LISTED_LATENT = (
    Listed("deepseekv3-static-split", "deepseekv3", STATIC, checks=OF_LATENT, form="mla_qkv_concat: False", config=OF_V3),
    Listed(
        "deepseekv3-static-joined-norms", "deepseekv3", STATIC, checks=OF_LATENT, form="mla_qkv_concat: True", config=OF_V3, options=JOINED
    ),
    Listed("deepseekv3-dynamic", "deepseekv3", DYNAMIC, checks=OF_LATENT, config=OF_V3, options={"graph": DYNAMIC}),
    Listed(
        "deepseekv3-dynamic-counters",
        "deepseekv3",
        DYNAMIC,
        checks=OF_LATENT,
        form="global_aux_loss, track_max_attention_logit",
        config=OF_V3,
        options={"graph": DYNAMIC},
    ),
    Listed(
        "deepseekv3-inference",
        "deepseekv3",
        INFERENCE,
        checks=OF_LATENT,
        config={**OF_V3, **NO_MTP},
        options={"graph": INFERENCE, "with_mtp": 0},
    ),
    Listed("deepseekv4-dynamic", "deepseek4", DYNAMIC, checks={SAVED: OF_LATENT[SAVED]}, config=OF_V4),
)
LISTED_LORA = (
    Listed("qwen3-static-lora", "qwen3", STATIC, checks=OF_LORA, form="LoRA", options={"adapters": "mcore"}),
    Listed("qwen3-dynamic-lora", "qwen3", DYNAMIC, checks=OF_LORA, form="LoRA", options={"adapters": "lora"}),
)

NETWORKS: tuple[Network, ...] = (*BUILT, *LISTED, *LISTED_LATENT, *LISTED_LORA)
