"""A manifest counts only for the numbers it was written for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.core.errors import MappingError
from mfconv_nb.runs.rank_layout import RankLayout
from mfconv_nb.steps.loading import manifest_proof
from tests.support import raws_in, write_safetensors
from tests.toys import arrays_of, raws_of

LAYOUT = RankLayout({"tp": 2}, {"*linear_fc1.weight": ("tp", None)})
STALE = "is of other numbers than these"
NAME = {"qwen3": "use_interleaved_weight_layout_mlp", "glm4-moe": "use_contiguous_weight_layout_attention"}


def saved(key: str, folder: Path, target: str, **options: Any) -> Path:
    mc.save(mc.map(mc.load(folder / key), key, to="mf", **options), folder / target, progress=False)
    return folder / target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for key in (*NAME, "llama"):
        mc.toy(key, tmp_path / key)
    return tmp_path


def put_under_the_manifest_of(file: Path, other: Path) -> None:
    """The numbers of one checkpoint under the name of another, whose manifest stays."""
    (shutil.copytree if other.is_dir() else shutil.copyfile)(other, file, **({"dirs_exist_ok": True} if other.is_dir() else {}))


@pytest.mark.parametrize("target", ["out.safetensors", "out.ckpt", "out"])
@pytest.mark.parametrize("key", NAME)
def test_an_option_is_not_remembered_from_the_manifest_of_other_numbers(key: str, target: str, folder: Path) -> None:
    default = mc.map(mc.load(folder / key), key, to="mf").options[NAME[key]]
    file = saved(key, folder, target, **{NAME[key]: not default})
    assert mc.map(mc.load(file), to="hf").report.decided[NAME[key]] == "remembered"
    put_under_the_manifest_of(file, saved(key, folder, f"other-{target}", **{NAME[key]: default}))
    mapped = mc.map(mc.load(file), key, to="hf", config=folder / key / "config.json")
    assert mapped.report.decided[NAME[key]] == "default"
    assert any(STALE in note for note in mapped.report.notes)
    assert any(note.startswith(f"assumed: {NAME[key]}={default}") for note in mapped.report.notes)
    assert raws_of(mapped).items() >= {n: r for n, r in raws_in(folder / key).items() if n in mapped.tensors}.items()


def test_without_a_config_the_refusal_says_that_the_manifest_is_stale(folder: Path) -> None:
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    put_under_the_manifest_of(file, saved("qwen3", folder, "other.safetensors"))
    with pytest.raises(MappingError) as refused:
        mc.map(mc.load(file), "qwen3", to="hf")
    assert f"out.safetensors.mfconv {STALE}" in str(refused.value)
    assert "--config" in str(refused.value)


def changed_in_one(name: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        raws = raws_in(file)
        data = bytearray(raws[name].data)
        data[len(data) // 2] ^= 1
        write_safetensors(file, {**raws, name: raws[name]._replace(data=bytes(data))}, {"format": "ms"})

    return change


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_bit_of_any_tensor_that_an_option_lays_out_is_enough(layer: int, folder: Path) -> None:
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    changed_in_one(f"decoder.layers.{layer}.mlp.linear_fc1.weight")(file)
    mapped = mc.map(mc.load(file), "qwen3", to="hf", config=folder / "qwen3" / "config.json")
    assert mapped.report.decided["use_interleaved_weight_layout_mlp"] == "default"


def test_large_tensors_that_an_option_lays_out_are_read_at_both_ends_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_proof, "MOST_BYTES", 1000)
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    layers = (mc.load(file).config or {})["num_hidden_layers"]
    for layer, decided in ((1, "remembered"), (0, "default"), (layers - 1, "default")):
        changed_in_one(f"decoder.layers.{layer}.mlp.linear_fc1.weight")(file)
        mapped = mc.map(mc.load(file), "qwen3", to="hf", config=folder / "qwen3" / "config.json")
        assert mapped.report.decided["use_interleaved_weight_layout_mlp"] == decided
        changed_in_one(f"decoder.layers.{layer}.mlp.linear_fc1.weight")(file)  # as it was


def test_two_forms_of_the_same_names_are_asked_for_again_where_the_manifest_is_stale(folder: Path) -> None:
    file = saved("llama", folder, "out.safetensors", qkv_concat=True)
    put_under_the_manifest_of(file, saved("llama", folder, "other.safetensors", qkv_concat="grouped"))
    with pytest.raises(MappingError) as refused:
        mc.map(mc.load(file), "llama", to="hf", config=folder / "llama")
    assert refused.value.code == "MFC302"
    assert STALE in str(refused.value)
    mapped = mc.map(mc.load(file), "llama", to="hf", config=folder / "llama", qkv_concat="grouped")
    assert raws_of(mapped) == raws_in(folder / "llama")


def test_buffers_and_config_of_a_stale_manifest_are_not_used(folder: Path, tmp_path: Path) -> None:
    source = mc.load(folder / "llama")
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32) for n in range(4)}
    whole = mc.load({**arrays_of(source), **buffers}, config={**(source.config or {}), "rope_theta": 7})
    mc.save(mc.map(whole, "llama", to="mf"), tmp_path / "out.safetensors", progress=False)
    fresh = mc.map(mc.load(tmp_path / "out.safetensors"))
    assert len(fresh) == len(whole)
    assert (fresh.config or {})["rope_theta"] == 7
    raws = raws_in(tmp_path / "out.safetensors")
    write_safetensors(tmp_path / "out.safetensors", {n: r._replace(data=bytes(len(r.data))) for n, r in raws.items()}, {"format": "ms"})
    stale = mc.map(mc.load(tmp_path / "out.safetensors"), "llama", to="hf")
    assert not [name for name in stale.tensors if "inv_freq" in name]
    assert stale.config is None


def test_the_alpha_of_a_stale_manifest_is_asked_for_again_and_that_of_a_config_beside_stays(folder: Path) -> None:
    names = {f"model.layers.{n}.attention.wq.lora_{half}": shape for n in range(4) for half, shape in (("a", (2, 96)), ("b", (120, 2)))}

    def adapters(seed: int) -> Path:
        rng = np.random.default_rng(seed)
        made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}
        mc.save(mc.load(made, config=folder / "llama", lora_alpha=6), folder / f"{seed}.safetensors", progress=False)
        return folder / f"{seed}.safetensors"

    file = adapters(1)
    lora = mc.map(mc.load(file), "llama", to="hf").history.lora
    assert lora is not None
    assert (lora.alpha, lora.origin) == (6, "the manifest")
    put_under_the_manifest_of(file, adapters(2))
    stale = mc.map(mc.load(file), "llama", to="hf")
    assert any(STALE in note for note in stale.report.notes)
    assert stale.history.lora is None
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 8}')
    beside = mc.map(mc.load(file), "llama", to="hf").history.lora
    assert beside is not None
    assert (beside.alpha, beside.origin) == (8, "adapter_config.json")


def test_a_save_does_not_pass_on_what_a_stale_manifest_remembers(folder: Path) -> None:
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    kept = mc.save(mc.load(file), folder / "kept.safetensors", progress=False)
    assert not any(STALE in note for note in kept.notes)
    assert mc.map(folder / "kept.safetensors").report.decided[NAME["qwen3"]] == "remembered"
    put_under_the_manifest_of(file, saved("qwen3", folder, "other.safetensors"))
    again = mc.save(mc.load(file), folder / "again.safetensors", progress=False)
    assert STALE in again.notes[0]
    copied = mc.load(folder / "again.safetensors")
    assert (copied.family, copied.options, copied.config) == (None, {}, None)
    mapped = mc.map(copied, "qwen3", to="hf", config=folder / "qwen3" / "config.json")
    assert mapped.report.decided[NAME["qwen3"]] == "default"
    assert raws_of(mapped) == raws_in(folder / "qwen3")


def test_adapters_are_not_merged_by_the_alpha_of_a_stale_manifest(folder: Path) -> None:
    weights = mc.map(mc.load(folder / "llama"), "llama", to="mf")
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        halves = {"a": rng.normal(size=(2, 96)), "b": rng.normal(size=(120, 2))}
        made = {f"model.layers.0.attention.wq.lora_{half}": numbers.astype(np.float32) for half, numbers in halves.items()}
        mc.save(mc.load(made, lora_alpha=6 * seed), folder / f"{seed}.safetensors", progress=False)
    assert "alpha 6 from the manifest" in mc.merge_adapters(weights, folder / "1.safetensors").notes[-1]
    with pytest.raises(MappingError, match="6 in the manifest, 12 in the call"):
        mc.merge_adapters(weights, folder / "1.safetensors", alpha=12)
    put_under_the_manifest_of(folder / "1.safetensors", folder / "2.safetensors")
    with pytest.raises(MappingError) as refused:
        mc.merge_adapters(weights, folder / "1.safetensors")
    assert refused.value.code == "MFC319"
    assert f"1.safetensors.mfconv {STALE}" in str(refused.value)
    assert "--lora_alpha" in str(refused.value)
    assert "alpha 12 from the call" in mc.merge_adapters(weights, folder / "1.safetensors", alpha=12).notes[-1]
    assert any(STALE in note for note in mc.load(folder / "1.safetensors", lora_alpha=12).notes)


def test_every_tensor_proves_the_manifest_of_a_family_that_is_not_known_here(folder: Path) -> None:
    file = saved("qwen3", folder, "out.safetensors")
    manifest = file.with_name("out.safetensors.mfconv") / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"family": "qwen3"', '"family": "unheard_of"').replace('"family":"qwen3"', '"family":"unheard_of"')
    )
    loaded = mc.load(file)
    assert loaded.family == "unheard_of"
    assert manifest_proof.prove_own_manifest(loaded)[0].family == "unheard_of"
    changed_in_one("decoder.layers.1.mlp.linear_fc2.weight")(file)
    assert manifest_proof.prove_own_manifest(mc.load(file))[0].family is None


def test_slices_of_ranks_prove_the_manifest_of_a_run(folder: Path) -> None:
    mapped = mc.map(mc.load(folder / "qwen3"), "qwen3", to="mf", use_interleaved_weight_layout_mlp=False)
    mc.save(mapped, folder / "run", layout_of_ranks=LAYOUT, progress=False)
    option = "use_interleaved_weight_layout_mlp"
    assert mc.map(mc.load(folder / "run"), to="hf").report.decided[option] == "remembered"
    other = mc.map(mc.load(folder / "qwen3"), "qwen3", to="mf")
    mc.save(other, folder / "other", layout_of_ranks=LAYOUT, progress=False)
    put_under_the_manifest_of(folder / "run", folder / "other")
    mapped = mc.map(mc.load(folder / "run"), "qwen3", to="hf", config=folder / "qwen3" / "config.json")
    assert mapped.report.decided[option] == "default"
    assert raws_of(mapped) == raws_in(folder / "qwen3")


def test_verify_takes_the_options_of_a_stale_manifest_for_nothing(folder: Path) -> None:
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    put_under_the_manifest_of(file, saved("qwen3", folder, "other.safetensors"))
    report = mc.verify(folder / "qwen3", file, "qwen3", progress=False)
    assert report.equal
    assert STALE in repr(report)


def test_convert_says_that_a_manifest_is_stale_and_what_is_assumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved("qwen3", folder, "out.safetensors", use_interleaved_weight_layout_mlp=False)
    put_under_the_manifest_of(file, saved("qwen3", folder, "other.safetensors"))
    words = ["convert", "--reversed", str(file), str(folder / "back"), "--model", "qwen3"]
    assert mfconv([*words, "--config", str(folder / "qwen3" / "config.json")]) == 0
    printed = capsys.readouterr()
    said = " ".join((printed.out + printed.err).split())
    assert STALE in said
    assert "assumed: use_interleaved_weight_layout_mlp=True" in said
    assert raws_in(folder / "back") == raws_in(folder / "qwen3")


def test_a_true_manifest_is_read_no_further_than_a_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Llama nothing is laid out unseen: a hundredth of its bytes, and one matrix."""
    read: list[int] = []
    real = manifest_proof.tensor_checksums

    def counted(tensors: Any, threads: int) -> Any:
        read.append(sum(t.spec.nbytes for t in tensors))
        return real(tensors, threads)

    monkeypatch.setattr(manifest_proof, "tensor_checksums", counted)
    file = saved("llama", folder, "out.safetensors")
    read.clear()
    loaded = mc.load(file)
    assert not read
    mc.map(mc.map(loaded))
    smallest = min(t.spec.nbytes for t in loaded if len(t.shape) > 1)
    assert len(read) == 1
    assert smallest <= read[0] <= smallest + loaded.nbytes // 100
