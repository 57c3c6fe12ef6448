"""Families of one's own: by the path of a file, registered, installed. What is wrong in them is told with its line."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import InputError, MappingError, MfconvError, UsageError
from mfconv_nb.families import llama, registry
from mfconv_nb.families.registry import family_named, identify, known_families
from mfconv_nb.mapping.flaws import flaws_of
from mfconv_nb.mapping.rules import when
from mfconv_nb.rules import Family, Repeated, Rule
from mfconv_nb.steps.inspecting.families import families_report
from tests.support import numbered, raws_in, work_of
from tests.toys import arrays_of, raws_of

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
EXAMPLES = dict(re.findall(r"<!-- example: ([\w.]+) -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S))
COMPLETE = EXAMPLES["my_model.py"]


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the file of the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(COMPLETE)
    return tmp_path


def small(*rules: Any, key: str = "mine", **more: Any) -> Family:
    return Family(key, "nothing that exists", rules, **{"sizes": {"layer": "layers", "hidden": "hidden"}, **more})


# ---- by path ---------------------------------------------------------------------------------------------------------------


def test_every_command_of_the_page_works_with_the_file_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in EXAMPLES["shell"].splitlines():
        words = line.split()
        assert words[0] == "mfconv"
        assert run([*words[1:]]) == 0, capsys.readouterr().err
    assert raws_in(folder / "back") == raws_in(folder / "toy")
    assert "✓ Proved." in capsys.readouterr().out


@pytest.mark.parametrize("example", ["python", "register"])
def test_the_python_of_the_page_runs(example: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[example], names)
    assert len(names["mapped"]) > 0


@pytest.mark.parametrize("spelling", [["--model", "my_model.py"], ["--family", "my_model.py"], ["--family=my_model.py"]], ids=" ".join)
def test_model_and_family_are_two_spellings_of_one_option(spelling: list[str], folder: Path) -> None:
    mc.toy("my_model.py", folder / "toy")
    assert run(["convert", *spelling, "toy", "out.ckpt"]) == 0
    assert run([*spelling, "--input_path", "toy", "--output_path", "again.ckpt"]) == 0
    assert raws_in(folder / "out.ckpt") == raws_in(folder / "again.ckpt") == raws_of(mc.map(mc.load(folder / "toy"), "my_model.py"))


def test_a_path_is_a_file_and_a_text_only_when_it_ends_in_py(folder: Path) -> None:
    toy = mc.toy(folder / "my_model.py")
    by_text = mc.map(toy, "my_model.py")
    assert raws_of(mc.map(toy, Path("my_model.py"))) == raws_of(mc.map(toy, str(folder / "my_model.py"))) == raws_of(by_text)
    assert mc.verify(toy, by_text, "my_model.py").outcome == "pass"
    (folder / "my_model").write_text(COMPLETE)
    assert mc.map(toy, Path("my_model")).family == "my_model"
    with pytest.raises(MappingError, match="MFC301"):
        mc.map(mc.load(arrays_of(toy)), "my_model")


def test_a_file_is_run_once_for_each_state_and_its_module_hides_nothing(folder: Path) -> None:
    (folder / "json.py").write_text(COMPLETE + "\nimport os\nos.environ['RUNS'] = str(int(os.environ.get('RUNS', 0)) + 1)\n")
    os.environ.pop("RUNS", None)
    before = set(sys.modules)
    first = mc.map(mc.toy("json.py"), "json.py").report.plan.family
    mc.author.prove("./json.py")
    assert os.environ["RUNS"] == "1"
    assert {m for m in set(sys.modules) - before if "family" in m or getattr(sys.modules[m], "FAMILY", None) is not None} == set()
    assert sys.modules["json"] is json
    (folder / "json.py").write_text(COMPLETE.replace("MyModel 1B", "MyModel 2B"))
    os.utime("json.py", ns=(1, 1))
    assert mc.map(mc.toy("json.py"), "json.py").report.plan.family.covers == "MyModel 2B" != first.covers
    del os.environ["RUNS"]


def test_a_dataclass_in_a_family_file_needs_no_module(folder: Path) -> None:
    extra = "\nfrom dataclasses import dataclass\n@dataclass\nclass Sizes:\n    heads: int = 2\nassert Sizes().heads == 2\n"
    (folder / "more.py").write_text("from __future__ import annotations\n" + COMPLETE.partition('"""\n\n')[2] + extra)
    assert mc.author.prove("more.py").passed


