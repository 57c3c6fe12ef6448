"""A checkpoint cut for the ranks of a run: read back here, merged by mindspore, opened by MindFormers' own code; killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import InputError, MappingError, OutputError, UsageError
from mfconv_nb.runs.rank_layout import CHECKPOINT_2, RANK_FOLDERS
from tests.faults.support import finished, started

CUTS: dict[str, Any] = {
    "*.attention.w[qkv].weight": ("tp", None),
    "*.attention.wo.weight": (None, "tp"),
    "*.feed_forward.w[13].weight": ("tp", None),
    "*.feed_forward.w2.weight": (None, ("tp", "dp")),
}
STAGES = (("*tok_embeddings*", "*.layers.0.*", "*.layers.1.*"), ("*.layers.[23].*", "*norm_out*", "lm_head*"))
LAYOUTS = {
    "tensor and data parallel": {"devices": {"dp": 2, "tp": 2}, "cuts": CUTS},
    "with optimizer shards": {"devices": {"dp": 2, "tp": 2}, "cuts": CUTS, "optimizer_shards": 2},
    "with pipeline stages": {"devices": {"dp": 2, "tp": 2}, "cuts": CUTS, "stages": STAGES, "step": 12, "epoch": 3},
    "one rank": {"devices": {"dp": 1}},
}


@pytest.fixture(scope="module")
def model() -> mc.Checkpoint:
    return mc.map(mc.toy("llama"), "llama")


@pytest.mark.parametrize("form", [RANK_FOLDERS, CHECKPOINT_2])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_read_back_every_byte_is_there(model: mc.Checkpoint, kind: str, form: str, tmp_path: Path) -> None:
    layout = mc.RankLayout(form=form, **LAYOUTS[kind])
    mc.save(model, tmp_path / "run", layout_of_ranks=layout)
    again = mc.load(tmp_path / "run")
    assert mc.diff(again, model, values=True).equal
    assert len(again.run.steps) == layout.ranks
    assert (again.family, again.config) == ("llama", model.config)  # the manifest beside it is of these tensors


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_what_each_rank_holds_is_what_numpy_cuts(model: mc.Checkpoint, ending: str, tmp_path: Path) -> None:
    layout = mc.RankLayout({"dp": 2, "tp": 2}, CUTS, ending=ending)
    mc.save(model, tmp_path / "run", layout_of_ranks=layout)
    name = "model.layers.1.feed_forward.w2.weight"
    whole = mc.read(model, name)
    for rank in range(4):
        held = mc.load(tmp_path / "run" / f"rank_{rank}" / f"checkpoint_rank_{rank}-0_0{ending}")
        dp, tp = divmod(rank, 2)
        expected = np.split(np.split(whole, 2, 1)[tp], 2, 1)[dp]
        assert mc.read(held, name).tobytes() == expected.tobytes()
        assert mc.read(held, "lm_head.weight").tobytes() == mc.read(model, "lm_head.weight").tobytes()


@pytest.mark.real_frameworks
@pytest.mark.parametrize("kind", ["tensor and data parallel", "with optimizer shards", "with pipeline stages"])
def test_mindspore_merges_what_we_cut(model: mc.Checkpoint, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ms = pytest.importorskip("mindspore")
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(percent=1, available=1 << 40))  # it waits for free memory
    numbers = mc.load({t.name: mc.read(model, t.name).astype(np.float32) for t in model})
    mc.save(numbers, tmp_path / "run", layout_of_ranks=mc.RankLayout(**LAYOUTS[kind]))
    strategy = tmp_path / "strategy"
    (tmp_path / "run" / "strategy").rename(strategy)
    ms.parallel.merge_pipeline_strategys(str(strategy), str(tmp_path / "merged.ckpt"))
    ms.parallel.unified_safetensors(str(tmp_path / "run"), str(tmp_path / "merged.ckpt"), str(tmp_path / "whole"))
    whole = mc.load(tmp_path / "whole")
    assert mc.diff(whole, numbers, values=True).equal


@pytest.mark.real_frameworks
@pytest.mark.parametrize("kind", ["tensor and data parallel", "with optimizer shards", "with pipeline stages"])
def test_mindformers_own_loader_opens_what_we_cut(model: mc.Checkpoint, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `load_checkpoint`, on one card, puts the slices of four or eight ranks together by our metadata."""
    from tests.runs.iterations import Rank, cell_of, mindformers_checkpoint

    numbers = {t.name: mc.read(model, t.name).astype(np.float32) for t in model}
    mc.save(mc.load(numbers), tmp_path / "run", layout_of_ranks=mc.RankLayout(form=CHECKPOINT_2, **LAYOUTS[kind]))
    network = cell_of({name: np.zeros_like(array) for name, array in numbers.items()})
    monkeypatch.setattr(Rank, "size", 1)
    with mindformers_checkpoint() as (checkpoint, *_):
        checkpoint.load_checkpoint(str(next((tmp_path / "run").glob("iteration_*"))), network)
    assert {p.name: p.asnumpy().tobytes() for p in network.get_parameters()} == {n: a.tobytes() for n, a in numbers.items()}


