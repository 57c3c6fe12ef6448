"""Converters in MindFormers' own form are run as they are, only when named, and leave nothing behind unless they end well."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import InputError, MappingError, OutputError
from tests.support import PATIENCE, raws_in, wait_until, write_safetensors
from tests.toys import raws_of

# A whole converter by hand: Llama's names, by what numpy and safetensors can do.
RIGHT = '''"""Written by hand."""
import json
import os
import struct

NAMES = {
    "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
    "model.norm.weight": "model.norm_out.weight",
}


def convert_pt_to_ms(input_path, output_path, dtype=None, **kwargs):
    from safetensors.numpy import load_file
    header, data = {}, b""
    for file in sorted(os.listdir(input_path)):
        if file.endswith(".safetensors"):
            with open(os.path.join(input_path, file), "rb") as opened:
                whole = opened.read()
            first = 8 + struct.unpack("<Q", whole[:8])[0]
            for name, entry in json.loads(whole[8:first]).items():
                if name == "__metadata__":
                    continue
                for old, new in NAMES.items():
                    name = name.replace(old, new)
                a, b = entry["data_offsets"]
                header[name] = {**entry, "data_offsets": [len(data), len(data) + b - a]}
                data += whole[first + a : first + b]
    head = json.dumps(header).encode()
    print(f"writing {len(header)} tensors")
    with open(output_path, "wb") as opened:
        opened.write(struct.pack("<Q", len(head)) + head + data)
    return True
'''
SWAPPED = RIGHT.replace('"mlp.gate_proj": "feed_forward.w1"', '"mlp.gate_proj": "feed_forward.w3"').replace(
    '"mlp.up_proj": "feed_forward.w3"', '"mlp.up_proj": "feed_forward.w1"'
)
HEAD = "def convert_pt_to_ms(input_path, output_path, dtype=None, **kwargs):\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    mc.toy("llama", tmp_path / "in" / "toy", num_hidden_layers=2)
    (tmp_path / "out").mkdir()
    return tmp_path / "in" / "toy"


def converter(folder: Path, text: str, name: str = "convert_weight.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def left_in(toy: Path) -> list[str]:
    return sorted(p.name for p in (toy.parents[1] / "out").iterdir())


def refused(toy: Path, text: str, code: str, target: str = "o.safetensors", **kwargs: Any) -> MappingError:
    """What is raised for a converter; nothing lies beside the target then, and nothing new in its folder."""
    folder = converter(toy.parents[1] / "bad", text)
    with pytest.raises(MappingError, match=code) as raised:
        mc.run_converter(folder, toy, toy.parents[1] / "out" / target, show=False, **kwargs)
    assert left_in(toy) == []
    assert sorted(p.name for p in folder.iterdir()) == ["convert_weight.py"]
    return raised.value


# ---- what MindFormers' form gives ------------------------------------------------------------------------------------------

EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "q, k and v split": ("internlm2", {"qkv_concat": False}),
    "experts stacked": ("mixtral", {}),
}


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_family_runs_both_ways_and_gives_what_the_family_gives(name: str, tmp_path: Path) -> None:
    key, options = EXPORTED[name]
    mc.toy(key, tmp_path / "toy", options=options)
    mc.author.export(key, tmp_path / "mine", to="mindformers", **options)
    there = mc.run_converter(tmp_path / "mine", tmp_path / "toy", tmp_path / "o.ckpt", against=key, show=False, **options)
    assert there.equal
    assert raws_in(tmp_path / "o.ckpt") == raws_of(mc.map(mc.load(tmp_path / "toy"), key, **options))
    back = mc.run_converter(
        tmp_path / "mine",
        tmp_path / "o.ckpt",
        tmp_path / "b.bin",
        reversed=True,
        against=key,
        config=tmp_path / "toy",
        show=False,
        **options,
    )
    assert back.equal
    assert raws_in(tmp_path / "b.bin") == raws_in(tmp_path / "toy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.bin", "mine", "o.ckpt", "toy", "toy.mfconv"]


@pytest.mark.real_frameworks
def test_a_dtype_is_handed_over_as_mindspores_and_expected_of_the_output(toy: Path, tmp_path: Path) -> None:
    mc.author.export("llama", tmp_path / "mine", to="mindformers")
    report = mc.run_converter(tmp_path / "mine", toy, tmp_path / "o.ckpt", dtype="fp32", against="llama", show=False)
    assert report.equal
    assert {raw.dtype for raw in raws_in(tmp_path / "o.ckpt").values()} == {"F32"}
    typed = converter(tmp_path / "typed", HEAD + "    raise TypeError(repr(dtype))\n")
    with pytest.raises(MappingError, match="MFC318") as raised:
        mc.run_converter(typed, toy, tmp_path / "p.ckpt", dtype="bf16", show=False)
    assert "BFloat16" in str(raised.value.found) or "bfloat16" in str(raised.value.found)


def test_a_converter_by_hand_is_equal_and_one_with_gate_and_up_swapped_is_told_by_tensor(toy: Path, tmp_path: Path) -> None:
    right = mc.run_converter(converter(tmp_path / "right", RIGHT), toy, tmp_path / "right.safetensors", against="llama", show=False)
    assert right.equal
    assert "✓ Equal." in repr(right)
    wrong = mc.run_converter(converter(tmp_path / "wrong", SWAPPED), toy, tmp_path / "wrong.safetensors", against="llama", show=False)
    assert not wrong.equal
    assert {row["name"] for row in wrong.rows() if row["status"] != "equal"} == {
        f"model.layers.{layer}.feed_forward.{w}.weight" for layer in (0, 1) for w in ("w1", "w3")
    }
    assert wrong.exploration().counts["differ"] == 4


def test_without_against_nothing_is_compared_and_that_is_said(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = mc.run_converter(converter(tmp_path / "right", RIGHT), toy, tmp_path / "o.safetensors")
    assert report.equal is None
    assert report.difference is None
    assert "Nothing was compared" in repr(report)
    assert report.lines == ("writing 21 tensors",)
    assert "  | writing 21 tensors" in capsys.readouterr().err
    with pytest.raises(NotImplementedError):
        report.exploration()


def test_both_functions_in_one_file_and_modules_of_its_own_are_found(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "research" / "mine"
    converter(folder, "import names_of_mine\nfrom research.mine.helper import convert_pt_to_ms\nfrom .helper import convert_ms_to_pt\n")
    converter(folder, RIGHT + "\ndef convert_ms_to_pt(input_path, output_path):\n    open(output_path, 'w').write(__name__)\n", "helper.py")
    converter(folder, "", "names_of_mine.py")
    assert mc.run_converter(folder, toy, tmp_path / "o.safetensors", against="llama", show=False).equal
    with pytest.raises(MappingError, match="MFC318") as raised:  # it was run: what it wrote is no checkpoint
        mc.run_converter(folder, tmp_path / "o.safetensors", tmp_path / "b.safetensors", reversed=True, show=False)
    assert "checkpoint that can be read" in str(raised.value.expected)


# ---- what goes wrong -------------------------------------------------------------------------------------------------------


def test_an_exception_is_told_with_its_file_and_line(toy: Path) -> None:
    error = refused(toy, HEAD + "    print('so far')\n    open(output_path, 'w').write('half')\n    raise KeyError('wqkv')\n", "MFC318")
    assert str(error.where).endswith("convert_weight.py, line 4")
    assert "KeyError: 'wqkv'" in str(error.found)
    assert "raise KeyError('wqkv')" in str(error.found)
    assert "| so far" in str(error.found)


ENDINGS = {
    "writes nothing": ("    pass\n", "wrote nothing"),
    "sys.exit(0)": ("    import sys\n    sys.exit(0)\n", "SystemExit: 0"),
    "os._exit(0)": ("    import os\n    os._exit(0)\n", "status 0 before the function returned"),
    "killed": ("    import os\n    os.kill(os.getpid(), 9)\n", "SIGKILL (out of memory?)"),
    "garbage": ("    open(output_path, 'wb').write(b'\\xff' * 100)\n", "MFC"),
    "an empty file": ("    open(output_path, 'wb')\n", "MFC"),
    "returns False": ("    return False\n", "returned False"),
    "another name": ("    open(output_path + '.ckpt', 'w').write('x')\n", "wrote o.safetensors.ckpt"),
    "no tensor": ("    open(output_path, 'wb').write(b'\\x02\\0\\0\\0\\0\\0\\0\\0{}')\n", ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_did_not_end_with_a_checkpoint_is_refused_and_leaves_nothing(name: str, toy: Path) -> None:
    body, said = ENDINGS[name]
    assert said in str(refused(toy, HEAD + body, "MFC318").found)


FOLDERS = {
    "no function": ("def convert(input_path):\n    pass\n", "convert_weight.py defines convert"),
    "only the other way": ("def convert_ms_to_pt(input_path, output_path):\n    pass\n", "convert_ms_to_pt"),
    "another signature": ("def convert_pt_to_ms(source, target):\n    pass\n", "convert_pt_to_ms(source, target)"),
    "no function, but a text": ("convert_pt_to_ms = 'later'\n", "a str"),
    "no Python": ("def convert_pt_to_ms(:\n", "SyntaxError"),
    "a module that is not there": ("import not_installed_at_all\n" + HEAD + "    pass\n", "not_installed_at_all"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused(name: str, toy: Path) -> None:
    text, said = FOLDERS[name]
    assert said in str(refused(toy, text, "MFC317").found)


def test_an_argument_that_the_function_does_not_take_is_refused_before_it_runs(toy: Path) -> None:
    text = "def convert_pt_to_ms(input_path, output_path):\n    raise RuntimeError('was run')\n"
    assert "n_head" in str(refused(toy, text, "MFC317", n_head=32).found)
    assert "dtype" in str(refused(toy, text, "MFC317", dtype="fp32").found)


def test_an_argument_that_the_function_asks_for_is_named_with_the_flag_that_gives_it(toy: Path) -> None:
    error = refused(toy, "def convert_pt_to_ms(input_path, output_path, config, n_head, dtype=None):\n    pass\n", "MFC317")
    assert error.hint == "The function asks for config and n_head: --config VALUE --n_head VALUE (config=..., n_head=... in Python)."
    error = refused(toy, "def convert_pt_to_ms(input_path, output_path):\n    pass\n", "MFC317", n_head=32)
    assert error.hint == "The function takes no n_head: leave it out."


def test_what_is_not_there_and_what_is_there_already(toy: Path, tmp_path: Path) -> None:
    right = converter(tmp_path / "right", RIGHT)
    with pytest.raises(MappingError, match="MFC317"):
        mc.run_converter(tmp_path / "nowhere", toy, tmp_path / "o.safetensors")
    with pytest.raises(MappingError, match="MFC317"):
        mc.run_converter(right / "convert_weight.py", toy, tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="MFC101"):
        mc.run_converter(right, tmp_path / "nowhere", tmp_path / "o.safetensors")
    with pytest.raises(OutputError, match="MFC402"):
        mc.run_converter(right, toy, toy)
    mc.save(mc.map(mc.load(toy)), tmp_path / "o.safetensors")
    with pytest.raises(OutputError, match="MFC401"):
        mc.run_converter(right, toy, tmp_path / "o.safetensors", show=False)
    mc.run_converter(right, toy, tmp_path / "o.safetensors", overwrite=True, show=False)
    assert not (tmp_path / "o.safetensors.mfconv").exists()  # the manifest was of what is gone


def test_a_failed_run_leaves_what_it_would_have_replaced(toy: Path, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(toy)), tmp_path / "out" / "o.safetensors")
    before = (tmp_path / "out" / "o.safetensors").read_bytes()
    bad = converter(tmp_path / "bad", HEAD + "    open(output_path, 'w').write('half')\n    raise OSError('disk')\n")
    with pytest.raises(MappingError, match="MFC318"):
        mc.run_converter(bad, toy, tmp_path / "out" / "o.safetensors", overwrite=True, show=False)
    assert (tmp_path / "out" / "o.safetensors").read_bytes() == before
    assert left_in(toy) == ["o.safetensors", "o.safetensors.mfconv"]


def test_what_it_does_to_its_process_does_not_reach_ours(toy: Path, tmp_path: Path) -> None:
    here, modules = os.getcwd(), set(sys.modules)
    text = "import os, sys\nimport wave\nos.chdir('/')\nos.environ['WHAT'] = 'ever'\nsys.path.append('/')\n" + RIGHT
    mc.run_converter(converter(tmp_path / "right", text), toy, tmp_path / "o.safetensors", show=False)
    assert os.getcwd() == here
    assert "WHAT" not in os.environ
    assert "wave" not in set(sys.modules) - modules


ENDLESS = """
import subprocess, sys, time, os
def convert_pt_to_ms(input_path, output_path, **kwargs):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1200)"])
    open(output_path, "w").write("half")
    open(kwargs["pids"], "w").write(f"{os.getpid()} {other.pid}\\n")
    time.sleep(1200)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_one_that_never_ends_is_ended_with_everything_it_started(how: signal.Signals, toy: Path, tmp_path: Path) -> None:
    folder, pids = converter(tmp_path / "endless", ENDLESS), tmp_path / "pids"
    command = [
        sys.executable,
        "-m",
        "mfconv_nb.cli.main",
        "convert",
        "--converter",
        str(folder),
        str(toy),
        str(tmp_path / "out" / "o.ckpt"),
    ]
    command[1:3] = ["-c", "from mfconv_nb.cli.main import main; main()"]
    ours = subprocess.Popen([*command, "--pids", str(pids)], stderr=subprocess.PIPE, start_new_session=True, text=True)
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    ours.send_signal(how)
    said = ours.communicate(timeout=PATIENCE)[1]
    wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()))
    if how == signal.SIGINT:
        assert ours.returncode == 130
        assert "Stopped. Nothing was published." in said
        assert left_in(toy) == []
    mc.run_converter(converter(tmp_path / "right", RIGHT), toy, tmp_path / "out" / "o.ckpt", show=False)
    assert left_in(toy) == ["o.ckpt"]  # what the killed one had left is gone too


