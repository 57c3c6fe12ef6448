"""The YAML of a MindFormers run: sizes under the names of config.json, LoRA settings, and files that mean harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.run_yaml import RUN_CONFIG, read_run_config
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.rules import default_form
from tests.support import written
from tests.toys import arrays_of, raws_of

# as MindFormers 1.3.2 has them in configs/: llama2/lora_llama2_7b.yaml, llama2/finetune_llama2_70b.yaml, research/baichuan2/
# finetune_baichuan2_13b_lora.yaml, glm3/run_glm3_6b_finetune_2k_800T_A2_64G.yaml; what has no bearing on sizes is left away
LLAMA2_7B = """
runner_config: {epochs: 2, sink_mode: True}
train_dataset: &train_dataset
  input_columns: ["input_ids", "labels"]
train_dataset_task:
  type: CausalLanguageModelDataset
  dataset_config: *train_dataset
model:
  model_config:
    type: LlamaConfig
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    vocab_size: 32000
    multiple_of: 256
    rms_norm_eps: 1.0e-5
    extend_method: "None" # support "None", "PI", "NTK"
    pet_config:
      pet_type: lora
      lora_rank: 16
      lora_alpha: 16
      lora_dropout: 0.05
      target_modules: '.*wq|.*wk|.*wv|.*wo'
  arch:
    type: LlamaForCausalLM
"""
LLAMA2_70B = "model: {model_config: {type: LlamaConfig, hidden_size: 8192, num_layers: 80, num_heads: 64, n_kv_heads: 8, vocab_size: 32000,"
LLAMA2_70B += " multiple_of: 256, ffn_dim_multiplier: 1.3}}"
BAICHUAN2_13B = (
    "model: {model_config: {type: LlamaConfig, hidden_size: 5120, num_layers: 40, num_heads: 40, vocab_size: 125696, multiple_of: 128}}"
)
GLM3_6B = (
    "model: {model_config: {type: ChatGLM2Config, num_layers: 28, padded_vocab_size: 65024, hidden_size: 4096, ffn_hidden_size: 13696,"
)
GLM3_6B += " kv_channels: 128, num_attention_heads: 32, add_qkv_bias: True, multi_query_group_num: 2, pre_seq_len: None}}"
# as MindFormers 2.1.0 has them: qwen3/pretrain_qwen3_32b_4k.yaml, qwen3_moe/pretrain_qwen3_30b_a3b_4k.yaml
QWEN3_32B = """
model:
  model_config:
    vocab_size: 151936
    hidden_size: 5120
    intermediate_size: 25600
    num_hidden_layers: 64
    num_attention_heads: 64
    num_key_value_heads: 8
    head_dim: 128
    tie_word_embeddings: False
    attention_bias: False
    use_contiguous_weight_layout_attention: False
    model_type: "qwen3"
    architectures: ["Qwen3ForCausalLM"]
"""
QWEN3_30B_A3B = """
model:
  model_config:
    model_type: "qwen3_moe"
    architectures: "Qwen3MoeForCausalLM"
    vocab_size: 151936
    hidden_size: 2048
    intermediate_size: 6144
    num_hidden_layers: 48
    num_attention_heads: 32
    num_key_value_heads: 4
    head_dim: 128
    num_experts: 128
    moe_intermediate_size: 768
