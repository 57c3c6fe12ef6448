"""The form without a browser: what a choice stands for, and what the fields say."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.families import llama, registry
from mfconv_nb.panels.converter import Panel
from tests.runs.made_runs import make_run, original, weights_of
from tests.support import raws_in


def test_any_file_of_a_sharded_folder_stands_for_the_folder(toy: Path) -> None:
    form = mc.panel()
    for name in ("config.json", "model.safetensors.index.json", sorted(p.name for p in toy.glob("*.safetensors"))[0]):
        form.source.value = ""
        form._choose_file(str(toy / name))
        assert form.source.value == str(toy)
        assert form.mapped is not None
    mc.save(mc.map(mc.load(toy)), toy.parent / "one.ckpt")
    form._choose_file(str(toy.parent / "one.ckpt"))
    assert form.source.value == str(toy.parent / "one.ckpt")


def test_the_options_are_those_of_the_family_and_end_up_in_the_line(toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    assert list(form.options) == ["qkv_concat"]
    form.options["qkv_concat"].value = "grouped"
    assert "qkv_concat='grouped'" in form.line.value.replace("&#x27;", "'")
    assert form.mapped is not None
    assert form.mapped.options["qkv_concat"] == "grouped"


def test_a_family_that_does_not_fit_is_refused_in_the_form(toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    form.family.value = "bloom"
    assert form.mapped is None
    assert form.convert.disabled
    assert "MFC303" in form.plan.children[0].value


# ---- families of one's own ---------------------------------------------------------------------------------------------------

OWN = """
from dataclasses import replace
from mfconv_nb.rules import Option
from mfconv_nb.families.llama import FAMILY as LLAMA

own = Option("flavour", ("plain", "sweet"), "mf", "an option of this file")
FAMILY = replace(LLAMA, key="my_llama", aliases=(), also=(), options=(*LLAMA.options, own))
"""


def test_a_file_stands_for_a_family_and_its_options_are_shown(toy: Path) -> None:
    file = toy.parent / "my_llama.py"
    file.write_text(OWN)
    form = mc.panel(toy, toy.parent / "out.ckpt")
    form.family.value = f" {file} "
    assert list(form.options) == ["qkv_concat", "flavour"]
    assert form.mapped is not None
    assert form.mapped.family == "my_llama"
    assert f"family='{file}'" in form.line.value.replace("&#x27;", "'")
    form.convert.click()
    running = form.running
    assert running is not None
    running.join(60)
    assert "tensors bitwise equal" in form.result.value  # the proof takes the file too
    form.source.value = ""
    form.source.value = str(toy)
    assert form.family.value.strip() == str(file)  # another checkpoint of the same model


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_what_is_wrong_in_a_file_is_shown_with_its_line(with_checkpoint: bool, toy: Path) -> None:
    file = toy.parent / "broken.py"
    file.write_text("\n\nFAMILY = nothing\n")
    form = mc.panel(toy if with_checkpoint else "", "out.ckpt")
    form.family.value = str(file)
    shown = form.plan.children[0].value
    assert "MFC313" in shown
    assert f"{file}, line 3" in shown
    assert form.convert.disabled
    form.family.value = ""
    assert "MFC313" not in str([child for child in form.plan.children if hasattr(child, "value")])


@pytest.mark.parametrize(("typed", "code"), [("lama", "MFC301"), ("not_there.py", "MFC101")])
def test_a_family_that_is_not_there_is_told_and_not_raised(typed: str, code: str, toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    form.family.value = typed
    assert code in form.plan.children[0].value
    assert form.options == {}


def test_registered_families_are_offered_by_their_keys(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    mc.register(replace(llama.FAMILY, key="my_llama", aliases=(), also=(), model_types=()))
    form = mc.panel(toy, "out.ckpt")
    assert {"llama", "my_llama"} <= set(form.family.options)
    form.family.value = "my_llama"
    assert form.mapped is not None
    assert form.mapped.family == "my_llama"


def test_a_checkpoint_that_is_not_there_is_told_and_not_raised() -> None:
    form = mc.panel("nowhere/at/all", "out.ckpt")
    assert "MFC101" in form.summary.value
    assert form.convert.disabled


def test_the_fields_that_are_set_from_python_convert(toy: Path) -> None:
    form = mc.panel(toy, toy.parent / "out.safetensors")
    form.dtype.value = "fp32"
    form.convert.click()
    running = form.running
    assert running is not None
    running.join(60)
    assert "✓ Converted." in form.result.value
    assert {t.dtype for t in mc.load(toy.parent / "out.safetensors")} == {"F32"}


# ---- what the source is, and runs --------------------------------------------------------------------------------------------


def done(form: Panel) -> None:
    """Press Convert and wait."""
    form.convert.click()
    if form.running is not None:
        form.running.join(60)


def fields_of_a_run_are_shown(form: Panel) -> bool:
    return bool(form.run_fields.layout.display != "none")


def code_of(form: Panel) -> str:
    """The Python line that the form shows."""
    return html.unescape(re.sub("<[^>]+>", "", form.line.value.rpartition("</style>")[2]))


def test_choosing_a_source_says_what_it_is_and_what_is_to_be_decided(toy: Path) -> None:
    form = mc.panel(toy)
    assert "✓ Ready." in form.summary.value
    assert "Hugging Face checkpoint: a folder, 9 files" in form.summary.value
    assert "more things seen" in form.summary.value
    assert not fields_of_a_run_are_shown(form)
    (toy / "config.json").unlink()
    shutil.rmtree(toy.with_name("toy.mfconv"))
    form.source.value = ""
    form.source.value = str(toy)
    shown = form.summary.value.partition("<details>")[0]
    assert "! Something is to be decided." in shown
    assert "sizes and layers cannot be checked" in shown


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four ranks: step 5 whole, step 6 on two of them that make a whole, step 7 on one."""
    pytest.importorskip("mindspore", reason="the strategy files are made with its protobuf classes")
    weights = weights_of(original(tmp_path / "hf"))
    make_run(tmp_path / "run", weights, step=5)
    make_run(tmp_path / "run", {n: a + 1 for n, a in weights.items()}, step=6, ranks=[0, 1])
    return make_run(tmp_path / "run", weights, step=7, ranks=[0])


