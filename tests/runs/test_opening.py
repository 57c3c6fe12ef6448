"""Runs, end to end: a folder of slices becomes a Hugging Face folder that transformers opens, or is refused before a byte is written.

Where MindSpore itself merges something wrong without a word, the right is chosen here, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.cli.main import run as command_line
from mfconv_nb.core.errors import InputError, MappingError, MfconvError, OutputError, UsageError
from mfconv_nb.core.progress import Progress
from mfconv_nb.runs.opening import expected_shapes
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, write_strategy_file
from tests.runs.made_runs import STATE, Arrays, cuts_of, make_run, original, weights_of
from tests.support import flip_bit, raw_of, raws_in, without, write_safetensors
from tests.toys import arrays_of


@pytest.fixture
def hf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return original(tmp_path / "hf")


@pytest.fixture
def weights(hf: Path) -> Arrays:
    return weights_of(hf)


def sha_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def convert(*more: str) -> int:
    return command_line(["convert", "--reversed", "run", "OUT", "--config", "hf", *more])


def assert_nothing_written() -> None:
    assert sorted(p.name for p in Path().iterdir()) == ["hf", "run"]


def assert_is_original(folder: str = "OUT") -> None:
    assert raws_in(Path(folder)) == raws_in(Path("hf"))


# ---- merged and reversed in one pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", pytest.param("ckpt", marks=pytest.mark.real_frameworks)])
@pytest.mark.parametrize("strategy", ["protobuf", "json", "merged"])
def test_a_run_becomes_the_original_folder_in_one_command(ending: str, strategy: str, weights: Arrays) -> None:
    make_run(Path("run"), weights, ending=ending, strategy=strategy)
    before = sha_of(Path("run"))
    assert convert() == 0
    assert_is_original()
    assert sha_of(Path("run")) == before  # nothing is written into the run's folder, nothing deleted
    assert sorted(p.name for p in Path().iterdir()) == ["OUT", "OUT.mfconv", "hf", "run"]  # and no merged copy in between


@pytest.mark.parametrize("redundant", [True, False])
def test_redundancy_is_never_asked_for(redundant: bool, weights: Arrays) -> None:
    make_run(Path("run"), weights, redundant=redundant)
    assert convert() == 0
    assert_is_original()


def test_optimizer_shards_and_both_axes(weights: Arrays) -> None:
    cuts = cuts_of(weights) | {n: Cut((2, 2), (0, -1), shards=2) for n in weights if ".w1." in n}
    cuts |= {n: Cut((2, 2), (1, 0)) for n in weights if ".w3." in n}
    make_run(Path("run"), weights, cuts=cuts, optimizer=False)
    assert convert() == 0
    assert_is_original()


def test_pipeline_stages_are_put_together_and_a_missing_stage_is_named(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = {
        n: Cut((2, 2), c.maps, stages=(int(n.split("layers.")[1][0]) // 2,) if "layers." in n else (1,))
        for n, c in cuts_of(weights).items()
    }
    make_run(Path("run"), weights, cuts=cuts, optimizer=False)
    assert convert() == 0
    assert_is_original()
    shutil.rmtree("OUT")
    shutil.rmtree("OUT.mfconv")
    for rank in (4, 5, 6, 7):
        shutil.rmtree(f"run/rank_{rank}")
    assert convert() == 2
    said = capsys.readouterr().err
    assert "MFC111" in said
    assert "rank 4" in said
    assert_nothing_written()


@pytest.mark.real_frameworks
def test_the_folder_opens_with_transformers_and_has_the_logits_of_the_original(weights: Arrays) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_run(Path("run"), weights)
    assert convert() == 0
    tokens = torch.arange(1, 17).reshape(2, 8)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in ("OUT", "hf"))
    assert torch.equal(ours, theirs)
    assert ours.std() > 0


def test_the_proof_holds_for_a_run(weights: Arrays) -> None:
    make_run(Path("run"), weights)
    assert convert() == 0
    assert command_line(["verify", "run", "OUT", "--config", "hf", "--only", "weights"]) == 0
    flip_bit(next(Path("OUT").glob("*.safetensors")), -1)
    assert command_line(["verify", "run", "OUT", "--config", "hf", "--only", "weights"]) == 1


# ---- what MindSpore merges without a word ------------------------------------------------------------------------------------


def test_a_rank_that_is_a_step_ahead_never_mixes_with_the_others(weights: Arrays) -> None:
    """MindSpore takes the newest file of each rank: columns of two steps in one tensor."""
    make_run(Path("run"), {n: a + 1 for n, a in weights.items()}, step=2, ranks=[0])
    make_run(Path("run"), weights, step=1)
    loaded = mc.load("run", config="hf")
    assert str(loaded.run.chosen) == "1_1"
    assert any("step 1_2 is newer but not complete" in note for note in loaded.notes)
    assert convert() == 0
    assert_is_original()
    with pytest.raises(InputError) as refused:
        mc.load("run", config="hf", step=2)
    assert refused.value.code == "MFC112"


def test_step_1_is_not_step_11(weights: Arrays) -> None:
    """MindSpore 2.7 takes step 11 for the suffix 1_1."""
    make_run(Path("run"), weights, step=1)
    make_run(Path("run"), {n: a + 1 for n, a in weights.items()}, step=11)
    assert str(mc.load("run", config="hf").run.chosen) == "1_11"
    assert convert("--step", "1") == 0
    assert_is_original()
    assert command_line(["convert", "run", "other", "--config", "hf", "--step", "1_11"]) == 0
    assert raws_in(Path("other")) != raws_in(Path("hf"))


def test_a_strategy_that_cuts_another_axis_is_refused_by_the_config(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    """MindSpore merges it into another shape."""
    make_run(Path("run"), weights, optimizer=False)
    wrong = cuts_of(weights) | {"model.layers.1.attention.wq.weight": Cut((2, 2), (-1, 0))}
    for path in Path("run/strategy").iterdir():
        write_strategy_file(path, wrong, [0])
    assert convert() == 2
    said = capsys.readouterr().err
    assert "MFC113" in said
    assert "model.layers.1.attention.wq.weight" in said
    assert_nothing_written()


# ---- refused before a byte is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["python", "command line", "dry run"])
def test_copies_that_differ_are_refused_with_both_ranks(way: str, weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), weights, optimizer=False)
    other = dict(weights)
    name = "model.layers.2.attention.wq.weight"
    other[name] = weights[name].copy()
    other[name][1, 1] += 1
    make_run(Path("run"), other, optimizer=False, ranks=[2])
    if way == "python":
        with pytest.raises(MappingError) as refused:
            mc.save(mc.map(mc.load("run", config="hf"), to="hf"), "OUT")
        said = str(refused.value)
    else:
        assert convert(*(["--dry_run"] if way == "dry run" else [])) == 2
        said = capsys.readouterr().err
    assert "MFC308" in said
    assert "ranks 0 and 2 hold the same slice" in said
    assert name in said
    assert_nothing_written()


def test_copies_of_what_is_not_converted_are_not_compared(weights: Arrays) -> None:
    make_run(Path("run"), weights)
    changed = weights | {f"adam_m.{n}": np.full_like(a, 0.25) for n, a in weights.items() if ".wq." in n}
    make_run(Path("run"), changed, optimizer=False, cuts=cuts_of(changed), ranks=[2])
    assert convert() == 0  # the optimizer's copies differ; none of them goes to Hugging Face
    assert_is_original()
    with pytest.raises(MappingError, match="adam_m"):
        mc.save(mc.load("run", config="hf"), "all.safetensors")


def test_a_missing_rank_is_refused_and_a_missing_copy_is_not(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), weights, optimizer=False)
    shutil.rmtree("run/rank_2")
    assert convert("--dry_run") == 0
    shutil.rmtree("run/rank_0")
    assert convert() == 2
    assert "rank 0 (or its copy 2)" in capsys.readouterr().err
    assert_nothing_written()


def test_a_config_of_another_model_is_refused(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), weights, optimizer=False)
    config = json.loads(Path("hf/config.json").read_text())
    Path("hf/config.json").write_text(json.dumps({**config, "intermediate_size": 352}))
    assert convert() == 2
    assert "MFC" in capsys.readouterr().err
    assert_nothing_written()


def test_a_weight_that_is_missing_everywhere_is_missed(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), without(weights, "layers.1.attention.wo"), optimizer=False)
    assert convert() == 2
    said = capsys.readouterr().err
    assert "MFC303" in said
    assert "model.layers.1.attention.wo.weight" in said
    assert_nothing_written()


@pytest.mark.real_frameworks
def test_a_weight_that_hides_in_the_run_state_of_a_merge_is_converted_and_named(
    weights: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    import mindspore as ms

    stray = "model.layers.3.attention_norm.weight"
    make_run(Path("run"), without(weights, stray), optimizer=False, strategy="merged", extra=STATE | {stray: weights[stray]})
    ms.parallel.unified_safetensors("run", "run/strategy/merged_ckpt_strategy.ckpt", "merged", merge_with_redundancy=False)
    assert command_line(["convert", "--reversed", "merged", "OUT", "--config", "hf"]) == 0
    said = capsys.readouterr().err
    assert "hyper_param.safetensors holds" in said
    assert stray in said
    assert_is_original()


@pytest.mark.parametrize("part", ["rank_1", "rank_1/llama_rank_1-1_1.safetensors"])
def test_what_one_rank_holds_is_never_taken_for_the_model_without_a_word(
    part: str, weights: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a config nothing else tells that these are slices."""
    make_run(Path("run"), weights, optimizer=False)
    whole = Path("run").absolute()
    note = f"this is rank 1 of 4: slices, or copies, of what all ranks together hold; the whole is {whole}"
    assert note in mc.load(Path("run") / part).notes
    assert command_line(["convert", "--reversed", "--model", "llama", f"run/{part}", "OUT"]) == 0
    assert f"note: {note}" in capsys.readouterr().err
    assert command_line(["convert", "--reversed", f"run/{part}", "OTHER", "--config", "hf"]) == 2
    assert f"note: {note}" in capsys.readouterr().err  # says what the refusal of the shapes cannot know


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model-0000001-0000008.safetensors", "one of 8 files of a Checkpoint 2.0"),
        ("llama_rank_3-1_20.safetensors", "what rank 3 of a run holds"),
        ("model-0000000-0000001.safetensors", ""),  # one card
        ("llama_rank_0-1_20.safetensors", ""),  # one card, or the copy that everybody passes on
        ("model-00001-of-00001.safetensors", ""),
        ("low_rank_3.safetensors", ""),
    ],
)
def test_a_file_that_was_taken_out_of_its_run_is_known_by_its_name(name: str, said: str, weights: Arrays) -> None:
    write_safetensors(Path(name), weights, {"format": "ms"})
    notes = [note for note in mc.load(name).notes if "by its name" in note]
    assert [said in note for note in notes] == [True] * bool(said)


