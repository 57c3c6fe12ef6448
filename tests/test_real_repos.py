"""The names, shapes and configs of real repositories, read in place where a copy of them lies beside the project.

What must happen to each is stated in `real_repos_table.py`.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.errors import MappingError
from mfconv_nb.families.registry import candidates_of, known_families
from mfconv_nb.families.same_maths import listed_types
from mfconv_nb.mapping.plan import DROPPED, TIED, Row
from mfconv_nb.mapping.rules import Drop
from tests.real_repos_table import REPOSITORIES, Refused

REPOS = Path(__file__).parents[2] / "shared" / "real_repos"
CONTRADICTS = "llama3__llama-3-8b_smartmaster"  # its own config.json says 8 key/value heads, its weights have 32

pytestmark = pytest.mark.skipif(
    not REPOS.is_dir(), reason="no shared/real_repos beside the project: names of real repositories, not copied here"
)

OTHER_NAMES = ("bloom__", "chatglm2__", "gpt2__", "internlm2__", "mixtral__", "qwen__")  # than Llama's

PLANNED = [(file, key) for file, repository in REPOSITORIES.items() for key in repository.planned]
REFUSED = [(file, key) for file, repository in REPOSITORIES.items() for key in repository.refused]
planned = pytest.mark.parametrize("file, key", PLANNED, ids=[f"{file}-{key}" for file, key in PLANNED])


@dataclass(frozen=True)
class Repo:
    """One repository: what its files hold by its own index, and its config."""

    name: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    total_size: int | None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        tensors = {n: LazyTensor(TensorSpec(n, shape, dtype), ()) for n, (dtype, shape) in self.shapes.items()}
        return Checkpoint(tensors, origin=self.name, side="hf", config=self.config)


@lru_cache(maxsize=8)
def read_repo(file: str) -> Repo:
    content = json.loads(gzip.decompress((REPOS / f"{file}.json.gz").read_bytes()))
    shapes = {n: (dtype, tuple(shape or ())) for n, (dtype, shape, *_) in content["tensors"].items()}  # quantised: not known
    config = {**(content["config"] or {}), **REPOSITORIES[file].more_config} if REPOSITORIES[file].more_config else content["config"]
    return Repo(content["name"], config, shapes, content["source"].get("total_size"))


def assert_refused(refusal: Refused, error: MappingError) -> None:
    text = str(error)
    assert error.code == refusal.code, text
    assert [words for words in refusal.words if words not in text] == [], text


def rows_of(mapped: Checkpoint) -> tuple[Row, ...]:
    assert mapped.report is not None
    return mapped.report.plan.rows


def test_every_repository_that_lies_there_is_in_the_table() -> None:
    assert {p.name.removesuffix(".json.gz") for p in REPOS.glob("*.json.gz")} == REPOSITORIES.keys()


# ---- planned ---------------------------------------------------------------------------------------------------------


@planned
def test_every_tensor_of_a_real_repository_has_one_rule_and_no_byte_is_lost(file: str, key: str) -> None:
    source = read_repo(file).checkpoint
    mapped = mc.map(source, key)
    assert mapped.family in {family.key for family in candidates_of(key)}
    assert mapped.report.plan.problems == ()
    assert REPOSITORIES[file].options.items() <= mapped.report.options.items()
    rows = rows_of(mapped)
    assert sorted(spec.name for row in rows for spec in row.sources if row.status != TIED or row.targets == ()) == sorted(source.tensors)
    assert sorted(spec.name for row in rows for spec in row.targets) == sorted(mapped.tensors)
    gone = sum(spec.nbytes for row in rows for spec in row.sources if row.status == DROPPED or spec.name in row.copies)
    written_out = sum(spec.nbytes for row in rows for spec in row.targets if row.status == TIED)
    assert mapped.nbytes == source.nbytes - gone + written_out


@planned
def test_the_way_back_of_a_real_repository_has_its_names_shapes_and_dtypes(file: str, key: str) -> None:
    source = read_repo(file).checkpoint
    back = mc.map(mc.map(source, key), to="hf")
    assert {spec.name: spec for spec in back.specs} == {spec.name: spec for spec in source.specs}


@planned
def test_the_config_of_a_real_repository_promises_exactly_its_tensors(file: str, key: str) -> None:
    """Apart from those that a family says a checkpoint may have or not, and the exceptions in the table."""
    repo, expected = read_repo(file), REPOSITORIES[file]
    mapped = mc.map(repo.checkpoint, key)
    options = mapped.report.options
    if expected.promise_refused is not None:
        with pytest.raises(MappingError) as refused:
            mc.expected(mapped.family, repo.config, side="hf", **options)
        assert_refused(expected.promise_refused, refused.value)
        return
    free = [row for row in rows_of(mapped) if isinstance(row.rule, Drop) or getattr(row.rule, "optional", "")]
    free += [row for row in rows_of(mapped) if any(fnmatchcase(s.name, p) for s in row.sources for p in expected.unpromised)]
    real = {name: shape for name, (_, shape) in repo.shapes.items()}
    for row in free:
        for spec in row.sources:
            real.pop(spec.name, None)
    assert {s.name: s.shape for s in mc.expected(mapped.family, repo.config, side="hf", **options).specs} == real
    promised = {s.name: s.shape for s in mc.expected(mapped.family, repo.config, side="mf", **options).specs}
    made = {s.name: s.shape for s in mapped.specs}
    assert promised.items() <= made.items()
    assert made.keys() - promised.keys() <= {s.name for row in free for s in row.targets}


@pytest.mark.parametrize("file", [f for f, r in REPOSITORIES.items() if r.planned])
def test_the_bytes_of_a_real_repository_are_those_of_its_own_index(file: str) -> None:
    repo, expected = read_repo(file), REPOSITORIES[file]
    assert (repo.total_size is None) == bool(expected.without_total)
    if repo.total_size is not None:
        counted_once = sum(repo.checkpoint[name].spec.nbytes for name in expected.shares)
        assert repo.checkpoint.nbytes == repo.total_size + counted_once + expected.total_is_short
    assert repo.checkpoint.parameters == sum(math.prod(shape) for _, shape in repo.shapes.values())


@pytest.mark.parametrize("file", REPOSITORIES)
def test_without_a_key_the_family_of_a_real_repository_is_told_or_refused(file: str) -> None:
    source, expected = read_repo(file).checkpoint, REPOSITORIES[file]
    if isinstance(expected.told, Refused):
        with pytest.raises(MappingError) as refused:
            mc.map(source)
        assert_refused(expected.told, refused.value)
    else:
        mapped = mc.map(source)
        assert mapped.family == expected.told
        assert [note[:25] for note in mapped.report.notes] == ["quantised, read as numbers"[:25]] * expected.read_as_numbers


@pytest.mark.parametrize("file", [f for f, r in REPOSITORIES.items() if r.read_as_numbers])
def test_a_repository_of_codes_is_planned_as_numbers_without_its_scales(file: str) -> None:
    source = read_repo(file).checkpoint
    scales = {name for name in source.tensors if name.endswith("_scale_inv")}
    assert len(scales) == 45_808
    mapped = mc.map(source, REPOSITORIES[file].told)
    assert mapped.report.plan.problems == ()
    back = mc.map(mapped, to="hf")
    assert {t.name: t.shape for t in back.specs} == {t.name: t.shape for t in source.specs if t.name not in scales}
    assert {t.dtype for t in back.specs} == {"BF16", "F32"}


@pytest.mark.parametrize(
    ("file", "says"), [("pangu__openpangu-embedded-7b", "model_type 'PanguEmbedded'"), ("mistral__mistral-7b_summarizer", "'4096'")]
)
def test_a_repository_that_no_family_lists_is_planned_with_the_key_that_the_refusal_names(file: str, says: str) -> None:
    mapped = mc.map(read_repo(file).checkpoint, "llama")
    assert len(mapped.report.plan.problems) == 0
    assert [says in note for note in mapped.report.notes] == [True]


@pytest.mark.parametrize("file", REPOSITORIES)
def test_a_model_type_of_ours_leads_to_one_of_its_families(file: str) -> None:
    told = REPOSITORIES[file].told
    model_type = read_repo(file).config.get("model_type")
    families = {f.key for f in known_families() if model_type in listed_types(f)}
    if isinstance(told, str):
        assert told in families or model_type is None, "told by its names although its config names a family"
    else:
        assert told.code in ("MFC312", "MFC303") or not families or "sliding_window" in told.words[0]


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file, key", REFUSED, ids=[f"{file}-{key}" for file, key in REFUSED])
def test_what_a_family_does_not_cover_is_refused_with_its_key(file: str, key: str) -> None:
    with pytest.raises(MappingError) as refused:
        mc.map(read_repo(file).checkpoint, key)
    assert_refused(REPOSITORIES[file].refused[key], refused.value)


@pytest.mark.parametrize("file", [f for f, r in REPOSITORIES.items() if f.startswith("quantised__")])
def test_a_quantised_repository_is_refused_as_such_even_without_a_config(file: str) -> None:
    checkpoint = Checkpoint(read_repo(file).checkpoint.tensors, side="hf")
    with pytest.raises(MappingError) as refused:
        mc.map(checkpoint)
    assert refused.value.code == "MFC312"
    assert next(iter(REPOSITORIES[file].refused.values())).words[0].partition(":")[2] in str(refused.value)


@pytest.mark.parametrize(
    "file", [f for f in REPOSITORIES if f.split("__")[0] in ("qwen", "bloom", "chatglm2", "internlm2", "mixtral", "gpt2")]
)
def test_a_repository_with_other_names_is_refused_with_the_key_of_llama(file: str) -> None:
    repo = read_repo(file)
    with pytest.raises(MappingError) as refused:
        mc.map(repo.checkpoint, "llama", config={**(mc.toy("llama").config or {}), **repo.config})
    assert "unmatched" in {p.kind for p in getattr(refused.value, "problems", ())}


def test_a_config_that_contradicts_the_weights_is_refused_and_names_the_key() -> None:
    repo = read_repo(CONTRADICTS)
    assert "num_key_value_heads=8" in repo.config["_note"]  # kept there with the 32 that fits
    with pytest.raises(MappingError) as refused:
        mc.map(repo.checkpoint, "llama", config={**repo.config, "num_key_value_heads": 8})
    problems = getattr(refused.value, "problems", ())
    layers = repo.config["num_hidden_layers"]
    assert {p.kind for p in problems} == {"shape"}
    assert {p.name for p in problems} == {f"model.layers.{n}.self_attn.{part}_proj.weight" for n in range(layers) for part in ("k", "v")}
    assert all("num_key_value_heads" in p.expected and "(1024, 4096)" in p.expected and "(4096, 4096)" in p.found for p in problems)
    assert "num_key_value_heads" in str(refused.value)
    assert len(str(refused.value).splitlines()) < 12  # 64 problems, two lines of cause
