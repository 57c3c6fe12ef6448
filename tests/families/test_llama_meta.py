"""Llama in Meta's own files: slices, pairs against halves, params.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv

pytestmark = pytest.mark.real_frameworks

DIM, HEADS, GROUPS, HEAD, FFN, VOCAB, LAYERS = 24, 4, 2, 6, 40, 62, 2
PARAMS = {"dim": DIM, "n_heads": HEADS, "n_kv_heads": GROUPS, "n_layers": LAYERS, "norm_eps": 1e-5, "vocab_size": -1}
LLAMA = {
    "model_type": "llama",
    "hidden_size": DIM,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "num_hidden_layers": LAYERS,
}
ROWS = ("wq", "wk", "wv", "w1", "w3", "output")


def whole() -> dict[str, Any]:
    """All weights of a small Llama, not sliced, under Meta's names; rows of q and k in pairs."""
    random = np.random.default_rng(7)
    shapes = {"tok_embeddings.weight": (VOCAB, DIM), "norm.weight": (DIM,), "output.weight": (VOCAB, DIM)}
    for layer in range(LAYERS):
        rows = {"wq": HEADS * HEAD, "wk": GROUPS * HEAD, "wv": GROUPS * HEAD}
        shapes |= {f"layers.{layer}.attention.{n}.weight": (r, DIM) for n, r in rows.items()}
        shapes |= {f"layers.{layer}.attention.wo.weight": (DIM, HEADS * HEAD), f"layers.{layer}.feed_forward.w2.weight": (DIM, FFN)}
        shapes |= {f"layers.{layer}.feed_forward.{n}.weight": (FFN, DIM) for n in ("w1", "w3")}
        shapes |= {f"layers.{layer}.{n}.weight": (DIM,) for n in ("attention_norm", "ffn_norm")}
    return {n: random.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}


def axis_of(name: str, *, embedding_by_rows: bool) -> int | None:
    """The axis by which Meta slices a tensor; None for whole copies."""
    if "norm" in name or "rope" in name:
        return None
    if name.startswith("tok_embeddings"):
        return 0 if embedding_by_rows else 1
    return 0 if any(f"{n}." in name for n in ROWS) else 1


def write(folder: Path, shards: int, *, embedding_by_rows: bool = False, vocab: int = -1) -> dict[str, Any]:
    import torch

    folder.mkdir()
    tensors = whole()
    for shard in range(shards):
        state = {"rope.freqs": torch.arange(3.0)}
        for name, array in tensors.items():
            axis = axis_of(name, embedding_by_rows=embedding_by_rows)
            part = array if axis is None else np.split(array, shards, axis)[shard]
            state[name] = torch.from_numpy(np.ascontiguousarray(part))
        torch.save(state, folder / f"consolidated.{shard:02}.pth")
    (folder / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": vocab}))
    return tensors


def in_halves(weight: Any, heads: int) -> Any:
    """Rows of a head in pairs, sorted into halves: even rows first, then odd ones."""
    rows = weight.reshape(heads, HEAD // 2, 2, DIM)
    return np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=1).reshape(-1, DIM)


def expected_of(tensors: dict[str, Any]) -> dict[str, Any]:
    names = {"tok_embeddings.weight": "model.tok_embeddings.embedding_weight", "norm.weight": "model.norm_out.weight"}
    names["output.weight"] = "lm_head.weight"
    found = {names.get(n, f"model.{n}"): a for n, a in tensors.items()}
    for name in found:
        if ".wq." in name or ".wk." in name:
            found[name] = in_halves(found[name], HEADS if ".wq." in name else GROUPS)
    return found


@pytest.mark.parametrize("shards, by_rows, vocab", [(1, False, -1), (2, False, -1), (2, True, VOCAB)], ids=["one", "llama2", "llama3"])
def test_metas_files_become_the_tensors_of_llama(shards: int, by_rows: bool, vocab: int, tmp_path: Path) -> None:
    tensors = write(tmp_path / "meta", shards, embedding_by_rows=by_rows, vocab=vocab)
    assert mfconv(["convert", "--model", "llama", "--input_path", str(tmp_path / "meta"), "--output_path", str(tmp_path / "mf.ckpt")]) == 0
    found = mc.load(tmp_path / "mf.ckpt")
    expected = expected_of(tensors)
    assert set(found.tensors) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(mc.read(found, name), array), name
    assert mc.verify(tmp_path / "meta", tmp_path / "mf.ckpt").equal


def test_a_llama_from_metas_files_goes_on_to_hugging_face(tmp_path: Path) -> None:
    tensors = write(tmp_path / "meta", 2)
    mc.save(mc.map(mc.load(tmp_path / "meta")), tmp_path / "mf.ckpt")
    back = mc.map(mc.load(tmp_path / "mf.ckpt"), "llama", to="hf", config=LLAMA)
    mc.save(back, tmp_path / "hf")
    expected = in_halves(tensors["layers.1.attention.wq.weight"], HEADS)
    assert np.array_equal(mc.read(mc.load(tmp_path / "hf"), "model.layers.1.self_attn.q_proj.weight"), expected)
    assert {s.name for s in back.specs} == {s.name for s in mc.expected("llama", LLAMA, side="hf").specs}


def test_copies_of_a_norm_that_differ_are_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    import torch

    write(tmp_path / "meta", 2)
    path = tmp_path / "meta" / "consolidated.01.pth"
    state = torch.load(path, weights_only=True)
    state["norm.weight"][3] += 1
    torch.save(state, path)
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(mc.map(mc.load(tmp_path / "meta")), tmp_path / "mf.ckpt")
    assert refused.value.code == "MFC308"
    assert "keeps one of 2 copies" in str(refused.value)
    assert not (tmp_path / "mf.ckpt").exists()


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "meta", 3 - 1)
    (tmp_path / "meta" / "consolidated.00.pth").unlink()
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(tmp_path / "meta"), "llama")
    assert "consolidated.0/" in str(refused.value)
