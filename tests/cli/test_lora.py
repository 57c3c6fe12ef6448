"""LoRA from the shell: a run to a PEFT folder, and adapters merged into weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.support import raws_in
from tests.toys import arrays_of, raws_of

YAML = "model:\n  model_config:\n    type: LlamaConfig\n    hidden_size: 96\n    num_layers: 4\n    num_heads: 6\n    n_kv_heads: 2\n"
YAML += "    head_dim: 20\n    vocab_size: 331\n    intermediate_size: 176\n    pet_config: {pet_type: lora, lora_rank: 4, lora_alpha: 6}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`hf/`, a small Llama; `run.ckpt`, what a LoRA run saves with its weights; `lora.ckpt`, adapters alone; `run.yaml`."""
    monkeypatch.chdir(tmp_path)
    mc.toy("llama", "hf", dtype="fp32")
    weights = mc.map(mc.load("hf"), "llama")
    rng = np.random.default_rng(4)
    adapters = {}
    for layer in range(4):
        name = f"model.layers.{layer}.attention.wq.mindpet_delta_lora_"
        adapters[name + "a"] = rng.normal(size=(4, 96)).astype(np.float32)
        adapters[name + "b"] = rng.normal(size=(120, 4)).astype(np.float32)
    mc.save(mc.load(adapters), "lora.ckpt")
    mc.save(mc.load(arrays_of(weights) | adapters), "run.ckpt")
    Path("run.yaml").write_text(YAML)
    return tmp_path


def test_a_run_with_its_yaml_becomes_a_peft_folder(folder: Path) -> None:
    assert run(["convert", "--model", "llama", "--reversed", "run.ckpt", "peft", "--only_adapters", "--config", "run.yaml"]) == 0
    said = json.loads(Path("peft/adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (4, 6)
    assert run(["convert", "--model", "llama", "peft", "back.ckpt", "--config", "hf", "--adapter_names", "tk"]) == 0
    assert raws_in(Path("back.ckpt")) == {n.replace("mindpet", "tk"): raw for n, raw in raws_in(Path("lora.ckpt")).items()}


def test_without_alpha_the_shell_refuses_and_says_which_option_gives_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--model", "llama", "--reversed", "lora.ckpt", "peft", "--config", "hf"]) == 2
    assert "MFC319" in (said := capsys.readouterr().err)
    assert "--lora_alpha" in said
    assert run(["merge", "hf", "lora.ckpt", "merged", "--model", "llama"]) == 2
    assert "--lora_alpha" in capsys.readouterr().err
    assert not Path("peft").exists()
    assert not Path("merged").exists()


@pytest.mark.parametrize(
    "given",
    [
        ["hf", "peft", "merged"],
        ["hf", "lora.ckpt", "merged", "--model", "llama", "--lora_alpha", "6"],
        ["hf", "lora.ckpt", "merged", "--model", "llama", "--config", "run.yaml"],
    ],
    ids=" ".join,
)
def test_every_way_to_merge_gives_the_same_folder(given: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--model", "llama", "--reversed", "lora.ckpt", "peft", "--config", "hf", "--lora_alpha", "6"]) == 0
    assert run(["merge", *given]) == 0
    said = capsys.readouterr().out
    assert "4 weights changed by 1.5 * B A (alpha 6" in said
    assert "Way back: 4 weights computed" in said
    assert raws_in(Path("merged")) == raws_of(mc.merge_adapters("hf", "peft"))
    assert Path("merged/config.json").read_bytes() == Path("hf/config.json").read_bytes()


def test_a_run_that_holds_both_is_merged_on_its_own_side(folder: Path) -> None:
    assert run(["merge", "run.ckpt", "merged.ckpt", "--config", "run.yaml"]) == 0
    assert run(["convert", "--model", "llama", "--reversed", "merged.ckpt", "merged", "--config", "hf"]) == 0
    assert raws_in(Path("merged")) == raws_of(mc.merge_adapters("hf", "lora.ckpt", alpha=6, family="llama"))


def test_a_dry_run_of_a_merge_writes_nothing(folder: Path) -> None:
    assert run(["merge", "run.ckpt", "merged.ckpt", "--config", "run.yaml", "--dry_run"]) == 0
    assert not Path("merged.ckpt").exists()


def test_a_step_of_a_run_is_merged_alone_or_into_a_base(folder: Path) -> None:
    whole = arrays_of(mc.load("run.ckpt"))
    layout = mc.RankLayout({"tp": 2}, {"*.wq.weight": ("tp", None), "*lora_b": ("tp", None)})
    for step, factor in ((5, 1), (6, 3)):
        made = {n: a * factor if "lora" in n else a for n, a in whole.items()}
        mc.save(mc.load(made), f"step{step}", layout_of_ranks=replace(layout, step=step))
        shutil.copytree(f"step{step}", "run", dirs_exist_ok=True)
    shutil.rmtree("run/strategy")
    given = ["--step", "5", "--strategy", "step5/strategy", "--config", "run.yaml"]
    assert run(["merge", "run", "merged.ckpt", *given]) == 0
    assert raws_in(Path("merged.ckpt")) == raws_of(mc.merge_adapters("run.ckpt", config="run.yaml"))
    assert run(["merge", "hf", "run", "merged", "--model", "llama", *given]) == 0
    assert raws_in(Path("merged")) == raws_of(mc.merge_adapters("hf", "lora.ckpt", config="run.yaml", family="llama"))
    assert run(["merge", "hf", "lora.ckpt", "none", "--model", "llama", "--lora_alpha", "6", "--step", "5"]) == 2
    assert not Path("none").exists()
