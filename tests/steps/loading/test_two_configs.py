"""Sizes from a config.json, switches from the YAML of a run; contradictions, folders that a YAML names, and the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.mapping.forms import configured_options
from mfconv_nb.rules import Family, Option, Rule
from tests.toys import raws_of

SWITCHES = "use_contiguous_weight_layout_attention: True, use_interleaved_weight_layout_mlp: False"
CHOSEN = {"use_contiguous_weight_layout_attention": True, "use_interleaved_weight_layout_mlp": False}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Qwen3 of Hugging Face without weights, `hf/`, and what training made of it in a layout that is not the default: `run.ckpt`."""
    monkeypatch.chdir(tmp_path)
    mc.save(mc.toy("qwen3", dtype="fp32"), "whole")
    mapped = mc.map(mc.load("whole"), "qwen3", **CHOSEN)
    mc.save(mc.load({t.name: mc.read(mapped, t.name) for t in mapped}), "run.ckpt")
    Path("hf").mkdir()
    shutil.copy("whole/config.json", "hf/config.json")
    return tmp_path


def write_yaml(text: str, name: str = "run.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def original() -> dict[str, Any]:
    return raws_of(mc.load("whole"))


@pytest.mark.parametrize("order", [("hf", "run.yaml"), ("run.yaml", "hf/config.json")], ids=["folder first", "YAML first"])
def test_sizes_come_from_one_config_and_switches_from_the_other(order: Sequence[str], here: Path) -> None:
    write_yaml(f"pretrained_model_dir: /gone/Qwen3\nmodel: {{model_config: {{{SWITCHES}}}}}")
    mapped = mc.map(mc.load("run.ckpt", config=order), to="hf")
    assert raws_of(mapped) == original()
    assert {name: mapped.options[name] for name in CHOSEN} == CHOSEN
    assert mapped.report.notes == ()


def test_without_the_switches_the_numbers_are_others_and_a_note_says_so(here: Path) -> None:
    mapped = mc.map(mc.load("run.ckpt", config="hf"), to="hf")
    assert raws_of(mapped) != original()
    assert "assumed: use_interleaved_weight_layout_mlp=True" in " ".join(mapped.report.notes)


def test_what_is_published_is_the_config_of_the_model_without_a_word_of_the_run(here: Path) -> None:
    write_yaml(f"model: {{model_config: {{{SWITCHES}}}}}")
    mc.save(mc.map(mc.load("run.ckpt", config=["hf/config.json", "run.yaml"]), to="hf"), "back")
    published = json.loads(Path("back/config.json").read_text())
    assert published | {"dtype": "float32"} == json.loads(Path("hf/config.json").read_text()) | {"dtype": "float32"}


def test_a_yaml_with_switches_alone_leaves_the_sizes_to_the_config_beside_the_weights(here: Path) -> None:
    write_yaml(f"model: {{model_config: {{{SWITCHES}}}}}")
    mapped = mc.map(mc.load("whole", config="run.yaml"))
    assert raws_of(mapped) == raws_of(mc.load("run.ckpt"))
    shutil.copy("hf/config.json", "config.json")
    assert raws_of(mc.map(mc.load("run.ckpt", config="run.yaml"), to="hf")) == original()


def test_the_folder_that_a_yaml_names_gives_what_the_yaml_does_not_say(here: Path) -> None:
    write_yaml(f"pretrained_model_dir: {here / 'hf'}\nmodel: {{model_config: {{{SWITCHES}}}}}")
    assert raws_of(mc.map(mc.load("run.ckpt", config="run.yaml"), to="hf")) == original()
    write_yaml(f"pretrained_model_dir: {here / 'hf'}\nmodel: {{model_config: {{num_layers: 7, {SWITCHES}}}}}")
    with pytest.raises(mc.MfconvError, match=r"there, by run\.yaml .num_hidden_layers = 7."):
        mc.map(mc.load("run.ckpt", config="run.yaml"), to="hf")


def test_a_folder_that_is_not_here_is_named_where_a_size_is_missing(here: Path) -> None:
    write_yaml(f"pretrained_model_dir: /gone/Qwen3\nmodel: {{model_config: {{{SWITCHES}}}}}")
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load("run.ckpt", config="run.yaml"), "qwen3", to="hf")
    assert refused.value.code == "MFC107"
    assert "'/gone/Qwen3', which has no config here" in str(refused.value.hint)


def test_a_folder_that_is_not_here_is_a_note_where_no_size_is_missing(here: Path) -> None:
    config = {k: v for k, v in json.loads(Path("hf/config.json").read_text()).items() if k != "dtype"}
    write_yaml(json.dumps({"pretrained_model_dir": "/gone/Qwen3", "model": {"model_config": config | CHOSEN}}))
    source = mc.load("run.ckpt", config="run.yaml")
    assert source.notes == ("run.yaml takes what it does not say from '/gone/Qwen3', which is not here: not read",)
    assert raws_of(mc.map(source, to="hf")) == original()


