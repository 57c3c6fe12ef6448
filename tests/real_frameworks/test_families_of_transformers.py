"""Models that transformers itself makes and saves: to MindFormers, back, and opened again. Every name is one that transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.families.registry import family_named

pytestmark = pytest.mark.real_frameworks

MODELS = (
    "bert",
    "bloom",
    "deepseek2",
    "deepseek3",
    "deepseekv32",
    "glm4-mcore",
    "glm4-moe",
    "glm5",
    "gpt",
    "llama",
    "llava",
    "mixtral",
    "qwen2",
    "qwen2-moe",
    "qwen3",
    "qwen3-moe",
    "swin_hf",
    "t5",
    "whisper",
    "wizardcoder",
)


def made(key: str, **changes: Any) -> Any:
    """A model of transformers with the sizes of a family's toy and random weights."""
    import torch
    import transformers

    config = {**family_named(key).toy, **changes}
    (architecture,) = config.pop("architectures")
    torch.manual_seed(0)
    return getattr(transformers, architecture)(transformers.AutoConfig.for_model(config.pop("model_type"), **config))


def same_state(a: Any, b: Any) -> bool:
    import torch

    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("key", MODELS)
def test_a_model_that_transformers_saved_comes_back_and_opens_with_the_same_weights(key: str, tmp_path: Path) -> None:
    model = made(key)
    model.save_pretrained(tmp_path / "hf", max_shard_size="200KB")
    there = mc.map(mc.load(tmp_path / "hf"))
    assert there.family == key
    assert there.report.plan.problems == ()
    mc.save(there, tmp_path / "mf.ckpt")
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt")), tmp_path / "back", assets=tmp_path / "hf")
    assert mc.diff(tmp_path / "hf", tmp_path / "back", values=True).equal
    opened, told = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values())
    assert same_state(model, opened)


@pytest.mark.parametrize("key", ["qwen2", "bloom", "gpt", "mixtral", "whisper"])
def test_mindspore_opens_what_becomes_of_a_model_of_transformers(key: str, tmp_path: Path) -> None:
    import mindspore

    made(key).save_pretrained(tmp_path / "hf")
    there = mc.map(mc.load(tmp_path / "hf"))
    mc.save(there, tmp_path / "mf.ckpt")
    opened = mindspore.load_checkpoint(str(tmp_path / "mf.ckpt"))
    assert {n: tuple(p.shape) for n, p in opened.items()} == {s.name: s.shape for s in there.specs}
    for name in list(opened)[:: max(1, len(opened) // 12)]:
        assert (opened[name].asnumpy() == mc.read(there, name)).all()


def test_a_tied_model_keeps_its_head_tied(tmp_path: Path) -> None:
    model = made("qwen2", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "hf")
    assert "lm_head.weight" not in mc.load(tmp_path / "hf")
    there = mc.map(mc.load(tmp_path / "hf"))
    assert there.report.counts["tied"] == 1
    mc.save(there, tmp_path / "mf.ckpt")
    assert "lm_head.weight" in mc.load(tmp_path / "mf.ckpt")
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt")), tmp_path / "back")
    assert mc.diff(tmp_path / "hf", tmp_path / "back", values=True).equal
