"""The YAML that we write is read by MindFormers itself: as the config it makes of the folder, and as a network that holds what we write.
And what we read of the run files that MindFormers ships is what it reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.rules import default_form
from mfconv_nb.steps.loading.caller_facts import read_caller_facts
from tests.mindformers_package import mindformers_folder
from tests.support import PATIENCE

NEEDS = Path(sys.prefix) / "mindformers-needs"
pytestmark = [
    pytest.mark.real_frameworks,
    pytest.mark.skipif(not NEEDS.is_dir(), reason="no .venv/mindformers-needs: make setup puts there what mindformers imports"),
    pytest.mark.skipif(find_spec("mindspore") is None, reason="mindspore is not installed"),
]

NO_GROUPS = {"n_group": 1, "topk_group": 1}  # MindFormers' default are 8 groups of experts
TRANSLATED: dict[str, dict[str, Any]] = {  # family, and in what its config differs from the toy's
    "qwen3": {"num_hidden_layers": 2},
    "qwen3-moe": {"num_experts": 7},
    "deepseekv3": NO_GROUPS,
    "telechat3": {},
    "telechat3-moe": {**NO_GROUPS, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},  # its class takes no others
    "deepseek4": {},
    "glm4-mcore": {},
    "glm4-moe": NO_GROUPS,
    "qwen2-mcore": {},
}
NETWORKS = ("qwen3", "qwen3-moe", "deepseekv3", "telechat3", "telechat3-moe")
RUN_STATE = (".mlp.router.fi_accu", ".mlp.router.expert_load")

SHIPPED = {  # the run files of the installed package that give all sizes, and the family they are of
    "deepseek3/pretrain_deepseek3_12b_16p_pp16.yaml": "deepseekv3",
    "deepseek3/pretrain_deepseek3_1b_8p_pynative.yaml": "deepseekv3",
    "deepseek4/pretrain_deepseek4_flash.yaml": "deepseek4",
    "deepseek4/pretrain_deepseek4_flash_reduction.yaml": "deepseek4",
    "deepseek4/pretrain_deepseek4_pro.yaml": "deepseek4",
    "deepseek4/pretrain_deepseek4_pro_reduction.yaml": "deepseek4",
    "qwen3/pretrain_qwen3_32b_4k.yaml": "qwen3",
    "qwen3_moe/pretrain_qwen3_30b_a3b_4k.yaml": "qwen3-moe",
    "telechat3/pretrain_telechat3_36b.yaml": "telechat3",
    "telechat3_moe/pretrain_telechat3_105b_a4b_4k.yaml": "telechat3-moe",
}
WITH_PLAIN_ROTARY = ("qwen3", "qwen3-moe", "telechat3", "telechat3-moe")


def shipped(name: str) -> Path:
    return mindformers_folder().parent / "configs" / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family a config.json in `hf/`, and the YAML that is made of it."""
    root = tmp_path_factory.mktemp("runs")
    for family, changes in TRANSLATED.items():
        (root / family / "hf").mkdir(parents=True)
        config = {**(mc.toy(family).config or {}), **changes}
        (root / family / "hf" / "config.json").write_text(json.dumps(config))
        mc.author.translate_config(root / family / "hf", root / family / "run.yaml", to="yaml")
    return root


@pytest.fixture(scope="module")
def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What MindFormers reads in our files and in its own, by family or name."""
    files = {**{family: folder / family / "run.yaml" for family in TRANSLATED}, **{name: shipped(name) for name in SHIPPED}}
    script = Path(__file__).with_name("what_mindformers_reads.py")
    ran = subprocess.run(
        [sys.executable, str(script), *map(str, files.values())],
        cwd=folder,  # mindformers writes its logs where it is run
        env={**os.environ, "PYTHONPATH": str(NEEDS), "GLOG_v": "3", "RUN_MODE": "train"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    return {name: found[str(file)] for name, file in files.items()}


@pytest.mark.parametrize("family", TRANSLATED)
def test_mindformers_reads_our_yaml_as_it_reads_the_folder(family: str, read: dict[str, dict[str, Any]]) -> None:
    ours, theirs = read[family]["config"], read[family]["from the folder"]
    named = {"pretrained_model_dir", "dtype"}  # where it was read, and a word of transformers alone
    assert {k: v for k, v in ours.items() if k not in named} == {k: v for k, v in theirs.items() if k not in named}


@pytest.mark.parametrize("family", NETWORKS)
def test_the_network_of_our_yaml_holds_what_the_family_writes(family: str, folder: Path, read: dict[str, dict[str, Any]]) -> None:
    held = {name: shape for name, shape in read[family]["parameters"].items() if not name.endswith(RUN_STATE)}
    assert held == {t.name: list(t.shape) for t in mc.expected(family, folder / family / "hf")}


@pytest.mark.parametrize("name, family", SHIPPED.items())
def test_we_read_in_a_shipped_run_file_the_sizes_that_mindformers_reads(name: str, family: str, read: dict[str, dict[str, Any]]) -> None:
    sentences = default_form(family_meant(family)).sizes
    ours = read_sizes(read_caller_facts(shipped(name)).config or {}, sentences).values_by_axis
    config = {key: value for key, value in read[name]["config"].items() if value is not None}
    theirs = read_sizes({**config, **({"head_dim": config["v_head_dim"]} if family == "deepseek4" else {})}, sentences).values_by_axis
    assert {axis: size for axis, size in ours.items() if theirs.get(axis) != size} == {}
    assert len(ours) > 9


@pytest.mark.parametrize("name", [name for name, family in SHIPPED.items() if family in WITH_PLAIN_ROTARY])
def test_a_shipped_run_file_becomes_a_config_json_and_a_run_file_of_the_same_sizes(name: str, tmp_path: Path) -> None:
    sentences = default_form(family_meant(SHIPPED[name])).sizes
    mc.author.translate_config(shipped(name), tmp_path / "config.json", to="json")
    mc.author.translate_config(tmp_path, tmp_path / "back.yaml", to="yaml")
    before, middle, after = (
        read_sizes(read_caller_facts(file).config or {}, sentences).values_by_axis
        for file in (shipped(name), tmp_path / "config.json", tmp_path / "back.yaml")
    )
    assert before == middle == after
