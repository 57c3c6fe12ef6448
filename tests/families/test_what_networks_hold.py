"""What MindFormers' networks save, where it is not what its converters write: no head where it is tied, biases, masks, other names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.rules import Tied, default_form
from tests.support import cell_of
from tests.toys import raws_of


def arrays(checkpoint: mc.Checkpoint) -> dict[str, Any]:
    return {t.name: np.ascontiguousarray(mc.read(checkpoint, t.name)) for t in checkpoint}


def families_with_heads() -> Iterator[tuple[str, str]]:
    """Keys of families whose head may be tied, and what MindFormers calls it."""
    for family in known_families():
        yield from ((family.key, rule.mf) for rule in default_form(family).rules if isinstance(rule, Tied))


def with_tie(key: str, tied: bool) -> dict[str, Any]:
    """Changes to a toy's config that tie the head, or do not."""
    if key != "llava":
        return {"tie_word_embeddings": tied}
    return {"text_config": {**(mc.toy(key).config or {})["text_config"], "tie_word_embeddings": tied}}


# ---- heads ---------------------------------------------------------------------------------------------------------------------

HEADS = list(families_with_heads())
with_head = pytest.mark.parametrize("key, head", HEADS, ids=[key for key, _ in HEADS])


def test_the_families_whose_networks_may_hold_no_head_are_here() -> None:
    assert {"llama", "qwen2", "mixtral", "deepseek", "internlm", "internlm2", "wizardcoder", "llava", "yi", "qwen2-moe"} <= dict(
        HEADS
    ).keys()


@with_head
def test_what_a_network_of_a_tied_model_saves_comes_back_whole(key: str, head: str, tmp_path: Path) -> None:
    toy = mc.toy(key, **with_tie(key, True))
    saved = arrays(mc.map(toy, key))
    saved.pop(head)
    back = mc.map(mc.load(saved), key, to="hf", config=toy.config)
    assert [note for note in back.report.notes if note.startswith(f"{head} is not there")]
    mc.save(back, tmp_path / "back")
    assert raws_of(mc.load(tmp_path / "back")) == raws_of(toy)
    assert mc.load(tmp_path / "back").config == toy.config


@with_head
def test_a_network_without_a_head_is_refused_where_the_config_does_not_tie_it(key: str, head: str) -> None:
    toy = mc.toy(key, **with_tie(key, False))
    saved = arrays(mc.map(toy, key))
    saved.pop(head)
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(saved), key, to="hf", config=toy.config)
    assert refused.value.code == "MFC303"
    assert f"missing {head}: not in the checkpoint, expected there: config.json does not tie it" in " ".join(str(refused.value).split())


@with_head
def test_a_network_without_a_head_and_without_a_config_says_where_it_stands(key: str, head: str) -> None:
    saved = arrays(mc.map(mc.toy(key, **with_tie(key, True)), key))
    saved.pop(head)
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(saved), key, to="hf", **({"n_head": 6, "hidden_size": 96} if key == "llama" else {}))
    assert refused.value.code == "MFC303"
    assert "unless config.json ties it" in " ".join(str(refused.value).split())
    assert "--config (config= in Python)" in str(refused.value)


@pytest.mark.parametrize("key", ["qwen3", "telechat3", "qwen2-mcore"])
def test_no_head_in_the_newer_layout_needs_a_config_that_ties_it_too(key: str) -> None:
    toy = mc.toy(key, tie_word_embeddings=True)
    saved = arrays(mc.map(toy, key))
    assert mc.diff(mc.map(mc.load(saved), key, to="hf", config=toy.config), toy, values=True).equal
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(saved), key, to="hf")
    assert "missing output_layer.weight: not in the checkpoint" in " ".join(str(refused.value).split())


def test_the_names_of_a_tied_qwen2_lead_to_qwen2() -> None:
    toy = mc.toy("qwen2", tie_word_embeddings=True)
    saved = arrays(mc.map(toy, "qwen2"))
    saved.pop("lm_head.weight")
    back = mc.map(mc.load(saved), to="hf", config=toy.config)
    assert back.family == "qwen2"
    assert mc.diff(back, toy, values=True).equal


