"""Every recorded conversion of the reference, again: forward to its bytes, and back to the original."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from tests.goldens.matching import problems_back, problems_forward
from tests.goldens.recipe import case_names, load_case, original_of, values_of, write_case
from tests.support import Raw, raw_of, raws_in

TIED, BUFFERS = "llama32-tied-bf16", "llama2-mha-fp16-binshards"


def marks_of(name: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.real_frameworks,) if load_case(name).needs_torch else ()


CASES = [pytest.param(n, marks=marks_of(n), id=n) for n in case_names()]
RUNS = [pytest.param(n, r.number, marks=marks_of(n), id=f"{n}-{r.number}-{r.dtype}") for n in case_names() for r in load_case(n).runs]


def test_there_are_cases_and_each_says_what_to_do() -> None:
    assert len(case_names()) == 7
    assert len(RUNS) == 33


@pytest.mark.parametrize("name", CASES)
def test_the_recipe_makes_the_recorded_tensors(name: str) -> None:
    case = load_case(name)
    assert {t.name: t.sha256 for t in case.tensors} == {
        t.name: hashlib.sha256(values_of(t, case.seed).tobytes()).hexdigest() for t in case.tensors
    }


@pytest.mark.parametrize("name", CASES)
def test_the_rebuilt_folder_holds_the_recorded_tensors(name: str, tmp_path: Path) -> None:
    assert problems_back(load_case(name), raws_in(write_case(load_case(name), tmp_path / "hf"))) == []


# ---- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, number", RUNS)
def test_the_conversion_has_the_names_shapes_dtypes_and_bytes_of_the_reference(name: str, number: int, tmp_path: Path) -> None:
    case = load_case(name)
    run = next(r for r in case.runs if r.number == number)
    hf = write_case(case, tmp_path / "hf")
    mc.save(mc.map(mc.load(hf), "llama"), tmp_path / "out.ckpt", dtype=run.dtype)
    assert problems_forward(case, run, raws_in(tmp_path / "out.ckpt")) == []


def test_the_matching_notices_every_kind_of_difference() -> None:
    case = load_case("codellama-fp32")
    run = case.runs[1]
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
    assert problems_forward(case, run, {**right, norm: raw_of(right[norm].array().astype(np.float64))})[0].startswith(f"dtype {norm}")
    assert problems_back(case, original) == []
    assert len(problems_back(case, {n: r._replace(data=b"\0" * len(r.data)) for n, r in original.items()})) == len(original)


# ---- back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out.ckpt", "out.safetensors", "out"])
@pytest.mark.parametrize("name", CASES)
def test_the_way_back_restores_every_name_shape_dtype_and_byte(name: str, target: str, tmp_path: Path) -> None:
    case = load_case(name)
    hf = write_case(case, tmp_path / "hf")
    mc.save(mc.map(mc.load(hf), "llama"), tmp_path / target)
    mc.save(mc.map(mc.load(tmp_path / target), "llama", to="hf"), tmp_path / "back")
    assert problems_back(case, raws_in(tmp_path / "back")) == []
    assert mc.verify(hf, tmp_path / target).equal
    assert mc.diff(hf, tmp_path / "back", values=True).equal


@pytest.mark.parametrize("name", [n for n in CASES if "specials" not in str(n.values[0]) and "fp32" not in str(n.values[0])])
def test_a_wider_dtype_and_back_restores_every_byte_as_the_report_says(name: str, tmp_path: Path) -> None:
    case = load_case(name)
    hf = write_case(case, tmp_path / "hf")
    wide = mc.save(mc.map(mc.load(hf), "llama"), tmp_path / "wide.ckpt", dtype="fp32")
    own = wide.way_back.rpartition(" ")[2]
    assert wide.way_back == f"exact, with --dtype {own}"
    mc.save(mc.map(mc.load(tmp_path / "wide.ckpt")), tmp_path / "back", dtype=own)
    assert problems_back(case, raws_in(tmp_path / "back")) == []


@pytest.mark.parametrize("name", [pytest.param(BUFFERS, marks=pytest.mark.real_frameworks), TIED])
def test_the_command_line_converts_there_and_back_with_mindformers_flags(name: str, tmp_path: Path) -> None:
    case = load_case(name)
    hf, mf, back = write_case(case, tmp_path / "hf"), tmp_path / "out.ckpt", tmp_path / "back"
    run = next(r for r in case.runs if r.dtype == "bf16")
    convert = ["convert", "--model", "llama"]
    assert mfconv([*convert, "--input_path", f"{hf}/", "--output_path", str(mf), "--dtype", "bf16"]) == 0
    assert problems_forward(case, run, raws_in(mf)) == []
    assert mfconv([*convert, "--input_path", f"{hf}/", "--output_path", str(mf), "--force"]) == 0
    assert mfconv(["--model", "llama", "--reversed", "--input_path", str(mf), "--output_path", str(back)]) == 0
    assert problems_back(case, raws_in(back)) == []
    assert mfconv(["verify", str(hf), str(mf)]) == 0


# ---- without the folder beside the output ------------------------------------------------------------------------------


def test_without_the_side_folder_a_tied_head_is_told_from_the_config(tmp_path: Path) -> None:
    case = load_case(TIED)
    hf, mf, back = write_case(case, tmp_path / "hf"), tmp_path / "mf" / "out.ckpt", tmp_path / "back"
    assert mfconv(["convert", str(hf), str(mf)]) == 0
    shutil.rmtree(f"{mf}.mfconv")
    assert mfconv(["convert", "--model", "llama", "--reversed", str(mf), str(back), "--config", str(hf)]) == 0
    assert problems_back(case, raws_in(back)) == []
    assert mc.verify(hf, mf).equal


def test_without_the_side_folder_and_a_config_both_copies_of_a_tied_head_stay(tmp_path: Path) -> None:
    case = load_case(TIED)
    mc.save(mc.map(mc.load(write_case(case, tmp_path / "hf"))), tmp_path / "mf" / "out.ckpt")
    shutil.rmtree(tmp_path / "mf" / "out.ckpt.mfconv")
    mc.save(mc.map(mc.load(tmp_path / "mf" / "out.ckpt"), "llama", to="hf"), tmp_path / "back")
    back = raws_in(tmp_path / "back")
    assert problems_back(case, back) == ["unexpected lm_head.weight"]
    assert back["lm_head.weight"] == back["model.embed_tokens.weight"]


@pytest.mark.real_frameworks
def test_without_the_side_folder_buffers_are_named_as_not_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = load_case(BUFFERS)
    buffers = {t.name for t in case.tensors if t.name.endswith("inv_freq")}
    hf, mf = write_case(case, tmp_path / "hf"), tmp_path / "out.ckpt"
    mc.save(mc.map(mc.load(hf)), mf)
    assert mc.verify(hf, mf).equal
    shutil.rmtree(f"{mf}.mfconv")

    report = mc.verify(hf, mf)
    assert not report.equal
    assert repr(report).startswith("! Incomplete.")
    assert all(name in repr(report) for name in buffers)
    assert mfconv(["verify", str(hf), str(mf)]) == 1
    assert "! Incomplete." in capsys.readouterr().out

    mc.save(mc.map(mc.load(mf, config=hf), "llama", to="hf"), tmp_path / "back")
    assert sorted(problems_back(case, raws_in(tmp_path / "back"))) == sorted(f"missing {n}" for n in buffers)


def test_raws_compare_names_shapes_dtypes_and_bytes() -> None:
    one = Raw("F32", (1,), b"\0\0\0\0")
    assert one != one._replace(shape=(1, 1)) != one._replace(dtype="I32") != one._replace(data=b"\0\0\0\x80")
