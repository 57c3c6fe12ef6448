"""Every recorded conversion of the reference, again: forward to its bytes, and back to the original."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from tests.goldens.matching import problems_back, problems_forward
from tests.goldens.recipe import Case, Run, case_names, load_case, original_of, values_of, write_case
from tests.support import Raw, raw_of, raws_in

HfOf = Callable[[str], Path]

WITH_HF = [load_case(name) for name in case_names() if load_case(name).files is not None]
SMALL = [case for case in WITH_HF if not case.is_wide]
WIDE = [case.name for case in WITH_HF if case.is_wide]


def param(case: Case, *values: Any, label: str = "") -> Any:
    """Values for a test of a case, which says whether it needs torch."""
    marks = (pytest.mark.real_frameworks,) if case.needs_torch else ()
    return pytest.param(*values or (case.name,), marks=marks, id=f"{case.name}{label}")


def ways_of(case: Case) -> list[tuple[str, dict[str, Any]]]:
    """The different keys and options of a case's runs that take all layers."""
    ways = [(run.key, {n: v for n, v in run.options.items() if n != "layers"}) for run in case.runs] or [(case.key, {})]
    return [way for number, way in enumerate(ways) if way not in ways[:number]]


def params_of(names: list[str]) -> list[Any]:
    return [param(load_case(name)) for name in names]


def run_of(case: Case, number: int) -> Run:
    return next(run for run in case.runs if run.number == number)


def converted(hf: Path, run: Run, target: Path) -> dict[str, Raw]:
    """What we make of a case where the reference made a run."""
    mc.save(mc.map(mc.load(hf), run.key, **run.options), target, dtype=run.dtype)
    return raws_in(target)


CASES = [param(case) for case in SMALL]
RUNS = [param(case, case.name, run.number, label=f"-{run.number}-{run.dtype}") for case in SMALL for run in case.runs]
WAYS = [
    param(case, case.name, key, options, label="".join(f"-{name}={value}" for name, value in options.items()) + f"-{key}")
    for case in SMALL
    for key, options in ways_of(case)
]


def test_every_case_and_every_run_of_the_reference_is_here() -> None:
    assert len(case_names()) == 94
    assert len(WITH_HF) == 88
    assert WIDE == ["cogvlm2-video-bf16-fullwidth", "wizardcoder-bf16-tied-fullwidth"]
    assert sum(len(case.runs) for case in WITH_HF) == 266
    assert len(RUNS) == 261
    assert [case.name for case in WITH_HF if not case.runs] == ["deepseek2-bf16-8experts"]  # only its way back says what to do


@pytest.mark.parametrize("name", CASES)
def test_the_recipe_makes_the_recorded_tensors(name: str) -> None:
    case = load_case(name)
    assert {t.name: t.sha256 for t in case.tensors} == {
        t.name: hashlib.sha256(values_of(t, case.seed).tobytes()).hexdigest() for t in case.tensors
    }


@pytest.mark.parametrize("name", CASES)
def test_the_rebuilt_folder_holds_the_recorded_tensors(name: str, hf_of: HfOf) -> None:
    assert problems_back(load_case(name), raws_in(hf_of(name))) == []


@pytest.mark.real_frameworks
def test_a_tied_tensor_of_a_rebuilt_torch_file_shares_its_storage(hf_of: HfOf) -> None:
    import torch

    state = torch.load(hf_of("bloom-prefixed-head-fp32") / "pytorch_model.bin", weights_only=True)
    assert state["lm_head.weight"].data_ptr() == state["transformer.word_embeddings.weight"].data_ptr()


# ---- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, number", RUNS)
def test_the_conversion_has_the_names_shapes_dtypes_and_bytes_of_the_reference(name: str, number: int, hf_of: HfOf, tmp_path: Path) -> None:
    case = load_case(name)
    run = run_of(case, number)
    assert problems_forward(case, run, converted(hf_of(name), run, tmp_path / "out.ckpt")) == []


