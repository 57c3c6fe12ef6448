"""Exported converters run by themselves, in a process that cannot import mfconv_nb, and give what `mc.map` gives, byte for byte."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.author.exporting.mindformers_layouts import Sentence, function_text
from mfconv_nb.author.exporting.mindformers_sizes import expression_text
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, OutputError, UsageError
from mfconv_nb.core.layout import parse_layout
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.rules import numbers_of
from mfconv_nb.rules import Family, Option, Rule
from tests.every_form import with_every_pair
from tests.support import raws_in
from tests.toys import raws_of

# family, its options, changes to the toy's config
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "renames": ("llama", {}, {}),
    "tied head": ("llama", {}, {"tie_word_embeddings": True}),
    "joined end to end": ("llama", {"qkv_concat": True}, {}),
    "joined by groups": ("llama", {"qkv_concat": "grouped"}, {}),
    "split by groups": ("internlm2", {"qkv_concat": False}, {}),
    "stacked experts": ("mixtral", {}, {}),
    "stacked and transposed": ("mixtral", {"use_gmm": True}, {}),
    "split by heads": ("bloom", {}, {}),
    "zeros": ("blip", {}, {}),
    "copies, a fixed dtype": ("deepseek3", {}, {}),
    "sizes by stage": ("swin", {}, {}),
    "an axis of one": ("whisper", {}, {}),
    "a size that no shape tells": ("telechat", {"telechat_type": "telechat_52b"}, {}),
}

DRIVER = """
import importlib.util, json, sys
from pathlib import Path

class NotHere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mfconv_nb":
            raise ImportError("mfconv_nb must not be used")

sys.meta_path.insert(0, NotHere())

def function(folder, name, wanted):
    spec = importlib.util.spec_from_file_location(name, folder / "out" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, wanted)

refused = {}
for word in json.loads(sys.argv[1]):
    folder = Path(word)
    there = function(folder, "convert_weight", "convert_pt_to_ms")
    back = function(folder, "convert_reversed", "convert_ms_to_pt")
    there(str(folder / "toy"), str(folder / "toy.ckpt"))
    back(str(folder / "toy.ckpt"), str(folder / "back.bin"))
    there(str(folder / "toy"), str(folder / "wide.ckpt"), dtype="float32", layers=None)
    if folder.name in ("tied head", "renames"):  # what a network holds that has no head
        import mindspore

        held = mindspore.load_checkpoint(str(folder / "toy.ckpt"))
        headless = [{"name": name, "data": data} for name, data in held.items() if name != "lm_head.weight"]
        mindspore.save_checkpoint(headless, str(folder / "network.ckpt"))
        try:
            back(str(folder / "network.ckpt"), str(folder / "network.bin"))
        except ValueError as error:
            refused[folder.name] = str(error)
    if folder.name == "renames":
        import torch

        there(str(folder / "back.bin"), str(folder / "again.ckpt"), qkv_concat="False")
        tensors = torch.load(folder / "back.bin", weights_only=True)
        lacking = {n: t for n, t in tensors.items() if n != "model.layers.1.mlp.up_proj.weight"}
        torch.save(lacking, folder / "lacking.bin")
        torch.save({**tensors, "model.more.weight": tensors["model.norm.weight"]}, folder / "more.bin")
        for what, source, kwargs in (
            ("form", "toy", {"qkv_concat": True}),
            ("lacking", "lacking.bin", {}),
            ("more", "more.bin", {}),
            ("dtype", "toy", {"dtype": "int8"}),
        ):
            try:
                there(str(folder / source), str(folder / "refused.ckpt"), **kwargs)
            except ValueError as error:
                refused[what] = str(error)