def test_a_table_of_another_family_can_be_taken_over(folder: Path) -> None:
    text = (
        "from dataclasses import replace\nfrom mfconv_nb.families.llama import FAMILY as LLAMA\nFAMILY = replace(LLAMA, key='like_llama')\n"
    )
    (folder / "like.py").write_text(text)
    mapped = mc.map(mc.toy("llama"), "like.py")
    assert mapped.family == "like_llama"
    assert raws_of(mapped) == raws_of(mc.map(mc.toy("llama"), "llama"))


def test_options_of_a_family_file_are_known_to_the_command_and_to_help(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = 'options=(Option("flavour", ("sweet", "sour"), help="How it tastes."),),\n    rules=('
    text = COMPLETE.replace("import Drop, Family", "import Drop, Family, Option").replace("rules=(", options)
    text = text.replace('"attention_norm.weight", "hidden")', '"{flavour}.weight", "hidden")')
    (folder / "my_model.py").write_text(text)
    mc.toy("my_model.py", folder / "toy")
    assert run(["convert", "--family", "my_model.py", "--flavour", "sour", "toy", "o.ckpt"]) == 0
    assert "model.layers.0.sour.weight" in raws_in(folder / "o.ckpt")
    assert run(["convert", "--model", "my_model.py", "--help"]) == 0
    assert "How it tastes." in capsys.readouterr().out


# ---- what a manifest remembers -----------------------------------------------------------------------------------------------


def test_the_way_back_without_the_file_says_which_file_and_with_it_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("my_model.py", folder / "toy")
    assert run(["convert", "--model", "my_model.py", "toy", "out.ckpt"]) == 0
    manifest = json.loads((folder / "out.ckpt.mfconv" / "manifest.json").read_text())
    assert (manifest["family"], manifest["family_file"]) == ("my_model", "my_model.py")
    for command in (["convert", "out.ckpt", "back"], ["verify", "toy", "out.ckpt"]):
        assert run(command) == 2
        said = capsys.readouterr().err
        assert "MFC301" in said
        assert "converted with the family 'my_model', from the file 'my_model.py'" in said
        assert "--model my_model.py" in said
    assert not (folder / "back").exists()
    assert run(["convert", "out.ckpt", "back", "--model", "my_model.py"]) == 0
    assert raws_in(folder / "back") == raws_in(folder / "toy")


def test_a_registered_family_is_found_again_by_the_manifest(folder: Path) -> None:
    mc.toy("my_model.py", folder / "toy")
    mc.save(mc.map(mc.load(folder / "toy"), "my_model.py"), folder / "out.ckpt")
    mc.register(mc.map(mc.toy("my_model.py"), "my_model.py").report.plan.family)
    assert raws_of(mc.map(mc.load(folder / "out.ckpt"))) == raws_of(mc.load(folder / "toy"))
    assert mc.verify(folder / "toy", folder / "out.ckpt").outcome == "pass"


@pytest.mark.parametrize("named", ["family", "family_file"])
def test_no_file_is_run_because_a_manifest_names_it(named: str, folder: Path) -> None:
    mc.toy("my_model.py", folder / "toy")
    mc.save(mc.map(mc.load(folder / "toy"), "my_model.py"), folder / "out.ckpt")
    (folder / "evil.py").write_text("open('ran', 'w')\n" + COMPLETE)
    path = folder / "out.ckpt.mfconv" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), named: "evil.py"}))
    loaded = mc.load(folder / "out.ckpt")
    for call in (lambda: mc.map(loaded), lambda: mc.verify(folder / "toy", loaded)):
        with pytest.raises(MappingError) as refused:
            call()
        assert refused.value.code == "MFC301"
    assert run(["convert", "out.ckpt", "back"]) == 2
    assert not (folder / "ran").exists()