def test_the_matching_notices_every_kind_of_difference() -> None:
    case = load_case("codellama-fp32")
    run = run_of(case, 1)
    made = {t.name: raw_of(np.zeros(t.shape, np.float32)) for t in run.tensors}
    original = original_of(case)
    by_hash = {hashlib.sha256(raw.data).hexdigest(): raw for raw in original.values()}
    right = {t.name: by_hash[t.sha256] for t in run.tensors}
    norm, head = "model.norm_out.weight", "lm_head.weight"
    assert problems_forward(case, run, right) == []
    assert len(problems_forward(case, run, made)) == len(run.tensors)
    assert problems_forward(case, run, {n: r for n, r in right.items() if n != norm}) == [f"missing {norm}"]
    assert problems_forward(case, run, {**right, "odd": right[norm]}) == ["unexpected odd"]
    assert problems_forward(case, run, {**right, norm: right[head]})[0].startswith(f"shape {norm}")
    other = {**right, norm: raw_of(right[norm].array().astype(np.float64))}
    assert problems_forward(case, run, other) == [f"dtype {norm}: F64, not ['F32']"]
    assert problems_forward(case, replace(run, dtype=None), other) == [f"dtype {norm}: F64, not ['F32']"]
    assert problems_back(case, original) == []
    assert len(problems_back(case, {n: r._replace(data=b"\0" * len(r.data)) for n, r in original.items()})) == len(original)


def test_where_a_dtype_is_asked_for_a_tensor_has_it_or_the_one_that_the_reference_fixed() -> None:
    case = load_case("codellama-fp32")
    run = replace(run_of(case, 1), dtype="bf16")  # recorded as float32
    original = original_of(case)
    by_hash = {hashlib.sha256(raw.data).hexdigest(): raw for raw in original.values()}
    fixed = {t.name: by_hash[t.sha256] for t in run.tensors}
    assert problems_forward(case, run, fixed) == []
    norm = "model.norm_out.weight"
    wrong = {**fixed, norm: raw_of(fixed[norm].array().astype(np.float16))}
    assert f"dtype {norm}: F16, not ['BF16', 'F32']" in problems_forward(case, run, wrong)


def test_a_tensor_with_a_nan_is_not_compared_by_its_bytes_but_others_are() -> None:
    case = load_case("codellama-fp32")
    run = run_of(case, 1)
    original = original_of(case)
    by_hash = {hashlib.sha256(raw.data).hexdigest(): raw for raw in original.values()}
    right = {t.name: by_hash[t.sha256] for t in run.tensors}
    norm = "model.norm_out.weight"
    values = right[norm].array().copy()
    values[0] = np.nan
    assert problems_forward(case, run, {**right, norm: raw_of(values)}) == []
    values[0] = np.inf
    assert problems_forward(case, run, {**right, norm: raw_of(values)}) == [f"bytes {norm} (F32, golden F32)"]


@pytest.mark.parametrize("name", params_of(["deepseek2-bf16-160experts", "deepseek2-bf16-8experts"]))
def test_the_key_deepseek_means_deepseek2_where_the_names_say_so(name: str, hf_of: HfOf) -> None:
    source = mc.load(hf_of(name))
    mapped = mc.map(source, "deepseek")
    assert mapped.family == "deepseek2"
    assert mapped.specs == mc.map(source, "deepseek2").specs


# ---- back ------------------------------------------------------------------------------------------------------------


def check_the_way_back(case: Case, hf: Path, there: Path, key: str, options: dict[str, Any]) -> None:
    """There, and back without a word: the manifest beside the file knows the family and its options."""
    mc.save(mc.map(mc.load(hf), key, **options), there)
    back = there.with_name("back")
    mc.save(mc.map(mc.load(there), to="hf"), back)
    assert problems_back(case, raws_in(back)) == []
    assert mc.verify(hf, there).equal
    assert mc.diff(hf, back, values=True).equal