@pytest.mark.parametrize("form", [RANK_FOLDERS, CHECKPOINT_2])
def test_cut_again_as_the_strategy_files_of_another_run_say(model: mc.Checkpoint, form: str, tmp_path: Path) -> None:
    mc.save(model, tmp_path / "first", layout_of_ranks=mc.RankLayout(**LAYOUTS["with optimizer shards"]))
    layout = mc.RankLayout(strategy=tmp_path / "first" / "strategy", form=form, step=7)
    mc.save(mc.load(tmp_path / "first"), tmp_path / "second", layout_of_ranks=layout)
    first, second = mc.load(tmp_path / "first"), mc.load(tmp_path / "second")
    assert {n: set(t.boxes) for n, t in first.run.tensors.items()} == {n: set(t.boxes) for n, t in second.run.tensors.items()}
    assert mc.diff(second, model, values=True).equal


def test_the_strategy_of_another_model_is_refused(model: mc.Checkpoint, tmp_path: Path) -> None:
    other = mc.map(mc.toy("llama"), "llama", qkv_concat=True)
    mc.save(other, tmp_path / "other", layout_of_ranks=mc.RankLayout({"tp": 1}))
    with pytest.raises(InputError, match="MFC114") as caught:
        mc.save(model, tmp_path / "run", layout_of_ranks=mc.RankLayout(strategy=tmp_path / "other" / "strategy"))
    assert "w_qkv" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_cast_and_the_checksums_of_slices(model: mc.Checkpoint, tmp_path: Path) -> None:
    mc.save(model, tmp_path / "run", dtype="fp32", layout_of_ranks=mc.RankLayout({"tp": 2}, {"*.wo.weight": (None, "tp")}))
    assert {s.dtype for s in mc.load(tmp_path / "run").specs} == {"F32"}
    assert mc.verify(tmp_path / "run").equal
    manifest = json.loads((tmp_path / "run.mfconv" / "manifest.json").read_text())
    assert len(manifest["slices"]) == 2 * len(model)
    file = tmp_path / "run" / "rank_1" / "checkpoint_rank_1-0_0.safetensors"
    with file.open("r+b") as stream:
        stream.seek(-3, 2)
        byte = stream.read(1)[0]
        stream.seek(-3, 2)
        stream.write(bytes([byte ^ 1]))
    report = mc.verify(tmp_path / "run")
    assert not report.equal
    assert "1 slice changed; first " in repr(report)
    assert "rank_1/" in repr(report)