def test_a_file_name_in_a_manifest_that_could_harm_a_command_line_is_not_offered(folder: Path) -> None:
    mc.toy("my_model.py", folder / "toy")
    mc.save(mc.map(mc.load(folder / "toy"), "my_model.py"), folder / "out.ckpt")
    path = folder / "out.ckpt.mfconv" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "family_file": "x.py; rm -rf ~ #.py"}))
    with pytest.raises(MappingError) as refused:
        mc.map(mc.load(folder / "out.ckpt"))
    assert "--model FILE.py" in str(refused.value.hint)


# ---- files that cannot be used -------------------------------------------------------------------------------------------------

# a word that begins with @ stands for "line N", where the rest of it is found in the file
BROKEN = {
    "a word that Python does not know": (
        COMPLETE.replace("FAMILY = Family(", "FAMILY = = Family("), "MFC313",
        ["@FAMILY = ", "SyntaxError"]),
    "an indent": ("  x = 1\n    y = 2\n", "MFC313", ["@  x", "IndentationError"]),
    "bytes that are no text": (b"x = '\xff\xfe'\n", "MFC313", ["SyntaxError"]),
    "a null byte": (b"x = 1\x00\n", "MFC313", ["null"]),
    "an exception": (COMPLETE + "\n1 / 0\n", "MFC313", ["ZeroDivisionError: division by zero", "1 / 0"]),
    "a misspelt name": (COMPLETE.replace("Drop(HF", "Dropp(HF"), "MFC313", ["NameError", "Did you mean 'Drop'", "@Dropp"]),
    "a misspelt argument": (COMPLETE.replace("sizes={", "size={"), "MFC313",
        ["unexpected keyword argument 'size'", "'sizes'", "@FAMILY = "]),
    "a module that is not there": ("import nowhere_at_all\n", "MFC313", ["ModuleNotFoundError", "@import", "one file"]),
    "an exit": ("import sys\nsys.exit('enough')\n", "MFC313", ["SystemExit: enough", "@sys.exit"]),
    "nothing": ("", "MFC313", ["no FAMILY", "docs/families.md"]),
    "a family of another name": (COMPLETE.replace("FAMILY =", "MINE ="), "MFC313", ["no FAMILY, but MINE", "Call it FAMILY"]),
    "a family that is none": ("FAMILY = {'key': 'x'}\n", "MFC313", ["FAMILY is a dict", "@FAMILY"]),
    "a class": ("from mfconv_nb.rules import Family as FAMILY\n", "MFC313", ["FAMILY is the class Family"]),
    "an error of ours": ("import mfconv_nb as mc\nmc.load('nowhere')\n", "MFC313", ["MFC101", "@mc.load"]),
    "a misspelt axis on the right": (COMPLETE.replace("k hidden, v hidden\"", "k hiden, v hidden\""), "MFC311",
        ["@Rule(\n", "'hiden' stands on the right of the arrow only", "attn.qkv.weight", "Did you mean 'hidden'?"]),
    "a misspelt axis": (COMPLETE.replace('"ffn hidden"', '"ffn hiden"'), "MFC311", ["@mlp.up", "'hiden'", "Did you mean 'hidden'?"]),
    "an axis on one side": (COMPLETE.replace("(q + k + v) hidden ->", "(q + k + v + w) hidden ->"), "MFC311",
        ["@Rule(\n", "'w' stands on the left of the arrow only", "every axis on both sides"]),
    "placeholders that disagree": (COMPLETE.replace('MF + "attention.wo.weight"', '"model.layers.{block}.attention.wo.weight"'), "MFC311",
        ["@attn.out", "{layer} on the Hugging Face side only", "{block} on the MindFormers side only"]),
    "too few names": (COMPLETE.replace(', MF + "attention.wv.weight"', ""), "MFC311", ["@Rule(\n", "2 names", "3 tensors"]),
    "rules that overlap": (COMPLETE.replace('HF + "mlp.down.weight"', 'HF + "mlp.up.weight"'), "MFC311",
        ["@feed_forward.w1", "@feed_forward.w2", "mlp.up.weight", "one rule for each name"]),
    "a sentence that cannot be read": (COMPLETE.replace('"hidden q"', '"hidden (q"'), "MFC311", ["@attn.out", "^", ")"]),
    "braces": (COMPLETE.replace('HF, MF = "model.layers.{layer}.",', 'HF, MF = "model.layers.{Layer}.",'), "MFC311", ["braces", "{layer}"]),
    "one rule without a comma": (re.sub(r"rules=\(.*\n    \),\n    toy", 'rules=(Rule("a", "b")),\n    toy', COMPLETE, flags=re.S),
        "MFC311", ["rules is a Rule", "comma"]),
    "a tuple that is not laid out": (COMPLETE.replace("rules=(", 'rules=((Rule("a", "b"),),'), "MFC311", ["entry 1", "star"]),
    "a size that is no sentence": (
        COMPLETE.replace('"vocab_size",', '"vocab_size *",', 1), "MFC311",
        ["'vocab'", "'vocab_size *'", "@FAMILY = "]),
    "a key that is a file": (COMPLETE.replace('key="my_model"', 'key="my_model.py"'), "MFC311", ["my_model.py", "--model"]),
}  # fmt: skip


