"""Layouts for which there is no recorded output, against numpy written out by hand from the description of MindFormers' scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from tests.toys import arrays_of

Arrays = dict[str, Any]


def floats_of(checkpoint: Checkpoint) -> Arrays:
    return {name: array.astype(np.float32) for name, array in arrays_of(checkpoint).items()}


def toy(key: str, **options: object) -> tuple[Arrays, Arrays, Any]:
    """A toy of a family and what it becomes, as arrays, with its config."""
    source = mc.toy(key, dtype="fp32", options=options)
    return floats_of(source), floats_of(mc.map(source, key, **options)), source.config


# ---- Llama: the forms that MindFormers' concat tool makes ----------------------------------------------------------------

ATTENTION, MLP = "model.layers.1.self_attn.", "model.layers.1.mlp."
FUSED, FUSED_GATE = "model.layers.1.attention.w_qkv.weight", "model.layers.1.feed_forward.w_gate_hidden.weight"


def test_a_concatenated_llama_has_q_k_v_and_gate_up_end_to_end() -> None:
    hf, mf, _ = toy("llama", qkv_concat=True)
    assert np.array_equal(mf[FUSED], np.concatenate([hf[f"{ATTENTION}{part}_proj.weight"] for part in "qkv"]))
    assert np.array_equal(mf[FUSED_GATE], np.concatenate([hf[f"{MLP}gate_proj.weight"], hf[f"{MLP}up_proj.weight"]]))
    assert not [n for n in mf if ".wq." in n or ".w1." in n or ".w3." in n]


def test_a_grouped_llama_has_the_heads_of_a_group_together_and_gate_and_up_row_by_row() -> None:
    hf, mf, config = toy("llama", qkv_concat="grouped")
    groups, head = config["num_key_value_heads"], config["head_dim"]
    q, k, v = (hf[f"{ATTENTION}{part}_proj.weight"].reshape(groups, -1, config["hidden_size"]) for part in "qkv")
    assert k.shape[1] == head
    assert np.array_equal(mf[FUSED], np.concatenate([q, k, v], axis=1).reshape(-1, config["hidden_size"]))
    rows = np.stack([hf[f"{MLP}gate_proj.weight"], hf[f"{MLP}up_proj.weight"]], axis=1)
    assert np.array_equal(mf[FUSED_GATE], rows.reshape(-1, config["hidden_size"]))


def test_the_biases_of_q_k_and_v_are_concatenated_too() -> None:
    source = mc.toy("llama", attention_bias=True)
    mapped = mc.map(source, "llama", qkv_concat=True)
    expected = np.concatenate([mc.read(source, f"{ATTENTION}{part}_proj.bias") for part in "qkv"])
    assert np.array_equal(mc.read(mapped, FUSED.replace("weight", "bias")), expected)


@pytest.mark.parametrize("value", [True, "grouped"])
def test_a_concatenated_llama_comes_back_with_a_manifest_and_with_the_option(value: Any, tmp_path: Path) -> None:
    source = mc.toy("llama", tmp_path / "hf")
    mc.save(mc.map(source, "llama", qkv_concat=value), tmp_path / "mf.ckpt")
    loaded = mc.load(tmp_path / "mf.ckpt")
    assert mc.diff(mc.map(loaded), source, values=True).equal
    alone = Checkpoint(loaded.tensors, side="mf")
    assert mc.diff(mc.map(alone, "llama", to="hf", config=source.config, qkv_concat=value), source, values=True).equal
    with pytest.raises(mc.MfconvError) as refused:  # the two forms have the same names and shapes: never guessed
        mc.map(alone, "llama", to="hf", config=source.config)
    assert refused.value.code == "MFC302"
    assert "--qkv_concat True; --qkv_concat grouped" in str(refused.value)


# ---- TeleChat 52B --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cards", [1, 2, 4, 8, 16])
def test_a_telechat_52b_is_regrouped_for_its_cards(cards: int) -> None:
    hf, mf, config = toy("telechat", telechat_type="telechat_52b", mp=cards)
    heads, hidden = config["n_head"], config["hidden_size"]
    qkv = hf["transformer.h.1.attn.c_attn.weight"].T.reshape(3, heads, hidden // heads, hidden).transpose(1, 0, 2, 3)
    if cards > 1:
        qkv = qkv.reshape(cards, heads // cards, 3, hidden // heads, hidden).transpose(0, 2, 1, 3, 4)
    assert np.array_equal(mf["model.layers.1.attention.w_qkv.weight"], qkv.reshape(-1, hidden))
    gate, up = np.split(hf["transformer.h.1.mlp.c_fc.weight"].T, 2)
    expected = np.concatenate([part.reshape(cards, -1, hidden) for part in (gate, up)], axis=1).reshape(-1, hidden)
    assert np.array_equal(mf["model.layers.1.feed_forward.w_gate_hidden.weight"], expected)
    assert np.array_equal(mf["model.layers.1.attention.wo.weight"], hf["transformer.h.1.attn.c_proj.weight"].T)
    assert np.array_equal(mf["model.layers.1.feed_forward.w2.weight"], hf["transformer.h.1.mlp.c_proj.weight"].T)


def test_the_orientation_of_a_telechat_52b_is_told_from_its_shapes() -> None:
    input_first, output_first = (mc.toy("telechat", options={"telechat_type": "telechat_52b", "conv1d": c}) for c in (True, False))
    for source, conv1d in ((input_first, True), (output_first, False)):
        mapped = mc.map(Checkpoint(source.tensors, side="hf", config=source.config), "telechat")
        assert mapped.options["conv1d"] is conv1d
        assert mapped.report.decided["conv1d"] == "told from shapes"


# ---- Swin of Hugging Face ------------------------------------------------------------------------------------------------


def test_swin_has_the_same_tensors_in_mindformers_whether_microsoft_or_hugging_face_names_it() -> None:
    _, mf, _ = toy("swin")
    hf, other, _ = toy("swin_hf")
    assert {n: a.shape for n, a in mf.items()} == {n: a.shape for n, a in other.items()}
    block_hf, block = "swin.encoder.layers.1.blocks.0.", "encoder.layers.1.blocks.0."
    assert np.array_equal(other[block + "attn.q.weight"], hf[block_hf + "attention.self.query.weight"])
    assert np.array_equal(other[block + "mlp.mapping.weight"], hf[block_hf + "intermediate.dense.weight"].T)
    assert np.array_equal(other[block + "mlp.projection.weight"], hf[block_hf + "output.dense.weight"].T)


# ---- padding ---------------------------------------------------------------------------------------------------------------

PADDED = "llm_model.transformer.wte.embedding_weight"


def test_padding_is_zeros_on_the_way_there_and_must_be_zeros_on_the_way_back(tmp_path: Path) -> None:
    source = mc.toy("qwenvl", tmp_path / "hf")
    mapped = mc.map(source, "qwenvl", enable_emb_opt=True)
    padded = mc.read(mapped, PADDED)
    assert padded.shape == (512, 96)
    assert np.array_equal(padded[:331], mc.read(source, "transformer.wte.weight"))
    assert not padded[331:].any()
    mc.save(mapped, tmp_path / "mf.ckpt")
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt")), tmp_path / "back")
    assert mc.diff(tmp_path / "back", source, values=True).equal

    arrays = arrays_of(mapped)
    arrays[PADDED][400, 3] = 1
    trained = mc.map(mc.load(arrays), "qwenvl", to="hf", config=source.config)
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(trained, tmp_path / "trained")
    assert refused.value.code == "MFC308"
    assert "17,376 numbers of it must be zeros: the Hugging Face side has no place for them" in str(refused.value)
    assert not (tmp_path / "trained").exists()
