"""A migration that is killed at any point leaves nothing half; the same command finishes it, with the bytes of an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from tests.faults.support import finished, hashes, started
from tests.steps.migrating.runs_with_optimizers import NUMBERS, muon
from tests.support import write_safetensors

SIZES = {"hidden_size": 256, "vocab_size": 1000, "moe_intermediate_size": 128, "intermediate_size": 512}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All words of a migration but its target: of some 25 MB, weights and Muon's state."""
    folder = tmp_path_factory.mktemp("run")
    toy = mc.toy("deepseekv3", dtype="fp32", **SIZES)
    weights = {n: np.array(a) for n, a in ((t, mc.read(m, t)) for m in [mc.map(toy, "deepseekv3", to="mf")] for t in m.tensors)}
    ranks = mc.RankLayout({"tp": 2}, cuts={"*.linear_proj.weight": [None, "tp"]}, step=400)
    mc.save(write_safetensors(folder / "all.safetensors", {**weights, **muon(weights), **NUMBERS}), folder / "run", layout_of_ranks=ranks)
    (folder / "config.json").write_text(json.dumps(toy.config))
    return ["migrate", str(folder / "run"), "--config", str(folder / "config.json"), "--graph", "dynamic"]


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    target = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finished([*command, str(target)]).returncode == 0
    return hashes(target)


@pytest.mark.parametrize("segments", [0, 1, 40, 150])
def test_a_killed_migration_leaves_nothing_half_and_is_finished_by_the_same_command(
    segments: int, command: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    process = started(target, segments, [*command, str(target)])
    process.kill()
    process.wait()
    assert not target.exists()
    again = finished([*command, str(target)])
    assert again.returncode == 0, again.stderr
    assert ("Resumed" in again.stdout) == (segments > 0)
    assert hashes(target) == undisturbed
    assert not target.with_name("out.mfconv-partial").exists()


def test_another_form_does_not_go_on_with_what_was_begun(command: list[str], undisturbed: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "out"
    process = started(target, 40, [*command[:-1], "static", str(target)])
    process.kill()
    process.wait()
    again = finished([*command, str(target)])
    assert again.returncode == 0, again.stderr
    assert "Resumed" not in again.stdout
    assert hashes(target) == undisturbed
