"""The hint of a refusal follows what was found, and what it proposes works as it is written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as command_line
from mfconv_nb.core.errors import MfconvError, OutputError, as_place
from mfconv_nb.families import llama
from mfconv_nb.mapping.remedies import patterns_of
from mfconv_nb.steps.inspecting import doctor_findings
from mfconv_nb.steps.inspecting.doctor import doctor
from tests.runs.made_runs import make_run, original, weights_of
from tests.support import Raw, numbered, raws_in, without, write_hf
from tests.toys import arrays_of, raws_of

pytestmark = pytest.mark.usefixtures("here")

CONFIG = {"model_type": "llama", **llama.FAMILY.toy}
Tensors = dict[str, Raw | np.ndarray[Any, np.dtype[Any]]]


@pytest.fixture(scope="module")
def toy() -> Tensors:
    return dict(raws_of(mc.toy("llama")))


def refused(folder: str | Path, **more: Any) -> MfconvError:
    with pytest.raises(MfconvError) as caught:
        mc.map(mc.load(folder), **more)
    return caught.value


def hint_of(tensors: Mapping[str, Any], config: Mapping[str, Any] | None = CONFIG) -> str:
    return str(refused(write_hf(Path("odd"), tensors, config)).hint)


# ---- wrappers --------------------------------------------------------------------------------------------------------------

LAYER = re.compile(r"(layers\.\d+\.)")
WRAPPED = {
    "_orig_mod.": lambda n: f"_orig_mod.{n}",
    "module.": lambda n: f"module.{n}",
    "model.": lambda n: f"model.{n}",
    "student.net.": lambda n: f"student.net.{n}",
    "language_model.": lambda n: n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n,
    "_fsdp_wrapped_module.": lambda n: LAYER.sub(r"\1_fsdp_wrapped_module.", f"_fsdp_wrapped_module.{n}"),
    "_checkpoint_wrapped_module.": lambda n: LAYER.sub(r"\1_checkpoint_wrapped_module.", n),
    "base_model.model.": lambda n: f"base_model.model.{n}",
}


@pytest.mark.parametrize("config", [CONFIG, None], ids=("config", "no config"))
@pytest.mark.parametrize("text", WRAPPED)
def test_what_a_wrapper_puts_into_names_is_named_and_the_line_of_python_takes_it_off(
    text: str, config: Mapping[str, Any] | None, toy: Tensors
) -> None:
    hint = hint_of({WRAPPED[text](n): t for n, t in toy.items()}, config)
    assert f"'{text}'" in hint
    assert "another family" not in hint
    exec(hint.partition("in Python: ")[2], {"mc": mc})
    mc.save(mc.map(mc.load(write_hf(Path("plain"), toy, config))), "plain.ckpt")
    assert raws_in(Path("OUT.ckpt")) == raws_in(Path("plain.ckpt"))


def test_names_that_lack_a_beginning_get_it(toy: Tensors) -> None:
    body = {n.removeprefix("model."): t for n, t in without(toy, "lm_head").items()}
    hint = hint_of(body, {**CONFIG, "tie_word_embeddings": True})
    assert "The names lack 'model.' in front" in hint
    exec(hint.partition("in Python: ")[2], {"mc": mc})
    assert "model.output.weight" not in raws_in(Path("OUT.ckpt"))
    assert len(raws_in(Path("OUT.ckpt"))) == len(toy)


def test_of_a_model_of_several_parts_the_config_of_its_text_is_taken(toy: Tensors) -> None:
    config = {"model_type": "of_images_and_text", "text_config": CONFIG, "vision_config": {"hidden_size": 8}}
    hint = hint_of({WRAPPED["language_model."](n): t for n, t in toy.items()}, config)
    exec(hint.partition("in Python: ")[2], {"mc": mc})
    assert len(raws_in(Path("OUT.ckpt"))) == len(toy)
    plain = refused(write_hf(Path("plain"), toy, config), family="llama")
    assert plain.code == "MFC107"
    assert "under 'text_config'" in str(plain.hint)
    mc.map(mc.load("plain"), "llama", config=mc.load("plain").config["text_config"])


def test_two_tensors_are_never_renamed_to_one(toy: Tensors) -> None:
    checkpoint = mc.load(write_hf(Path("a"), {"a.w": numbered(2), "b.w": numbered(2)}))
    with pytest.raises(mc.MfconvError, match="MFC501"):
        checkpoint.renamed(lambda n: n.partition(".")[2])
    both = {**toy, **{f"module.{n}": t for n, t in toy.items()}}  # taking it off would make two of each
    assert "module." not in hint_of(both)


def test_another_model_is_still_called_another_family(toy: Tensors) -> None:
    for more in ("model.layers.{}.self_attn.q_norm.weight", "model.layers.{}.mlp.gate.e_score_correction.bias"):
        hint = hint_of({**toy, **{more.format(n): numbered(16) for n in range(4)}})
        assert hint.startswith("Is it another family?")


def test_names_that_are_of_another_model_are_said_before_a_size_that_its_config_lacks(toy: Tensors) -> None:
    folder = write_hf(Path("other"), {n.replace("q_proj", "q_a_proj"): t for n, t in toy.items()}, {"model_type": "llama"})
    error = refused(folder, family="llama")
    assert error.code == "MFC303"
    assert "unmatched  model.layers.{0‥3}.self_attn.q_a_proj.weight" in str(error)
    assert refused(write_hf(Path("llama"), toy, {"model_type": "llama"}), family="llama").code == "MFC107"


# ---- a few too many ----------------------------------------------------------------------------------------------------------

FEW: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a value head": ({"v_head.summary.weight": numbered(1, 96), "v_head.summary.bias": numbered(1)}, ("v_head.*",)),
    "a head of scores": ({"score.weight": numbered(1, 96)}, ("score.weight",)),
    "scales of a cache": (
        {f"model.layers.{n}.self_attn.{x}_scale": numbered(1) for n in range(4) for x in "kv"},
        ("model.layers.*.self_attn.k_scale", "model.layers.*.self_attn.v_scale"),
    ),
    "signs of patterns": ({"mean[0]": numbered(1), "std*": numbered(1), "a b'c": numbered(1)}, ("mean[[]0]", "std[*]", "a b'c")),
}


@pytest.mark.parametrize("what", FEW)
def test_a_few_names_too_many_are_left_out_by_the_words_of_the_hint(what: str, toy: Tensors) -> None:
    more, patterns = FEW[what]
    folder = write_hf(Path("odd one"), {**toy, **more}, CONFIG)
    error: Any = refused(folder)
    assert error.leave_out == patterns
    flags = str(error.hint).partition(": ")[2].rpartition(" (leave_out=")[0]
    assert mc.map(mc.load(folder), leave_out=eval(str(error.hint).rpartition("leave_out=")[2].rpartition(" in Python")[0]))
    words = f"{shlex.quote(sys.executable)} -c 'from mfconv_nb.cli.main import main; main()'"
    for command in (f"convert 'odd one' o.ckpt {flags}", "verify 'odd one' o.ckpt"):
        done = subprocess.run(["bash", "-c", f"{words} {command}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("✓ Equal. 39 of 39 tensors")
    assert "left out as asked" in done.stdout
    assert raws_in(Path("o.ckpt")).keys() == {t.name for t in mc.map(mc.load(write_hf(Path("plain"), toy, CONFIG)))}


@pytest.mark.parametrize(
    "more",
    [
        {"model.layers.0.mlp.up_proj.weight_scale": numbered(1)},
        {f"model.layers.{n}.mlp.up_proj.scales": numbered(3) for n in range(4)},
        {"model.norm.bias": numbered(96)},
        {"extra.lora_A.weight": numbered(2, 3)},
    ],
)
def test_what_a_weight_means_is_never_proposed_to_be_left_out(more: dict[str, Any], toy: Tensors) -> None:
    error: Any = refused(write_hf(Path("odd"), {**toy, **more}, CONFIG))
    assert "--leave_out" not in str(error.hint).replace("--leave_out '*lora_*'", "")
    assert not getattr(error, "leave_out", ())


def test_what_stands_beside_codes_is_never_proposed_to_be_left_out(toy: Tensors) -> None:
    folder = Path("codes")
    folder.mkdir()
    mc.save(
        mc.load({**_as_fp8(toy), **{f"model.layers.{n}.mlp.up_proj.factor": numbered(1) for n in range(4)}}), folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert not getattr(refused(folder), "leave_out", ())


def test_patterns_match_these_names_and_no_others() -> None:
    assert patterns_of(["a.1.x", "a.2.x"], ["a.1.x", "a.2.x", "b.x"]) == ("a.*",)
    assert patterns_of(["a.1.x", "a.2.x"], ["a.1.x", "a.2.x", "a.x"]) == ("a.*.x",)
    assert patterns_of(["a.1.x"], ["a.1.x", "a.2.x"]) == ("a.1.x",)
    assert patterns_of([f"{c}.x" for c in "abcdefgh"], ["z.x"]) is None


def test_a_reward_model_is_called_so_with_the_name_of_its_head(toy: Tensors) -> None:
    hint = hint_of({**without(toy, "lm_head"), "score.weight": numbered(1, 96)})
    assert hint.startswith("A reward or classification model: its head 'score.weight' has no place")
    assert "'lm_head.weight'" in hint
    assert "--leave_out" not in hint


# ---- what other trainers leave -------------------------------------------------------------------------------------------------


def test_empty_tensors_are_those_of_zero_3_and_flat_ones_of_fsdp(toy: Tensors) -> None:
    empty = {n: numbered(0) if len(t.shape) == 2 else t for n, t in toy.items()}
    assert "zero_to_fp32.py" in hint_of(empty)
    assert "StateDictType.FULL_STATE_DICT" in hint_of({"_flat_param": numbered(100), "model.layers.0._flat_param": numbered(10)}) + hint_of(
        {**toy, "model.layers.0._flat_param": numbered(10)}
    )


def test_a_model_that_peft_saved_unmerged_is_to_be_merged_with_peft(toy: Tensors) -> None:
    dump: Tensors = {}
    for name, tensor in toy.items():
        inner = "base_model.model." + name.removesuffix("weight")
        dump[inner + ("base_layer.weight" if "v_proj" in name else "weight")] = tensor
        dump |= {f"{inner}lora_{x}.default.weight": numbered(4, 4) for x in "AB"} if "v_proj" in name else {}
    hint = hint_of(dump)
    assert "merge_and_unload()" in hint
    assert "mfconv merge" not in hint


FOREIGN = {
    "zero_to_fp32.py": ["latest", "zero_to_fp32.py", "global_step7/zero_pp_rank_0_mp_rank_00_model_states.pt"],
    "format_utils dcp_to_torch": [".metadata", "__0_0.distcp", "__1_0.distcp"],
    "Megatron": ["latest_checkpointed_iteration.txt", "iter_0000100/mp_rank_00/model_optim_rng.pt"],
}


@pytest.mark.parametrize("tool", FOREIGN)
def test_folders_of_other_trainers_name_the_tool_that_makes_weights_of_them(tool: str) -> None:
    for name in FOREIGN[tool]:
        file = Path("a run") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x80\x02}.")
    places = {Path("a run"), *((Path("a run") / FOREIGN[tool][-1]).parents[:2]), Path("a run") / FOREIGN[tool][-1]} - {Path()}
    for place in places:
        with pytest.raises(MfconvError) as caught:
            mc.load(place)
        assert tool in str(caught.value.hint), place
    assert tool in " ".join(f.seen for f in doctor("a run").findings)


def test_a_damaged_file_beside_the_folder_of_another_trainer_keeps_its_own_hint(toy: Tensors) -> None:
    folder = write_hf(Path("checkpoint-500"), toy, CONFIG)
    (folder / "global_step500").mkdir()
    (folder / "zero_to_fp32.py").write_text("")
    assert len(mc.load(folder)) == len(toy)
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(100_000)
    with pytest.raises(MfconvError) as caught:
        mc.load(folder)
    assert "zero_to_fp32" not in str(caught.value)


@pytest.mark.real_frameworks
def test_slices_of_fsdp_become_weights_by_the_command_of_the_hint(toy: Tensors) -> None:
    import torch
    from torch.distributed.checkpoint import FileSystemWriter, save

    state = {n: torch.from_numpy(numbered(*t.shape)) for n, t in toy.items()}
    save(state, storage_writer=FileSystemWriter("a run"), no_dist=True)
    with pytest.raises(MfconvError) as caught:
        mc.load("a run")
    words = shlex.split(str(caught.value.hint).rpartition(": ")[2])
    subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    (Path("config.json")).write_text(json.dumps(CONFIG))
    assert len(mc.map(mc.load("OUT.pt", config=CONFIG))) == len(toy)


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", ["argparse.Namespace", "pathlib.PosixPath", "numpy"])
def test_the_class_that_stops_a_pickle_is_named_without_advice_and_colours(name: str) -> None:
    import argparse

    import torch

    odd = {"argparse.Namespace": argparse.Namespace(lr=1), "pathlib.PosixPath": Path("x"), "numpy": np.float64(3)}[name]
    torch.save({"model": {"w": torch.zeros(2)}, "args": odd}, "x.pt")
    with pytest.raises(MfconvError) as caught:
        mc.load("x.pt")
    assert name in str(caught.value.found)
    assert "which is no tensor" in str(caught.value.found)
    assert not [word for word in ("\x1b", "x1b", "weights_only", "allowlist", "trust the source") if word in str(caught.value)]


# ---- steps agree -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors", ""])
def test_layers_that_were_not_asked_for_are_not_missed(ending: str) -> None:
    mc.toy("llama", "hf")
    assert command_line(["convert", "hf", f"o{ending}", "--layers", "2"]) == 0
    report = mc.verify("hf", f"o{ending}")
    assert report.equal
    assert any(line.startswith("left out: model.layers.{2‥3}") for line in report.changes)
    assert "18 of them left out" in report.conditions[0].seen
    assert not mc.verify("hf", f"o{ending}", layers=3).equal
    shutil.rmtree(f"o{ending}.mfconv")
    assert mc.verify("hf", f"o{ending}", layers=2).equal
    assert command_line(["verify", "hf", f"o{ending}", "--layers", "2"]) == 0
    assert command_line(["verify", "hf", f"o{ending}"]) == 1


def test_a_changed_number_is_noticed_beside_what_was_left_out(toy: Tensors) -> None:
    folder = write_hf(Path("odd"), {**toy, "v_head.weight": numbered(3)}, CONFIG)
    mc.save(mc.map(mc.load(folder), leave_out="v_head.*"), "o.ckpt")
    other = {**toy, "v_head.weight": numbered(3), "model.norm.weight": Raw("BF16", (96,), bytes(192))}
    assert mc.verify(folder, "o.ckpt").equal
    assert not mc.verify(write_hf(Path("changed"), other, CONFIG), "o.ckpt").equal
    assert not mc.verify(write_hf(Path("more"), {**toy, "w_head.weight": numbered(3)}, CONFIG), "o.ckpt").equal


@pytest.mark.parametrize("dtype", [None, "fp16"])
def test_what_was_left_out_and_is_missed_on_the_way_back_does_not_stop_the_comparison(dtype: str | None, toy: Tensors) -> None:
    folder = write_hf(Path("hf"), toy, CONFIG)
    mc.save(mc.map(mc.load(folder), leave_out="lm_head.weight"), "o.ckpt", dtype=dtype)
    report = mc.verify(folder, "o.ckpt")
    assert (report.outcome, report.conditions[-1].seen) == ("unsure", "refused: MFC303, missing lm_head.weight: not in the checkpoint")
    assert report.conditions[-2].seen == "38 tensors"
    assert any(line.startswith("left out: lm_head.weight") for line in report.changes)
    assert command_line(["verify", "hf", "o.ckpt"]) == 1
    changed = write_hf(Path("changed"), {**toy, "model.norm.weight": Raw("BF16", (96,), bytes(192))}, CONFIG)
    assert mc.verify(changed, "o.ckpt").outcome == "fail"


def test_a_run_equals_what_was_made_of_its_weights_and_its_state_is_named() -> None:
    hf = original(Path("hf"))
    make_run(Path("run"), weights_of(hf))
    assert command_line(["convert", "--reversed", "run", "back", "--config", "hf"]) == 0
    report = mc.verify(mc.load("run", config="hf"), "back")
    assert report.equal
    assert "39 of 39 tensors" in report.conditions[-1].seen
    assert any(line.startswith("left out: adam_m.") for line in report.changes)
    assert command_line(["verify", "run", "back", "--config", "hf"]) == 0


def test_adapters_alone_equal_those_of_the_model_that_they_were_taken_from(toy: Tensors) -> None:
    mapped = mc.map(mc.load(write_hf(Path("hf"), toy, CONFIG)))
    mf = arrays_of(mapped)
    for n in range(4):
        module = f"model.layers.{n}.attention.wq"
        rows, columns = mf[f"{module}.weight"].shape
        mf |= {f"{module}.mindpet_delta_lora_a": numbered(2, columns), f"{module}.mindpet_delta_lora_b": numbered(rows, 2)}
    mc.save(mc.load(mf), "trained.ckpt")
    said = ["--only_adapters", "--lora_alpha", "4", "--config", "hf"]
    assert command_line(["convert", "--reversed", "trained.ckpt", "peft", *said]) == 0
    assert command_line(["verify", "trained.ckpt", "peft", "--config", "hf"]) == 0


# ---- doctor's command runs -------------------------------------------------------------------------------------------------------


def _as_fp8(toy: Tensors) -> dict[str, Any]:
    return {n: np.zeros(t.shape, ml_dtypes.float8_e4m3fn) if "_proj" in n else t.array() for n, t in toy.items() if isinstance(t, Raw)}


def _inputs(toy: Tensors) -> dict[str, dict[str, Any]]:
    arrays = {n: t.array() for n, t in toy.items() if isinstance(t, Raw)}
    return {
        "plain": arrays,
        "two words": arrays,
        'it\'s "quoted" $HOME': arrays,
        "-begins as an option": arrays,
        "a\nline": arrays,
        "value head": {**arrays, "v_head.0.weight": numbered(1, 96), "v_head.0.bias": numbered(1)},
        "strange names": {**arrays, "it's [one]": numbered(1)},
    }


NAMES = ("plain", "two words", 'it\'s "quoted" $HOME', "-begins as an option", "a\nline", "value head", "strange names")


def _written(name: str, toy: Tensors) -> Path:
    folder = Path(name)
    folder.mkdir()
    mc.save(mc.load(_inputs(toy)[name]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize("name", ["fp8", "complex"])
def test_doctor_proposes_no_target_that_convert_refuses(name: str, toy: Tensors) -> None:
    arrays = {n: t.array() for n, t in toy.items() if isinstance(t, Raw)}
    Path(name).mkdir()
    made = _as_fp8(toy) if name == "fp8" else {n: a.astype(np.complex64) for n, a in arrays.items()}
    mc.save(mc.load(made), f"{name}/model.safetensors")
    (Path(name) / "config.json").write_text(json.dumps(CONFIG))
    found = doctor(name)
    assert [(f.mark, f.seen.partition(":")[0]) for f in found.findings if f.topic == "format"] == [("✗", "MFC405")]
    assert (found.ready, found.commands) == (False, ())
    for target in ("OUT.ckpt", "OUT.safetensors", "OUT/"):
        assert command_line(["convert", name, target]) == 2


def test_doctor_proposes_the_format_that_holds_every_tensor(toy: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _written("plain", toy)
    real = doctor_findings.plan_output

    def without_ckpt(specs: Any, target: Path, side: str | None) -> Any:
        if target.suffix == ".ckpt":
            raise OutputError("MFC405", target, found="a tensor", expected="another")
        return real(specs, target, side)

    monkeypatch.setattr(doctor_findings, "plan_output", without_ckpt)
    assert doctor(folder).commands[0] == "mfconv convert plain OUT.safetensors"
    assert doctor(folder).ready


@pytest.mark.parametrize("name", NAMES)
def test_what_doctor_proposes_works_as_it_is_printed(name: str, toy: Tensors) -> None:
    _written(name, toy)
    found = doctor(name)
    assert [command.split()[1] for command in found.commands] == ["convert", "verify"]
    program = f"mfconv() {{ {shlex.quote(sys.executable)} -c 'from mfconv_nb.cli.main import main; main()' \"$@\"; }}"
    script = "\n".join([program, "set -e", *found.commands])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env={**os.environ, "HOME": "/nowhere"})
    assert done.returncode == 0, done.stderr + done.stdout
    assert "✓ Equal." in done.stdout


def test_a_place_is_typed_so_that_the_shell_gives_it_back() -> None:
    odd = ["a", "a b", "it's", "-x", "--", "$(x)`y`", "a\nb", "\x1b[31m", "é", "*", "\\", os.fsdecode(b"\xff'\n"), ""]
    for text in odd:
        done = subprocess.run(["bash", "-c", f"printf '%s\\0' {as_place(text)}"], capture_output=True, check=True)
        assert os.fsdecode(done.stdout) in (f"{text}\0", f"./{text}\0"), text
        assert as_place(text).isprintable()


def test_doctor_names_the_code_that_did_not_come_along(toy: Tensors) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModel": ["modeling_x.X", None], "AutoTokenizer": "me/repo--tokens_x.T"}
    folder = write_hf(Path("odd"), toy, {**CONFIG, "auto_map": code})
    (folder / "modeling_x.py").write_text("")
    (seen,) = [f for f in doctor(folder).findings if f.topic == "code"]
    assert (seen.mark, seen.seen.partition(":")[0]) == ("!", "config.json names configuration_x.py, tokens_x.py, which are not here")
    (folder / "configuration_x.py").write_text("")
    (folder / "tokens_x.py").write_text("")
    (seen,) = [f for f in doctor(folder).findings if f.topic == "code"]
    assert seen.mark == ""
    for odd in ({"AutoModel": 3}, [1], "x", {"AutoModel": ["a"]}, {"AutoModel": {"a": "b.c"}}):
        (folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": odd}))
        assert not [f for f in doctor(folder).findings if f.topic == "code"]