print("refused:", json.dumps(refused))
print("modules:", "mfconv_nb" in sys.modules)
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every case exported, and its toy carried there and back, all in one process; the folder, and what that process printed."""
    root = tmp_path_factory.mktemp("exported")
    return root, _carried(root, CASES)


def _carried(root: Path, cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]]) -> str:
    for name, (key, options, config) in cases.items():
        mc.author.export(key, root / name / "out", to="mindformers", **options)
        mc.toy(key, root / name / "toy", options=options, **config)
        shutil.copy(root / name / "toy" / "config.json", root / name / "config.json")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folders = json.dumps([str(root / name) for name in cases])
    done = subprocess.run([sys.executable, "-c", DRIVER, folders], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", CASES)
def test_the_ckpt_holds_what_map_gives(name: str, converted: tuple[Path, str]) -> None:
    folder = converted[0] / name
    key, options, _ = CASES[name]
    assert raws_in(folder / "toy.ckpt") == raws_of(mc.map(mc.load(folder / "toy"), family=key, **options))


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", CASES)
def test_mindspore_loads_the_ckpt(name: str, converted: tuple[Path, str]) -> None:
    import mindspore

    folder = converted[0] / name
    key, options, _ = CASES[name]
    loaded = mindspore.load_checkpoint(str(folder / "toy.ckpt"))
    expected = raws_of(mc.map(mc.load(folder / "toy"), family=key, **options))
    assert {n: (tuple(p.shape), p.get_bytes()) for n, p in loaded.items()} == {n: (raw.shape, raw.data) for n, raw in expected.items()}


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", CASES)
def test_the_way_back_gives_the_original(name: str, converted: tuple[Path, str]) -> None:
    assert raws_in(converted[0] / name / "back.bin") == raws_in(converted[0] / name / "toy")


@pytest.mark.real_frameworks
def test_a_network_of_a_tied_model_holds_no_head(converted: tuple[Path, str]) -> None:
    assert raws_in(converted[0] / "tied head" / "network.bin") == raws_in(converted[0] / "tied head" / "toy")


@pytest.mark.real_frameworks
@pytest.mark.parametrize("name", CASES)
def test_a_dtype_casts_every_float(name: str, converted: tuple[Path, str]) -> None:
    narrow, wide = (raws_in(converted[0] / name / file) for file in ("toy.ckpt", "wide.ckpt"))
    assert {raw.dtype for raw in wide.values()} == {"F32"}
    assert all((narrow[n].array().astype("f4") == raw.array()).all() for n, raw in wide.items())


@pytest.mark.real_frameworks
def test_the_files_do_not_need_the_package_and_refuse_what_they_do_not_know(converted: tuple[Path, str]) -> None:
    root, printed = converted
    assert "modules: False" in printed
    refused = json.loads(printed.partition("refused: ")[2].splitlines()[0])
    assert "qkv_concat=True" in refused["form"]
    assert "mlp.up_proj.weight" in refused["lacking"]
    assert "found 3, config.json promises 4" in refused["lacking"]
    assert "model.more.weight" in refused["more"]
    assert "int8" in refused["dtype"]
    assert "lm_head.weight is not in the checkpoint, and config.json does not say that it is model.embed_tokens" in refused["renames"]
    assert not (root / "renames" / "refused.ckpt").exists()
    assert raws_in(root / "renames" / "again.ckpt") == raws_in(root / "renames" / "toy.ckpt")


@pytest.mark.real_frameworks
def test_the_program_of_the_files_is_a_module_that_refuses_what_its_tables_do_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from mfconv_nb.author.exporting import standalone

    assert standalone.regular_expression_of("a.{n}.b.{n}").fullmatch("a.12.b.12")
    assert not standalone.regular_expression_of("a.{n}.b.{n}").fullmatch("a.1.b.2")
    assert not standalone.regular_expression_of("a.{n}").fullmatch("a.01")
    array = np.arange(4, dtype=np.float32)
    with pytest.raises(ValueError, match="1 names that no rule knows, such as x"):
        standalone.apply_rules({"x": ("float32", array)}, {})
    monkeypatch.setattr(standalone, "RULES", (standalone.Move(("a.{n}",), ("b.{n}",)),))
    monkeypatch.setattr(standalone, "RUN_STATE", (("adam.",), (), ()))
    written, _ = standalone.apply_rules({"a.0": ("float32", array), "adam.a.0": ("float32", array)}, {})
    assert list(written) == ["b.0"]
    dtype, bits = standalone.cast_tensors(written, {}, "bf16")["b.0"]
    assert (dtype, bits.tolist()) == ("bfloat16", [0, 0x3F80, 0x4000, 0x4040])


def test_a_file_holds_what_its_direction_needs_and_no_more(tmp_path: Path) -> None:
    there, back, _ = mc.author.export("llama", tmp_path, to="mindformers").files
    defined = [{node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)} for file in (there, back)]
    assert defined[0] - defined[1] >= {"convert_pt_to_ms", "read_huggingface", "add_tied", "as_mindspore"}
    assert defined[1] - defined[0] >= {"convert_ms_to_pt", "read_mindspore", "remove_tied"}
    assert "safe_open" not in back.read_text()
    assert not [name for name in defined[0] | defined[1] if name.startswith("to_")]  # the functions of layouts do, and must not meet them
    assert '"adam_m."' in back.read_text()
    assert '"adam_m."' not in there.read_text()


def numbered(form: Family) -> bool:
    """Whether names of a form have a number of the config."""
    return any(numbers_of(rule) for rule in form.rules)


NOT_SAYABLE = {  # what such files have no words for: part of the name of the rule, and what is said of it
    "llama_meta": ("consolidated.{shard}/", "cut over several files"),
    "glm5": ("{indexer_layer}", "layers that the config lists one by one: indexer_layer"),
}


@pytest.mark.slow
@pytest.mark.real_frameworks
def test_forms_with_every_pair_of_options_give_what_map_gives(tmp_path: Path) -> None:
    forms = [
        (f.key, form.chosen) for f in known_families() if f.key not in NOT_SAYABLE for form in with_every_pair(f) if not numbered(form)
    ]
    cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]]
    cases = {f"{number} {key}": (key, dict(chosen), {}) for number, (key, chosen) in enumerate(forms)}
    _carried(tmp_path, cases)
    for name, (key, chosen, _) in cases.items():
        folder = tmp_path / name
        assert raws_in(folder / "toy.ckpt") == raws_of(mc.map(mc.load(folder / "toy"), family=key, **chosen)), name
        assert raws_in(folder / "back.bin") == raws_in(folder / "toy"), name


ALLOWED = {"json", "re", "pathlib", "typing", "mindspore", "numpy", "torch", "safetensors"}


@pytest.mark.parametrize("family", known_families(), ids=lambda f: f.key)
def test_every_family_exports_or_names_the_rule(family: Family, tmp_path: Path) -> None:
    if family.key in NOT_SAYABLE:
        name, said = NOT_SAYABLE[family.key]
        with pytest.raises(MappingError, match="MFC314") as raised:
            mc.author.export(family, tmp_path / "out", to="mindformers", **({"with_mtp": 0} if numbered(family) else {}))
        assert name in str(raised.value.where)
        assert said in str(raised.value.found)
        assert not (tmp_path / "out").exists()
        return
    options: dict[str, object] = {}
    if numbered(family):
        with pytest.raises(MappingError, match="MFC314") as raised:
            mc.author.export(family, tmp_path / "out", to="mindformers")
        assert "a number of the config in a name: main_layer" in str(raised.value.found)
        assert not (tmp_path / "out").exists()
        options = {"with_mtp": 0}
    exported = mc.author.export(family, tmp_path / "out", to="mindformers", **options)
    assert [path.name for path in exported.files] == ["convert_weight.py", "convert_reversed.py", "README.md"]
    for path in exported.files[:2]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert imported <= ALLOWED
        assert "<<" not in path.read_text(encoding="utf-8")


def test_the_command_writes_and_says_the_registry_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "internlm2", "--to", "mindformers", str(tmp_path / "mine"), "--qkv_concat", "False"]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert 'convert_map["internlm2"] = "research.mine.convert_weight.convert_pt_to_ms"' in printed
    assert 'reversed_convert_map["internlm2"] = "research.mine.convert_reversed.convert_ms_to_pt"' in printed
    assert '"qkv_concat": False' in (tmp_path / "mine" / "convert_weight.py").read_text()
    assert run(arguments) == 2
    assert "MFC401" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="MFC404"):
        mc.author.export("llama", tmp_path / "file", to="mindformers")
    with pytest.raises(MappingError, match="MFC305"):
        mc.author.export("llama", tmp_path / "out", to="mindformers", use_gmm=True)
    with pytest.raises(UsageError, match="MFC501"):
        mc.author.export("llama", tmp_path / "out", to="mindformers", n_head=6)
    stacked = Rule("a.{row}.{column}.w", "b.w", "x -> row column x")
    two = Family("two", "two axes in a name", (stacked,), {"row": "rows", "column": "columns"})
    with pytest.raises(MappingError, match="MFC314") as raised:
        mc.author.export(two, tmp_path / "out", to="mindformers")
    assert raised.value.where == "a.{row}.{column}.w -> b.w"
    unsized = Family("unsized", "no size", (Rule("a.w", ("b.w", "c.w"), "(p + q) x -> p x, q x"),), {})
    with pytest.raises(MappingError, match="MFC314") as raised:
        mc.author.export(unsized, tmp_path / "out", to="mindformers")
    assert "no size for p, q" in str(raised.value.found)
    assert not (tmp_path / "out").exists()


def test_a_family_of_ones_own_with_an_option_and_axes_that_are_words_of_python(tmp_path: Path) -> None:
    rule = Rule("{before}a.w", "{before}b.w", "(in np) out -> out (np in)", sizes={"np": 2})
    before = Option("before", ("", "m."), side="both")
    mine = Family("mine", 'a "model" of C:\\x', (rule,), {"in": "width", "out": "width"}, options=(before,))
    exported = mc.author.export(mine, tmp_path, to="mindformers", before="m.")
    text = exported.files[0].read_text()
    assert 'Move(("m.a.w",), ("m.b.w",), "(in np) out -> out (np in); np = 2")' in text
    assert "np_ = 2" in text
    compile(text, "convert_weight.py", "exec")


def test_a_sentence_becomes_numpy_operations() -> None:
    layout = parse_layout("(heads (q + k)) hidden -> (heads q) hidden, (k heads) hidden")
    text = function_text("to_q", Sentence(layout.left, layout.right, {}, {"k": "q"}, frozenset({"heads"})), "title")
    assert text.splitlines() == [
        "def to_q(size, source_1):",
        '    """title"""',
        "    hidden = source_1.shape[1]",
        '    heads = size("heads")',
        "    q = (source_1.shape[0] // (heads)) // 2",
        "    k = q",
        "    step_1 = source_1.reshape((heads, (q + k), hidden))",
        "    step_2 = np.split(step_1, [q], axis=1)",
        "    step_3 = step_2[0].reshape((heads * q, hidden))",
        "    step_4 = step_2[1].transpose(1, 0, 2)",
        "    step_5 = step_4.reshape((k * heads, hidden))",
        "    return [step_3, step_5]",
    ]


@pytest.mark.parametrize(
    "sentence, text",
    [
        ("hidden_size / heads", 'divide(config["hidden_size"], config["heads"])'),
        ("4 * vision_config.width", '(4 * config["vision_config"]["width"])'),
        ("depths[{stage}]", 'config["depths"][at["stage"]]'),
        ("int(width * 2 ** {stage})", 'int((config["width"] * (2 ** at["stage"])))'),
        ("len(depths)", 'len(config["depths"])'),
        ("count(kinds, dense)", 'config["kinds"].count("dense")'),
        ("not q_rank", 'int(not config.get("q_rank"))'),
    ],
)
def test_a_size_sentence_becomes_an_expression(sentence: str, text: str) -> None:
    assert expression_text(sentence) == text
