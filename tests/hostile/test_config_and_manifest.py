"""Hostile config.json files and manifests: data from strangers too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.steps.saving.save import check_equalities
from tests.hostile.made import HOSTILE_NAME, assert_escaped, assert_sober, entry, refusal, safetensors
from tests.toys import arrays_of

FOLDED = 16  # lines of a message that lists the problems of a mapping, folded
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hidden_size: 96",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "a text": b'"x"',
    "deep nesting": b"[" * 1_000_000,
    "deep nesting of objects": b'{"a":' * 200_000,
    "cut short": b'{"hidden_size": 96',
    "bytes that are not UTF-8": b'{"a": "\xff"}',
    "a number of 5,000 digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


def with_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return folder


@pytest.mark.parametrize("what", BROKEN)
def test_a_config_is_refused_that_is(what: str, toy: Path) -> None:
    (toy / "config.json").write_bytes(BROKEN[what])
    refusal(lambda: mc.load(toy), "MFC106", names="config.json", memory=8 << 20)


def test_a_config_larger_than_any_is_refused(toy: Path) -> None:
    with open(toy / "config.json", "r+b") as file:
        file.truncate(1 << 40)
    refusal(lambda: mc.load(toy), "MFC106", names="config.json", memory=1 << 20)


VALUES = [-1, 1.5, "96", "\x1b[2J\n", [96], {"a": 1}, 1 << 63, float("nan"), float("inf"), 1e300, "9" * 100_000, int("9" * 4000)]


@pytest.mark.parametrize("number", range(len(VALUES)))
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "tie_word_embeddings"])
def test_a_size_that_is_no_whole_number_is_refused(key: str, number: int, toy: Path) -> None:
    with_config(toy, **{key: VALUES[number]})
    refusal(lambda: mc.map(mc.load(toy), "llama"), "MFC106", names=key, memory=8 << 20)


def test_a_division_by_zero_or_with_a_remainder_is_refused(toy: Path) -> None:
    for heads in (0, 7):
        with_config(toy, head_dim="absent", num_attention_heads=heads)
        refusal(lambda: mc.map(mc.load(toy), "llama"), "MFC107", names="num_attention_heads")


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "num_attention_heads", "head_dim"])
@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, 1 << 40])
def test_a_size_that_contradicts_the_weights_is_refused_in_bounded_time(key: str, size: int, toy: Path) -> None:
    with_config(toy, **{key: size})
    refusal(lambda: mc.map(mc.load(toy), "llama"), "MFC107", "MFC303", memory=16 << 20, lines=FOLDED)


def test_a_config_that_promises_a_billion_layers_is_refused_where_its_tensors_are_asked_for(toy: Path) -> None:
    with_config(toy, num_hidden_layers=1 << 30)
    refusal(lambda: mc.expected("llama", toy), "MFC106", names="layer")


def test_a_config_of_another_model_type_is_a_refusal_that_shows_it_escaped(toy: Path) -> None:
    for model_type in (HOSTILE_NAME, ["llama"], {"a": 1}, 3, None):
        with_config(toy, model_type=model_type)
        mc.map(mc.load(toy), "llama")  # said by the caller: the type does not matter
    shutil_names = {"foreign" + HOSTILE_NAME: entry("U8", [4], [0, 4])}
    (toy.parent / "foreign.safetensors").write_bytes(safetensors(shutil_names, bytes(4)))
    refusal(lambda: mc.map(mc.load(toy.parent / "foreign.safetensors", config={"model_type": HOSTILE_NAME})), "MFC302")


def test_hostile_tensor_names_are_shown_escaped_where_no_rule_knows_them(toy: Path) -> None:
    path = toy.parent / "foreign.safetensors"
    header = {f"{n}{HOSTILE_NAME}{chr(97 + n % 26) * 20}": entry("U8", [4], [4 * n, 4 * n + 4]) for n in range(200)}
    path.write_bytes(safetensors(header, bytes(800)))
    error = refusal(lambda: mc.map(mc.load(path), "llama", to="mf"), "MFC303", names=path.name, lines=FOLDED)
    assert_escaped(str(error))


# ---- manifests ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def converted(toy: Path) -> Path:
    mc.save(mc.map(mc.load(toy), "llama"), toy.parent / "toy.ckpt")
    return toy.parent / "toy.ckpt"


def manifest_of(path: Path) -> Path:
    return path.parent / f"{path.name}.mfconv" / "manifest.json"


@pytest.mark.parametrize("what", BROKEN)
def test_a_manifest_is_refused_that_is(what: str, converted: Path) -> None:
    manifest_of(converted).write_bytes(BROKEN[what])
    error = refusal(lambda: mc.load(converted), "MFC110", names="manifest.json", memory=8 << 20)
    assert "Remove toy.ckpt.mfconv" in str(error)


CHANGES: dict[str, dict[str, Any]] = {
    "of another version": {"manifest_version": 2},
    "of no version": {"manifest_version": None},
    "whose tensors are no list": {"tensors": {}},
    "whose tensors are numbers": {"tensors": [1, 2]},
    "whose tensors are null": {"tensors": None},
    "whose family is a list": {"family": ["llama"]},
    "whose family is an object": {"family": {"a": 1}},
    "whose family is a number": {"family": 3},
    "whose side is a number": {"to": 3},
    "whose side is a list": {"to": ["mf"]},
    "whose side is unknown": {"to": "\x1b[2J"},
    "whose first side is unknown": {"from_side": "elsewhere"},
    "whose first side is a list": {"from_side": ["hf"]},
    "whose config is a list": {"config": [1]},
    "whose config is a text": {"config": "x"},
    "whose config is a number": {"config": 3},
    "whose carried names are an object": {"carried": {"a": 1}},
    "whose carried names are numbers": {"carried": [1]},
}


def changed(path: Path, **changes: Any) -> None:
    manifest = manifest_of(path)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


@pytest.mark.parametrize("what", CHANGES)
def test_a_manifest_is_refused(what: str, converted: Path) -> None:
    changed(converted, **CHANGES[what])
    refusal(lambda: mc.load(converted), "MFC110", names="manifest.json")


TENSOR_CHANGES: dict[str, dict[str, Any]] = {
    "without a name": {"name": None},
    "with a list for a name": {"name": ["a"]},
    "without a dtype": {"dtype": None},
    "with a number for a shape": {"shape": 3},
    "with a text for a shape": {"shape": "3"},
    "with a list in its shape": {"shape": [[3]]},
    "with a text for where it is from": {"from": "a"},
    "with numbers for where it is from": {"from": [1]},
    "with a fixed dtype and none before": {"dtype_fixed": True},
    "with a fixed dtype and an integer before": {"dtype_fixed": True, "cast_from": "I8"},
    "with a fixed dtype and an eight-bit one before": {"dtype_fixed": True, "cast_from": "F8_E4M3"},
    "with an unknown dtype before a cast": {"cast_from": "x"},
    "with null before a cast": {"cast_from": None},
    "with a list before a cast": {"cast_from": ["F32"]},
    "with a text for whether its dtype is fixed": {"dtype_fixed": "yes", "cast_from": "F32"},
}


@pytest.mark.parametrize("what", TENSOR_CHANGES)
def test_a_manifest_is_refused_that_has_a_tensor(what: str, converted: Path) -> None:
    tensors = json.loads(manifest_of(converted).read_text())["tensors"]
    changed(converted, tensors=[tensors[0] | TENSOR_CHANGES[what], *tensors[1:]])
    refusal(lambda: mc.load(converted), "MFC110", names="manifest.json")


def test_a_manifest_that_names_a_tensor_twice_is_refused(converted: Path) -> None:
    tensors = json.loads(manifest_of(converted).read_text())["tensors"]
    changed(converted, tensors=[*tensors, tensors[0]])
    refusal(lambda: mc.load(converted), "MFC110", names="manifest.json")


def test_a_dtype_comes_back_only_where_a_rule_fixes_one(converted: Path) -> None:
    """An edited manifest says of every tensor that its dtype was fixed, and was another one before."""
    tensors = json.loads(manifest_of(converted).read_text())["tensors"]
    changed(converted, tensors=[{**t, "dtype_fixed": True, "cast_from": "F16"} for t in tensors])
    assert {t.dtype for t in mc.map(mc.load(converted))} == {"BF16"}


def with_buffers(source: mc.Checkpoint, layers: int) -> mc.Checkpoint:
    """A toy in memory, with the buffers that MindFormers has no place for."""
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32) for n in range(layers)}
    return mc.load({**arrays_of(source), **buffers}, config=source.config)


def test_a_manifest_whose_kept_tensors_are_others_is_refused(tmp_path: Path) -> None:
    source = with_buffers(mc.toy("llama"), 4)
    mc.save(mc.map(source, "llama", to="mf"), tmp_path / "toy.ckpt")
    changed(tmp_path / "toy.ckpt", carried=[n for n in source.tensors if n.endswith("inv_freq")][:3])
    refusal(lambda: mc.load(tmp_path / "toy.ckpt"), "MFC110", names="carried.safetensors")


# ---- any manifest -----------------------------------------------------------------------------------------------------------------

ODD: list[Any] = [None, True, 0, -1, 1.5, 1 << 70, "", "x", "\ud800", HOSTILE_NAME, [], [1], ["x"], {}, {"x": 1}, [[]], "I8", "F16", "hf"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with all that one may have: options, a fixed dtype, carried tensors, a config."""
    small = {"num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 2, "num_nextn_predict_layers": 0}
    file = tmp_path_factory.mktemp("made") / "toy.safetensors"
    source = with_buffers(mc.toy("deepseek3", options={"with_mtp": 0}, **small), 2)
    mc.save(mc.map(source, "deepseek3", to="mf", with_mtp=0), file, progress=False)
    tensors = json.loads(manifest_of(file).read_text())["tensors"]
    fixed = {"cast_from": "F32", "dtype_fixed": True}
    changed(file, tensors=[{**t, **fixed} if "topk_bias" in t["name"] else t for t in tensors])
    return file


def places_in(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a manifest; of its tensors the first two and those whose dtype is fixed."""
    found = [path] if path else []
    if isinstance(content, dict):
        found += [place for key, value in content.items() for place in places_in(value, (*path, key))]
    if isinstance(content, list):
        told = [n for n, v in enumerate(content) if n < 2 or (isinstance(v, dict) and "dtype_fixed" in v)]
        found += [place for n in told for place in places_in(content[n], (*path, n))]
    return found


def with_change(content: Any, path: tuple[Any, ...], value: Any, *, dropped: bool) -> Any:
    key, *rest = path
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    if rest:
        copy[key] = with_change(content[key], tuple(rest), value, dropped=dropped)
    elif dropped:
        del copy[key]
    else:
        copy[key] = value
    return copy


def numbers_of(checkpoint: mc.Checkpoint) -> dict[str, bytes]:
    return {t.name: mc.read(checkpoint, t.name).astype(np.float64).tobytes() for t in checkpoint}


@settings(max_examples=60)
@given(st.data())
def test_whatever_stands_in_a_manifest_the_numbers_are_right_or_it_is_refused(made: Path, data: st.DataObject) -> None:
    written = manifest_of(made).read_bytes()
    right = numbers_of(mc.map(mc.load(made)))
    content = json.loads(written)
    path = data.draw(st.sampled_from(places_in(content)))
    content = with_change(content, path, data.draw(st.sampled_from(ODD)), dropped=data.draw(st.booleans()))
    acts: list[Callable[[], Any]] = [lambda: mc.map(mc.load(made), "deepseek3", to="hf"), lambda: mc.map(mc.load(made))]
    acts += [lambda: mc.doctor(made), lambda: mc.verify(made)]
    try:
        manifest_of(made).write_text(json.dumps(content))
        for act in acts:
            try:
                found = act()
                if isinstance(found, mc.Checkpoint):
                    check_equalities(found)  # as a save does before it writes
            except mc.MfconvError as error:
                assert_sober(str(error), FOLDED)
                continue
            repr(found).encode()
            if isinstance(found, mc.Checkpoint):
                known = numbers_of(found)
                assert {name: right[name] for name in known} == known
                assert {t.dtype for t in found} <= {"BF16", "F32", "F16"}
    finally:
        manifest_of(made).write_bytes(written)


def test_a_manifest_with_a_family_that_is_not_known_is_refused_when_it_is_needed(converted: Path) -> None:
    changed(converted, family=HOSTILE_NAME)
    refusal(lambda: mc.map(mc.load(converted)), "MFC301")


def test_a_manifest_that_promises_carried_tensors_without_their_file_is_refused(converted: Path) -> None:
    changed(converted, carried=["rotary"])
    refusal(lambda: mc.load(converted), "MFC101", "MFC110", names="carried.safetensors")


def test_a_manifest_of_other_tensors_is_a_note_and_not_used(converted: Path) -> None:
    tensors = json.loads(manifest_of(converted).read_text())["tensors"]
    for other in (tensors[1:], [*tensors, tensors[0] | {"name": HOSTILE_NAME}], [tensors[0] | {"shape": [1]}, *tensors[1:]]):
        changed(converted, tensors=other, family="elsewhere")
        checkpoint = mc.load(converted)
        assert checkpoint.family is None
        assert_sober("\n".join(checkpoint.notes))
        assert "describes other tensors" in checkpoint.notes[0]


def test_checksums_of_another_kind_are_a_difference_and_no_crash(converted: Path) -> None:
    tensors = json.loads(manifest_of(converted).read_text())["tensors"]
    for checksum in (None, 3, ["x"], "x" * 1_000_000):
        changed(converted, tensors=[t | {"xxh3_128": checksum} for t in tensors])
        report = mc.verify(converted)
        assert not report.equal
        assert len(repr(report)) < 4000