def test_one_file_of_a_checkpoint_2_is_called_a_part(weights: Arrays) -> None:
    layout = mc.RankLayout({"dp": 1, "tp": 2}, {"*.wq.weight": ("tp", None)}, form="checkpoint 2.0", step=7)
    mc.save(mc.load(weights), "run", layout_of_ranks=layout)
    loaded = mc.load("run/iteration_00000007/model-0000001-0000002.safetensors")
    assert any("one of 2 files of a Checkpoint 2.0" in note for note in loaded.notes)
    assert not any("Checkpoint 2.0" in note for note in mc.load("run").notes)


@pytest.mark.parametrize("inside", ["rank_0", "checkpoint", "output"])
def test_a_model_with_a_run_in_a_folder_of_it_is_the_model(inside: str, weights: Arrays) -> None:
    """Somebody trained with the model's own folder as output: what is converted must not be the run."""
    other = {n: a + 1 for n, a in weights.items()}
    if inside == "rank_0":
        Path("hf/rank_0").mkdir()  # a log
        Path("hf/rank_0/info.log").write_text("started")
    if inside == "checkpoint":
        make_run(Path("hf/checkpoint"), other, optimizer=False)
    if inside == "output":
        mc.save(mc.load(other), "hf/output", layout_of_ranks=mc.RankLayout({"dp": 2}, form="checkpoint 2.0", step=7))
    assert mc.diff(mc.map(mc.load("hf"), "llama"), mc.load(weights), values=True).equal
    if inside != "rank_0":
        assert mc.diff(mc.load(f"hf/{inside}", only="weights"), mc.load(other), values=True).equal


