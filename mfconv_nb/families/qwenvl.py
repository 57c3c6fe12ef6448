"""Qwen-VL: the Qwen table under `llm_model.`, a vision tower and a resampler. `ln` weights become gamma and beta.

The tower fuses q, k and v head by head, the resampler end to end. `enable_emb_opt` pads the vocabulary with rows of zeros to a multiple
of 512 * `emb_strategy`.
Source: MindFormers 1.3.2, `research/qwenvl`, which has no way back. The golden cases `qwenvl-*` hold its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.qwen import FAMILY as QWEN
from mfconv_nb.families.qwen import FUSED_QKV, HF, REST
from mfconv_nb.families.qwen import SIZES as QWEN_SIZES
from mfconv_nb.families.words.shorthand import DENSE, linear, norm, qkv
from mfconv_nb.mapping.rules import Family, Option, Rule, rename_rules, size_option, when

LANGUAGE = {"transformer.": "llm_model.transformer.", "lm_head": "llm_model.lm_head"}
ATTENTION = "llm_model.transformer.layers.{layer}.attention."
TOWER_HF, TOWER = "transformer.visual.", "vision_encoder."
BLOCK_HF, BLOCK = TOWER_HF + "transformer.resblocks.{block}.", TOWER + "transformer.resblocks.{block}."
POOL_HF, POOL = TOWER_HF + "attn_pool.", TOWER + "attn_pool."
BY_HEAD = "(vit_heads (head_q + head_k + head_v))"
EQUAL_HEADS = {"head_k": "head_q", "head_v": "head_q"}

EMBEDDINGS = tuple(r for r in REST if isinstance(r, Rule) and r.layout == "vocab hidden")
OTHERS = tuple(r for r in REST if r not in EMBEDDINGS)

KEPT_TOGETHER = (
    Rule(HF + "attn.c_attn.weight", ATTENTION + "w.weight", "(q + k + v) hidden"),
    Rule(HF + "attn.c_attn.bias", ATTENTION + "w.bias", "(q + k + v)"),
)

PADDED = (
    Rule("transformer.wte.weight", "llm_model.transformer.wte.embedding_weight", "vocab hidden -> (vocab + 0 pad) hidden"),
    Rule("lm_head.weight", "llm_model.lm_head.weight", "vocab hidden -> (vocab + 0 pad) hidden"),
)

VISION_TOWER = (
    Rule(TOWER_HF + "positional_embedding", TOWER + "positional_embedding", "grid width"),
    Rule(TOWER_HF + "proj", TOWER + "proj", "from_output output"),
    Rule(TOWER_HF + "conv1.weight", TOWER + "conv1.weight", "width colour patch_y patch_x"),
    *norm(TOWER_HF + "ln_pre", TOWER + "ln_pre", "width"),
    *norm(BLOCK_HF + "ln_1", BLOCK + "ln_1", "width"),
    *norm(BLOCK_HF + "ln_2", BLOCK + "ln_2", "width"),
    Rule(
        BLOCK_HF + "attn.in_proj.weight",
        tuple(f"{BLOCK}attn.{name}.weight" for name in DENSE),
        f"{BY_HEAD} width -> (vit_heads head_q) width, (vit_heads head_k) width, (vit_heads head_v) width",
        sizes=EQUAL_HEADS,
    ),
    Rule(
        BLOCK_HF + "attn.in_proj.bias",
        tuple(f"{BLOCK}attn.{name}.bias" for name in DENSE),
        f"{BY_HEAD} -> (vit_heads head_q), (vit_heads head_k), (vit_heads head_v)",
        sizes=EQUAL_HEADS,
    ),
    *linear(BLOCK_HF + "attn.out_proj", BLOCK + "attn.projection", "width", "from_width", transposed=True),
    *linear(BLOCK_HF + "mlp.c_fc", BLOCK + "mlp.c_fc", "vision_ffn", "width"),
    *linear(BLOCK_HF + "mlp.c_proj", BLOCK + "mlp.c_proj", "width", "vision_ffn"),
    *norm(TOWER_HF + "ln_post", TOWER + "ln_post", "output"),
)

RESAMPLER = (
    Rule(POOL_HF + "pos_embed", POOL + "pos_embed", "queries output"),
    Rule(POOL_HF + "query", POOL + "query", "queries output"),
    Rule(POOL_HF + "kv_proj.weight", POOL + "kv_proj.weight", "output width"),
    *qkv(POOL_HF + "attn.in_proj", POOL + "attn", "output", hf_joint="_"),
    *linear(POOL_HF + "attn.out_proj", POOL + "attn.projection", "output", "from_output", transposed=True),
    *norm(POOL_HF + "ln_q", POOL + "ln_q", "output"),
    *norm(POOL_HF + "ln_kv", POOL + "ln_kv", "output"),
)

FAMILY = Family(
    key="qwenvl",
    covers="Qwen-VL, Qwen-VL-Chat",
    model_types=("qwen",),
    run_classes={
        "QwenVLConfig": RunClass(
            {
                "visual.width": "visual.hidden_size",
                "visual.heads": "visual.num_attention_heads",
                "visual.layers": "visual.num_hidden_layers",
                "visual.n_queries": "visual.num_queries | visual.n_queries",
            },
            parts={"llm_model": "", "vision_model": "visual"},
        ),
    },
    options=(
        Option("use_qkv_concat", (False, True), help="Keep q, k and v of the language model in one matrix."),
        Option("enable_emb_opt", (False, True), help="Pad the vocabulary with zeros."),
        Option("emb_strategy", (1, 2, 4, 8, 16), help="Pad to a multiple of 512 times this."),
        size_option("vit_num_head", "vit_heads"),
    ),
    sizes={
        **QWEN_SIZES,
        "pad": "(0 - vocab_size) % (512 * {emb_strategy})",
        "width": "visual.width",
        "from_width": "visual.width",
        "vit_heads": "visual.heads",
        "vision_ffn": "visual.intermediate_size | int(visual.width * visual.mlp_ratio)",
        "block": "visual.layers",
        "output": "visual.output_dim | ?",
        "from_output": "visual.output_dim | ?",
        "colour": "3",
        "patch_y": "visual.patch_size",
        "patch_x": "visual.patch_size",
        "grid": "visual.grid | ?",
        "queries": "visual.n_queries | ?",
        "head_q": "visual.width / visual.heads",
    },
    rules=(
        *when(*rename_rules(FUSED_QKV, mf=LANGUAGE), use_qkv_concat=False),
        *when(*KEPT_TOGETHER, use_qkv_concat=True),
        *when(*rename_rules(EMBEDDINGS, mf=LANGUAGE), enable_emb_opt=False),
        *when(*PADDED, enable_emb_opt=True),
        *rename_rules(OTHERS, mf=LANGUAGE),
        *VISION_TOWER,
        *RESAMPLER,
    ),
    toy={
        **QWEN.toy,
        "num_hidden_layers": 2,
        "visual": {
            "width": 48,
            "heads": 3,
            "layers": 2,
            "mlp_ratio": 2.5,
            "output_dim": 80,
            "patch_size": 4,
            "image_size": 20,
            "n_queries": 9,
            "grid": 25,
        },
    },
    source=LLAMA.source,
)
