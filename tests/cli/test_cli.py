"""The command line: what MindFormers' users type, what is printed, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import mfconv, run
from mfconv_nb.core.errors import InputError
from mfconv_nb.families import llama
from tests.support import PATIENCE, flip_bit, numbered, place_of, raws_in, write_safetensors
from tests.toys import raws_of

# ---- convert ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ["convert", "--model", "llama", "--input_path", "toy/", "--output_path", "o.ckpt"],
        ["--model", "llama", "--input_path", "toy/", "--output_path", "o.ckpt"],
        ["--input_path", "toy", "--output_path", "o.ckpt"],
        ["convert", "toy", "o.ckpt"],
        ["convert", "--input-path", "toy/model.safetensors.index.json", "--output-path", "o.ckpt"],
        ["convert", "toy/model-00003-of-00009.safetensors", "o.ckpt"],
        ["convert", "toy/config.json", "o.ckpt"],
    ],
    ids=lambda g: " ".join(g),
)
def test_every_way_to_say_it_converts_the_whole_checkpoint(given: list[str], toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.parent)
    assert run(given) == 0
    assert raws_in(Path("o.ckpt")) == raws_of(mc.map(mc.load(toy)))


@pytest.mark.parametrize("flag", [["--reversed"], []], ids=["--reversed", "told from the file"])
def test_the_way_back_from_the_shell_is_the_original(flag: list[str], toy: Path, tmp_path: Path) -> None:
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt")]) == 0
    assert run(["convert", "--model", "llama", *flag, str(tmp_path / "o.ckpt"), str(tmp_path / "back"), "--config", str(toy)]) == 0
    assert raws_in(tmp_path / "back") == raws_in(toy)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == llama.FAMILY.toy


def test_the_way_back_keeps_the_manifest_when_one_shard_stands_for_the_whole(toy: Path, tmp_path: Path) -> None:
    write_safetensors(toy / "model-00010-of-00010.safetensors", {"model.layers.0.self_attn.rotary_emb.inv_freq": numbered(10)})
    index = json.loads((toy / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = "model-00010-of-00010.safetensors"
    (toy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index["weight_map"]}))
    assert run(["convert", str(toy), str(tmp_path / "mf"), "--max_shard_size", "100KB"]) == 0
    assert run(["convert", str(tmp_path / "mf" / "part1.safetensors"), str(tmp_path / "back")]) == 0
    assert raws_in(tmp_path / "back") == raws_in(toy)


def test_options_reach_the_steps(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.ckpt"
    assert (
        run(["convert", str(toy), str(out), "--dtype", "fp32", "--layers", "2", "--n_head", "6", "--hidden_size", "96", "--threads", "3"])
        == 0
    )
    found = raws_in(out)
    assert {r.dtype for r in found.values()} == {"F32"}
    mc.save(mc.map(mc.load(toy), layers=2), tmp_path / "python.ckpt", dtype="fp32")
    assert found == raws_in(tmp_path / "python.ckpt")
    assert {n.split(".")[2] for n in found if ".layers." in n} == {"0", "1"}
    assert run(["convert", str(toy), str(tmp_path / "folder"), "--max_shard_size", "100KB", "--no_fsync", "--quiet"]) == 0
    assert len(list((tmp_path / "folder").glob("part*.safetensors"))) > 3


@pytest.mark.parametrize(
    "said, taken",
    [
        ([], {"dtype": None, "max_shard_size": None, "dry_run": False, "overwrite": False, "durable": True, "threads": 2}),
        (["--dtype", "fp16", "--max_shard_size", "1KB"], {"dtype": "fp16", "max_shard_size": "1KB", "overwrite": False}),
        (["--dry_run", "--force"], {"dry_run": True, "overwrite": True, "durable": True}),
        (["--no_fsync", "--threads", "3"], {"durable": False, "threads": 3, "dry_run": False}),
    ],
    ids=lambda given: " ".join(given) or "nothing",
)
def test_what_is_said_of_writing_reaches_save(
    said: list[str], taken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"a": numbered(3, 5)})
    asked: dict[str, Any] = {}
    write = mc.save

    def save(*given: Any, **how: Any) -> Any:
        asked.update(how)
        return write(*given, **how)

    monkeypatch.setattr(mc, "save", save)
    assert run(["save", str(tmp_path / "x.safetensors"), str(tmp_path / "out"), *said]) == 0
    assert {name: asked[name] for name in taken} == taken


def test_save_and_the_way_back_take_the_small_files_of_a_hugging_face_folder_along(toy: Path, tmp_path: Path) -> None:
    (toy / "tokenizer_config.json").write_text('{"a": 1}')
    assert run(["save", str(toy), str(tmp_path / "one.safetensors")]) == 0
    assert run(["save", str(tmp_path / "one.safetensors"), str(tmp_path / "folder"), "--config", str(toy)]) == 0
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt")]) == 0
    assert run(["convert", "--reversed", str(tmp_path / "o.ckpt"), str(tmp_path / "back"), "--config", str(toy)]) == 0
    for folder in ("folder", "back"):
        assert (tmp_path / folder / "tokenizer_config.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize("command", ["convert", "save", "merge", "verify", "doctor"])
def test_what_is_said_of_a_run_reaches_the_step_that_opens_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def note(*_: Any, **how: Any) -> Any:
        asked.update(how)
        raise InputError("MFC101", "run")

    monkeypatch.setattr(mc, "doctor" if command == "doctor" else "load", note)
    places = [str(tmp_path / name) for name in ("run", "out")][: 1 if command == "doctor" else 2]
    assert run([command, *places, "--step", "2_400", "--strategy", "s", "--file_prefix", "p"]) == 2
    assert [asked[name] for name in ("step", "strategy", "file_prefix")] == ["2_400", Path("s"), "p"]


def test_a_dry_run_shows_the_mapping_and_writes_nothing(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.iterdir())
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "39 mapped" in out
    assert "Would write 39 tensors" in out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "given, code, words",
    [
        (["convert", "toy"], 2, "Give IN and OUT"),
        (["convert", "toy", "o.ckpt", "third"], 2, "Give IN and OUT"),
        (["convert", "nowhere", "o.ckpt"], 2, "MFC101"),
        (["convert", "toy/run", "o.ckpt"], 2, "MFC101"),  # not the checkpoint beside it
        (["convert", "--model", "llama", "--input_path", "toy/not_there.bin", "--output_path", "o.ckpt"], 2, "In toy there is: 'model"),
        (["convert", "toy/llama-400.ckpt", "out", "--reversed"], 2, "MFC101"),
        (["save", "toy/not_there.safetensors", "o.ckpt"], 2, "MFC101"),
        (["verify", "toy", "toy/not_there.ckpt"], 2, "MFC101"),
        (["diff", "toy", "toy/not_there.ckpt"], 2, "MFC101"),
        (["merge", "toy/not_there.ckpt", "o.ckpt"], 2, "MFC101"),
        (["convert", "toy", "o.xyz"], 2, "MFC407"),
        (["convert", "toy", "toy"], 2, "MFC402"),
        (["convert", "toy", "o.ckpt", "--model", "lama"], 2, "Did you mean 'llama'?"),
        (["convert", "toy", "o.ckpt", "--reversed"], 2, "MFC303"),
        (["convert", "toy", "o.ckpt", "--n_head", "7"], 2, "MFC304"),
        (["convert", "toy", "o.ckpt", "--telechat_type", "telechat_12b"], 2, "MFC305"),
        (["convert", "toy", "o.ckpt", "--is_pretrain", "True"], 2, "MFC305"),
        (["convert", "toy", "o.ckpt", "--dtype", "int8"], 2, "int8"),
        (["convert", "toy", "o.ckpt", "--layers", "0"], 2, "0"),
        (["convert", "toy", "o.ckpt", "--max_shard_size", "1MB"], 2, "MFC501"),
        (["convert", "toy", "o.ckpt", "--nonsense"], 2, "--nonsense"),
        (["convrt", "toy", "o.ckpt"], 2, "Did you mean 'convert'?"),
        (["inspect", "toy/tokenizer.json"], 2, "MFC101"),
        (["toy", "lama", "t"], 2, "Did you mean 'llama'?"),
    ],
    ids=lambda g: " ".join(g) if isinstance(g, list) else "",
)
def test_a_refusal_is_one_message_exit_code_2_and_nothing_written(
    given: list[str], code: int, words: str, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.parent)
    before = sorted(p for p in toy.parent.rglob("*"))
    assert run(given) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(p for p in toy.parent.rglob("*")) == before


def test_an_existing_target_needs_force(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o.ckpt").write_bytes(b"mine")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt")]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "o.ckpt").read_bytes() == b"mine"
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--force"]) == 0


def test_debug_shows_where_an_error_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--debug", "inspect", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("✗ Refused.  MFC101")
    assert "Traceback" in said
    assert "reading.py" in said


# ---- the other commands ----------------------------------------------------------------------------------------------------


def test_inspect_shows_what_is_there_as_text_and_json(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(toy)]) == 0
    assert "model.norm.weight" in capsys.readouterr().out
    assert run(["inspect", str(toy), "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sum(row["tensors"] for row in content["rows"]) == 39
    assert "model.layers.{0‥3}.self_attn.q_proj.weight" in {row["name"] for row in content["rows"]}
    assert run(["inspect", str(toy), "--all"]) == 0


def test_inspect_cuts_long_lists_and_all_shows_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{a}{b}.weight" for a in "abcdefgh" for b in "abcdefgh"]
    write_safetensors(tmp_path / "many.safetensors", {n: numbered(2) for n in names})
    assert run(["inspect", str(tmp_path / "many.safetensors")]) == 0
    cut = capsys.readouterr().out
    assert "24 more name patterns: --all" in cut
    assert run(["inspect", str(tmp_path / "many.safetensors"), "--all"]) == 0
    shown = capsys.readouterr().out
    assert (sum(n in cut for n in names), sum(n in shown for n in names)) == (40, 64)


def test_diff_exits_0_when_all_agrees_and_1_when_anything_differs(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.save(mc.load(toy), tmp_path / "same.safetensors")
    mc.save(mc.load(toy), tmp_path / "other.safetensors")
    flip_bit(tmp_path / "other.safetensors", place_of(tmp_path / "other.safetensors", "model.norm.weight"))
    assert run(["diff", str(toy), str(tmp_path / "same.safetensors"), "--values"]) == 0
    assert capsys.readouterr().out.startswith("✓ Equal.")
    assert run(["diff", str(toy), str(tmp_path / "other.safetensors")]) == 0
    assert capsys.readouterr().out.startswith("✓ Headers agree.")
    assert run(["diff", str(toy), str(tmp_path / "other.safetensors"), "--values", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["verdict"] == "✗ Not equal."
    assert [row["name"] for row in content["rows"] if row["status"] == "differ"] == ["model.norm.weight"]


def test_verify_exits_0_for_equal_and_close_and_1_for_the_rest(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.ckpt"
    mc.save(mc.map(mc.load(toy)), out)
    for arguments in ([str(toy), str(out)], [str(out)], [str(toy), str(out), "--model", "llama", "--config", str(toy)]):
        assert run(["verify", *arguments]) == 0
        assert capsys.readouterr().out.startswith("✓ Equal.")
    mc.save(mc.map(mc.load(toy)), out, dtype="fp16", overwrite=True)
    assert run(["verify", str(toy), str(out)]) == 0
    assert capsys.readouterr().out.startswith("≈ Close.")
    flip_bit(out, place_of(out, "model.norm_out.weight"))
    for arguments in ([str(toy), str(out)], [str(out)]):
        assert run(["verify", *arguments]) == 1
        assert capsys.readouterr().out.startswith("✗ Not equal.")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run(["verify", "--json", "toy", "o.ckpt"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "✗ Not equal."


def test_toy_and_families_do_what_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["toy", "llama", str(tmp_path / "t"), "--dtype", "fp32"]) == 0
    assert {r.dtype for r in raws_in(tmp_path / "t").values()} == {"F32"}
    assert run(["toy", "llama", str(tmp_path / "t")]) == 2
    assert run(["toy", "llama", str(tmp_path / "t"), "--force"]) == 0
    capsys.readouterr()
    assert run(["families"]) == 0
    assert "Llama 2, 3" in capsys.readouterr().out


IN_HELP = [
    "doctor",
    "families",
    "inspect",
    "config",
    "convert",
    "merge",
    "migrate",
    "save",
    "toy",
    "diff",
    "verify",
    "export",
    "import",
    "probe",
    "prove",
    "suggest",
]


@pytest.mark.parametrize("command", [*mfconv.list_commands(click.Context(mfconv)), ""])
def test_every_command_has_help_with_exit_code_0(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([command] if command else []), "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: mfconv" in said
    if not command:
        assert re.findall(r"^  ([a-z]+) {2,}[A-Z]", said, flags=re.M) == IN_HELP
    assert run(["--version"]) == 0
    assert mc.__version__ in capsys.readouterr().out


def test_the_installed_command_passes_the_exit_code_on_and_survives_a_plain_terminal(toy: Path) -> None:
    command = Path(sys.executable).parent / "mfconv"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments, code in ((["inspect", "toy"], 0), (["inspect", "nowhere"], 2), (["diff", "toy", "toy", "--values"], 0)):
        done = subprocess.run([command, *arguments], cwd=toy.parent, env=environment, capture_output=True, timeout=PATIENCE)
        assert done.returncode == code
        assert (done.stdout + done.stderr).isascii()
    assert done.stdout.startswith(b"ok Equal.")