def test_files_of_several_ranks_are_no_checkpoint_and_the_hint_names_the_run(weights: Arrays) -> None:
    make_run(Path("run"), weights, optimizer=False)
    with pytest.raises(InputError, match="MFC105") as refused:
        mc.load(sorted(Path("run").glob("rank_*/*.safetensors")))
    assert f"Give the folder of the run: {Path('run').absolute()}" in str(refused.value)


def test_iterations_beside_ranks_are_read_and_the_ranks_are_named(weights: Arrays) -> None:
    make_run(Path("run"), weights, optimizer=False)
    mc.save(mc.load(weights), "new", layout_of_ranks=mc.RankLayout({"dp": 2}, form="checkpoint 2.0", step=7))
    shutil.move("new/iteration_00000007", "run")
    loaded = mc.load("run")
    assert str(loaded.run.chosen) == "7"
    assert any("rank folders" in note and "not read" in note for note in loaded.notes)


def test_a_config_that_does_not_tell_the_shapes_is_not_asked_for_again(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), weights, optimizer=False, strategy=None)
    Path("other.json").write_text('{"hidden_size": 96}')
    assert command_line(["convert", "--reversed", "run", "OUT", "--config", "other.json"]) == 2
    said = capsys.readouterr().err
    assert "the config does not tell the whole shapes" in said
    assert "MFC302" in said


