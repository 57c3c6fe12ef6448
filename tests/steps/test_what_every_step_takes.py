"""Every step that takes a checkpoint takes what ``load`` takes, or says what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, UsageError
from tests.support import numbered, raws_in
from tests.toys import raws_of

GIVEN: dict[str, Callable[[Path], Any]] = {
    "a folder, as text": str,
    "a folder": lambda toy: toy,
    "its config.json": lambda toy: toy / "config.json",
    "an index": lambda toy: toy / "model.safetensors.index.json",
    "one of its shards": lambda toy: sorted(toy.glob("*.safetensors"))[0],
    "a list of files": lambda toy: sorted(toy.glob("*.safetensors")),
    "a checkpoint": mc.load,
    "arrays": lambda toy: {name: raw.array() for name, raw in raws_of(mc.load(toy)).items()},
}
STEPS: dict[str, Callable[[Any], Any]] = {
    "save": lambda given: mc.save(given, "never.ckpt"),
    "map": lambda given: mc.map(given),
    "read": lambda given: mc.read(given, "w"),
    "merge_adapters": lambda given: mc.merge_adapters(given),
    "merge_adapters, the second": lambda given: mc.merge_adapters({"w": numbered(2)}, given),
    "diff": lambda given: mc.diff({"w": numbered(2)}, given),
    "verify": lambda given: mc.verify(given, {"w": numbered(2)}),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    mc.toy("llama", folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("what", GIVEN)
def test_save_writes_the_whole_of_what_it_is_given(what: str, toy: Path, tmp_path: Path) -> None:
    mc.save(GIVEN[what](toy), tmp_path / "x.safetensors", progress=False)
    assert raws_in(tmp_path / "x.safetensors") == raws_of(mc.load(toy))


@pytest.mark.parametrize("what", GIVEN)
def test_map_and_read_take_the_whole_of_what_they_are_given(what: str, toy: Path) -> None:
    given = GIVEN[what](toy)
    mapped = mc.map(given, "llama", config=toy)
    assert raws_of(mapped) == raws_of(mc.map(mc.load(toy)))
    assert mc.read(given, "model.norm.weight").tobytes() == mc.read(mc.load(toy), "model.norm.weight").tobytes()


def test_a_checkpoint_is_never_saved_over_the_path_it_was_given_by(toy: Path) -> None:
    with pytest.raises(mc.MfconvError, match="MFC402"):
        mc.save(toy, toy, overwrite=True)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("given", [3, None, b"toy", {"a"}, [Path("a"), 3]], ids=["a number", "nothing", "bytes", "a set", "a mixed list"])
def test_what_no_step_takes_is_refused_with_what_it_takes(step: str, given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if step == "merge_adapters, the second" and given is None:
        return  # without adapters of their own they are looked for in the base
    with pytest.raises(InputError, match="MFC109") as refused:
        STEPS[step](given)
    assert refused.value.hint is not None
    assert refused.value.hint.startswith("Give a path, a torch Module or state dict")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [3, None, np.ones(2)], ids=["a number", "nothing", "an array"])
def test_what_is_no_path_is_refused_where_only_a_path_can_be_meant(given: Any, toy: Path) -> None:
    for act in (lambda: mc.doctor(given), lambda: mc.save(toy, given)):
        with pytest.raises(UsageError, match=f"a {type(given).__name__}"):
            act()


def test_a_checkpoint_and_its_target_in_the_wrong_order_are_refused_by_the_target(toy: Path) -> None:
    with pytest.raises(UsageError, match="a Checkpoint"):
        mc.save("x.ckpt", mc.load(toy))  # type: ignore[arg-type]
