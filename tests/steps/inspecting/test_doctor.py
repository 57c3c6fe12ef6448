"""doctor: what it says is so, and what it tells to run next works as printed. Nothing that it finds makes it raise."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.cli.main import run as command_line
from mfconv_nb.families.registry import known_families
from mfconv_nb.formats.mindspore_ckpt import ENCRYPTED
from mfconv_nb.steps.inspecting.diagnosis import Diagnosis
from mfconv_nb.steps.inspecting.doctor import doctor
from tests.real_repos_table import REPOSITORIES
from tests.runs import iterations
from tests.runs.made import Cut
from tests.runs.made_runs import Arrays, cuts_of, make_run, original, weights_of
from tests.support import numbered, raws_in, without, work_of, write_hf, write_safetensors, write_with_a_hole
from tests.toys import arrays_of, said

pytestmark = pytest.mark.usefixtures("here")

CONFIG_TELLS_NO_FAMILY = ("llama_meta", "swin")  # Meta's params.json, and what Microsoft's .pth has beside it
FAMILIES = [f.key for f in known_families()]


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return original(tmp_path / "hf")


def marks(found: Diagnosis) -> set[str]:
    return {f.mark for f in found.findings}


def run_printed(found: Diagnosis, *, hf: Path | str = "HF_DIR", yaml: Path | str = "RUN.yaml") -> list[str]:
    """Run what was printed, in order, with the placeholders filled in; every command must succeed. Gives them."""
    for command in found.commands:
        words = [str(hf) if w == "HF_DIR" else str(yaml) if w == "RUN.yaml" else w for w in shlex.split(command)]
        assert words[0] == "mfconv"
        code = command_line(words[1:])
        assert code in ((0, 1) if words[1] == "doctor" else (0,)), command
    return list(found.commands)


# ---- every family, both sides --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FAMILIES)
def test_a_toy_of_every_family_is_ready_and_what_is_printed_works(key: str) -> None:
    mc.toy(key, "hf")
    found = doctor("hf")
    assert found.ready, str(found)
    assert found.what.startswith("Hugging Face checkpoint: a folder")
    assert run_printed(found) == ["mfconv convert hf OUT.ckpt", "mfconv verify hf OUT.ckpt"]
    assert Path("OUT.ckpt").is_file()


@pytest.mark.parametrize("key", FAMILIES)
def test_a_file_of_mindformers_asks_for_the_config_and_with_it_what_is_printed_works(key: str) -> None:
    mc.toy(key, "hf")
    mc.save(mc.map(mc.load("hf")), "trained.ckpt")
    shutil.rmtree("trained.ckpt.mfconv")  # it was trained on: no manifest of ours lies beside it
    found = doctor("trained.ckpt")
    assert found.what == "MindFormers checkpoint: one ckpt file"
    assert "--config HF_DIR" in said(found, "config")
    assert not found.ready
    assert "✗" not in marks(found), str(found)
    if key in CONFIG_TELLS_NO_FAMILY:
        assert command_line([*shlex.split(found.commands[0])[1:-1], "hf"]) == 2
        with_config = doctor("trained.ckpt", config="hf")
        assert "several fit" in said(with_config, "family")
        for number, command in enumerate(with_config.commands):
            run_printed(replace(with_config, commands=(command.replace("OUT/", f"out{number}/"),)))
        return
    assert run_printed(found, hf="hf")[0] == "mfconv convert --reversed trained.ckpt OUT/ --config HF_DIR"
    assert Path("OUT/config.json").is_file()
    again = doctor("trained.ckpt", config="hf")
    assert again.ready, str(again)
    assert said(again, "family").startswith("✓ ")


def test_a_manifest_beside_the_file_says_all_that_is_needed(hf: Path) -> None:
    mc.save(mc.map(mc.load(hf)), "made.ckpt")
    found = doctor("made.ckpt")
    assert found.ready
    assert run_printed(found) == ["mfconv convert --reversed made.ckpt OUT/", "mfconv verify made.ckpt OUT/"]


def test_where_the_config_does_not_tell_the_form_every_choice_is_printed_and_works(tmp_path: Path) -> None:
    mc.toy("mixtral", "hf")
    mc.save(mc.map(mc.load("hf"), "mixtral"), "made.ckpt")
    shutil.rmtree("made.ckpt.mfconv")
    found = doctor("made.ckpt")
    assert said(found, "family") == "! several fit; the config tells: --use_gmm False or --use_gmm True"


# ---- what is special -------------------------------------------------------------------------------------------------------


def test_a_tied_head_is_named_with_what_becomes_of_it() -> None:
    mc.toy("llama", "hf", dtype="fp32")
    config = json.loads(Path("hf/config.json").read_text())
    tensors = arrays_of(mc.load("hf"))
    shutil.rmtree("hf")
    write_hf(Path("hf"), without(tensors, "lm_head"), {**config, "tie_word_embeddings": True})
    found = doctor("hf")
    assert said(found, "tied head") == "lm_head.weight is written, a copy of model.embed_tokens.weight"


def test_layers_that_predict_further_tokens_are_told_from_layers_that_nobody_promised() -> None:
    mc.toy("deepseek3", "hf")
    assert said(doctor("hf"), "layers") == "3, and 1 that predicts further tokens (MTP)"
    mc.toy("llama", "more")
    config = Path("more/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 3}))
    found = doctor("more")
    assert said(found, "layers") == "! 4 in the names; the config says 3"
    assert "surplus" in said(found, "mapping")
    assert not found.commands


@pytest.mark.parametrize("name", ["decoder.layers.0.self_attention.linear_qkv.weight", "decoder.layers.3.mlp.experts.weight1"])
def test_mcore_names_are_called_so(name: str) -> None:
    write_safetensors(Path("mcore.safetensors"), {name: numbered(4, 4)}, {"format": "np"})
    found = doctor("mcore.safetensors")
    assert said(found, "names") == f"MindFormers' mcore form (Megatron-like), such as {name}"
    assert found.what.startswith("MindFormers checkpoint")


def test_where_no_family_knows_mcore_names_those_that_know_such_names_are_listed() -> None:
    write_safetensors(Path("mcore.safetensors"), {"decoder.layers.0.self_attention.linear_odd.weight": numbered(4, 4)}, {"format": "np"})
    hint = said(doctor("mcore.safetensors"), "hint")
    assert hint.startswith("Where one with mcore names (")
    assert "qwen3, qwen3-moe" in hint
    assert "llama" not in hint


@pytest.mark.real_frameworks
def test_a_checkpoint_2_of_qwen3_that_mindformers_saved_becomes_a_hugging_face_folder_by_the_printed_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mc.toy("qwen3", "hf", dtype="fp32", num_hidden_layers=2, vocab_size=332)
    weights = arrays_of(mc.map(mc.load("hf")))
    cut = {"linear_qkv": ("tp", None), "linear_fc1": (("dp", "tp"), None), "linear_proj": (None, "tp"), "linear_fc2": (None, "tp")}
    cuts = {
        name: (array.shape, next((axes for word, axes in cut.items() if word in name), (None,) * array.ndim), "float32")
        for name, array in weights.items()
    }
    monkeypatch.setattr(iterations, "CUTS", cuts)
    state = {p + n: 0.5 * a for p in iterations.OPTIMIZER for n, a in weights.items()}
    iterations.write_iteration(Path("run"), 30, {**weights, **state})
    without_config = doctor("run")
    assert said(without_config, "names").startswith("MindFormers' mcore form")
    assert said(without_config, "family").startswith("! qwen3 by the names")
    assert run_printed(without_config, hf="hf")[0] == "mfconv convert --reversed run OUT/ --config HF_DIR"
    assert mc.diff("hf", "OUT", values=True).equal
    found = doctor("run", config="hf")
    assert found.ready
    assert "use_interleaved_weight_layout_mlp=True (told from the original's numbers)" in said(found, "family")
    shutil.copy("hf/config.json", "config.json")  # without weights beside it
    assert "assumed: use_interleaved_weight_layout_mlp=True" in said(doctor("run", config="config.json"), "note")


@pytest.mark.real_frameworks
@pytest.mark.parametrize("key", ["qwen3", "qwen3-moe"])
def test_the_yaml_of_a_run_tells_family_and_order_of_mcore_weights(key: str) -> None:
    mc.toy(key, "hf", dtype="fp32")
    contiguous = {"use_contiguous_weight_layout_attention": True}
    mc.save(mc.map(mc.load("hf"), key, **contiguous), "trained.safetensors")
    shutil.rmtree("trained.safetensors.mfconv")
    config = json.loads(Path("hf/config.json").read_text())
    Path("RUN.yaml").write_text(json.dumps({"model": {"model_config": {**config, **contiguous}}}))  # YAML too
    found = doctor("trained.safetensors", config="RUN.yaml")
    assert found.ready
    assert said(found, "family").startswith(f"✓ {key}, use_contiguous_weight_layout_attention=True (told from the config)")
    assert run_printed(found)[0] == "mfconv convert --reversed trained.safetensors OUT/ --config RUN.yaml"
    assert mc.diff("hf", "OUT", values=True).equal


def test_the_names_of_whisper_are_not_taken_for_mcore() -> None:
    mc.toy("whisper", "hf")
    mc.save(mc.map(mc.load("hf")), "made.ckpt")
    assert "legacy" in said(doctor("made.ckpt"), "names")


@pytest.mark.parametrize("suffix", ["qweight", "SCB", "weight_scale_inv"])
def test_quantised_weights_are_named_and_nothing_is_printed_to_run(suffix: str) -> None:
    write_hf(Path("hf"), {f"model.layers.0.mlp.down_proj.{suffix}": numbered(4, 4)}, {"model_type": "llama"})
    found = doctor("hf")
    assert "quantised checkpoint" in found.what
    assert said(found, "quantised").endswith("Take the original weights.")
    assert found.commands == ()


def test_an_unknown_model_is_drafted_from_both_sides() -> None:
    write_hf(Path("hf"), {"net.0.strange.weight": numbered(4, 3)}, {"model_type": "strange"})
    write_safetensors(Path("MF"), {"net.0.odd.weight": numbered(4, 3)}, {"format": "ms"})
    found = doctor("hf")
    assert "MFC302" in said(found, "mapping")
    assert run_printed(found) == ["mfconv suggest hf MF --out my_model.py"]


def test_a_model_that_only_looks_like_a_family_is_to_be_decided_and_the_printed_word_decides_it(capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("qwen2", "hf")
    config = json.loads(Path("hf/config.json").read_text()) | {"model_type": "moonlit", "architectures": ["MoonlitForCausalLM"]}
    Path("hf/config.json").write_text(json.dumps(config))
    shutil.rmtree("hf.mfconv", ignore_errors=True)
    found = doctor("hf")
    assert found.verdict == "! Something is to be decided."
    assert said(found, "family").startswith("! model_type 'moonlit', which no family lists; its names fit qwen2.")
    assert command_line(["doctor", "hf"]) == 1
    assert command_line(["convert", "hf", "OUT.ckpt"]) == 2
    assert "--model qwen2" in capsys.readouterr().err
    assert run_printed(found) == ["mfconv convert hf OUT.ckpt --model qwen2"]
    assert command_line(["verify", "hf", "OUT.ckpt"]) == 0  # the manifest remembers what was said


def test_a_model_with_some_of_a_familys_names_cannot_be_converted() -> None:
    mc.toy("llama", "hf")
    tensors = raws_in(Path("hf"))
    config = json.loads(Path("hf/config.json").read_text()) | {"model_type": "moonlit"}
    write_hf(Path("fewer"), without(tensors, "post_attention_layernorm"), config)
    found = doctor("fewer")
    assert said(found, "family").startswith("✗ model_type 'moonlit', which no family lists; its names are some of those of llama.")
    assert found.commands == ()


def test_one_shard_stands_for_its_checkpoint() -> None:
    mc.toy("llama", "hf")
    shard = sorted(Path("hf").glob("*.safetensors"))[2]
    found = doctor(shard)
    assert "one of 9 shards of model.safetensors.index.json; the whole checkpoint is taken" in said(found, "note")
    assert found.ready
    assert "39 tensors" in said(found, "contents")
    assert run_printed(found)[0] == f"mfconv convert {shard} OUT.ckpt"


def test_torch_files_say_what_torch_takes(hf: Path) -> None:
    mc.save(mc.load(hf), "pytorch_model.bin")
    found = doctor("pytorch_model.bin", config=hf)
    assert found.ready
    assert "torch opens these files" in said(found, "memory")
    assert run_printed(found)[0] == f"mfconv convert pytorch_model.bin OUT.ckpt --config {hf}"


# ---- LoRA --------------------------------------------------------------------------------------------------------------------

YAML = (
    "model:\n  model_config:\n    type: LlamaConfig\n    hidden_size: 96\n    num_layers: 4\n    num_heads: 6\n    n_kv_heads: 2\n"
    "    head_dim: 20\n    vocab_size: 331\n    intermediate_size: 176\n    pet_config: {pet_type: lora, lora_rank: 4, lora_alpha: 6}\n"
)


def adapters(base: Path) -> Arrays:
    name = "model.layers.0.attention.wq.mindpet_delta_lora_"
    rows, columns = mc.map(mc.load(base), "llama")["model.layers.0.attention.wq.weight"].shape
    return {name + "a": numbered(4, columns), name + "b": numbered(rows, 4)}


def test_adapters_of_mindformers_ask_for_alpha_and_then_go_to_peft_and_back(hf: Path) -> None:
    Path("run.yaml").write_text(YAML)
    mc.save(mc.load(adapters(hf)), "lora.ckpt")
    shutil.rmtree("lora.ckpt.mfconv")
    found = doctor("lora.ckpt")
    assert found.what == "LoRA adapters, MindFormers: one ckpt file"
    assert "nothing says alpha" in said(found, "LoRA")
    assert found.commands[-1] == "mfconv convert --reversed lora.ckpt OUT/ --config RUN.yaml --model llama"
    run_printed(replace(found, commands=found.commands[-1:]), yaml="run.yaml")
    Path("OUT").rename("peft")
    shutil.rmtree("OUT.mfconv")  # else the next OUT is refused: it may hold what an output could not carry
    peft = doctor("peft")
    assert peft.what == "LoRA adapters, Hugging Face: a folder, 1 file"
    assert "alpha 6 from adapter_config.json" in said(peft, "LoRA")
    assert run_printed(peft, hf=hf) == ["mfconv convert peft OUT.ckpt --config HF_DIR", "mfconv merge HF_DIR peft OUT/"]


def test_adapters_beside_their_weights_are_merged_or_parted(hf: Path) -> None:
    Path("run.yaml").write_text(YAML)
    write_safetensors(Path("run.safetensors"), weights_of(hf) | adapters(hf), {"format": "ms"})
    found = doctor("run.safetensors")
    assert "2 adapter tensors beside 39 others" in said(found, "LoRA")
    assert list(found.commands) == [
        "mfconv merge run.safetensors OUT.ckpt --config RUN.yaml",
        "mfconv convert --reversed run.safetensors OUT/ --config RUN.yaml --model llama --only_adapters",
        "mfconv convert --reversed run.safetensors OUT/ --config HF_DIR --leave_out '*lora_*'",
    ]
    for number, command in enumerate(found.commands):
        run_printed(replace(found, commands=(command.replace("OUT/", f"out{number}/"),)), hf=hf, yaml="run.yaml")


@pytest.mark.real_frameworks
def test_a_run_with_adapters_finds_its_alpha_above_and_is_merged_or_parted(hf: Path) -> None:
    """MindFormers writes adapter_config.json into the output folder, and the ranks below it."""
    make_run(Path("output/checkpoint"), weights_of(hf) | adapters(hf), optimizer=False)
    Path("output/adapter_config.json").write_text('{"lora_rank": 4, "lora_alpha": 6, "lora_dropout": 0.1}')
    for path in ("output", "output/checkpoint"):
        found = doctor(path, config=hf)
        assert "alpha 6 from adapter_config.json" in said(found, "LoRA")
        assert list(found.commands) == [
            f"mfconv merge {path} OUT.ckpt --config {hf}",
            f"mfconv convert --reversed {path} OUT/ --config {hf} --only_adapters",
            f"mfconv convert --reversed {path} OUT/ --config {hf} --leave_out '*lora_*'",
        ]
    for number, command in enumerate(found.commands):
        run_printed(replace(found, commands=(command.replace("OUT/", f"out{number}/"),)))
    assert json.loads(Path("out1/adapter_config.json").read_text())["lora_alpha"] == 6
    assert mc.diff(mc.map(mc.load("OUT.ckpt", config=hf), "llama"), mc.merge_adapters(hf, "out1"), values=True).equal
    later = {name: 2 * array for name, array in (weights_of(hf) | adapters(hf)).items()}
    make_run(Path("output/checkpoint"), later, optimizer=False, step=99)
    earlier = doctor("output", config=hf, step=1)
    assert earlier.commands[0] == f"mfconv merge output OUT.ckpt --step 1 --config {hf}"
    run_printed(replace(earlier, commands=(earlier.commands[0].replace("OUT.ckpt", "earlier.ckpt"),)))
    assert raws_in(Path("earlier.ckpt")) == raws_in(Path("OUT.ckpt"))
    plain = make_run(Path("output/plain"), weights_of(hf), optimizer=False)
    assert mc.load(plain).history.lora is None  # no adapters: nothing is said of them


@pytest.mark.real_frameworks
@pytest.mark.parametrize("with_weights", [True, False])
def test_a_run_with_adapters_needs_no_strategy_files_where_the_config_is_there(with_weights: bool, hf: Path) -> None:
    held = (weights_of(hf) if with_weights else {}) | adapters(hf)
    cuts = cuts_of(held) | {"model.layers.0.attention.wq.mindpet_delta_lora_a": Cut((2, 2), (-1, -1))}
    make_run(Path("run"), held, cuts=cuts, optimizer=False, strategy=None)
    Path("run.yaml").write_text(YAML + "  arch: {type: LlamaForCausalLM}\n")
    for config in ("run.yaml", hf):
        loaded = mc.load("run", config=config, only="weights")
        assert mc.diff(loaded, mc.load(held), values=True).equal
    assert command_line(["convert", "--reversed", "run", "OUT", "--config", "run.yaml", "--only_adapters"]) == 0


# ---- runs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
def test_a_run_is_ready_with_its_config_and_what_is_printed_works(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf), step=5)
    found = doctor("run", config=hf)
    assert found.what == "MindFormers training run: rank folders (Checkpoint 1.0)"
    assert said(found, "ranks and steps") == "✓ 4 ranks; steps 1_5; read: 1_5"
    assert "optimizer" in said(found, "state of the run")
    assert "no merged copy is written" in said(found, "disk")
    assert found.ready, str(found)
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")}
    assert run_printed(found) == [
        f"mfconv convert --reversed run OUT/ --config {hf}",
        f"mfconv verify run OUT/ --config {hf} --only weights",
        f"mfconv save run OUT.safetensors --config {hf} --only weights",
    ]
    assert {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")} == before
    assert found.steps_table().rows == [(n, "✓") for n in range(4)]  # type: ignore[union-attr]
    assert "<table" in found._repr_html_().split("Which rank has which step:")[1]
    assert json.loads(found.to_json())["steps"]["3"] == ["1_5"]


@pytest.mark.real_frameworks
def test_without_a_config_the_commands_ask_for_it(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    found = doctor("run")
    assert found.commands[0] == "mfconv convert --reversed run OUT/ --config HF_DIR"
    run_printed(found, hf=hf)


@pytest.mark.real_frameworks
def test_a_newer_step_that_is_not_whole_is_to_be_decided_and_the_step_is_printed(hf: Path) -> None:
    weights = weights_of(hf)
    make_run(Path("run"), weights, step=5)
    make_run(Path("run"), weights, step=6, ranks=[0, 1])
    make_run(Path("run"), weights, step=7, ranks=[0])
    found = doctor("run", config=hf)
    assert said(found, "ranks and steps") == "! 4 ranks; steps 1_5, 1_6, 1_7; read: 1_6"
    assert found.commands[0] == f"mfconv convert --reversed run OUT/ --step 1_6 --config {hf}"
    run_printed(found)
    for step in (5, "1_5"):
        older = doctor("run", config=hf, step=step)
        assert older.commands[0] == f"mfconv convert --reversed run OUT/ --step {step} --config {hf}"
        assert older.ready  # a step that was asked for is decided
        shutil.rmtree("OUT")
        shutil.rmtree("OUT.mfconv")
        Path("OUT.safetensors").unlink()
        shutil.rmtree("OUT.safetensors.mfconv")
        run_printed(older)
    assert "MFC112" in said(doctor("run", config=hf, step=7), "problem")


@pytest.mark.real_frameworks
def test_ranks_that_have_no_step_in_common_are_in_the_way(hf: Path) -> None:
    weights = weights_of(hf)
    make_run(Path("run"), weights, step=1, ranks=[0, 2])
    make_run(Path("run"), weights, step=2, ranks=[1, 3])
    found = doctor("run", config=hf)
    assert "MFC112" in said(found, "problem")
    assert found.steps_table().rows[:2] == [(0, "✓", "–"), (1, "–", "✓")]  # type: ignore[union-attr]
    assert found.commands == ()


@pytest.mark.real_frameworks
def test_a_missing_rank_is_named_and_its_copy_too(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    for rank in (1, 3):
        shutil.rmtree(f"run/rank_{rank}")
    found = doctor("run", config=hf)
    assert "MFC111" in said(found, "problem")
    assert "rank 1 (or its copy 3)" in said(found, "problem")
    assert "✗ Cannot be converted" in str(found)


@pytest.mark.real_frameworks
def test_without_strategy_files_the_config_is_asked_for_and_what_is_assumed_is_said(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf), strategy=None)
    found = doctor("run")
    assert "MFC114" in said(found, "problem")
    assert run_printed(found, hf=hf) == ["mfconv doctor run --config HF_DIR"]
    with_config = doctor("run", config=hf)
    assert "✗" not in marks(with_config), str(with_config)
    assert said(with_config, "assumed")
    assert not with_config.ready
    run_printed(with_config)


@pytest.mark.real_frameworks
def test_a_strategy_elsewhere_is_in_the_commands(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    shutil.move("run/strategy", "kept apart")
    found = doctor("run", config=hf, strategy="kept apart")
    assert found.commands[0] == f"mfconv convert --reversed run OUT/ --strategy 'kept apart' --config {hf}"
    run_printed(found)


@pytest.mark.real_frameworks
def test_strategy_and_prefix_stay_in_the_commands_where_the_step_is_printed(hf: Path) -> None:
    weights = weights_of(hf)
    make_run(Path("run"), weights, step=5)
    make_run(Path("run"), weights, step=5, prefix="other one")
    make_run(Path("run"), weights, step=6, ranks=[0])
    shutil.move("run/strategy", "apart")
    found = doctor("run", config=hf, strategy="apart", file_prefix="llama")
    assert found.commands[0] == f"mfconv convert --reversed run OUT/ --step 1_5 --strategy apart --file_prefix llama --config {hf}"
    run_printed(found)


@pytest.mark.real_frameworks
def test_two_checkpoints_in_one_folder_are_told_and_each_can_be_chosen(hf: Path) -> None:
    weights = weights_of(hf)
    make_run(Path("run"), weights)
    make_run(Path("run"), weights, prefix="other one")
    found = doctor("run", config=hf)
    assert "'llama' and 'other one'" in said(found, "problem")
    assert run_printed(found) == [
        f"mfconv doctor run --file_prefix llama --config {hf}",
        f"mfconv doctor run --file_prefix 'other one' --config {hf}",
    ]
    chosen = doctor("run", config=hf, file_prefix="other one")
    assert chosen.ready
    run_printed(chosen)
    assert "MFC501" in said(doctor("run", config=hf, file_prefix="lama"), "problem")


@pytest.mark.real_frameworks
def test_a_folder_of_several_runs_leads_to_each(hf: Path) -> None:
    for name in ("first run", "second"):
        make_run(Path("all") / name, weights_of(hf))
    Path("all/log").mkdir()
    found = doctor("all", config=hf)
    assert "MFC102" in said(found, "problem")
    assert run_printed(found) == [f"mfconv doctor 'all/first run' --config {hf}", f"mfconv doctor all/second --config {hf}"]


@pytest.mark.real_frameworks
def test_a_run_that_cannot_be_opened_is_called_a_run(hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    Path("run/rank_2/llama_rank_2-1_1.safetensors").write_bytes(b"")
    found = doctor("run", config=hf)
    assert found.what == "MindFormers training run that cannot be opened"
    assert "rank_2" in said(found, "problem")


@pytest.mark.parametrize("file", ["metadata.json", "common.json", "../latest_checkpointed_iteration.txt"])
def test_what_is_said_of_a_checkpoint_2_leads_to_it(file: str, hf: Path) -> None:
    mc.save(mc.map(mc.load(hf)), "run", layout_of_ranks=mc.RankLayout({"tp": 2}, form="checkpoint 2.0", step=40))
    path = Path("run/iteration_00000040") / file
    found = doctor(path.resolve().relative_to(Path.cwd()))
    assert "without weights" in said(found, "part")
    assert run_printed(found) == [f"mfconv doctor {path.resolve().parent}"]


@pytest.mark.real_frameworks
@pytest.mark.parametrize("part", ["rank_2/llama_rank_2-1_1.safetensors", "rank_2"])
def test_what_one_rank_holds_is_a_part_and_the_command_names_the_whole(part: str, hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    found = doctor(Path("run") / part)
    assert said(found, "part").startswith("✗ rank 2 of 4")
    assert not {"family", "mapping", "disk"} & {f.topic for f in found.findings}  # of a part they would say nothing that is true
    assert not found.ready
    assert run_printed(found) == [f"mfconv doctor {Path('run').absolute()}"]


@pytest.mark.real_frameworks
@pytest.mark.parametrize("part", ["strategy", "strategy/ckpt_strategy_rank_0.ckpt"])
def test_strategy_files_are_told_from_weights(part: str, hf: Path) -> None:
    make_run(Path("run"), weights_of(hf))
    found = doctor(Path("run") / part)
    assert "hold no weights" in said(found, "part")
    assert run_printed(found) == [f"mfconv doctor {Path('run').absolute()}"]


@pytest.mark.real_frameworks
def test_a_checkpoint_2_is_read_and_one_of_its_files_is_a_part(hf: Path) -> None:
    layout = mc.RankLayout({"dp": 2, "tp": 2}, {"*.wq.weight": ("tp", None)}, form="checkpoint 2.0", step=40)
    mc.save(mc.map(mc.load(hf)), "run", layout_of_ranks=layout)
    shutil.rmtree("run.mfconv")
    found = doctor("run", config=hf)
    assert found.what == "MindFormers training run: Checkpoint 2.0"
    assert said(found, "ranks and steps") == "✓ 4 ranks; steps 40; read: 40"
    run_printed(found)
    file = sorted(Path("run/iteration_00000040").glob("*.safetensors"))[1]
    assert "of a Checkpoint 2.0" in said(doctor(file), "part")


@pytest.mark.real_frameworks
def test_what_mindspore_merged_is_called_so_and_a_weight_in_the_run_state_is_named(hf: Path) -> None:
    import mindspore as ms

    weights = weights_of(hf)
    known = without(weights, "layers.3.attention.wq")
    stray = {n: a for n, a in weights.items() if n not in known}
    make_run(Path("run"), known, optimizer=False, strategy="merged", extra=stray)
    ms.parallel.unified_safetensors("run", "run/strategy/merged_ckpt_strategy.ckpt", "merged", merge_with_redundancy=False)
    found = doctor("merged", config=hf)
    assert "merged by mindspore.unified_safetensors" in found.what
    assert "hyper_param.safetensors holds" in said(found, "note")
    run_printed(found)


# ---- what is no checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ckpt", [b"\x0b\xad\xab\xcd" + bytes(64), b"\x0a\xff\xff\xff\xff\x0f", b""])
def test_damaged_and_empty_files_are_told_and_not_raised(ckpt: bytes) -> None:
    Path("x.ckpt").write_bytes(ckpt)
    found = doctor("x.ckpt")
    assert said(found, "problem").startswith("✗ MFC")
    assert found.commands == ()


@pytest.mark.parametrize("magic", ENCRYPTED)
def test_an_encrypted_checkpoint_is_called_so(magic: bytes) -> None:
    Path("x.ckpt").write_bytes(magic + bytes(64))
    assert "MFC204 the checkpoint is encrypted" in said(doctor("x.ckpt"), "problem")


def test_folders_and_texts_that_are_no_checkpoint() -> None:
    Path("empty").mkdir()
    Path("notes.txt").write_text("lr = 1e-4\n")
    assert "MFC102" in said(doctor("empty"), "problem")
    assert "MFC103" in said(doctor("notes.txt"), "problem")
    assert "MFC101" in said(doctor("not there"), "problem")
    assert not any(doctor(p).ready for p in ("empty", "notes.txt", "not there"))


def test_a_config_that_cannot_be_used_is_told() -> None:
    mc.toy("llama", "hf")
    Path("hf/config.json").write_text("{")
    assert "MFC106" in said(doctor("hf"), "problem")
    assert "MFC101" in said(doctor("hf", config="nowhere.json"), "problem")
    assert "MFC501" in said(doctor("hf", config={}, step="x_y"), "problem")


HUGE = {"num_hidden_layers": 10**30, "hidden_size": -1, "num_nextn_predict_layers": True, "architectures": {"a": 1}, "vocab_size": "x"}


@pytest.mark.parametrize("key", HUGE)
def test_nonsense_in_a_config_is_told_and_not_raised(key: str) -> None:
    mc.toy("llama", "hf")
    config = Path("hf/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), key: HUGE[key]}))
    assert str(doctor("hf"))


@settings(max_examples=80)
@given(data=st.data())
def test_whatever_is_done_to_the_files_of_a_checkpoint_a_diagnosis_comes_back(data: st.DataObject, tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept", tmp_path / "fuzzed"
    if not kept.exists():
        _kept(kept)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes() if path.exists() else b"")
        path.write_bytes(_damaged(content, data))
    for place in ("hf", "made.ckpt", "run", "run/rank_1", "two", "merged", *(str(p.relative_to(folder)) for p in files[:2])):
        found = doctor(folder / place)
        assert isinstance(found, Diagnosis)
        assert str(found)
        assert found._repr_html_()
        assert json.loads(found.to_json())["path"]


def _kept(folder: Path) -> None:
    mc.toy("llama", folder / "hf", dtype="fp32")
    mapped = mc.map(mc.load(folder / "hf"))
    mc.save(mapped, folder / "made.ckpt")
    layout = mc.RankLayout({"dp": 2, "tp": 2}, {"*.wq.weight": ("tp", None), "*.wo.weight": (None, "tp")})
    mc.save(mapped, folder / "run", layout_of_ranks=layout)
    mc.save(mapped, folder / "two", layout_of_ranks=replace(layout, form="checkpoint 2.0"))
    mc.save(mapped, folder / "merged")


def _damaged(content: bytearray, data: st.DataObject) -> bytes:
    """Cut off, with one bit flipped near the beginning, or something else altogether."""
    how = data.draw(st.sampled_from(["cut", "flip", "other"]))
    if how == "other" or not content:
        return data.draw(st.binary(max_size=40))
    if how == "cut":
        return bytes(content[: data.draw(st.integers(0, len(content)))])
    content[data.draw(st.integers(0, min(len(content), 2000) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(content)


# ---- what it takes -----------------------------------------------------------------------------------------------------------


def test_neither_torch_nor_mindspore_is_imported_and_mindspores_files_are_read_without_it(hf: Path) -> None:
    mapped = mc.map(mc.load(hf))
    mc.save(mapped, "made.ckpt")
    layout = mc.RankLayout({"dp": 2, "tp": 2}, {"*.wq.weight": ("tp", None)}, ending=".ckpt")
    mc.save(mapped, "run", layout_of_ranks=layout)
    script = (
        "import sys\nfrom mfconv_nb.steps.inspecting.doctor import doctor\n"
        "for p in sys.argv[1:]: assert 'cannot' not in doctor(p, config='hf').verdict.lower(), str(doctor(p, config='hf'))\n"
        "print(sorted({'torch', 'mindspore', 'pandas', 'matplotlib', 'ipywidgets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, "hf", "made.ckpt", "run"], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.real_frameworks
def test_sixty_four_ranks_of_many_tensors_take_at_most_four_times_the_work_of_sixteen() -> None:
    names = [f"model.layers.{layer}.attention.{w}.weight" for layer in range(100) for w in ("wq", "wk", "wv", "wo")]
    small = {name: np.zeros((4, 2), np.float32) for name in names}
    work, found = {}, {}
    for dp in (4, 16):
        layout = mc.RankLayout({"dp": dp, "tp": 4}, {"*.wq.weight": ("tp", None)})
        mc.save(mc.load(small), f"run{dp}", layout_of_ranks=layout, durable=False)
        work[dp] = work_of(lambda dp=dp: found.update({dp: doctor(f"run{dp}")}))
    assert work[16] <= 4 * work[4]
    assert said(found[16], "ranks and steps") == "✓ 64 ranks; steps 0_0; read: 0_0"
    assert found[16].steps_table().rows == [("0‥63", "✓")]


def test_cuts_that_the_runs_above_use_cover_the_weights(hf: Path) -> None:
    weights = weights_of(hf)
    cuts = cuts_of(weights)
    assert sum(c.maps[0] == 0 for c in cuts.values()) == 20
    assert cuts.keys() == weights.keys()


# ---- names of real repositories ----------------------------------------------------------------------------------------------

REPOS = Path(__file__).parents[4] / "shared" / "real_repos"


@pytest.mark.skipif(not REPOS.is_dir(), reason="no shared/real_repos beside the project: names of real repositories, not copied here")
@pytest.mark.parametrize("file", REPOSITORIES)
def test_a_real_repository_is_ready_or_told_why_not(file: str) -> None:
    content = json.loads(gzip.decompress((REPOS / f"{file}.json.gz").read_bytes()))
    repo = Path("repo")
    repo.mkdir()
    (repo / "config.json").write_text(json.dumps({**content["config"], **REPOSITORIES[file].more_config}))
    write_with_a_hole(repo / "model.safetensors", {n: tuple(shape or ()) for n, (_, shape, *_) in content["tensors"].items()})
    found = doctor("repo")
    told = REPOSITORIES[file].told
    if REPOSITORIES[file].read_as_numbers:  # the file that was made has one dtype: these are scales without codes
        assert "✗" in marks(found)
        assert "quantised" in found.what
    elif isinstance(told, str):
        assert said(found, "family").startswith(f"✓ {told}"), str(found)
        assert found.commands[0] == "mfconv convert repo OUT.ckpt"
        assert "✗" not in marks(found)
    else:
        assert not found.ready
        assert ("quantised" in found.what) == (told.code == "MFC312"), str(found)
        if told.code != "MFC312":
            assert any(f.mark in "✗!" and f.topic in ("mapping", "family") for f in found.findings)
