"""config.json as untrusted input, and sizes read from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mfconv_nb.core.errors import InputError, MappingError
from mfconv_nb.core.sizes import MAX_CONFIG_BYTES, Size, read_config, read_params, read_sizes

HEAD = "head_dim | hidden_size / num_attention_heads"


def size(config: dict[str, object], sentence: str) -> int:
    return read_sizes(config, {"axis": sentence})["axis"].value


@pytest.mark.parametrize(
    "config, sentence, value, origin",
    [
        ({"head_dim": 20, "hidden_size": 96, "num_attention_heads": 6}, HEAD, 20, "head_dim"),
        ({"hidden_size": 96, "num_attention_heads": 6}, HEAD, 16, "hidden_size / num_attention_heads"),
        ({"head_dim": None, "hidden_size": 96, "num_attention_heads": 6}, HEAD, 16, "hidden_size / num_attention_heads"),
        ({}, "attention_bias | 0", 0, "0"),
        ({"attention_bias": True}, "attention_bias | 0", 1, "attention_bias"),
        ({"attention_bias": False}, "attention_bias | 0", 0, "attention_bias"),
        ({"a": 3, "b": 4, "c": 6}, "a * b / c", 2, "a * b / c"),
        ({"a": 3}, "a * 2", 6, "a * 2"),
        ({"a": 4096.0}, "a", 4096, "a"),
    ],
)
def test_a_size_is_read_from_the_first_alternative_that_has_a_value(
    config: dict[str, object], sentence: str, value: int, origin: str
) -> None:
    found = read_sizes(config, {"axis": sentence})["axis"]
    assert (found.value, found.origin) == (value, origin)


def test_a_size_that_is_nowhere_is_refused_with_the_keys_that_were_looked_for() -> None:
    with pytest.raises(MappingError) as refused:
        read_sizes({"hidden_size": 96}, {"head": HEAD})
    assert refused.value.code == "MFC107"
    assert all(word in str(refused.value) for word in ("'head'", "head_dim or hidden_size / num_attention_heads", "--config"))


@pytest.mark.parametrize("config", [{"a": 7, "b": 2}, {"a": 7, "b": 0}])
def test_a_division_that_does_not_come_out_even_is_refused_with_both_numbers(config: dict[str, object]) -> None:
    with pytest.raises(MappingError) as refused:
        size(config, "a / b")
    assert (refused.value.code, refused.value.found) == ("MFC107", f"7 / {config['b']}")


@pytest.mark.parametrize("value", ["4096", -1, 1.5, [], {}, 1 << 41, float("inf"), float("nan")])
def test_a_size_that_is_no_whole_number_is_refused_with_its_key(value: object) -> None:
    with pytest.raises(MappingError) as refused:
        size({"hidden_size": value}, "hidden_size")
    assert refused.value.code == "MFC106"
    assert "'hidden_size' in config.json" in str(refused.value)


@pytest.mark.parametrize(
    "content, found",
    [
        (b"[1, 2]", "a JSON list"),
        (b"null", "a JSON NoneType"),
        (b"{", "broken JSON"),
        (b"\xff\xfe", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "more than 16 MiB"),
    ],
)
def test_a_config_that_is_no_small_json_object_is_refused(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_config(path)
    assert refused.value.code == "MFC106"
    assert str(refused.value.found).startswith(found)
    assert str(path) in str(refused.value)


def test_a_config_is_read_as_it_stands(tmp_path: Path) -> None:
    content = {"model_type": "llama", "auto_map": {"AutoModel": "code.py"}, "Größe": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path / "config.json") == content


def test_a_config_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_config(tmp_path / "config.json")
    assert refused.value.code == "MFC101"
    assert str(tmp_path / "config.json") in str(refused.value)


NESTED = {
    "vision_config": {"hidden_size": 40, "ratio": 2.45},
    "depths": [2, 6, 3],
    "kinds": ["dense", "dense", "sparse"],
    "first": 3,
    "layers": 61,
    "text": "x",
    "none": None,
}


@pytest.mark.parametrize(
    "sentence, value",
    [
        ("vision_config.hidden_size", 40),
        ("vision_config.missing | 7", 7),
        ("missing.hidden_size | 7", 7),
        ("int(vision_config.hidden_size * vision_config.ratio)", 98),
        ("depths[1]", 6),
        ("depths[3] | 9", 9),
        ("len(depths)", 3),
        ("len(missing) | 4", 4),
        ("count(kinds, dense)", 2),
        ("count(kinds, other)", 0),
        ("count(text, dense) | 5", 5),
        ("(2 * first - 1) ** 2", 25),
        ("(0 - layers) % 8", 3),
        ("layers - first", 58),
        ("not first", 0),
        ("not missing", 1),
        ("not none", 1),
    ],
)
def test_a_sentence_is_arithmetic_over_the_config(sentence: str, value: int) -> None:
    assert size(NESTED, sentence) == value


def test_a_size_may_be_unknown_where_the_sentence_says_so() -> None:
    assert dict(read_sizes({}, {"a": "missing | ?", "b": "3"})) == {"b": Size(3, "3")}


def test_a_placeholder_may_begin_to_count_later() -> None:
    assert read_sizes(NESTED, {"moe": "first .. layers"})["moe"] == Size(61, "layers", 3)


def test_a_size_may_depend_on_a_placeholder() -> None:
    sizes = read_sizes(NESTED, {"stage": "len(depths)", "block": "depths[{stage}]", "width": "24 * 2 ** {stage}"})
    assert dict(sizes) == {"stage": Size(3, "len(depths)")}
    assert sizes.depends_on == ("stage",)
    assert [sizes.for_indices({"stage": n})["block"].value for n in range(3)] == [2, 6, 3]
    assert sizes.for_indices({"stage": 2})["width"].value == 96
    assert "block" not in sizes.for_indices({"stage": 3})  # no such stage: a problem elsewhere, no crash
    assert sizes.for_indices({"layer": 2}) is sizes


@pytest.mark.parametrize("sentence", ["24 * 2 ** {stage}", "2 ** {stage}"])
def test_a_stage_from_a_hostile_name_does_not_compute_for_ever(sentence: str) -> None:
    sizes = read_sizes({}, {"width": sentence})
    with pytest.raises(MappingError) as refused:
        sizes.for_indices({"stage": 999_999_999})
    assert refused.value.code == "MFC106"


@pytest.mark.parametrize("config", [{"a": {"b": "4"}}, {"a": {"b": -4}}, {"a": {"b": [4]}}, {"a": {"b": True, "c": 1e300}}])
def test_a_nested_value_that_is_no_size_is_refused_or_counts_as_a_flag(config: dict[str, object]) -> None:
    if config["a"] == {"b": True, "c": 1e300}:
        assert size(config, "a.b") == 1
        return
    with pytest.raises(MappingError) as refused:
        size(config, "a.b")
    assert refused.value.code == "MFC106"
    assert "'a.b' in config.json" in str(refused.value)


def test_the_params_of_meta_are_a_config_without_a_vocabulary_of_minus_one(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps({"dim": 4096, "vocab_size": -1}))
    assert read_params(tmp_path / "params.json") == {"model_type": "llama_meta", "dim": 4096}
    (tmp_path / "params.json").write_text(json.dumps({"dim": 4096, "vocab_size": 128256}))
    assert read_params(tmp_path / "params.json")["vocab_size"] == 128256