def line_of(text: str | bytes, part: str) -> int:
    assert isinstance(text, str)
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize("text, code, words", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_in_a_file_is_told_with_its_line(
    text: str | bytes, code: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mc.toy("llama", folder / "toy", num_hidden_layers=1)
    (folder / "bad.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    mc.save(mc.map(mc.load(folder / "toy")), folder / "there.ckpt")
    verify = ["verify", "toy", "there.ckpt", "--family", "bad.py"]
    for command in (["convert", "--model", "bad.py", "toy", "o.ckpt"], ["prove", "bad.py"], ["families", "bad.py"], verify):
        assert run(command) == 2
        said = capsys.readouterr().err
        assert code in said
        assert "bad.py" in said
        assert "Traceback" not in said
        told = [f"line {line_of(text, word[1:])}" if word.startswith("@") else word for word in words]
        assert [word for word in told if word not in said] == [], said
    with pytest.raises(MfconvError) as refused:
        mc.map(mc.load(folder / "toy"), "bad.py")
    assert refused.value.code == code
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("name", ["nowhere.py", "my_modell.py", "folder.py", "a\0b.py"])
def test_a_file_that_is_not_there_is_refused_with_what_is_near(name: str, folder: Path) -> None:
    (folder / "folder.py").mkdir()
    with pytest.raises(InputError) as refused:
        mc.author.prove(name)
    assert refused.value.code == "MFC101"
    assert "my_model.py" in str(refused.value.hint)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_no_change_of_a_word_ends_in_anything_but_a_family_or_a_refusal(folder: Path) -> None:
    random, tokens = Random(7), re.findall(r'"[^"\n]*"|\w+|[^\w\s]|\s+', COMPLETE)
    words = [*sorted({t for t in tokens if t.strip()}), "5", "None", "()", "[]", "{}", '""', '"{"', '"->"', '"(0 hidden)"', '"x.{layer}"']
    loaded, refused = 0, list[tuple[str, MfconvError]]()
    for number in range(200):
        changed, place = list(tokens), random.randrange(20, len(tokens))
        changed[place : place + random.choice((0, 1, 1))] = random.choice(([], [random.choice(words)], [random.choice(words)]))
        path = folder / f"changed_{number}.py"
        path.write_text("".join(changed))
        try:
            mc.author.prove(path)
            loaded += 1
        except MfconvError as error:
            refused.append((path.name, error))
    assert loaded > 20
    assert {error.code for _, error in refused} == {"MFC311", "MFC313"}
    assert all(name in str(error) for name, error in refused)


def test_a_rule_keeps_the_line_it_was_written_at_in_every_form_of_it() -> None:
    rule = Rule("a.{layer}.w", "b.{layer}.w")
    (there,) = when(rule, flavour="sweet")
    assert there.written_at == rule.written_at
    assert Path(rule.written_at[0]).name == Path(__file__).name
    assert rule == Rule("a.{layer}.w", "b.{layer}.w")  # where it stands is no part of what it says
    assert "written_at" not in repr(rule)


FLAWS: dict[str, tuple[Family, str]] = {
    "an option that is not there": (small(*when(Rule("a", "b"), flavour="sweet")), "when flavour='sweet'"),
    "a number that no size gives": (small(Rule("a.{=las}.w", "b.w", "hidden"), sizes={"last": "n"}), "{=las} in a name"),
    "a flag that is not there": (small(Rule("a", "b", "hidden", only_if="biased")), "only_if='biased'"),
    "a head tied to nothing": (
        small(mc.rules.Tied("h", "h", same_as="e", layout="hidden", only_if="layer"), mc.rules.Rule("e2", "e", "hidden")),
        "same_as='e'",
    ),
    "a side that is none": (small(mc.rules.Drop("a", "why", side="left")), "side='left'"),
    "a word for optional": (small(Rule("a", "b", optional="yes")), "optional='yes'"),
    "several names and no sentence": (small(Rule(("a", "b"), "c")), "no layout"),
    "a name that is a list": (small(Rule(["a"], "b")), "hf=['a']"),  # type: ignore[arg-type]
    "a name without the placeholder that the others have": (small(Rule("a.{layer}", ("b.{layer}", "c"), "x -> x, x")), "no {layer} in 'c'"),
    "a number for a name": (small(Rule(5, "b")), "hf=5"),  # type: ignore[arg-type]
    "no name": (small(Rule((), "b")), "hf=()"),
    "a number for a sentence": (small(Rule("a", "b", 5)), "layout=5"),  # type: ignore[arg-type]
    "a text for a tuple": (small(Rule("a", "b"), aliases="other"), "aliases='other'"),
    "an axis twice": (small(Rule("a", "b", "hidden hidden")), "an axis twice"),
    "a call for a size": (small(Rule("a", "b"), sizes={"x": '__import__("os")'}), "the size of 'x'"),
    "a function that sizes do not have": (small(Rule("a", "b"), sizes={"x": "max(a, b)"}), "the size of 'x'"),
    "a size below nothing": (small(Rule("a", "b"), sizes={"x": "a | -1"}), "the size of 'x'"),
    "an operation that sizes do not have": (small(Rule("a", "b"), sizes={"x": "a @ 2"}), "the size of 'x'"),
    "an axis that no layout can name": (small(Rule("a", "b"), sizes={"Hidden size": "a"}), "'Hidden size' as a name in sizes"),
    "a constant of nothing": (small(Rule("a", "b", "(x half) -> (half x)", {"half": 0})), "sizes={'half': 0}"),
    "a constant that is no whole number": (small(Rule("a", "b", "(x half) -> (half x)", {"half": 2.5})), "2.5"),  # type: ignore[dict-item]
    "a list for the toy": (small(Rule("a", "b"), toy=[1]), "toy is a list"),
    "a number for the source": (small(Rule("a", "b"), source=3), "source=3"),
    "an option without values": (small(Rule("a", "b"), options=(mc.rules.Option("taste"),)), "the option 'taste' without values"),
    "an option twice": (small(Rule("a", "b"), options=(mc.rules.Option("taste", (1, 2)),) * 2), "the option 'taste' for the second time"),
    "copies that are equal to nothing": (small(Repeated("a.{layer}.w", "b", "hidden, hidden")), "2 tensors"),
}


@pytest.mark.parametrize("family, words", FLAWS.values(), ids=FLAWS.keys())
def test_rules_that_cannot_be_true_are_refused_when_they_are_registered(family: Family, words: str) -> None:
    with pytest.raises(MappingError) as refused:
        mc.register(family)
    assert refused.value.code == "MFC311"
    assert words in str(refused.value)
    assert "line" in str(refused.value)


def test_a_table_with_a_rule_a_layer_is_checked_without_comparing_every_name_with_every_other() -> None:
    rules = tuple(Rule(f"a{part}.{layer}.w", f"b{part}.{layer}.w", "hidden") for layer in range(600) for part in "xyzuv")
    half = work_of(lambda: flaws_of(small(*rules[:1500])))
    assert work_of(lambda: flaws_of(small(*rules))) < 2.5 * half  # nearly 4 times where every name of a template meets every other
    mc.register(small(*rules))
    with pytest.raises(MappingError, match=r"both match names like 'ax\.7\.w'"):
        mc.register(small(*rules, Rule("ax.7.w", "c", "hidden")))
    with pytest.raises(MappingError, match=r"'ax\.7\.w' and 'ax\.\{layer\}\.w' match the same names"):
        mc.register(small(rules[7 * 5], Rule("ax.{layer}.w", "c.{layer}", "hidden")))


def test_many_flaws_are_one_message_with_a_line_each() -> None:
    family = small(Rule("a", "b", "hidden ->"), Rule("c.{layer}", "d"), Rule("e", "f"), Rule("e", "g"))
    with pytest.raises(MappingError) as refused:
        mc.register(family)
    assert str(refused.value).count("line ") == 4
    assert "3 things that cannot be as they are" in str(refused.value)


@pytest.mark.parametrize("key", [f.key for f in known_families()])
def test_no_built_in_family_has_a_flaw(key: str) -> None:
    assert flaws_of(family_named(key)) == ()


# ---- registered ----------------------------------------------------------------------------------------------------------------


def test_a_registered_family_is_known_to_every_call_and_told_from_names_and_config() -> None:
    mine = small(Rule("a.{layer}.w", "b.{layer}.w", "hidden"), model_types=("mine_type",))
    assert mc.register(mine) is mine
    assert mine in known_families()
    assert family_named("mine") is mine
    assert identify(["a.0.w"], None, "mf") is mine
    assert identify(["a.0.w"], {"model_type": "mine_type"}, "mf") is mine
    assert set(mc.map(mc.load({"a.0.w": numbered(3)}), to="mf").tensors) == {"b.0.w"}
    assert "mine" in [row["key"] for row in families_report().rows()]


def test_a_key_without_a_letter_is_in_the_name_of_no_class() -> None:
    for key in ("2024", "Twin"):
        mc.register(small(Rule("only.here.{layer}.w", "b.{layer}.w", "hidden"), key=key))
    assert identify(["only.here.0.w"], {"architectures": ["TwinForCausalLM"]}, "mf").key == "Twin"
    with pytest.raises(MappingError, match="2 that fit: 2024, Twin"):
        identify(["only.here.0.w"], {"architectures": ["OtherForCausalLM"]}, "mf")


def test_a_key_is_registered_again_in_place_of_the_one_before() -> None:
    mc.register(small(Rule("a", "b")))
    newer = mc.register(small(Rule("a", "c")))
    assert [f for f in known_families() if f.key == "mine"] == [newer]


@pytest.mark.parametrize("key", ["llama", "glm4"], ids=["a key", "an alias"])
def test_a_built_in_key_is_refused_unless_it_is_to_be_replaced(key: str) -> None:
    mine = small(Rule("a", "b"), key=key)
    with pytest.raises(UsageError) as refused:
        mc.register(mine)
    assert refused.value.code == "MFC501"
    assert "replace=True" in str(refused.value)
    assert family_named("llama") is llama.FAMILY
    mc.register(mine, replace=True)
    assert family_named(key) is mine
    rows = {row["key"]: row for row in families_report().rows()}
    assert (rows[key]["models"], rows[key]["cases"]) == ("nothing that exists", 0)  # the evidence is for the other one


@pytest.mark.parametrize("thing", ["my_model.py", {"key": "x"}, Family, None])
def test_something_that_is_no_family_is_not_registered(thing: Any) -> None:
    with pytest.raises(UsageError) as refused:
        mc.register(thing)
    assert refused.value.code == "MFC501"


# ---- installed -----------------------------------------------------------------------------------------------------------------


def installed(folder: Path, name: str, entries: str, module: str) -> None:
    """A distribution as an installer leaves it: a module, and its dist-info."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[mfconv_nb.families]\n{entries}\n")
    (info / "RECORD").write_text("")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: one that works, and several that do not."""
    folder = tmp_path / "site"
    folder.mkdir()
    installed(folder, "offers_mine", "my_model = offers_mine:FAMILY", COMPLETE)
    installed(folder, "offers_nothing", "gone = offers_nothing:FAMILY", "1 / 0\n")
    installed(folder, "offers_a_dict", "a_dict = offers_a_dict:FAMILY", "FAMILY = {}\n")
    installed(folder, "offers_llama", "llama = offers_llama:FAMILY", COMPLETE.replace('key="my_model"', 'key="llama"'))
    installed(folder, "offers_a_flaw", "flawed = offers_a_flaw:FAMILY", COMPLETE.replace('"ffn hidden"', '"ffn hiden"'))
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [m for m in sys.modules if m.startswith("offers_")]:
        del sys.modules[name]


def test_an_installed_family_is_found_by_its_key_though_others_are_broken(site: Path, tmp_path: Path) -> None:
    mc.toy("my_model", tmp_path / "toy")
    assert run(["convert", "--model", "my_model", str(tmp_path / "toy"), str(tmp_path / "o.ckpt")]) == 0
    assert run(["convert", str(tmp_path / "o.ckpt"), str(tmp_path / "back")]) == 0  # by the manifest's key
    assert raws_in(tmp_path / "back") == raws_in(tmp_path / "toy")
    assert family_named("llama") is llama.FAMILY


def test_the_list_has_what_is_installed_and_says_what_is_broken(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["families", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in content["rows"]] == [*(f.key for f in known_families()), "my_model"]
    facts = "\n".join(content["facts"])
    assert "my_model: from offers-mine 1.2" in facts
    assert "gone, from offers-nothing 1.2, cannot be used" in facts
    assert "ZeroDivisionError: division by zero (offers_nothing.py, line 1)" in facts
    assert "a_dict, from offers-a-dict 1.2, cannot be used" in facts
    assert "llama, from offers-llama 1.2, is not used: the key is taken" in facts
    assert "flawed, from offers-a-flaw 1.2, cannot be used: MFC311" in facts
    assert run(["families"]) == 0


@pytest.mark.parametrize("with_config", [True, False], ids=["by model_type", "by names"])
def test_an_installed_family_is_told_when_no_model_is_given(with_config: bool, site: Path, tmp_path: Path) -> None:
    toy = mc.toy("my_model", tmp_path / "toy")
    if not with_config:
        (tmp_path / "toy" / "config.json").unlink()
    assert run(["convert", str(tmp_path / "toy"), str(tmp_path / "o.ckpt")]) == 0
    assert identify([t.name for t in toy], toy.config if with_config else None, "mf").key == "my_model"
    assert mc.map(toy).family == "my_model"


def test_a_model_type_that_a_package_knows_counts_before_names_that_a_built_in_family_knows(site: Path) -> None:
    like_llama = "from dataclasses import replace\nfrom mfconv_nb.families.llama import FAMILY as LLAMA\n"
    changes = "key='twin', model_types=('twin',), aliases=(), also=()"
    installed(site, "offers_a_twin", "twin = offers_a_twin:FAMILY", f"{like_llama}FAMILY = replace(LLAMA, {changes})\n")
    toy = mc.toy("llama")
    names = [t.name for t in toy]
    assert identify(names, {**(toy.config or {}), "model_type": "twin"}, "mf").key == "twin"
    assert identify(names, toy.config, "mf").key == "llama"
    assert identify(names, None, "mf").key == "llama"


def test_no_package_is_imported_where_a_built_in_family_fits(site: Path) -> None:
    toy = mc.toy("llama")
    for config in (toy.config, None):
        assert identify([t.name for t in toy], config, "mf").key == "llama"
    assert not [module for module in sys.modules if module.startswith("offers_")]
    with pytest.raises(MappingError, match="MFC302"):  # and a broken one does no harm where none fits
        identify(["nothing.of.this.kind"], None, "mf")
    assert [module for module in sys.modules if module.startswith("offers_")]


@pytest.mark.parametrize("key, code", [("gone", "MFC313"), ("a_dict", "MFC313"), ("flawed", "MFC311"), ("gonne", "MFC301")])
def test_a_broken_package_is_told_only_where_its_key_is_asked_for(
    key: str, code: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["families", key]) == 2
    said = capsys.readouterr().err
    assert code in said
    assert "Traceback" not in said
    assert ("Did you mean 'gone'?" in said) == (key == "gonne")