def test_mistakes_in_a_layout_are_named(model: mc.Checkpoint, tmp_path: Path) -> None:
    def refused(error: type[Exception], *words: str, **layout: Any) -> None:
        with pytest.raises(error) as caught:
            mc.save(model, tmp_path / "run", layout_of_ranks=mc.RankLayout(**layout))
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert not list(tmp_path.iterdir())

    refused(UsageError, "devices", devices={})
    refused(UsageError, "'tensr'", "Did you mean 'tensor'", devices={"tensor": 2}, cuts={"*.wo.weight": (None, "tensr")})
    refused(UsageError, "'*.w9.weight'", "fits no tensor", devices={"tp": 2}, cuts={"*.w9.weight": ("tp", None)})
    refused(MappingError, "MFC307", "model.layers.0.attention.wo.weight", "2", devices={"tp": 2}, cuts={"*.wo.weight": ("tp",)})
    refused(MappingError, "MFC307", "331 in 2 parts", devices={"tp": 2}, cuts={"lm_head.weight": ("tp", None)})
    refused(MappingError, "MFC307", "cuts twice", devices={"tp": 2}, cuts={"*.wo.weight": ("tp", "tp")})
    refused(UsageError, "stages", "lm_head.weight", devices={"tp": 2}, stages=[["model.*"], ["model.*"]])
    refused(UsageError, "form", "rank folders", devices={"tp": 2}, form="rank folder")
    refused(UsageError, "strategy", devices={"tp": 2}, strategy="x")
    with pytest.raises(OutputError, match="MFC407"):
        mc.save(model, tmp_path / "run.ckpt", layout_of_ranks=mc.RankLayout({"tp": 1}))


@pytest.mark.parametrize("form", [RANK_FOLDERS, CHECKPOINT_2])
@pytest.mark.parametrize("shards", [1, 2])
def test_numbers_vectors_and_empty_tensors_are_cut_and_read_back(form: str, shards: int, tmp_path: Path) -> None:
    arrays = {
        "scale_sense": np.array(65536, np.float32),
        "global_step": np.array([3], np.int32),
        "norm": np.arange(6, dtype=np.float64),
        "nothing": np.zeros((0, 4), np.float32),
        "größe.名": np.arange(64, dtype=np.float16).reshape(2, 4, 8),
    }
    layout = mc.RankLayout({"dp": 2, "tp": 2}, {"größe*": (None, ("tp", "dp"), None)}, optimizer_shards=shards, form=form)
    mc.save(mc.load(arrays), tmp_path / "run", layout_of_ranks=layout)
    again = mc.load(tmp_path / "run")
    assert {t.name: (t.shape, mc.read(again, t.name).tobytes()) for t in again} == {n: (a.shape, a.tobytes()) for n, a in arrays.items()}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefix", "../../evil"),
        ("prefix", "a/b"),
        ("prefix", ""),
        ("prefix", 5),
        ("prefix", "."),
        ("prefix", "x\ny"),
        ("prefix", "p" * 200),
        ("step", -1),
        ("step", "4"),
        ("step", 1.5),
        ("step", True),
        ("step", 10**12),
        ("epoch", None),
        ("optimizer_shards", 0),
        ("optimizer_shards", -2),
        ("optimizer_shards", "2"),
        ("stages", "*"),
        ("stages", ["*tok_embeddings*", "*"]),
        ("stages", [[5]]),
        ("stages", {"0": ["*"]}),
        ("cuts", ["*.wo.weight"]),
        ("cuts", {"*.wo.weight": "tp"}),
        ("cuts", {"*.wo.weight": None}),
        ("cuts", {"*.wo.weight": [5, None]}),
        ("cuts", {"*.wo.weight": [[5], None]}),
        ("cuts", {"*.wo.weight": [None, {"tp": 1}]}),
        ("devices", {"dp": True}),
        ("devices", {"dp": "2"}),
        ("devices", [2, 2]),
        ("strategy", 5),
        ("form", ["rank folders"]),
    ],
)
def test_a_field_of_another_kind_is_refused_by_its_name(field: str, value: Any, model: mc.Checkpoint, tmp_path: Path) -> None:
    layout = tmp_path / "layout.json"
    layout.write_text(json.dumps({"devices": {"dp": 2, "tp": 2}, field: value}))
    with pytest.raises(UsageError, match="MFC501") as caught:
        mc.save(model, tmp_path / "run", layout_of_ranks=layout)
    assert field in str(caught.value)
    assert "object" not in str(caught.value.found), "a sentence of Python tells a reader nothing"
    assert [p.name for p in tmp_path.iterdir()] == ["layout.json"]


