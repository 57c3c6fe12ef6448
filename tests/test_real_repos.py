"""The names, shapes and configs of real repositories, read in place where a copy of them lies beside the project."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.errors import MappingError

REPOS = Path(__file__).parents[2] / "shared" / "real_repos"
LLAMA = ("llama2", "llama3")
CONTRADICTS = "llama-3-8b_smartmaster"  # its own config.json says 8 key/value heads, its weights have 32
INV_FREQ = "rotary_emb.inv_freq"

pytestmark = pytest.mark.skipif(
    not REPOS.is_dir(), reason="no shared/real_repos beside the project: names of real repositories, not copied here"
)


@dataclass(frozen=True)
class Repo:
    """One repository: what its files hold by its own index, and its config."""

    name: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    total_size: int | None

    @property
    def checkpoint(self) -> Checkpoint:
        tensors = {n: LazyTensor(TensorSpec(n, shape, dtype), ()) for n, (dtype, shape) in self.shapes.items()}
        return Checkpoint(tensors, origin=self.name, side="hf", config=self.config)


def names_of(*families: str) -> list[str]:
    found = [p.name.removesuffix(".json.gz") for family in families for p in sorted(REPOS.glob(f"{family}__*.json.gz"))]
    return found or ["none"]


def read_repo(file: str) -> Repo:
    content = json.loads(gzip.decompress((REPOS / f"{file}.json.gz").read_bytes()))
    shapes = {n: (dtype, tuple(shape or ())) for n, (dtype, shape, *_) in content["tensors"].items()}  # quantised: not known
    return Repo(content["name"], content["config"], shapes, content["source"].get("total_size"))


CLEAN = names_of(*LLAMA)


def test_the_repositories_are_there() -> None:
    assert len(CLEAN) >= 7
    assert names_of("llama3")[0] != "none"
    assert any(CONTRADICTS in n for n in names_of("llama3"))


@pytest.mark.parametrize("file", CLEAN)
def test_a_real_llama_maps_without_a_problem_and_keeps_its_size(file: str) -> None:
    repo = read_repo(file)
    source = repo.checkpoint
    mapped = mc.map(source, "llama")
    assert mapped.report.plan.problems == ()
    dropped = {n for n in repo.shapes if n.endswith(INV_FREQ)}
    assert mapped.report.counts["dropped"] == len(dropped)
    copied = [row for row in mapped.report.plan.rows if row.status == "tied"]
    assert mapped.nbytes == source.nbytes - sum(source[n].spec.nbytes for n in dropped) + sum(t.nbytes for r in copied for t in r.targets)
    assert mc.map(mapped, "llama", to="hf").specs == tuple(s for s in source.specs if s.name not in dropped) + tuple(
        s for s in source.specs if s.name in dropped
    )


@pytest.mark.parametrize("file", CLEAN)
def test_the_config_of_a_real_llama_promises_exactly_its_tensors(file: str) -> None:
    repo = read_repo(file)
    promised = {s.name: s.shape for s in mc.expected("llama", repo.config, side="hf").specs}
    real = {n: shape for n, (_, shape) in repo.shapes.items() if not n.endswith(INV_FREQ)}
    assert promised == real
    mapped = {s.name: s.shape for s in mc.map(repo.checkpoint, "llama").specs}
    assert {s.name: s.shape for s in mc.expected("llama", repo.config, side="mf").specs} == mapped


@pytest.mark.parametrize("file", CLEAN)
def test_the_bytes_of_a_real_llama_are_those_of_its_own_index(file: str) -> None:
    repo = read_repo(file)
    if repo.total_size is None:
        assert "lzlv-70b" in file, "only this one has an index without a total size"
    else:
        assert repo.checkpoint.nbytes == repo.total_size
    elements = sum(math.prod(shape) for _, shape in repo.shapes.values())
    assert repo.checkpoint.parameters == elements


@pytest.mark.parametrize("file", CLEAN)
def test_the_family_of_a_real_llama_is_told_from_its_config(file: str) -> None:
    assert mc.map(read_repo(file).checkpoint).family == "llama"


def test_a_config_that_contradicts_the_weights_is_refused_and_names_the_key() -> None:
    (file,) = [n for n in names_of(*LLAMA) if CONTRADICTS in n]
    repo = read_repo(file)
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


@pytest.mark.parametrize("file", names_of("quantised"))
def test_a_quantised_repository_is_refused_by_the_names_it_adds(file: str) -> None:
    with pytest.raises(MappingError) as refused:
        mc.map(read_repo(file).checkpoint, "llama")
    problems = getattr(refused.value, "problems", ())
    assert "unmatched" in {p.kind for p in problems}


@pytest.mark.parametrize("file", names_of("qwen", "bloom", "chatglm2", "internlm2", "mixtral", "gpt2", "xcomposer2"))
def test_a_repository_of_another_family_is_refused(file: str) -> None:
    repo = read_repo(file)
    with pytest.raises(MappingError) as refused:
        mc.map(repo.checkpoint, "llama", config={**(mc.toy("llama").config or {}), **repo.config})
    assert "unmatched" in {p.kind for p in getattr(refused.value, "problems", ())}


def test_a_quantised_llama_is_refused_even_without_a_config() -> None:
    (file,) = [n for n in names_of("quantised") if "llama" in n]
    repo = read_repo(file)
    with pytest.raises(MappingError):
        mc.map(Checkpoint(repo.checkpoint.tensors, side="hf"), "llama")
