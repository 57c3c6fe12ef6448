"""What must happen to every real repository whose names and shapes lie beside the project. Read by the test and by `make docs`.

The names are those of the files in `shared/real_repos`, which are other people's data and are not copied here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refused:
    """A refusal: its code, and words that its message has."""

    code: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Repository:
    """What must happen to one repository.

    Attributes:
        keys: the keys whose families cover it; with each of them it is planned.
        told: without a key, the family it is planned with, or how it is refused.
        refused: how it is refused with some keys.
        options: what is told of it, for families with options that show on its side.
        shares: tensors that it lists beside the one whose storage they share; its total size counts them once.
        without_total: why its index states no total size.
        unpromised: patterns of tensors that its config does not promise, although their rule is neither optional nor a `Drop`.
        promise_refused: how `mc.expected` is refused for its config, which lacks a size.
        total_is_short: bytes by which the total size in its index is below that of its shapes, which are derived from the config.
        read_as_numbers: whether it is published as codes and scales.
        more_config: what the published config of the model says, where the repository has none.
    """

    keys: tuple[str, ...] = ()
    told: str | Refused = ""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[str, ...] = ()
    without_total: str = ""
    unpromised: tuple[str, ...] = ()
    promise_refused: Refused | None = None
    total_is_short: int = 0
    more_config: Mapping[str, Any] = field(default_factory=dict)
    read_as_numbers: bool = False

    @property
    def planned(self) -> tuple[str, ...]:
        """Every key it is planned with as it is stored: those that cover it, and what it is told as."""
        if self.read_as_numbers:
            return ()
        return tuple(dict.fromkeys((*self.keys, *([self.told] if isinstance(self.told, str) else []))))


def _covered(*keys: str, told: str | Refused = "", **more: Any) -> Repository:
    """A repository that some families cover; told as the first of them where nothing else is said."""
    return Repository(keys, told or keys[0], **more)


def _quantised(words: str, key: str) -> Repository:
    """A quantised repository: refused as such without a key, and with the key of the family it would belong to."""
    refused = Refused("MFC312", (words,))
    return Repository(told=refused, refused={key: refused})


def _unknown(model_type: str | None, key: str, code: str, *words: str) -> Repository:
    """A model that no family covers: not told, and refused with the key of the family that looks most like it."""
    said = "no model_type" if model_type is None else f"model_type '{model_type}'"
    return Repository(told=Refused("MFC302", (said,)), refused={key: Refused(code, words)})


def _refused(key: str, *words: str) -> Repository:
    """A variant that the family its config names does not cover: refused with its key and without one."""
    refused = Refused("MFC303", words)
    return Repository(told=refused, refused={key: refused})


NO_SIZE = "an axis without a size"
GLM_4_5 = {
    "num_hidden_layers": 92,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
    "attention_bias": True,
    "use_qk_norm": True,
}

REPOSITORIES: Mapping[str, Repository] = {
    "baichuan2__baichuan2-13b-chat": _covered("baichuan2"),
    "baichuan2__baichuan2-7b_DERIVED": _covered("baichuan2"),
    "baichuan__baichuan-13b-chat": _covered("baichuan2"),  # the first Baichuan has the same names and model_type
    "bloom__bloom-176b": _covered("bloom", options={"prefix": ""}),
    "bloom__bloomz-560m": _covered("bloom", options={"prefix": ""}),
    "chatglm2__chatglm2-6b": _covered("glm-n"),
    "chatglm2__codegeex2-6b": _covered("codegeex2", told="glm-n"),
    "chatglm2__zhuzhi-6b": _covered("glm-n", shares=("lm_head.weight",)),  # its head, listed again under a second name
    "chatglm3__chatglm3-6b": _covered("glm-n"),
    "chatglm__chatglm-6b": _covered("glm"),
    "cogvlm2__cogvlm2-llama3-caption_video": _covered(
        "cogvlm2", options={"modal": "video"}, promise_refused=Refused("MFC307", ("model.vision.linear_proj.dense_h_to_4h.weight", NO_SIZE))
    ),
    "cogvlm2__cogvlm2-llama3-chat-19B": _covered(
        "cogvlm2", options={"modal": "image"}, promise_refused=Refused("MFC307", ("model.vision.linear_proj.dense_h_to_4h.weight", NO_SIZE))
    ),
    "deepseek_coder__semcoder-6.7b": _covered("deepseek", told="llama"),
    "deepseek_ocr__deepseek-ocr": _unknown("deepseek_vl_v2", "deepseek2", "MFC303", "unmatched  model.sam_model.pos_embed"),
    "deepseek_ocr__deepseek-ocr2": _unknown("deepseek_vl_v2", "deepseek2", "MFC303", "unmatched  model.sam_model.pos_embed"),
    "deepseek_v2__deepseek-v2-lite": _covered("deepseek2", "deepseek"),
    "deepseek_v3__deepseek-r1-fp8": Repository(told="deepseek3", read_as_numbers=True),
    "glm4__glm-4-9b_legalhal": _covered("glm-n"),
    "glm4_moe__llamabot_713gb": _covered("glm4-moe", more_config=GLM_4_5, total_is_short=3_858_240),
    "gpt2__gpt2": _covered("gpt", options={"prefix": ""}),
    "internlm2__internlm2-7b_s1mpleagent": _covered("internlm2"),
    "internlm2__internlm2-chat-1_8b_cjy": _covered("internlm2"),
    "internlm__flames-internlm-7b-seqcls": _refused("internlm", "classifiers.{0‥4}.weight", "lm_head.weight: not in the checkpoint"),
    "internlm__internlm-20b": _covered("internlm", told="llama"),  # its config says llama, and it has no biases
    "internlm__internlm-7b_mllm": _covered("internlm"),
    "llama2__llama-2-7b-chat-hf": _covered("llama"),
    "llama2__llama-2-7b_padtok_anandsp": _covered("llama"),
    "llama2__llama-7b-f32_invfreq_kailas": _covered("llama"),
    "llama2__lzlv-70b": _covered("llama", without_total="the metadata of its index is empty"),
    "llama2__rutergpt-13b_invfreq": _covered("llama"),
    "llama3__llama-3-8b_1parammyl": _covered("llama"),
    "llama3__llama-3-8b_smartmaster": _covered("llama"),  # with the number of key/value heads that fits, not the one its config.json says
    "llama3__llama-3.2-3b": _covered("llama"),
    "mimo__mimo-7b_kor": _unknown("mimo", "qwen2", "MFC303", "model.mtp_layers.0.final_layernorm.weight: no rule"),
    "mistral__mistral-7b_summarizer": _covered(  # of the first Mistral, which looks back 4,096 tokens
        "llama", told=Refused("MFC302", ("sliding_window='4096' for '32768' positions, which llama does not list", "--model llama"))
    ),
    "mixtral__dolphin-2.5-mixtral-8x7b": _covered("mixtral"),
    "pangu__openpangu-embedded-7b": Repository(
        told=Refused("MFC302", ("model_type 'PanguEmbedded', which no family lists", "--model llama"))
    ),
    "quantised__llama-3.1-8b-w_format": _quantised("bitsandbytes: it has model.layers.0.mlp.down_proj.SCB", "llama"),
    "quantised__qwen-7b-chat-int4-gptq": _quantised("GPTQ: it has transformer.h.0.attn.c_attn.qweight", "qwen"),
    "quantised__qwen-vl-chat-int4-gptq": _quantised("GPTQ: it has transformer.h.0.attn.c_attn.qweight", "qwenvl"),
    "quantised__qwen2-14b-mlx": _quantised("MLX: it has lm_head.scales", "qwen2"),
    "quantised__qwen3-14b-mlx-4bit": _quantised("MLX: it has lm_head.scales", "qwen3"),
    "qwen1_5__qwen1.5-14b_livergpt": _covered("qwen1_5", "qwen2", "qwen", told="qwen2"),
    "qwen2_5__qwen2.5-14b_cogito": _covered("qwen2", "qwen"),
    "qwen2_5__qwen2.5-3b_tied": _covered("qwen2", "qwen"),
    "qwen2_audio__qwen2-audio-7b": _unknown("qwen2_audio", "qwen2", "MFC303", "unmatched  audio_tower."),
    "qwen2_vl__olmocr-7b": _unknown("qwen2_vl", "qwen2", "MFC303", "visual.blocks.{0‥31}.attn.qkv.weight"),
    "qwen3__qwen3-1.7b_tied": _covered("qwen3"),
    "qwen3_moe__qwen3-30b-a3b": _covered("qwen3-moe"),
    "qwen3_moe__qwen3-30b-a3b_vllm_transgqa": Repository(  # no config in the repository
        told=Refused("MFC303", ("nearest: qwen3-moe; 2 names it does not know", "self_attn.indexer.qk_index_proj")),
        refused={"qwen2-moe": Refused("MFC303", ("self_attn.indexer.qk_index_proj",))},
    ),
    "qwen3_vl_moe__qwen3-vl-30b-a3b": _unknown(
        "qwen3_vl_moe", "qwen2-moe", "MFC303", "unmatched  model.language_model.embed_tokens.weight"
    ),
    "qwen__qwen-7b": _covered("qwen"),
    "qwen__qwen-7b-chat-cantonese": _covered("qwen"),
    "qwenvl__qwen-vl-chat": _covered("qwenvl", promise_refused=Refused("MFC307", ("transformer.visual.positional_embedding", NO_SIZE))),
    "swin__swin-tiny-patch4-window7-224": _covered("swin", "swin_hf", told="swin_hf"),
    "swin__swin-tiny_eurosat10": _covered("swin", "swin_hf", told="swin_hf"),
    "t5__byt5-small_polish": _refused("t5", "DenseReluDense.wi_{0‥1}.weight"),  # gated, as T5 1.1 is
    "telechat__telechat-12b": _covered("telechat", options={"telechat_type": "telechat_12b"}),
    "telechat__telechat-52b": _covered("telechat", options={"telechat_type": "telechat_52b", "conv1d": False}),  # its shapes are derived
    "telechat__telechat-7b": _covered("telechat", options={"telechat_type": "telechat_7b"}),
    "telechat__telechat2-115b": _covered("telechat2", told="telechat", options={"telechat_type": "telechat_12b"}),
    "vit__vit-base-patch16-224_minc": _unknown("vit", "vit", "MFC303", "vit.embeddings.cls_token: no rule"),  # the family is MAE's ViT
    "whisper__whisper-large-v2": _covered("whisper"),
    "whisper__whisper-small_nb": _covered("whisper"),
    "wizardcoder__sqlcoder-15b": _covered(
        "wizardcoder",
        told=Refused("MFC302", ("2 that fit: gpt, wizardcoder",)),  # no config, and GPT-2 shares every name
        refused={"gpt": Refused("MFC303", ("attn.c_attn.weight", "(6400, 6144), expected (6144, 18432)"))},
        shares=("lm_head.weight",),
        unpromised=("lm_head.weight",),
    ),
    "xcomposer2__xcomposer2-7b": _unknown("internlmxcomposer2", "internlm2", "MFC303", "attention.wqkv.Plora_A.weight"),
    "yi__yi-1.5-6b_prymmal": _covered("yi", told="llama"),
}