def test_names_of_hugging_face_are_cut_with_a_word_that_a_run_knows_others(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf")
    report = mc.save(mc.load(tmp_path / "hf"), tmp_path / "run", layout_of_ranks=mc.RankLayout({"dp": 2}))
    assert any("names of Hugging Face" in note for note in report.notes)
    assert "from_pretrained" not in repr(report)


def test_another_step_is_never_put_beside_the_one_that_is_there(model: mc.Checkpoint, tmp_path: Path) -> None:
    mc.save(model, tmp_path / "run", layout_of_ranks=mc.RankLayout({"tp": 2}, {"*.w2.weight": (None, "tp")}))
    other = mc.RankLayout({"tp": 2}, {"*.wo.weight": (None, "tp")}, step=5)  # its strategy files would replace those of step 0
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(model, tmp_path / "run", layout_of_ranks=other, overwrite=True)
    assert str(mc.load(tmp_path / "run").run.chosen) == "0_0"


def test_a_folder_with_another_runs_ranks_is_never_mixed_into(model: mc.Checkpoint, tmp_path: Path) -> None:
    mc.save(model, tmp_path / "run", layout_of_ranks=mc.RankLayout({"dp": 4}))
    small = mc.RankLayout({"dp": 2}, step=5)
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(model, tmp_path / "run", layout_of_ranks=small)
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(model, tmp_path / "run", layout_of_ranks=small, overwrite=True)  # rank_2 and rank_3 would stay
    mc.save(model, tmp_path / "run", layout_of_ranks=mc.RankLayout({"dp": 4}), overwrite=True)
    assert mc.diff(mc.load(tmp_path / "run"), model, values=True).equal


def test_from_the_shell_there_and_back(model: mc.Checkpoint, tmp_path: Path) -> None:
    mc.save(model, tmp_path / "model.ckpt")
    layout = tmp_path / "layout.json"
    layout.write_text(json.dumps({"devices": {"dp": 2, "tp": 2}, "cuts": {"*.wo.weight": [None, "tp"]}, "form": CHECKPOINT_2}))
    assert run(["save", str(tmp_path / "model.ckpt"), str(tmp_path / "run"), "--layout_of_ranks", str(layout)]) == 0
    assert run(["save", str(tmp_path / "run"), str(tmp_path / "again.ckpt"), "--only", "weights"]) == 0
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "model.ckpt").read_bytes()
    layout.write_text('{"devices": {"dp": 2}, "cut": {}}')
    assert run(["save", str(tmp_path / "model.ckpt"), str(tmp_path / "other"), "--layout_of_ranks", str(layout)]) == 2


def test_killed_while_cutting_and_run_again(tmp_path: Path) -> None:
    numbers = {f"w{n}": np.arange(1 << 18, dtype=np.float32).reshape(1 << 9, -1) + n for n in range(12)}
    mc.save(mc.load(numbers), tmp_path / "whole.safetensors")
    layout = tmp_path / "layout.json"
    layout.write_text('{"devices": {"tp": 4}, "cuts": {"w*": [null, "tp"]}}')
    words = ["save", str(tmp_path / "whole.safetensors"), str(tmp_path / "run"), "--layout_of_ranks", str(layout), "--threads", "1"]
    process = started(tmp_path / "run", 20, words)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run").exists()
    assert "Resumed" in finished(words).stdout
    assert mc.diff(mc.load(tmp_path / "run"), mc.load(numbers), values=True).equal