def test_two_at_once_on_one_target_do_not_meet(toy: Path, tmp_path: Path) -> None:
    folder, pids = converter(tmp_path / "endless", ENDLESS), tmp_path / "pids"
    code = f"import mfconv_nb as mc; mc.run_converter({str(folder)!r}, {str(toy)!r}, 'out/o.safetensors', show=False, pids={str(pids)!r})"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        with pytest.raises(OutputError, match="MFC406"):
            mc.run_converter(converter(tmp_path / "right", RIGHT), toy, tmp_path / "out" / "o.safetensors", show=False)
        assert (tmp_path / "out" / "o.safetensors.mfconv-running" / "out" / "o.safetensors").read_text() == "half"
    finally:
        first.terminate()
        first.wait(PATIENCE)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- the command -----------------------------------------------------------------------------------------------------------

TRACE = "open(TRACE, 'a').write('ran ')\n"


def test_a_folder_is_never_run_unless_converter_names_it(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    text = TRACE.replace("TRACE", repr(str(trace))) + RIGHT
    monkeypatch.chdir(converter(toy, text))
    shutil.copy("convert_weight.py", tmp_path / "convert_weight.py")
    for command in (
        ["inspect", str(toy)],
        ["convert", str(toy), str(tmp_path / "a.ckpt")],
        ["convert", "--model", "llama", ".", "../b.ckpt"],
    ):
        assert run(command) == 0
    assert run(["convert", "--against", "llama", str(toy), str(tmp_path / "c.ckpt")]) == 2
    mc.load(toy)
    assert not trace.exists()
    assert run(["convert", "--converter", str(toy), str(toy), str(tmp_path / "d.safetensors")]) == 0
    assert trace.read_text() == "ran "


def test_the_command_takes_mindformers_flags_hands_options_on_and_compares(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RIGHT.replace("    header, data", "    print('kwargs', sorted(kwargs.items()))\n    header, data")
    right, wrong = converter(tmp_path / "right", text), converter(tmp_path / "wrong", SWAPPED)
    paths = ["--input_path", str(toy), "--output_path", str(tmp_path / "o.safetensors")]
    assert run(["convert", "--converter", str(right), "--against", "llama", *paths, "--n_head", "6", "--is-pretrain=True"]) == 0
    printed = capsys.readouterr()
    assert "kwargs [('is_pretrain', 'True'), ('n_head', '6')]" in printed.err
    assert f"running the code in {right}" in printed.err
    assert "✓ Equal. 21 of 21 tensors bitwise equal" in printed.out
    assert run(["convert", f"--converter={wrong}", "--against", "llama", *paths, "--force", "--quiet"]) == 1
    printed = capsys.readouterr()
    assert "✗ Not equal." in printed.out
    assert "feed_forward.w{1, 3}" in printed.out
    assert "writing" not in printed.err
    assert run(["convert", "--converter", str(right), *paths]) == 2
    assert "MFC401" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "llama"], "--against MODEL"),
        (["--layers", "1"], "--layers does not go with --converter"),
        (["--n_head"], "needs a value"),
        (["--n_head", "--force"], "needs a value"),
        (["--show", "1"], "cannot be handed on"),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_does_not_go_with_a_converter_is_refused(
    words: list[str], said: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = converter(tmp_path / "right", RIGHT)
    assert run(["convert", "--converter", str(right), str(toy), str(tmp_path / "o.safetensors"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


def test_help_says_that_it_runs_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    assert "RUNS THE CODE in DIR" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_a_checkpoint_stands_for_its_folder_as_mindformers_takes_it(toy: Path, tmp_path: Path) -> None:
    text = RIGHT.replace("    header, data", "    input_path = os.path.dirname(input_path)\n    header, data")
    folder = converter(tmp_path / "right", text)
    target = str(tmp_path / "o.safetensors")
    assert run(["convert", "--converter", str(folder), "--against", "llama", str(toy / "any.bin"), target, "--quiet"]) == 0


def test_other_weights_are_its_own_fault_and_told_by_the_comparison(toy: Path, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "zeros.safetensors", {"a": np.zeros(3, np.float32)})
    text = HEAD + f"    import shutil\n    shutil.copy({str(tmp_path / 'zeros.safetensors')!r}, output_path)\n"
    report = mc.run_converter(converter(tmp_path / "zeros", text), toy, tmp_path / "o.safetensors", against="llama", show=False)
    assert report.difference is not None
    assert report.difference.counts["missing"] == 21