def test_a_run_shows_its_ranks_and_steps_with_the_newest_whole_one_chosen(run: Path) -> None:
    form = mc.panel(run, run.parent / "out")
    form.config.value = str(run.parent / "hf")
    assert fields_of_a_run_are_shown(form)
    assert form.step.options == (("1_7 (on 1 of 4 ranks)", "1_7"), ("1_6 (on 2 of 4 ranks)", "1_6"), ("1_5", "1_5"))
    assert form.step.value == "1_6"
    assert "1_6 ←" in form.steps.value
    assert f"mc.load('{run}', config='{run.parent / 'hf'}', step='1_6')" in code_of(form)


def test_the_step_that_is_chosen_is_converted_and_proven(run: Path) -> None:
    form = mc.panel(run, run.parent / "out")
    form.config.value = str(run.parent / "hf")
    form.step.value = "1_7"
    assert form.mapped is None
    assert "MFC112" in form.summary.value
    assert len(form.step.options) == 3  # one can go back
    form.step.value = "1_5"
    assert "step='1_5'" in code_of(form)
    done(form)
    assert "✓ Equal." in form.result.value, form.result.value
    assert raws_in(run.parent / "out") == raws_in(run.parent / "hf")


def test_a_strategy_folder_is_asked_for_where_it_is_not_beside_the_ranks(run: Path) -> None:
    (run / "strategy").rename(run.parent / "apart")
    form = mc.panel(run, run.parent / "out")
    assert "MFC114" in form.summary.value
    form.strategy.value = str(run.parent / "apart")
    form.config.value = str(run.parent / "hf")
    assert form.mapped is not None
    assert f"strategy='{run.parent / 'apart'}'" in code_of(form)
    form.strategy.value = str(run.parent / "hf")
    assert "MFC114" in form.summary.value
    assert fields_of_a_run_are_shown(form)  # the wrong one can be taken back
    form.source.value = str(run.parent / "hf")
    assert form.strategy.value == ""
    assert not fields_of_a_run_are_shown(form)
    assert form.mapped is not None
    assert "strategy=" not in code_of(form)