# ---- tensors that only the network has -----------------------------------------------------------------------------------------

CROSS_BIAS = "t5_model.tfm_decoder.blocks.0.cross_attention.cross_bias"


def test_the_untrained_bias_between_decoder_and_encoder_of_t5_is_left_out(tmp_path: Path) -> None:
    toy = mc.toy("t5")
    saved = arrays(mc.map(toy, "t5")) | {CROSS_BIAS: np.zeros((1, 7, 5), np.float32)}
    back = mc.map(mc.load(saved), to="hf", config=toy.config)
    mc.save(back, tmp_path / "back")
    assert raws_of(mc.load(tmp_path / "back")) == raws_of(toy)


def test_a_trained_bias_between_decoder_and_encoder_of_t5_is_refused(tmp_path: Path) -> None:
    toy = mc.toy("t5")
    bias = np.zeros((1, 7, 5), np.float32)
    bias[0, 6, 4] = 1e-8
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(mc.map(mc.load(arrays(mc.map(toy, "t5")) | {CROSS_BIAS: bias}), to="hf", config=toy.config), tmp_path / "back")
    assert refused.value.code == "MFC308"
    assert "1 of 35 numbers differ" in str(refused.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.real_frameworks
@pytest.mark.parametrize("value, is_right", [(0, True), (0.25, False)])
def test_a_network_with_such_a_bias_is_filled_where_it_is_zeros(value: float, is_right: bool) -> None:
    mapped = mc.map(mc.toy("t5"), "t5")
    cell = cell_of({t.name: np.zeros(t.shape, np.float32) for t in mapped} | {CROSS_BIAS: np.full((1, 7, 5), value, np.float32)})
    if is_right:
        assert mc.assign(mapped, cell, progress=False).missing == (CROSS_BIAS,)
    else:
        with pytest.raises(mc.MfconvError, match="MFC408"):
            mc.assign(mapped, cell, progress=False)


def test_the_mask_of_shifted_windows_is_not_written_for_transformers() -> None:
    toy = mc.toy("swin_hf")
    masks = {f"encoder.layers.{stage}.blocks.1.attn_mask": np.full((4, 9, 9), -100, np.float32) for stage in (0, 1)}
    back = mc.map(mc.load(arrays(mc.map(toy, "swin_hf")) | masks), "swin_hf", to="hf", config=toy.config)
    assert raws_of(back) == raws_of(toy)


@pytest.mark.parametrize("place", ["router.router.expert_load", "router.router.fi_parameter", "expert_load", "router.router.pi_cache"])
def test_what_the_older_networks_count_is_left_out(place: str) -> None:
    toy = mc.toy("deepseek3")
    saved = arrays(mc.map(toy, "deepseek3")) | {f"model.layers.1.feed_forward.routed_experts.{place}": np.ones(5, np.float32)}
    assert mc.diff(mc.map(mc.load(saved), to="hf", config=toy.config), toy, values=True).equal


def test_the_caches_of_a_network_that_generates_are_left_out() -> None:
    toy = mc.toy("llama")
    caches = {f"model.layers.0.attention.{name}": np.ones((2, 3), np.float32) for name in ("key_cache", "value_cache_grad")}
    saved = arrays(mc.map(toy, "llama")) | caches | {"model.seq_chunk": np.int32(0)}
    assert mc.diff(mc.map(mc.load(saved), "llama", to="hf", config=toy.config), toy, values=True).equal


# ---- names ---------------------------------------------------------------------------------------------------------------------


def test_the_heads_of_bert_have_the_names_and_biases_of_the_network() -> None:
    toy = mc.toy("bert")
    written = mc.map(toy, "bert")
    heads = {s.name: s.shape for s in written.specs if "loss" in s.name}
    assert heads == {
        "mlmloss.dense.weight": (96, 96),
        "mlmloss.dense.bias": (96,),
        "mlmloss.layernorm.gamma": (96,),
        "mlmloss.layernorm.beta": (96,),
        "mlmloss.output_bias": (331,),
        **({"nsploss.dense.weight": (2, 96), "nsploss.dense.bias": (2,)} if "cls.seq_relationship.bias" in toy else {}),
    }


def test_the_next_sentence_head_of_bert_goes_there_and_back() -> None:
    toy = mc.toy("bert")
    more = {"cls.seq_relationship.weight": np.ones((2, 96), np.float32), "cls.seq_relationship.bias": np.arange(2, dtype=np.float32)}
    written = mc.map(mc.load(arrays(toy) | more, config=toy.config), "bert")
    assert mc.read(written, "nsploss.dense.weight").shape == (2, 96)
    assert mc.read(written, "nsploss.dense.bias").tolist() == [0, 1]
    back = mc.map(mc.load(arrays(written)), to="hf", config=toy.config)
    assert {n: r.data for n, r in raws_of(back).items()} == {n: a.tobytes() for n, a in (arrays(toy) | more).items()}


def test_a_bert_whose_predictions_are_not_the_embedding_is_refused(tmp_path: Path) -> None:
    toy = mc.toy("bert")
    other = {"cls.predictions.decoder.weight": np.zeros((331, 96), np.float32).astype(arrays(toy)["cls.predictions.bias"].dtype)}
    with pytest.raises(mc.MfconvError, match="MFC308"):
        mc.save(mc.map(mc.load(arrays(toy) | other, config=toy.config), "bert"), tmp_path / "out.ckpt")


NAMES = {
    "mae": {"named_by": "converter", "asked": "vit.mask_tokens", "network": "mask_tokens"},
    "bert": {"named_by": "converter", "asked": "bert.mlmloss.dense.weight", "network": "mlmloss.dense.weight"},
    "codegeex2": {
        "embedding": "embedding_table",
        "asked": "transformer.embedding.embedding_table",
        "network": "transformer.embedding.embedding_weight",
    },
}


@pytest.mark.parametrize("key", NAMES)
def test_names_are_those_of_the_network_unless_those_of_the_converter_are_asked_for(key: str) -> None:
    toy, (option, value) = mc.toy(key), next(iter(NAMES[key].items()))
    assert NAMES[key]["network"] in mc.map(toy, key)
    asked = mc.map(toy, key, **{option: value})
    assert NAMES[key]["asked"] in asked
    assert NAMES[key]["network"] not in asked
    for written in (mc.map(toy, key), asked):  # on the way back the names tell
        back = mc.map(mc.load(arrays(written)), key, to="hf", config=toy.config)
        lost = {"cls.predictions.bias"} if written is asked and key == "bert" else set()
        assert {n: r for n, r in raws_of(toy).items() if n not in lost} == raws_of(back)


# ---- a layer that predicts a further token -------------------------------------------------------------------------------------

MTP = ["deepseek3", "deepseekv3", "glm4-moe", "telechat3-moe"]


@pytest.mark.parametrize("said", [0, None], ids=["said to be none", "not said"])
@pytest.mark.parametrize("key", MTP)
def test_a_config_without_a_further_layer_goes_there_and_back(key: str, said: int | None) -> None:
    toy = mc.toy(key, options={"with_mtp": 0}, num_nextn_predict_layers=0)
    config = {name: value for name, value in (toy.config or {}).items() if name != "num_nextn_predict_layers" or said is not None}
    source = mc.load(arrays(toy), config=config)
    there = mc.map(source, key)
    assert raws_of(there) == raws_of(mc.map(toy, key, with_mtp=0))
    assert raws_of(mc.map(mc.load(arrays(there)), key, to="hf", config=config)) == raws_of(toy)


def test_a_further_layer_that_a_config_does_not_count_is_carried_there_and_back() -> None:
    toy = mc.toy("deepseek3")
    config = {name: value for name, value in (toy.config or {}).items() if name != "num_nextn_predict_layers"}
    source = mc.load(arrays(toy), config=config)
    there = mc.map(source, "deepseek3")
    assert raws_of(there) == raws_of(mc.map(toy, "deepseek3"))
    assert raws_of(mc.map(mc.load(arrays(there)), "deepseek3", to="hf", config=config)) == raws_of(toy)
