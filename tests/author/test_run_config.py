"""A config.json as the YAML of a run and back: what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.toys import raws_of

FAMILIES = ("qwen3", "qwen3-moe", "deepseekv3", "deepseek4", "glm4-mcore", "glm4-moe", "qwen2-mcore", "telechat3", "telechat3-moe")


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    return {**(mc.toy(family).config or {}), **changes}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_back_restores_the_config_but_for_the_dtype(family: str, tmp_path: Path) -> None:
    config = config_of(family, rope_scaling={"rope_type": "yarn", "factor": 4.0}, eos_token_id=[7, 9])
    mc.author.translate_config(config, tmp_path / "run.yaml", to="yaml")
    back = json.loads(mc.author.translate_config(tmp_path / "run.yaml", to="json").text)
    assert back == {key: value for key, value in config.items() if key != "dtype"}


def test_the_yaml_says_the_layout_and_serves_as_a_config(tmp_path: Path) -> None:
    layout = {"use_contiguous_weight_layout_attention": True, "use_interleaved_weight_layout_mlp": False}
    original = mc.toy("qwen3", dtype="fp32", intermediate_size=184)
    said = mc.author.translate_config(original.config or {}, tmp_path / "run.yaml", to="yaml", **layout)
    content = yaml.safe_load(said.text)
    assert (said.family, content["use_legacy"], list(content)) == ("qwen3", False, ["use_legacy", "model"])
    assert {key: content["model"]["model_config"][key] for key in layout} == layout
    mapped = mc.map(original, **layout)
    trained = mc.load({t.name: mc.read(mapped, t.name) for t in mapped}, config=tmp_path / "run.yaml")
    assert raws_of(mc.map(trained, to="hf")) == raws_of(original)


def test_a_rank_of_nothing_stays_nothing(tmp_path: Path) -> None:
    mc.author.translate_config(config_of("deepseekv3", q_lora_rank=None), tmp_path / "run.yaml", to="yaml")
    assert "q_lora_rank: null" in (tmp_path / "run.yaml").read_text()
    assert json.loads(mc.author.translate_config(tmp_path / "run.yaml", to="json").text)["q_lora_rank"] is None


@pytest.mark.parametrize(
    "config, options, code, said",
    [
        (config_of("llama"), {}, "MFC302", "'llama'"),
        (config_of("bloom"), {}, "MFC302", "'bloom'"),
        ({**config_of("qwen3"), "hidden_size": None}, {}, "MFC107", "hidden"),
        ({**config_of("qwen3"), "quantization_config": {"quant_method": "awq"}}, {}, "MFC312", "AWQ"),
        (config_of("qwen3"), {"use_interleaved_weight_layout_mlp": "perhaps"}, "MFC501", "perhaps"),
        (config_of("qwen3-moe"), {"experts_2d": False}, "MFC501", "no YAML says"),
        (config_of("qwen3"), {"prefix": "x"}, "MFC305", "prefix"),
    ],
    ids=["Llama", "BLOOM", "no size", "quantised", "a wrong value", "a form of names", "of another family"],
)
def test_what_no_yaml_can_say_is_refused(config: dict[str, Any], options: dict[str, object], code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(mc.MfconvError, match=said) as refused:
        mc.author.translate_config(config, tmp_path / "run.yaml", to="yaml", **options)
    assert refused.value.code == code
    assert refused.value.hint
    assert not (tmp_path / "run.yaml").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"position_embedding_type": "yarn", "scaling_factor": 40}, "position_embedding_type: 'yarn'"),
        ({"moe_shared_expert_intermediate_size": 60}, "60 for 2 x 28"),
    ],
    ids=["rotary embedding", "width of shared experts"],
)
def test_what_config_json_has_no_word_for_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(json.dumps({"model": {"model_config": config_of("deepseekv3", **changes)}}))
    with pytest.raises(mc.MfconvError, match="MFC106") as refused:
        mc.author.translate_config(run_file, to="json")
    assert said in str(refused.value)


def test_the_width_of_shared_experts_is_the_one_that_the_run_gives_them(tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(json.dumps({"model": {"model_config": config_of("deepseekv3", moe_shared_expert_intermediate_size=60)}}))
    specs = {t.name: t.shape for t in mc.expected("deepseekv3", run_file)}
    assert specs["decoder.layers.1.mlp.shared_experts.linear_fc2.weight"] == (96, 60)


def test_the_command_writes_what_the_call_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hf").mkdir()
    Path("hf/config.json").write_text(json.dumps(config_of("qwen3")))
    assert run(["config", "hf", "--to", "yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(mc.author.translate_config("hf", to="yaml").text)
    assert run(["config", "hf", "run.yaml", "--to", "yaml", "--use_interleaved_weight_layout_mlp", "False"]) == 0
    assert "use_interleaved_weight_layout_mlp: false" in Path("run.yaml").read_text()
    assert run(["config", "hf", "run.yaml", "--to", "yaml"]) == 2
    assert "MFC401" in capsys.readouterr().err
    assert run(["config", "run.yaml", "back.json", "--to", "json"]) == 0
    assert run(["config", "hf", "run.yaml", "--to", "yaml", "--force"]) == 0
    assert run(["config", "run.yaml", "--to", "yaml"]) == 2
    assert "Say --to json" in capsys.readouterr().err
    assert json.loads(Path("back.json").read_text())["head_dim"] == 20