def test_which_of_several_checkpoints_in_one_folder_is_meant_is_asked_for(run: Path) -> None:
    assert mc.panel(run).file_prefix.layout.display == "none"
    weights = weights_of(run.parent / "hf")
    make_run(run, {n: a + 2 for n, a in weights.items()}, step=6, prefix="other one")
    make_run(run, weights, step=8)
    make_run(run, {n: a + 3 for n, a in weights.items()}, step=8, prefix="other one")
    form = mc.panel(run, run.parent / "out")
    form.config.value = str(run.parent / "hf")
    assert form.mapped is None
    assert "MFC112" in form.summary.value
    assert form.file_prefix.layout.display is None
    assert form.file_prefix.label == "several lie here: choose one"
    assert form.file_prefix.options[1:] == (("llama", "llama"), ("other one", "other one"))
    form.file_prefix.value = "other one"
    assert form.step.value == "1_8"
    form.step.value = "1_6"
    assert "file_prefix='other one'" in code_of(form)
    form.file_prefix.value = "llama"
    assert form.step.value == "1_8"  # the newest of this one
    done(form)
    assert "✓ Equal." in form.result.value, form.result.value
    assert raws_in(run.parent / "out") == raws_in(run.parent / "hf")
    form.source.value = str(run.parent / "hf")
    assert form.file_prefix.layout.display == "none"
    assert "file_prefix" not in code_of(form)


def test_a_prefix_may_be_no_text(tmp_path: Path) -> None:
    weights = weights_of(original(tmp_path / "hf"))
    layout = mc.RankLayout({"tp": 2}, {"*.wq.weight": ("tp", None)}, form="checkpoint 2.0", step=7)
    mc.save(mc.load(weights), tmp_path / "run", layout_of_ranks=layout)
    (folder,) = (p for p in (tmp_path / "run").iterdir() if p.is_dir())
    (folder / "metadata.json").unlink()
    for file in folder.glob("model-*"):
        shutil.copy(file, folder / f"other-{file.name}")
    form = mc.panel(tmp_path / "run", tmp_path / "out")
    assert ("(none)", "") in form.file_prefix.options, form.summary.value
    assert form.found is not None
    assert form.found.run is None
    form.file_prefix.value = ""
    assert form.found.run is not None, form.summary.value


def test_a_file_of_a_rank_stands_for_the_run(run: Path) -> None:
    form = mc.panel()
    form._choose_file(str(sorted((run / "rank_3").glob("*.safetensors"))[0]))
    assert form.source.value == str(run)


def test_copies_that_differ_are_told_in_the_form_and_nothing_is_written(run: Path) -> None:
    weights = {n: a + 2 for n, a in weights_of(run.parent / "hf").items()}
    make_run(run, weights, step=5, ranks=[2])
    form = mc.panel(run, run.parent / "out")
    form.config.value = str(run.parent / "hf")
    form.step.value = "1_5"
    done(form)
    assert "MFC308" in form.result.value
    assert "ranks 0 and 2" in form.result.value
    assert not (run.parent / "out").exists()


def test_the_forms_of_latent_attention_are_fields_of_the_form_and_end_up_in_the_line(tmp_path: Path) -> None:
    mc.toy("deepseekv3", tmp_path / "hf")
    converter = Panel(str(tmp_path / "hf"), str(tmp_path / "out.ckpt"))
    converter.family.value = "deepseekv3"
    converter.options["graph"].value = "dynamic"
    assert "family='deepseekv3', graph='dynamic'" in converter.line.value.replace("&#x27;", "'")
    assert converter.mapped is not None
    assert "decoder.layers.0.self_attention.linear_qkv.weight" in converter.mapped.tensors
    converter.options["graph"].value = "static"
    assert "decoder.layers.0.self_attention.linear_q_down_proj.weight" in converter.mapped.tensors
    converter.options["mla_qkv_concat"].value = True
    assert "decoder.layers.0.self_attention.linear_qb.weight" in converter.mapped.tensors
