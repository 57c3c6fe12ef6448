"""Models whose attention sees what an indexer chooses (DSA): DeepSeek-V3.2 and GLM-5. Their networks are in `tests/networks_table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import MF, Checkpoint
from mfconv_nb.steps.converting.map_report import CoverageError
from tests.mindformers_networks import scores_of_indexer
from tests.networks_table import BUILT, SCORES, Built
from tests.support import Array
from tests.toys import arrays_of, raws_of, refused_with, without_memory

INDEXER_HF, INDEXER_MF = "model.layers.0.self_attn.indexer.", "decoder.layers.0.self_attention.core_attention.indexer."
SHARED = {"num_hidden_layers": 4, "indexer_types": ["full", "shared", "full", "shared"]}

SCORED = [row for row in BUILT if SCORES in row.checks]


@pytest.mark.real_frameworks
@pytest.mark.parametrize("row", SCORED, ids=[row.name for row in SCORED])
def test_the_indexer_of_the_network_scores_tokens_as_that_of_transformers_does(row: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(11)
    small = mc.toy(row.key, dtype="fp32", **row.config)
    large = {s.name: random.standard_normal(s.shape).astype(np.float32) for s in small.specs if s.name.startswith(INDEXER_HF)}
    toy = mc.load(arrays_of(small) | large, config=small.config)
    made = mc.map(toy, **row.options, to=MF)
    weights = {n.removeprefix(INDEXER_MF): np.array(mc.read(made, n)) for n in made.tensors if n.startswith(INDEXER_MF)}
    hidden, latent = (random.standard_normal((12, width)).astype(np.float32) for width in (96, 40))
    angles = np.tile(np.arange(12)[:, None] * 10000.0 ** (-np.arange(0, 64, 2) / 64), 2).astype(np.float32)
    scores = scores_of_indexer(row.graph, weights, hidden, latent, angles, **row.settings)
    expected = scores_of_transformers(toy, hidden, latent, angles, monkeypatch)
    assert expected.std() > 10
    assert np.abs(scores - expected).max() < 1e-4 * expected.std()


def scores_of_transformers(toy: Checkpoint, hidden: Array, latent: Array, angles: Array, monkeypatch: pytest.MonkeyPatch) -> Array:
    """The scores of which the class of transformers takes the largest."""
    import torch
    import transformers

    config = {k: v for k, v in (toy.config or {}).items() if k not in ("model_type", "architectures", "num_nextn_predict_layers", "dtype")}
    (architecture,) = (toy.config or {})["architectures"]
    model = getattr(transformers, architecture)(transformers.AutoConfig.for_model((toy.config or {})["model_type"], **config))
    indexer = model.model.layers[0].self_attn.indexer
    names = [n for n in toy.tensors if n.startswith(INDEXER_HF)]
    indexer.load_state_dict({n.removeprefix(INDEXER_HF): torch.tensor(np.array(mc.read(toy, n))) for n in names})
    seen: list[Any] = []
    largest = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda scores, *args, **named: (seen.append(scores), largest(scores, *args, **named))[1])
    turn = tuple(torch.tensor(part(angles))[None] for part in (np.cos, np.sin))
    indexer(torch.tensor(hidden)[None], torch.tensor(latent)[None], turn, torch.zeros(1, 12, 12), torch.arange(12)[None])
    (scores,) = seen
    return np.asarray(scores[0].numpy(), np.float64)


# ---- where every row goes ------------------------------------------------------------------------------------------------------

# of the toys: 5 heads of 26 rows, 8 of them rotary: four frequencies, for two rows each
IN_HALVES, IN_PAIRS = [0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 4, 6, 1, 3, 5, 7]
PLAIN = list(range(8, 26))
ROWS = {
    ("deepseekv32", "dynamic"): [*IN_HALVES, *PLAIN],
    ("deepseekv32", "static"): [*PLAIN, 0, 4, 1, 5, 2, 6, 3, 7],
    ("glm5", ""): [*IN_PAIRS, *PLAIN],
}


@pytest.mark.parametrize("key, graph", ROWS)
def test_the_rows_of_a_head_of_the_indexer_stand_as_the_network_turns_them(key: str, graph: str) -> None:
    rows = ROWS[key, graph]
    toy = mc.toy(key)
    made = arrays_of(mc.map(toy, **({"graph": graph} if graph else {}), to=MF))
    theirs = {n.removeprefix(INDEXER_HF): a for n, a in arrays_of(toy).items() if n.startswith(INDEXER_HF)}
    ours = {n.removeprefix(INDEXER_MF): a for n, a in made.items() if n.startswith(INDEXER_MF)}
    names = {"linear_wq_b.weight", "linear_wk.weight", "k_norm.gamma", "k_norm.beta", "linear_weights_proj.weight"}
    assert ours.keys() == names
    assert ours["linear_wq_b.weight"].tobytes() == theirs["wq_b.weight"].reshape(5, 26, 40)[:, rows].tobytes()
    assert ours["linear_wk.weight"].tobytes() == theirs["wk.weight"][rows].tobytes()
    assert ours["k_norm.gamma"].tobytes() == theirs["k_norm.weight"][rows].tobytes()
    assert ours["k_norm.beta"].tobytes() == theirs["k_norm.bias"][rows].tobytes()
    assert ours["linear_weights_proj.weight"].tobytes() == theirs["weights_proj.weight"].tobytes()


# ---- which layers have one -----------------------------------------------------------------------------------------------------

SAID = {  # layers with an indexer, of four
    "a list": ({"indexer_types": ["full", "full", "shared", "full"]}, [0, 1, 3]),
    "letters": ({"index_topk_pattern": "FSSF"}, [0, 3]),
    "words": ({"index_topk_pattern": ["full", "shared", "shared", "full"]}, [0, 3]),
    "a step": ({"index_topk_freq": 2}, [0, 1, 3]),
    "a step and where it begins": ({"index_topk_freq": 3, "index_skip_topk_offset": 1}, [0, 3]),
    "a step of one": ({"index_topk_freq": 1}, [0, 1, 2, 3]),
    "nothing": ({}, [0, 1, 2, 3]),
    "a list before a step": ({"indexer_types": ["full", "shared", "shared", "shared"], "index_topk_freq": 1}, [0]),
    "the YAML of a run, a list": ({"dsa_indexer_types": ["full", "shared", "full", "full"]}, [0, 2, 3]),
    "the YAML of a run, a step": ({"dsa_index_topk_freq": 2}, [0, 2]),
    "the YAML of a run, a step and where it begins": ({"dsa_index_topk_freq": 2, "dsa_index_skip_topk_offset": 1}, [0, 1, 3]),
}


@pytest.mark.parametrize("said", SAID)
def test_the_config_says_which_layers_have_an_indexer(said: str) -> None:
    keys, layers = SAID[said]
    full = mc.toy("glm5", indexer_types=["full"] * 4)
    config = {
        k: v for k, v in (full.config or {}).items() if k not in ("indexer_types", "index_topk_freq", "index_skip_topk_offset")
    } | keys
    lacking = tuple(f"model.layers.{n}.self_attn.indexer." for n in range(4) if n not in layers)
    held = {n: a for n, a in arrays_of(full).items() if not n.startswith(lacking or "no name")}
    there = mc.map(mc.load(held, config=config), to=MF)
    assert {s.name for s in there.specs if ".k_norm.beta" in s.name} == {
        *(f"decoder.layers.{n}.self_attention.core_attention.indexer.k_norm.beta" for n in layers),
        "mtp.layers.0.transformer_layer.self_attention.core_attention.indexer.k_norm.beta",
    }
    back = mc.map(without_memory(there), "glm5", to="hf", config=config)
    assert raws_of(back) == raws_of(mc.load(held))


@pytest.mark.skipif("not __import__('importlib').util.find_spec('transformers')", reason="transformers is not installed")
@pytest.mark.real_frameworks
@pytest.mark.parametrize("said", [said for said in SAID if "YAML" not in said])
def test_transformers_reads_the_same_layers_from_the_config(said: str) -> None:
    import transformers

    keys, layers = SAID[said]
    config = transformers.GlmMoeDsaConfig(num_hidden_layers=4, **keys)
    assert [n for n, kind in enumerate(config.indexer_types or ()) if kind == "full"] == layers


@pytest.mark.parametrize("to", ["mf", "hf"])
def test_an_indexer_too_few_or_too_many_is_refused_by_name(to: str) -> None:
    toy = mc.toy("glm5", **SHARED)
    source, beginning = (toy, "model.layers.2.self_attn.") if to == "mf" else (mc.map(toy), "decoder.layers.2.self_attention.")
    less = mc.load({n: a for n, a in arrays_of(source).items() if not (n.startswith(beginning) and ".indexer." in n)})
    error = refused_with("MFC303", lambda: mc.map(less, "glm5", to=to, config=toy.config), CoverageError)
    assert {(p.kind, p.expected.split(",")[0]) for p in error.problems} == {("missing", "there")}
    assert len(error.problems) == 5
    assert all("places(indexer_types" in p.expected for p in error.problems)
    third = {n: a for n, a in arrays_of(source).items() if n.startswith(beginning) and ".indexer." in n}
    more = mc.load({**arrays_of(source), **{n.replace(".2.", ".1.", 1): a for n, a in third.items()}})
    error = refused_with("MFC303", lambda: mc.map(more, "glm5", to=to, config=toy.config), CoverageError)
    assert {(p.kind, p.expected) for p in error.problems} == {
        ("surplus", "indexer_layer one of 0, 2, from places(indexer_types, full) in config.json")
    }


def test_without_a_config_nobody_can_tell_the_two_models_apart_and_it_is_asked() -> None:
    toy = mc.toy("deepseekv32")
    for source, to in ((toy, "mf"), (mc.map(toy), "hf")):
        error = refused_with("MFC302", lambda source=source, to=to: mc.map(mc.load(arrays_of(source)), to=to))  # type: ignore[misc]
        assert error.choices == ({"model": "deepseekv32"}, {"model": "glm5"})


# ---- models of transformers ----------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
@pytest.mark.parametrize("key, graph", [("deepseekv32", "dynamic"), ("deepseekv32", "static"), ("glm5", "")])
def test_a_model_of_transformers_gives_the_same_logits_after_the_way_there_and_back(key: str, graph: str, tmp_path: Path) -> None:
    import torch
    import transformers

    config = dict(mc.toy(key).config or {})
    (architecture,) = config.pop("architectures")
    config = {k: v for k, v in config.items() if k not in ("num_nextn_predict_layers", "dtype")}
    torch.manual_seed(0)
    kind = transformers.AutoConfig.for_model(config.pop("model_type"), **{**config, "n_group": 2, "topk_group": 1})
    model = getattr(transformers, architecture)(kind).eval()
    model.save_pretrained(tmp_path / "hf")
    there = mc.map(mc.load(tmp_path / "hf"), **({"graph": graph} if graph else {}))
    assert there.family == key
    mc.save(there, tmp_path / "mf.safetensors")
    held = arrays_of(mc.load(tmp_path / "mf.safetensors"))
    mc.save(mc.map(mc.load(held, config=tmp_path / "hf"), to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    opened, told = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values())
    ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, opened.eval()(ids).logits)