def test_a_size_that_both_say_differently_is_refused_with_both_values(here: Path) -> None:
    write_yaml(f"model: {{model_config: {{ffn_hidden_size: 177, {SWITCHES}}}}}")
    for config in (["hf", "run.yaml"], ["run.yaml", "hf"]):
        with pytest.raises(mc.MfconvError) as refused:
            mc.load("run.ckpt", config=config)
        assert refused.value.code == "MFC304"
        assert (refused.value.where, refused.value.found) == ("'intermediate_size'", "177 in 'run.yaml'")
        assert "176" in str(refused.value.expected)
    with pytest.raises(mc.MfconvError, match=r"177 in 'run\.yaml'"):
        mc.load("whole", config="run.yaml")


def test_what_is_no_size_may_differ(here: Path) -> None:
    write_yaml(f"model: {{model_config: {{rms_norm_eps: 0.5, rope_theta: 7, eos_token_id: 9, hidden_size: 96, {SWITCHES}}}}}")
    assert raws_of(mc.map(mc.load("run.ckpt", config=["hf", "run.yaml"]), to="hf")) == original()


@pytest.mark.parametrize("given", [["hf", "whole"], ["run.yaml", "run.yaml"]], ids=["config.json", "YAML of a run"])
def test_two_configs_of_one_kind_are_refused(given: list[str], here: Path) -> None:
    write_yaml(f"model: {{model_config: {{{SWITCHES}}}}}")
    with pytest.raises(mc.MfconvError, match="one of each kind") as refused:
        mc.load("run.ckpt", config=given)
    assert refused.value.code == "MFC501"


def test_commands_take_config_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yaml(f"model: {{model_config: {{{SWITCHES}}}}}")
    both = ["--config", "hf", "--config", "run.yaml"]
    assert run(["convert", "--reversed", "run.ckpt", "back", *both, "--quiet"]) == 0
    assert raws_of(mc.load("back")) == original()
    assert json.loads(Path("back/config.json").read_text())["model_type"] == "qwen3"  # from the folder, as with one --config
    assert run(["doctor", "run.ckpt", *both]) == 0
    assert "--config hf --config run.yaml" in capsys.readouterr().out
    assert run(["verify", "whole", "run.ckpt", *both, "--quiet"]) == 0
    assert run(["convert", "--converter", "hf", "run.ckpt", "other", *both]) == 2
    assert "--converter takes one --config" in capsys.readouterr().err


# ---- an option that the YAML says under another name -------------------------------------------------------------------------

JOINED = Option("attention", ("split", "joined"), yaml_key="qkv_joined", yaml_values={True: "joined", False: "split"})
FAMILY = Family(key="mine", covers="", rules=(Rule("a", "b"),), sizes={}, options=(JOINED,))


@pytest.mark.parametrize(
    "side, to, said, expected",
    [
        ("mf", "mf", True, {"attention": "joined"}),
        ("mf", "mf", False, {"attention": "split"}),
        ("mf", "mf", 1, {}),  # 1 is not True
        ("mf", "mf", "joined", {"attention": "joined"}),
        ("mf", "mf", "elsewise", {}),
        ("mf", "hf", True, {}),  # the names of the source show it
        ("numbers", "hf", True, {"attention": "joined"}),
    ],
)
def test_the_yaml_says_an_option_under_its_own_key_and_words(side: str, to: str, said: object, expected: dict[str, Any]) -> None:
    family = replace(FAMILY, options=(replace(JOINED, side=side),))
    assert configured_options(family, {"qkv_joined": said}, to) == expected
    assert configured_options(family, {"attention": True}, to) == {}


def test_a_yaml_that_the_numbers_of_the_original_speak_against_is_followed_and_that_is_said(here: Path) -> None:
    write_yaml(f"model: {{model_config: {{{SWITCHES}}}}}", "right.yaml")
    write_yaml(
        "model: {model_config: {use_contiguous_weight_layout_attention: True, use_interleaved_weight_layout_mlp: True}}", "wrong.yaml"
    )
    assert mc.map(mc.load("run.ckpt", config=["whole", "right.yaml"]), to="hf").report.notes == ()
    mapped = mc.map(mc.load("run.ckpt", config=["whole", "wrong.yaml"]), to="hf")
    assert mapped.options["use_interleaved_weight_layout_mlp"] is True
    (note,) = mapped.report.notes
    assert note == (
        "use_interleaved_weight_layout_mlp=True was told from the config, but only with False these numbers resemble those in whole: "
        "is it of this run?"
    )
    (said,) = mc.map(mc.load("run.ckpt", config="whole"), to="hf", **{**CHOSEN, "use_interleaved_weight_layout_mlp": True}).report.notes
    assert said.startswith("use_interleaved_weight_layout_mlp=True was given, but only with False")
