"""Where there is one of a thing, every text says it in the singular."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.core.report import Table, table_html, table_text
from mfconv_nb.runs.rank_folders import open_rank_folders
from mfconv_nb.steps.inspecting.families import family_report
from tests.support import numbered, write_hf, write_safetensors

# Not the number of a rank, a layer or a line ("rank 1 holds"), nor "1 of 3 tensors", "1.1 tensors" or "1 is".
WRONG = re.compile(
    r"(?<![\w.,:/-])(?<!rank )(?<!layer )(?<!stage )(?<!line )(?<!step )(?<!axis )1 "
    r"(?:(?:more|other|real|golden|faulty|adapter|equal|rank|name|shape) )?(?!is\b|was\b|has\b|axis\b|bias\b)[a-z]+s\b"
)
FAMILY = mc.rules.Family(key="one", covers="a norm", sizes={}, rules=(mc.rules.Rule("norm.weight", "norm.gamma"),))


def wrong_in(*results: Any) -> list[str]:
    """The wrong plurals of what is shown as text and as HTML."""
    texts: list[str] = []
    for result in results:
        texts += [table_text(result), table_html(result)] if isinstance(result, Table) else [str(result)]
        texts += [result._repr_html_()] if hasattr(result, "_repr_html_") else []
    return [text[max(0, m.start() - 80) : m.end() + 40] for text in texts for m in WRONG.finditer(text)]


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "hf", {"norm.weight": numbered(1)})


@pytest.mark.parametrize(
    "text", ["1 tensors", "kept: 1 copies", "· 1 ranks ·", "and 1 more files", "(1 name patterns)", "1 bytes", "left out: 1 tensors of it"]
)
def test_a_wrong_plural_is_seen(text: str) -> None:
    assert WRONG.search(text)


@pytest.mark.parametrize("text", ["1 tensor", "1 of 3 tensors", "rank 1 holds", "21 tensors", "1,001 tensors", "1 more tensor", "1 is"])
def test_what_is_right_is_let_through(text: str) -> None:
    assert not WRONG.search(text)


def test_the_steps_speak_of_one_tensor(hf: Path, tmp_path: Path) -> None:
    source = mc.load(hf)
    mapped = mc.map(source, FAMILY)
    target = tmp_path / "out.ckpt"
    planned = mc.save(mapped, target, dtype="bf16", dry_run=True)
    saved = mc.save(mapped, target, dtype="bf16")
    again = mc.load(target)
    reports = [source, mapped, mapped.report, planned, saved, again, mc.doctor(hf), mc.doctor(target), mc.anatomy(hf), mc.anatomy(target)]
    reports += [
        mc.verify(source, again, FAMILY),
        mc.verify(target),
        mc.diff(source, source, values=True),
        mapped.report.explain("norm.weight"),
    ]
    reports += [mc.diff({"a": np.zeros(3, np.float32)}, {"a": np.array([0, 0, 1], np.float32)}, values=True)]
    assert wrong_in(*reports) == []
    assert "1 tensor · 1 parameter ·" in repr(source)
    assert "Would write 1 tensor, 32 B, 1 file to" in repr(planned)
    assert "1 tensor rounded from fp32 to bf16" in repr(saved)


def test_families_of_one_rule_speak_of_one(hf: Path) -> None:
    assert wrong_in(mc.author.prove("llama"), family_report(FAMILY)) == []
    suggested = mc.author.suggest(mc.load(hf), mc.load({"norm.gamma": numbered(1)}))
    assert wrong_in(suggested) == []
    assert repr(suggested).split(":")[0].endswith("1 rule")


def test_refusals_speak_of_one(hf: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(b"x")
    absent = tmp_path / "absent" / "model.safetensors.index.json"
    absent.parent.mkdir()
    absent.write_text('{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    surplus = tmp_path / "surplus"
    surplus.mkdir()
    write_safetensors(surplus / "a.safetensors", {"a": numbered(1), "b": numbered(1)})
    (surplus / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "a.safetensors"}}')
    source = mc.load(hf)
    calls = [
        lambda: mc.load(short),
        lambda: mc.load(absent),
        lambda: mc.load(surplus),
        lambda: source["norm.weigh"],
        lambda: mc.map(mc.load({"unknown": numbered(1)}), FAMILY),
        lambda: mc.map(mc.load({"unknown": numbered(1)})),
    ]
    refused = []
    for call in calls:
        with pytest.raises(MfconvError) as caught:
            call()
        refused.append(caught.value)
    assert wrong_in(*refused) == []
    assert "1 byte" in str(refused[0])


def test_a_run_of_one_rank_speaks_of_one(tmp_path: Path) -> None:
    (tmp_path / "run" / "rank_0").mkdir(parents=True)
    write_safetensors(
        tmp_path / "run" / "rank_0" / "x_rank_0-1_5.safetensors", {"norm.gamma": numbered(1), "adam_m.norm.gamma": numbered(1)}
    )
    run = open_rank_folders(tmp_path / "run")
    loaded = mc.load(tmp_path / "run")
    assert wrong_in(loaded, mc.doctor(tmp_path / "run"), run.table()) == []
    assert "1 rank · 2 tensors" in run.table().headline


def test_a_cut_run_speaks_of_one_tensor_of_the_optimizer(tmp_path: Path) -> None:
    from tests.runs.made import Cut, make_rank_folders, write_strategy_file

    tensors = {"wq.weight": numbered(4, 4), "adam_m.wq.weight": numbered(4, 4), "norm": numbered(4)}
    cuts = {name: Cut((2,), (0, -1)) for name in tensors if "wq" in name}
    make_rank_folders(tmp_path, tensors, cuts)
    for path in (tmp_path / "strategy").iterdir():
        write_strategy_file(path, {"wq.weight": cuts["wq.weight"]}, [0])
    run = open_rank_folders(tmp_path)
    assert wrong_in(*run.notes, *run.assumed, *run.problems, run.table(), run.slice_map("wq.weight")) == []
    assert any("no strategy file names 1 tensor of the optimizer's state" in text for text in run.assumed)
    assert any("no strategy file names 1 tensor, taken as whole" in text for text in run.assumed)