@pytest.mark.parametrize("name, key, options", WAYS)
def test_the_way_back_restores_every_name_shape_dtype_and_byte(
    name: str, key: str, options: dict[str, Any], hf_of: HfOf, tmp_path: Path
) -> None:
    check_the_way_back(load_case(name), hf_of(name), tmp_path / "out.ckpt", key, options)


@pytest.mark.parametrize("target", ["out.safetensors", "out"])
@pytest.mark.parametrize(
    "name",
    params_of(
        [
            "codellama-fp32",
            "deepseek3-bf16-4experts",
            "llama-specials-bf16",
            "llama-specials-fp16",
            "llama-specials-fp32",
            "llama2-mha-fp16-binshards",
            "llama3-gqa-bf16-12layers",
            "llama32-tied-bf16",
            "mixtral-8x7b-bf16",
            "qwenvl-bf16",
            "swin-pretrain-fp32",
        ]
    ),
)
def test_the_way_back_is_as_good_from_safetensors_and_from_a_folder(name: str, target: str, hf_of: HfOf, tmp_path: Path) -> None:
    case = load_case(name)
    check_the_way_back(case, hf_of(name), tmp_path / target, *ways_of(case)[0])


@pytest.mark.parametrize(
    "name",
    params_of(
        [
            "glm4-bf16-st",
            "llama2-mha-fp16-binshards",
            "llama3-gqa-bf16-12layers",
            "llama32-tied-bf16",
            "mixtral-8x7b-bf16",
            "qwen-bf16-stshards",
            "whisper-fp16-bin",
        ]
    ),
)
def test_a_wider_dtype_and_back_restores_every_byte_as_the_report_says(name: str, hf_of: HfOf, tmp_path: Path) -> None:
    case = load_case(name)
    wide = mc.save(mc.map(mc.load(hf_of(name)), case.key), tmp_path / "wide.ckpt", dtype="fp32")
    own = wide.way_back.rpartition(" ")[2]
    assert wide.way_back == f"exact, with --dtype {own}"
    mc.save(mc.map(mc.load(tmp_path / "wide.ckpt")), tmp_path / "back", dtype=own)
    assert problems_back(case, raws_in(tmp_path / "back")) == []


# ---- real widths -----------------------------------------------------------------------------------------------------


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone right after the test: some hundred megabytes go through it."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_a_case_of_real_width_is_converted_as_recorded_and_comes_back(name: str, short_lived: Path) -> None:
    case = load_case(name)
    hf, there = write_case(case, short_lived / "hf"), short_lived / "out.ckpt"
    assert problems_back(case, raws_in(hf)) == []
    found: dict[int, list[str]] = {}
    for run in case.runs:
        found[run.number] = problems_forward(case, run, converted(hf, run, there))
        there.unlink()
        shutil.rmtree(f"{there}.mfconv")
    assert found == {run.number: [] for run in case.runs}
    for key, options in ways_of(case):
        check_the_way_back(case, hf, there, key, options)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", params_of(["llama2-mha-fp16-binshards", "llama32-tied-bf16"]))
def test_the_command_line_converts_there_and_back_with_mindformers_flags(name: str, hf_of: HfOf, tmp_path: Path) -> None:
    case = load_case(name)
    hf, mf, back = hf_of(name), tmp_path / "out.ckpt", tmp_path / "back"
    run = next(r for r in case.runs if r.dtype == "bf16")
    convert = ["convert", "--model", "llama"]
    assert mfconv([*convert, "--input_path", f"{hf}/", "--output_path", str(mf), "--dtype", "bf16"]) == 0
    assert problems_forward(case, run, raws_in(mf)) == []
    assert mfconv([*convert, "--input_path", f"{hf}/", "--output_path", str(mf), "--force"]) == 0
    assert mfconv(["--model", "llama", "--reversed", "--input_path", str(mf), "--output_path", str(back)]) == 0
    assert problems_back(case, raws_in(back)) == []
    assert mfconv(["verify", str(hf), str(mf)]) == 0
