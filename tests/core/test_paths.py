"""Addresses are no paths: wherever one is given it is refused, and no folder of its name is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import InputError, UsageError
from mfconv_nb.core.paths import local_path

ADDRESSES = [
    "s3://bucket/m",
    "obs://b/m.ckpt",
    "hf://org/model",
    "https://host/m.safetensors",
    "gs://b",
    "file:///m",
    "S3://b",
    "abfs+x://b",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_no_path(address: str, kind: Any) -> None:
    with pytest.raises(UsageError) as refused:
        local_path(kind(address))
    assert refused.value.code == "MFC501"
    assert address.replace(":///", "://") in str(refused.value)
    assert ("/m" if address.startswith("file") else "Copy it") in str(refused.value.hint)


@pytest.mark.parametrize("path", ["a/b", "/a:/b", "C:/models/x", "c:\\x", "a:b", "model:7b/x.ckpt", ".", "1:/x", "~", "b/a:/c"])
def test_what_only_looks_a_little_like_one_is_a_path(path: str) -> None:
    assert local_path(path) == Path(path).expanduser()


def test_no_name_at_all_is_not_the_folder_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mc.toy("llama", tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    for words in (["convert", "", "out.ckpt"], ["convert", ".", ""], ["verify", "", "."], ["doctor", ""]):
        assert run(words) == 2, words
        assert "an empty name" in "".join(capfd.readouterr())
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(InputError, match="MFC101"):
        mc.load("~nobody-of-this-name/x")


TAKERS: dict[str, Callable[[Any, Path], Any]] = {
    "load": lambda a, _: mc.load(a),
    "load several": lambda a, toy: mc.load([toy / "model.safetensors", a]),
    "load with a config": lambda a, toy: mc.load(toy, config=a),
    "save": lambda a, toy: mc.save(mc.load(toy), a),
    "save with assets": lambda a, toy: mc.save(mc.load(toy), toy.parent / "out", assets=a),
    "save for ranks": lambda a, toy: mc.save(mc.map(mc.load(toy)), toy.parent / "out", layout_of_ranks=a),
    "toy": lambda a, _: mc.toy("llama", a),
    "verify": lambda a, toy: mc.verify(toy, a),
    "diff": lambda a, toy: mc.diff(toy, a),
    "doctor": lambda a, _: mc.doctor(a),
    "a converter": lambda a, toy: mc.run_converter(a, toy, toy.parent / "out"),
    "export of a result": lambda a, toy: mc.load(toy).export(a),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("kind", [str, Path])
def test_every_call_that_takes_a_path_refuses_an_address(taker: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mc.toy("llama", tmp_path / "toy", num_hidden_layers=1, vocab_size=40)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(mc.MfconvError) as refused:
        TAKERS[taker](kind("s3://bucket/m.csv" if taker.startswith("export") else "s3://bucket/m"), tmp_path / "toy")
    assert refused.value.code == "MFC501"
    assert "s3://" in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


COMMANDS = [
    "convert TOY s3://b/x.ckpt",
    "convert s3://b/x TOY.ckpt",
    "convert --input_path TOY --output_path s3://b/x.ckpt",
    "convert TOY x.ckpt --config s3://b",
    "convert TOY x.ckpt --converter s3://b",
    "save TOY s3://b/x --force",
    "save TOY out --layout_of_ranks s3://b/l.json",
    "merge TOY s3://b/a x",
    "inspect s3://b/x.ckpt",
    "doctor s3://b",
    "doctor TOY --strategy s3://b",
    "verify TOY s3://b/x.ckpt",
    "diff s3://b/x TOY",
    "toy llama s3://b/x",
    "suggest TOY s3://b/x",
    "probe TOY s3://b/x",
    "export llama s3://b/x",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_address(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mc.toy("llama", "toy", num_hidden_layers=1, vocab_size=40)
    before = sorted(tmp_path.rglob("*"))
    assert run(command.replace("TOY", "toy").split()) == 2
    said = capsys.readouterr().err
    assert "MFC501" in said
    assert "'s3://b" in said
    assert sorted(tmp_path.rglob("*")) == before