def test_where_several_families_fit_the_shapes_count_on_which_they_agree(weights: Arrays) -> None:
    """Without a class three families fit; two of them have as many key heads as heads."""
    config = {k: v for k, v in json.loads(Path("hf/config.json").read_text()).items() if k not in ("model_type", "architectures")}
    shapes = expected_shapes(weights, config)
    wholes = {n: a.shape for n, a in weights.items()}
    assert shapes["model.layers.0.attention.wq.weight"] == (120, 96)
    assert {n: s for n, s in shapes.items() if wholes[n] != s} == {}
    assert "model.layers.0.attention.wk.weight" not in shapes


def test_the_config_of_a_model_twice_as_wide_does_not_make_copies_parts(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    """Each slice of the feed-forward would be there twice: all shapes as that config says, and nothing that differs."""
    make_run(Path("run"), weights, optimizer=False, strategy=None)
    config = json.loads(Path("hf/config.json").read_text())
    Path("hf/config.json").write_text(json.dumps({**config, "intermediate_size": 352}))
    assert convert() == 2
    said = capsys.readouterr().err
    assert "ranks 0 and 2 hold equal slices" in said
    assert_nothing_written()


@pytest.mark.parametrize("command", ["convert", "save"])
def test_the_prefix_chooses_between_the_checkpoints_of_one_folder(command: str, weights: Arrays) -> None:
    other = {n: a + 1 for n, a in weights.items()}
    layout = mc.RankLayout({"tp": 2}, {"*.wq.weight": ("tp", None)}, step=7)
    for prefix, arrays in (("llama", weights), ("other", other)):
        mc.save(mc.load(arrays), prefix, layout_of_ranks=replace(layout, prefix=prefix))
    for rank in (0, 1):
        shutil.move(f"other/rank_{rank}/other_rank_{rank}-0_7.safetensors", f"llama/rank_{rank}")
    words = ["--reversed", "--config", "hf"] if command == "convert" else ["--only", "weights"]
    assert command_line([command, "llama", "REFUSED", *words]) == 2
    assert command_line([command, "llama", "OUT", "--file_prefix", "other", *words]) == 0
    expected = other if command == "save" else arrays_of(mc.map(mc.load(other), "llama", to="hf"))
    assert raws_in(Path("OUT")) == {n: raw_of(a) for n, a in expected.items()}
    if command == "convert":
        assert command_line(["verify", "llama", "OUT", "--file_prefix", "other", "--config", "hf"]) == 0


@pytest.mark.parametrize("target", ["output", "output/checkpoint", "output/checkpoint/rank_1", "output/../output/checkpoint"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_into_the_folders_that_a_run_is_read_from(target: str, overwrite: bool, weights: Arrays) -> None:
    make_run(Path("output/checkpoint"), weights)
    before = sha_of(Path("output"))
    run = mc.load("output", config="hf")
    for checkpoint in (run, mc.map(run, "llama", to="hf")):
        with pytest.raises(OutputError, match="MFC402"):
            mc.save(checkpoint, target, overwrite=overwrite)
    assert sha_of(Path("output")) == before
    mc.save(run, "output/merged")  # a new folder beside the ranks is one of its own
    assert mc.diff(mc.load("output", config="hf"), "output/merged", values=True).equal


def test_a_category_of_which_there_is_nothing_is_not_saved(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), weights)
    assert command_line(["save", "run", "nothing.safetensors", "--only", "gradients"]) == 2
    said = capsys.readouterr().err
    assert "MFC501" in said
    assert "weights, optimizer, run state" in said
    assert_nothing_written()


def test_fewer_weights_than_the_run_has_are_not_saved_for_the_weights(weights: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("run"), {n: a for n, a in weights.items() if not n.startswith("model.layers.1.")})
    assert command_line(["save", "run", "all.safetensors"]) == 0
    assert command_line(["save", "run", "weights.safetensors", "--only", "weights"]) == 2
    said = capsys.readouterr().err
    assert "MFC111" in said
    assert "no weight of 'model.layers.1'" in said
    assert "Without --only" in said
    assert not Path("weights.safetensors").exists()


def test_a_weight_that_the_strategy_names_and_no_file_holds_is_missed_where_the_weights_are_asked_for(weights: Arrays) -> None:
    make_run(Path("run"), weights)
    gone = "model.norm_out.weight"
    for path in Path("run").glob("rank_*/*.safetensors"):
        kept = {t.name: read_tensor(t) for t in mc.load(path) if t.name != gone}
        write_safetensors(path, kept, {"format": "ms"})
    with pytest.raises(InputError, match="MFC111") as refused:
        mc.load("run", config="hf", only="weights")
    assert gone in str(refused.value)
    assert len(mc.load("run", config="hf", only="optimizer")) == 4
    assert gone not in mc.load("run", config="hf")


def test_what_mindformers_leaves_out_of_a_save_is_not_missed(weights: Arrays) -> None:
    left_out = {"model.layers.0.attention.zeros_k_pe": np.zeros(4, np.float32), "_device_local_norm": np.zeros(1, np.float32)}
    make_run(Path("run"), weights, cuts=cuts_of({**weights, **left_out}), optimizer=False)
    assert len(mc.load("run", config="hf", only="weights")) == len(weights)


def spoil(folder: Path, other: Path, data: st.DataObject) -> None:
    """Something that happens to files that are copied about: lost, cut, mixed up, of another run, in a folder of another name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file, second = (data.draw(st.sampled_from(files)) for _ in range(2))
    kind = data.draw(st.sampled_from(["lose", "cut", "swap", "of another run", "copy over", "lose a folder", "rename a folder", "junk"]))
    if kind == "lose":
        file.unlink()
    elif kind == "cut":
        content = file.read_bytes()
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif kind == "swap" and file.suffix == second.suffix:
        a, b = file.read_bytes(), second.read_bytes()
        file.write_bytes(b)
        second.write_bytes(a)
    elif kind == "copy over" and file.suffix == second.suffix:
        second.write_bytes(file.read_bytes())
    elif kind == "of another run" and (other / file.relative_to(folder)).exists():
        file.write_bytes((other / file.relative_to(folder)).read_bytes())
    elif kind == "lose a folder":
        shutil.rmtree(file.parent)
    elif kind == "rename a folder":
        file.parent.rename(file.parent.with_name(file.parent.name.replace("_", "_1")))
    elif kind == "junk":
        (file.parent / data.draw(st.sampled_from(["x.safetensors", "x.ckpt", "x.json", "ckpt_strategy.ckpt"]))).write_bytes(b"\x08\x00junk")


@pytest.fixture
def kept(weights: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For one and for two pipeline stages a run, and another one of the same shapes."""
    folder, last = tmp_path_factory.mktemp("kept"), ("layers.2", "layers.3", "norm_out", "lm_head")
    for stages in (1, 2):
        cuts = {n: replace(c, stages=(int(stages == 2 and any(w in n for w in last)),)) for n, c in cuts_of(weights).items()}
        make_run(folder / f"run{stages}", weights, cuts=cuts, optimizer=False)
        later = STATE | {"step_num": np.array(9, np.int32)}
        make_run(folder / f"other{stages}", {n: a + 1 for n, a in weights.items()}, cuts=cuts, optimizer=False, extra=later)
    return folder


def refusal() -> MfconvError | None:
    """What a save of the run refuses."""
    try:
        mc.save(mc.map(mc.load("run", config="hf"), to="hf"), "OUT", dry_run=True)
    except MfconvError as error:
        return error
    return None


@given(st.data())
@settings(max_examples=60)
def test_whatever_happens_to_the_files_of_a_run_the_model_is_right_or_refused_or_called_doubtful(kept: Path, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, 2))
    for folder in ("run", "OUT", "OUT.mfconv"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept / f"run{stages}", "run")
    for _ in range(data.draw(st.integers(1, 3))):
        if any(p.is_file() for p in Path("run").rglob("*")):
            spoil(Path("run"), kept / f"other{stages}", data)
    found = mc.doctor("run", config="hf")
    done = convert("--no_fsync") == 0
    doubts = ("may be a copy of the other", "that no file lies in the folder of another rank")
    if done and not any(doubt in f.seen for f in found.findings if f.topic == "assumed" for doubt in doubts):
        assert_is_original()
    assert done or not found.ready or "MFC308" in str(refusal())  # what only the numbers tell, doctor does not see


# ---- strategy, categories, progress ------------------------------------------------------------------------------------------


def test_a_strategy_elsewhere_is_given_and_one_for_something_else_is_refused(weights: Arrays) -> None:
    make_run(Path("run"), weights, optimizer=False)
    shutil.move("run/strategy", "apart")
    assert convert("--strategy", "apart") == 0
    assert_is_original()
    with pytest.raises(UsageError, match="MFC501"):
        mc.load("hf", strategy="apart")
    with pytest.raises(InputError, match="MFC114"):
        mc.load("run", strategy="hf", config="hf")


def test_without_strategy_files_the_config_serves_and_what_is_assumed_is_a_note(
    weights: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(Path("run"), weights, strategy=None, optimizer=False)
    with pytest.raises(InputError) as refused:
        mc.load("run")
    assert refused.value.code == "MFC114"
    assert "--config" in str(refused.value)
    assert convert() == 0
    assert "note: assumed:" in capsys.readouterr().err
    assert_is_original()


def test_categories_are_counted_and_chosen(weights: Arrays) -> None:
    make_run(Path("run"), weights)
    loaded = mc.load("run", config="hf")
    assert loaded.notes[0] == "weights: 39 tensors, 1.49 MiB, optimizer: 4 tensors, 180 KiB, run state: 3 tensors, 12 B"
    for only, count in (("weights", 39), ("weights,optimizer", 43), (("run_state",), 3), ("gradients", 0)):
        assert len(mc.load("run", config="hf", only=only)) == count
    with pytest.raises(UsageError, match="weights"):
        mc.load("run", config="hf", only="weight")
    assert command_line(["save", "run", "merged.safetensors", "--only", "weights,optimizer", "--config", "hf"]) == 0
    made = raws_in(Path("merged.safetensors"))
    assert {n: r for n, r in made.items() if not n.startswith("adam_m.")} == {n: raw_of(a) for n, a in weights.items()}
    assert len(made) == 43
    assert len(mc.load("merged.safetensors", only="weights")) == 39  # of any checkpoint


@pytest.mark.parametrize("form", ["rank folders", "checkpoint 2.0"])
def test_what_is_cut_here_is_opened_here_again(form: str, weights: Arrays) -> None:
    layout = mc.RankLayout({"dp": 2, "tp": 2}, {"*.wq.weight": ("tp", None), "*.wo.weight": (None, "tp")}, form=form, step=7)
    mc.save(mc.load(weights), "run", layout_of_ranks=layout)
    shutil.rmtree("run.mfconv")
    again = mc.load("run", step=7)
    assert {t.name: raw_of(read_tensor(t)) for t in again} == {n: raw_of(a) for n, a in weights.items()}


class Slow(Progress):
    """Remembers every bar of its kind and what it was told."""

    said: ClassVar[list[tuple[str, int, int]]] = []

    def another(self, total: int, what: str) -> Progress:
        return Slow(total, what)

    def __call__(self, done: int) -> None:
        self.said.append((self.what, done, self.total))


def test_comparing_copies_has_a_bar_of_its_own(weights: Arrays) -> None:
    make_run(Path("run"), weights, optimizer=False)
    mapped = mc.map(mc.load("run", config="hf"), to="hf")
    Slow.said = []
    mc.save(mapped, "OUT", progress=Slow(0, "writing"))
    compared = [(done, total) for what, done, total in Slow.said if what == "comparing copies"]
    assert compared[-1][0] == compared[-1][1] > 0
    assert [what for what, *_ in Slow.said][-1] == "writing"


def test_a_function_that_wants_to_stop_stops_the_comparison(weights: Arrays) -> None:
    class Stop(Exception):
        pass

    def stop(done: int) -> None:
        assert done == 0  # nothing is written yet
        raise Stop

    make_run(Path("run"), weights, optimizer=False)
    with pytest.raises(Stop):
        mc.save(mc.map(mc.load("run", config="hf"), to="hf"), "OUT", progress=stop)
    assert_nothing_written()
