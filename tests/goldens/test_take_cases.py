"""What a lean copy of a recorded case keeps, and what it leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.goldens import take_mcore_cases
from tests.goldens.recipe import HERE, case_names
from tests.goldens.take_cases import lean, runs_to_match, text_of

RECORDED = HERE.parents[2] / "shared" / "goldens" / "mcore" / "cases"
NAMES = [["b", "a"], ["x"], ["never used"]]
BLOBS = [
    {"shape": [9], "dtype": "float32", "sha256": "never used"},
    {"shape": [2], "dtype": "float32", "sha256": "one"},
    {"shape": [], "dtype": "int64", "sha256": "two"},
]


def run(**changes: Any) -> dict[str, Any]:
    """A recorded run, with its own way back and other things that no test needs."""
    listed = {"names": 0, "blobs": [1, 2]}
    return {"ok": True, "dtype": "fp32", "kwargs": {}, "tensors": listed, "returned": True, "reversed": [{"tensors": listed}]} | changes


def recorded(*runs: dict[str, Any], case: str = "some-case", key: str = "llama") -> dict[str, Any]:
    tensors = [{"name": "a", "shape": [2], "dtype": "float32", "sha256": "one"}]
    tensors.append({"name": "b", "shape": [], "dtype": "int64", "sha256": "two", "fill": "const:7", "buffer": True})
    files = [{"name": "1.bin", "tensors": ["a"], "wrap": "model"}, {"name": "2.bin", "tensors": ["b"]}]
    head = {"case": case, "model_key": key, "family": "Some", "seed": 1, "env": {"python": "3"}, "oracle": {}}
    return head | {
        "hf": {"config": {"n": 1}, "index": None, "files": files, "tensors": tensors},
        "runs": list(runs),
        "name_lists": NAMES,
        "blobs": BLOBS,
    }


def test_a_copy_keeps_the_source_and_the_runs_and_nothing_that_is_not_used() -> None:
    assert lean(recorded(run(), run(ok=False), run(dtype="script (always fp32)", kwargs={"layers": 1}))) == {
        "case": "some-case",
        "model_key": "llama",
        "family": "Some",
        "seed": 1,
        "hf": {
            "config": {"n": 1},
            "index": None,
            "files": [{"name": "1.bin", "tensors": 1, "wrap": "model"}, {"name": "2.bin", "tensors": 1}],
            "tensors": {"names": 0, "blobs": "0-1"},
        },
        "runs": [
            {"number": 0, "dtype": "fp32", "kwargs": {}, "tensors": {"names": 1, "blobs": "0 2"}},
            {"number": 2, "dtype": None, "kwargs": {"layers": 1}, "tensors": {"names": 1, "blobs": "0 2"}},
        ],
        "name_lists": [["a", "b"], ["b", "a"]],
        "blobs": [["float32", [2], "one"], ["int64", [], "two", "const:7"], ["int64", [], "two"]],
    }


def test_runs_that_failed_or_went_back_or_record_a_mistake_say_nothing() -> None:
    nothing = [run(ok=False), run(tensors=[]), run(direction="ms2hf"), run(kwargs={"use_gmm": "False"})]
    assert runs_to_match(recorded(*nothing, run(), run(kwargs={"use_gmm": False}), run(dtype="omit"))) == [4, 5, 6]
    assert runs_to_match(recorded(run(loader_dtype="native"), run(loader_dtype="float32"), key="qwenvl")) == [1]
    assert runs_to_match(recorded(run(loader_dtype="native"))) == [0]
    assert runs_to_match(recorded(run(dtype="fp16"), run(), case="deepseek2-bf16-160experts")) == [1]
    assert runs_to_match(recorded(run(), case="deepseek2-bf16-8experts")) == []


def test_a_source_in_another_order_than_its_files_is_refused() -> None:
    case = recorded(run())
    case["hf"]["files"].reverse()
    with pytest.raises(ValueError, match="some-case"):
        lean(case)


def test_a_case_with_a_mindformers_side_only_keeps_that() -> None:
    case = recorded(run(direction="ms2hf"))
    case["ms_input"] = {"file": "model.ckpt", "tensors": case.pop("hf")["tensors"]}
    copy = lean(case)
    assert copy["ms_input"] == {"tensors": {"names": 0, "blobs": "0-1"}}
    assert "hf" not in copy
    assert copy["runs"] == []


MCORE_CASE = {
    "case": "qwen3_template_f32",
    "source": "some script",
    "seed": "public",
    "fill_as": {"copy": "a"},
    "config": {"n": 1},
    "hf": [{"name": n, "shape": [2], "dtype": "F32", "sha256": "one"} for n in ("a", "copy")],
    "ms": {"files": {"1": {"tensors": [{"name": "a", "shape": [2], "dtype": "BF16", "sha256": "two"}]}, "map.json": {"json": {}}}},
}


def test_a_case_of_the_mcore_layout_has_a_copy_of_the_same_form() -> None:
    assert take_mcore_cases.lean(MCORE_CASE) == {
        "case": "qwen3_template_f32",
        "model_key": "qwen3",
        "family": "some script",
        "seed": "public",
        "hf": {
            "config": {"n": 1},
            "index": None,
            "files": [{"name": "model.safetensors", "tensors": 2}],
            "tensors": {"names": 0, "blobs": "0-1"},
        },
        "runs": [{"number": 0, "dtype": None, "kwargs": dict(take_mcore_cases.QWEN3), "tensors": {"names": 1, "blobs": "2"}}],
        "name_lists": [["a", "copy"], ["a"]],
        "blobs": [["float32", [2], "one"], ["float32", [2], "one", "same:a"], ["bfloat16", [2], "two"]],
    }


def test_every_case_of_the_mcore_layout_that_is_taken_is_here_and_none_is_both_taken_and_not() -> None:
    assert set(take_mcore_cases.TAKEN) <= set(case_names())
    assert not set(take_mcore_cases.TAKEN) & set(take_mcore_cases.NOT_TAKEN)
    assert not set(take_mcore_cases.NOT_TAKEN) & set(case_names())


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded cases beside the project")
def test_the_copies_of_the_mcore_layout_are_those_of_the_recorded_cases() -> None:
    assert {p.stem for p in RECORDED.glob("*.json")} == {*take_mcore_cases.TAKEN, *take_mcore_cases.NOT_TAKEN}
    for name in take_mcore_cases.TAKEN:
        copy = take_mcore_cases.lean(json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8")))
        assert (HERE / "cases" / f"{name}.json").read_text(encoding="utf-8") == text_of(copy), name


@pytest.mark.parametrize("name", case_names())
def test_the_copies_are_written_with_one_name_run_or_blob_a_line(name: str) -> None:
    text = (HERE / "cases" / f"{name}.json").read_text(encoding="utf-8")
    assert text == text_of(json.loads(text))
