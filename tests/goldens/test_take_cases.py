"""What a lean copy of a recorded case keeps, and what it leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.goldens.recipe import HERE, case_names
from tests.goldens.take_cases import lean, runs_to_match, text_of

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


@pytest.mark.parametrize("name", case_names())
def test_the_copies_are_written_with_one_name_run_or_blob_a_line(name: str) -> None:
    text = (HERE / "cases" / f"{name}.json").read_text(encoding="utf-8")
    assert text == text_of(json.loads(text))