"""


def sizes(text: str, family: str, path: Path) -> dict[str, int]:
    config = read_run_config(written(path, text)).config
    return read_sizes(config, default_form(family_meant(family)).sizes).values_by_axis


@pytest.mark.parametrize(
    "text, family, expected",
    [
        (LLAMA2_7B, "llama", {"hidden": 4096, "layer": 32, "heads": 32, "groups": 32, "head": 128, "ffn": 11008, "vocab": 32000}),
        (LLAMA2_70B, "llama", {"hidden": 8192, "layer": 80, "heads": 64, "groups": 8, "head": 128, "ffn": 28672}),
        (BAICHUAN2_13B, "baichuan2", {"hidden": 5120, "layer": 40, "ffn": 13696, "vocab": 125696}),
        (GLM3_6B, "glm-n", {"hidden": 4096, "layer": 28, "ffn": 13696, "vocab": 65024}),
        (QWEN3_32B, "qwen3", {"hidden": 5120, "layer": 64, "group_q": 1024, "group_k": 128, "ffn": 25600, "untied": 1}),
        (QWEN3_30B_A3B, "qwen3-moe", {"hidden": 2048, "layer": 48, "group_q": 1024, "expert": 128, "expert_ffn": 768}),
    ],
    ids=["Llama 2 7B", "Llama 2 70B", "Baichuan2 13B", "ChatGLM3 6B", "Qwen3 32B", "Qwen3 30B-A3B"],
)
def test_the_sizes_of_real_runs_are_those_of_the_published_config(text: str, family: str, expected: dict[str, int], tmp_path: Path) -> None:
    found = sizes(text, family, tmp_path / "run.yaml")
    assert {axis: found[axis] for axis in expected} == expected


def test_the_settings_of_lora_are_read_with_the_name_of_the_file(tmp_path: Path) -> None:
    lora = read_run_config(written(tmp_path / "lora_llama2_7b.yaml", LLAMA2_7B)).lora
    assert lora is not None
    assert (lora.alpha, lora.rank, lora.dropout, lora.origin) == (16, 16, 0.05, "lora_llama2_7b.yaml")


def test_the_dynamic_graph_has_its_settings_at_the_top(tmp_path: Path) -> None:
    text = "model: {model_config: {hidden_size: 8}}\nlora_config: {target_modules: 'linear_qkv', lora_rank: 4, lora_alpha: 6}\n"
    lora = read_run_config(written(tmp_path / "run.yml", text)).lora
    assert lora is not None
    assert (lora.alpha, lora.rank) == (6, 4)


def test_a_size_that_the_run_does_not_say_is_named_and_not_made_up(tmp_path: Path) -> None:
    text = LLAMA2_7B.replace("    vocab_size: 32000\n", "")
    with pytest.raises(mc.MfconvError) as refused:
        sizes(text, "llama", tmp_path / "run.yaml")
    assert refused.value.code == "MFC107"
    assert "vocab" in str(refused.value)


def test_a_run_gives_the_sizes_of_a_checkpoint_and_contradicts_another(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf", dtype="fp32")
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    text = (
        LLAMA2_7B.replace("4096", "96")
        .replace("num_layers: 32", "num_layers: 4")
        .replace("num_heads: 32", "num_heads: 6\n    n_kv_heads: 2")
    )
    text = text.replace("32000", "331\n    head_dim: 20\n    intermediate_size: 176")
    (tmp_path / "mf.ckpt.mfconv" / "manifest.json").unlink()
    mapped = mc.map(mc.load(tmp_path / "mf.ckpt", config=written(tmp_path / "run.yaml", text)), "llama", to="hf")
    assert raws_of(mapped) == raws_of(mc.load(tmp_path / "hf"))
    with pytest.raises(mc.MfconvError, match="176"):
        mc.map(mc.load(tmp_path / "mf.ckpt", config=written(tmp_path / "run.yaml", text.replace("176", "177"))), "llama", to="hf")


@pytest.mark.parametrize("level", ["model: {model_config: {SIZES}}", "model: {SIZES}"], ids=["graph", "dynamic graph"])
def test_the_class_and_the_kind_of_the_model_are_read_wherever_a_run_says_them(level: str, tmp_path: Path) -> None:
    text = level.replace("SIZES", "model_type: qwen3, architectures: Qwen3ForCausalLM, num_layers: 2, ffn_hidden_size: 8")
    config = read_run_config(written(tmp_path / "run.yaml", text)).config
    assert (config["model_type"], config["architectures"]) == ("qwen3", ["Qwen3ForCausalLM"])
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (2, 8)


def test_the_sizes_of_a_run_are_not_published_as_a_config_json(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf", dtype="fp32")
    config = read_run_config(written(tmp_path / "run.yaml", LLAMA2_7B)).config
    assert config[RUN_CONFIG] == "run.yaml"
    mc.save(mc.load(tmp_path / "hf", config=config), tmp_path / "copy")
    assert not (tmp_path / "copy" / "config.json").exists()


# ---- files that mean harm --------------------------------------------------------------------------------------------------


def bomb(merge: bool) -> str:
    """A few hundred bytes that unfold to 9 ** 40 nodes, as a list or through merge keys."""
    if merge:
        lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 40)]
    else:
        lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    return "\n".join(lines)


HOSTILE: dict[str, Any] = {
    "an object to build": "model: !!python/object/apply:os.system ['touch PWNED']",
    "a tag": "model: !thing {model_config: {}}",
    "aliases of aliases": bomb(False),
    "merges of merges": bomb(True),
    "an alias of itself": "a: &a [*a]\nmodel: {model_config: {}}",
    "an unknown alias": "model: *nothing",
    "deep lists": "[" * 5000 + "]" * 5000,
    "deep mappings": "{a: " * 5000 + "1" + "}" * 5000,
    "a long number": "model: {model_config: {hidden_size: " + "9" * 100_000 + "}}",
    "a list as a key": "? [1, 2]\n: 3",
    "no mapping": "- 1",
    "nothing": "",
    "no YAML": "\x00\x01",
    "half a mapping": "model: {",
    "a date that is none": "model: {model_config: {a: 2001-99-99}}",
    "no model": "seed: 1",
    "a model that is text": "model: llama",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_means_harm_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mc.MfconvError) as refused:
        read_run_config(written(tmp_path / "run.yaml", text))
    assert refused.value.code == "MFC106"
    assert len(str(refused.value)) < 1000
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "value",
    [
        "!!bool maybe",
        '!!int ""',
        '!!int "+"',
        '!!float "-"',
        "!!float one",
        "!!timestamp never",
        "!!binary é",
        "!!null [a]",
        "!!map 3",
        "!!omap {a: 1}",
        "!!pairs 3",
        "!!set [a]",
        "!!python/name:os.system ''",
        "!mine 3",
        "0x" + "f" * 9_000,
        "2001-13-45",
    ],
)
def test_a_value_that_does_not_fit_its_tag_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"model: {{model_config: {{hidden_size: 64}}}}\nodd: {value}\n", encoding="utf-8")
    with pytest.raises(mc.MfconvError, match="MFC106") as caught:
        read_run_config(tmp_path / "run.yaml")
    assert len(str(caught.value)) < 800
    assert caught.value.hint


@pytest.mark.parametrize("value", ["1" + ":59" * 300_000, '!!int "' + "_1:" * 300_000 + '1"', "1" + ":59" * 300_000 + ".5"])
def test_a_number_of_any_length_is_refused_before_it_is_computed(value: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"model: {{model_config: {{hidden_size: {value}}}}}\n")  # an hour of long arithmetic, read as one
    with pytest.raises(mc.MfconvError, match="MFC106"):
        read_run_config(tmp_path / "run.yaml")


def test_a_long_text_in_a_run_is_no_number(tmp_path: Path) -> None:
    text = "{% for message in messages %}{{ message }}{% endfor %}" * 400
    (tmp_path / "run.yaml").write_text(f"model: {{model_config: {{hidden_size: 64}}}}\nchat_template: '{text}'\n")
    assert read_run_config(tmp_path / "run.yaml").config["hidden_size"] == 64


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mc.MfconvError, match="1 MiB"):
        read_run_config(written(tmp_path / "run.yaml", "#" * (1 << 20) + "\n"))
    with pytest.raises(mc.MfconvError, match="MFC101"):
        read_run_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(mc.MfconvError, match="MFC101"):
        read_run_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize("value", ["'sixteen'", "[16]", "0", "-4", ".nan", ".inf", "true"])
@pytest.mark.parametrize("key", ["lora_alpha", "lora_rank"])
def test_settings_that_are_no_numbers_are_refused(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        read_run_config(written(tmp_path / "run.yaml", LLAMA2_7B.replace(f"{key}: 16", f"{key}: {value}")))
    assert refused.value.code == "MFC319"


@pytest.mark.parametrize("value", ["-1", "'x'", "1.5e300", "[]", "true"])
def test_odd_sizes_are_refused_where_they_are_used_and_break_nothing(value: str, tmp_path: Path) -> None:
    with pytest.raises(mc.MfconvError):
        sizes(LLAMA2_7B.replace("hidden_size: 4096", f"hidden_size: {value}"), "llama", tmp_path / "run.yaml")
    sizes(LLAMA2_7B.replace("multiple_of: 256", f"multiple_of: {value}\n    intermediate_size: 8"), "llama", tmp_path / "run.yaml")


def test_the_yaml_of_a_run_tells_the_family_by_the_class_of_its_model(tmp_path: Path) -> None:
    trained = mc.map(mc.toy("llama"), "llama")
    mc.save(mc.load(arrays_of(trained)), tmp_path / "run.ckpt")
    (tmp_path / "run.yaml").write_text(
        "model: {model_config: {type: LlamaConfig, hidden_size: 96, num_layers: 4, num_heads: 6, n_kv_heads: 2, vocab_size: 331,"
        " intermediate_size: 176, head_dim: 20}, arch: {type: LlamaForCausalLM}}"
    )
    mapped = mc.map(mc.load(tmp_path / "run.ckpt", config=tmp_path / "run.yaml"))
    assert mapped.family == "llama"
    assert mc.diff(mapped, mc.toy("llama"), values=True).equal
