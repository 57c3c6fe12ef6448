"""The verdict: what is proved, what is not, and what is noticed."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.families import llama
from mfconv_nb.steps.comparing.verify_report import VerifyReport
from mfconv_nb.streaming import fill
from tests.mapping import mixed
from tests.support import flip_bit, numbered, place_of, raws_in, without, write_hf, write_safetensors
from tests.toys import raws_of

INV_FREQ = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def verdict(report: VerifyReport) -> str:
    """The word that stands first, and that everything that shows the report agrees on."""
    word = repr(report).split("  ")[0].split(" · ")[0]
    first = " ".join(word.split()[:2]) if not word.startswith("✗ Not") else "✗ Not equal."
    assert json.loads(report.to_json())["verdict"] == first
    assert (first == "✓ Equal.") == report.equal
    return first


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A toy with a rotary buffer in each layer, and what was made of it."""
    toy = mc.toy("llama", num_hidden_layers=2)
    tensors: dict[str, Any] = {**raws_of(toy), **{INV_FREQ.format(n): numbered(10, first=n) for n in range(2)}}
    hf = write_hf(tmp_path / "hf", tensors, toy.config)
    mc.save(mc.map(mc.load(hf)), tmp_path / "out.ckpt")
    return hf, tmp_path / "out.ckpt"


# ---- the four verdicts -----------------------------------------------------------------------------------------------------


def test_a_conversion_is_equal_when_every_byte_comes_back(pair: tuple[Path, Path]) -> None:
    report = mc.verify(*pair)
    assert verdict(report) == "✓ Equal."
    assert [c.outcome for c in report.conditions] == ["pass"] * 3
    assert "23 of 23 tensors bitwise equal" in repr(report)


def test_it_says_what_was_dropped_tied_and_cast(pair: tuple[Path, Path], tmp_path: Path) -> None:
    dropped = mc.verify(*pair).changes
    assert len(dropped) == 1
    assert dropped[0].startswith("dropped: model.layers.{0‥1}.self_attn.rotary_emb.inv_freq (2 tensors): ")
    mc.toy("llama", tmp_path / "tied", tie_word_embeddings=True)
    mc.save(mc.map(mc.load(tmp_path / "tied")), tmp_path / "tied.ckpt", dtype="fp32")
    tied = mc.verify(tmp_path / "tied", tmp_path / "tied.ckpt")
    assert [line.split(" (")[0] for line in tied.changes] == ["tied: lm_head.weight", "cast: 39 tensors from bf16 to fp32"]
    assert all(line in repr(tied) for line in tied.changes)


@pytest.mark.parametrize("ending", ["html", "csv", "json"])
def test_a_round_trip_is_kept_as_a_file(pair: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    text = mc.verify(*pair).export(tmp_path / f"report.{ending}").read_text(encoding="utf-8")
    if ending == "html":
        assert "✓ Equal." in text
        assert html.escape("model.layers.{0‥1}.self_attn.q_proj.weight") in re.sub(r"<(wbr|/?span[^>]*)>", "", text)
        assert not re.search(r"<script|<link|https?://|@import|url\(", text)
    elif ending == "csv":
        assert [row["condition"] for row in csv.DictReader(io.StringIO(text))] == [c.sentence for c in mc.verify(*pair).conditions]
    else:
        assert json.loads(text)["verdict"] == "✓ Equal."


def test_a_report_is_not_kept_where_or_as_what_it_cannot_be(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = mc.verify(*pair)
    with pytest.raises(MfconvError, match="MFC501"):
        report.export(tmp_path / "report.pdf")
    with pytest.raises(MfconvError, match="MFC404"):
        report.export(tmp_path / "nowhere" / "report.html")


def test_the_other_direction_is_proved_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(pair[1])), tmp_path / "back")
    assert verdict(mc.verify(pair[1], tmp_path / "back")) == "✓ Equal."


@pytest.mark.parametrize("dtype, source", [("bf16", np.float32), ("fp16", np.float32), ("fp16", ml_dtypes.bfloat16)])
def test_a_rounded_conversion_is_close_and_says_by_how_much(dtype: str, source: Any, tmp_path: Path) -> None:
    hf = write_hf(tmp_path / "hf", {n: (a / 7e9).astype(source) for n, a in mixed.hugging_face().items() if a.ndim > 1}, None)
    family = mixed.FAMILY.with_rules(tuple(r for r in mixed.FAMILY.rules if "attn.o_proj" in str(getattr(r, "hf", ""))))
    only = {n: mc.load(hf).tensors[n] for n in mc.load(hf).tensors if "o_proj" in n}
    checkpoint = replace(mc.load(hf), tensors=only, config=mixed.CONFIG)
    mc.save(mc.map(checkpoint, family), tmp_path / "out.ckpt", dtype=dtype)
    report = mc.verify(checkpoint, tmp_path / "out.ckpt", family)
    assert verdict(report) == "≈ Close."
    assert [c.outcome for c in report.conditions] == ["pass", "pass", "pass", "close"]
    assert "ULP" in report.conditions[-1].seen


def test_numbers_that_a_cast_made_infinite_are_not_close(tmp_path: Path) -> None:
    tensors = raws_of(mc.toy("llama", dtype="fp32"))
    norm = np.ones(96, np.float32)
    norm[5:7] = 1e30, -65520.0
    hf = write_hf(tmp_path / "hf", {**tensors, "model.norm.weight": norm}, llama.FAMILY.toy)
    mc.save(mc.map(mc.load(hf)), tmp_path / "out.ckpt", dtype="fp16")
    report = mc.verify(hf, tmp_path / "out.ckpt")
    assert verdict(report) == "✗ Not equal."
    assert report.conditions[-1].seen == "2 numbers in 1 tensor became infinite, too large for the dtype; first in model.norm.weight"


def test_a_wider_conversion_is_equal_after_casting_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(pair[0])), tmp_path / "wide.ckpt", dtype="fp32")
    report = mc.verify(pair[0], tmp_path / "wide.ckpt")
    assert verdict(report) == "✓ Equal."
    assert "21 of them after casting back" in repr(report)


def test_what_does_not_come_back_is_incomplete_and_named(pair: tuple[Path, Path]) -> None:
    shutil.rmtree(f"{pair[1]}.mfconv")
    report = mc.verify(*pair)
    assert verdict(report) == "! Incomplete."
    assert all(INV_FREQ.format(n) in repr(report) for n in range(2))


# ---- what is noticed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.tok_embeddings.embedding_weight", "model.layers.1.attention.wk.weight", "lm_head.weight"])
def test_one_flipped_bit_is_not_equal_and_named(name: str, pair: tuple[Path, Path]) -> None:
    flip_bit(pair[1], place_of(pair[1], name) + 11)
    for report in (mc.verify(*pair), mc.verify(pair[1])):
        assert verdict(report) == "✗ Not equal."
    assert mc.verify(*pair).differences is not None
    assert mc.verify(pair[1]).conditions[-1].seen == f"1 tensor changed; first {name}"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_one_flipped_bit_of_a_rounded_conversion_is_not_equal(dtype: str, tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf", dtype="fp32")
    mc.save(mc.map(toy), tmp_path / "out.ckpt", dtype=dtype)
    assert verdict(mc.verify(toy, tmp_path / "out.ckpt")) == "≈ Close."
    flip_bit(tmp_path / "out.ckpt", place_of(tmp_path / "out.ckpt", "model.layers.0.attention.wq.weight") + 6)
    assert verdict(mc.verify(toy, tmp_path / "out.ckpt")) == "✗ Not equal."


def test_a_flipped_bit_in_what_is_kept_beside_the_output_is_not_equal(pair: tuple[Path, Path]) -> None:
    carried = Path(f"{pair[1]}.mfconv") / "carried.safetensors"
    flip_bit(carried, carried.stat().st_size - 1)
    assert verdict(mc.verify(*pair)) == "✗ Not equal."


@pytest.mark.parametrize("first, second", [("w1", "w3"), ("attention_norm", "ffn_norm")])
def test_two_tensors_of_one_shape_that_are_exchanged_are_not_equal(first: str, second: str, tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf")
    mapped = raws_of(mc.map(toy))
    one, two = (f"model.layers.2.{'feed_forward.' if 'w' in p[:1] else ''}{p}.weight" for p in (first, second))
    mapped[one], mapped[two] = mapped[two], mapped[one]
    write_safetensors(tmp_path / "out.safetensors", mapped, {"format": "ms"})
    assert verdict(mc.verify(toy, tmp_path / "out.safetensors")) == "✗ Not equal."


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "renamed"])
def test_names_and_shapes_that_do_not_fit_are_not_equal(change: str, tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf")
    mapped: dict[str, Any] = raws_of(mc.map(toy))
    name = "model.layers.1.attention.wo.weight"
    if change == "missing":
        mapped = without(mapped, name)
    elif change == "shape":
        mapped[name] = mapped[name]._replace(shape=mapped[name].shape[::-1])
    else:
        mapped["odd"] = mapped[name] if change == "surplus" else mapped.pop(name)
    write_safetensors(tmp_path / "out.safetensors", mapped, {"format": "ms"})
    report = mc.verify(toy, tmp_path / "out.safetensors")
    assert verdict(report) == "✗ Not equal."
    assert report.conditions[-1].outcome == "fail"
    assert name in report.conditions[-1].seen or "odd" in report.conditions[-1].seen


@pytest.mark.parametrize("side_folder", [True, False], ids=["with its side folder", "without"])
def test_a_tied_head_that_is_no_longer_the_embedding_is_not_equal(side_folder: bool, tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf", tie_word_embeddings=True)
    out = tmp_path / "mf" / "out.ckpt"
    mc.save(mc.map(toy), out)
    if not side_folder:
        shutil.rmtree(f"{out}.mfconv")
    assert verdict(mc.verify(toy, out)) == "✓ Equal."
    data, head = out.read_bytes(), raws_in(out)["lm_head.weight"].data
    flip_bit(out, data.rindex(head) + 100)
    assert raws_in(out)["lm_head.weight"].data != raws_in(out)["model.tok_embeddings.embedding_weight"].data
    report = mc.verify(toy, out)
    assert verdict(report) == "✗ Not equal."
    assert [c.outcome for c in report.conditions] == ["pass", "pass", "fail", "pass"]
    assert report.conditions[2].seen.startswith("lm_head.weight holds other numbers")


def test_an_original_that_no_rule_covers_is_not_equal_and_says_why(pair: tuple[Path, Path], tmp_path: Path) -> None:
    odd = write_hf(tmp_path / "odd", {**raws_in(pair[0]), "odd.weight": numbered(3)}, mc.load(pair[0]).config)
    report = mc.verify(odd, pair[1])
    assert verdict(report) == "✗ Not equal."
    assert "odd.weight" in report.conditions[-1].seen


def test_two_checkpoints_of_the_same_side_are_sent_to_diff(pair: tuple[Path, Path]) -> None:
    with pytest.raises(MfconvError) as refused:
        mc.verify(pair[0], pair[0])
    assert refused.value.code == "MFC310"
    assert "diff" in str(refused.value.hint)


# ---- against the manifest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out.ckpt", "out.safetensors", "out"])
def test_what_was_written_is_proved_by_its_manifest_alone(target: str, tmp_path: Path) -> None:
    mc.save(mc.map(mc.toy("llama")), tmp_path / target, max_shard_size="70KB" if target == "out" else None)
    report = mc.verify(tmp_path / target)
    assert verdict(report) == "✓ Equal."
    assert "39 checksums equal" in repr(report)


@pytest.mark.parametrize("place", [0, 255, 256, 700, 31_775 * 2, 31_776 * 2 - 1])
def test_a_flipped_bit_is_noticed_in_any_segment_of_a_tensor(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "SEGMENT_BYTES", 256)  # as in tensors over 64 MiB, whose checksum is made of those of their segments
    out = tmp_path / "out.ckpt"
    mc.save(mc.map(mc.toy("llama")), out)
    assert verdict(mc.verify(out)) == "✓ Equal."
    flip_bit(out, place_of(out, "lm_head.weight") + place)
    assert mc.verify(out).conditions[-1].seen == "1 tensor changed; first lm_head.weight"


def test_a_folder_that_is_given_as_a_dot_has_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mc.save(mc.map(mc.toy("llama")), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    assert verdict(mc.verify(".")) == "✓ Equal."
    assert mc.load(".").family == "llama"
    assert mc.load("param_name_map.json").family == "llama"


def test_a_tensor_that_was_removed_or_reshaped_is_not_equal_to_its_manifest(pair: tuple[Path, Path]) -> None:
    mapped = raws_in(pair[1])
    name = "model.norm_out.weight"
    for changed in (without(mapped, name), {**mapped, name: mapped[name]._replace(shape=(1, 96))}):
        write_safetensors(pair[1], changed, {"format": "ms"})
        report = mc.verify(pair[1])
        assert verdict(report) == "✗ Not equal."
        assert report.conditions[-1].seen == f"1 tensor; first {name}"


def test_without_a_manifest_and_an_original_there_is_nothing_to_verify(pair: tuple[Path, Path]) -> None:
    with pytest.raises(MfconvError) as refused:
        mc.verify(pair[0])
    assert refused.value.code == "MFC110"
    assert "mfconv verify ORIGINAL CONVERTED" in str(refused.value)


def test_a_stale_manifest_is_not_used_and_a_note_says_so(pair: tuple[Path, Path]) -> None:
    changed = {n: r._replace(shape=(1, 96)) if n == "model.norm_out.weight" else r for n, r in raws_in(pair[1]).items()}
    write_safetensors(pair[1], changed, {"format": "ms"})
    loaded = mc.load(pair[1])
    assert loaded.notes == ("out.ckpt.mfconv describes other tensors and is not used",)
    assert (loaded.history.original, loaded.family, loaded.config) == (None, None, None)
    assert "describes other tensors" in repr(loaded)


def test_a_conversion_that_was_trained_on_has_no_manifest_any_more(pair: tuple[Path, Path], tmp_path: Path) -> None:
    trained = {n: r._replace(data=bytes(len(r.data))) for n, r in raws_in(pair[1]).items()}
    write_safetensors(pair[1], trained, {"format": "ms"})
    mapped = mc.map(mc.load(pair[1]), "llama", to="hf", config=pair[0])
    assert f"{pair[1].name}.mfconv is of other numbers than these" in repr(mapped)
    assert "not restored, if it was there: model.layers.{layer}.self_attn.rotary_emb.inv_freq" in repr(mapped)
    mc.save(mapped, tmp_path / "back")
    back = raws_in(tmp_path / "back")
    assert set(back) == {name for name in raws_in(pair[0]) if not name.endswith("inv_freq")}
    assert not any(back["model.norm.weight"].data)


def test_the_manifest_says_how_every_tensor_came_about(pair: tuple[Path, Path]) -> None:
    content = json.loads((Path(f"{pair[1]}.mfconv") / "manifest.json").read_text())
    assert (content["family"], content["from_side"], content["to"]) == ("llama", "hf", "mf")
    assert content["carried"] == [INV_FREQ.format(0), INV_FREQ.format(1)]
    assert {t["name"]: (t["dtype"], tuple(t["shape"])) for t in content["tensors"]} == {
        n: (r.dtype, r.shape) for n, r in raws_in(pair[1]).items()
    }
    wq = next(t for t in content["tensors"] if t["name"] == "model.layers.0.attention.wq.weight")
    assert wq["from"] == ["model.layers.0.self_attn.q_proj.weight"]
    assert str(pair[0].parent) not in json.dumps(content)  # no path of a machine


def test_a_checkpoint_in_memory_is_verified_like_a_file(pair: tuple[Path, Path]) -> None:
    loaded: Checkpoint = mc.load(pair[0])
    assert mc.verify(loaded, mc.map(loaded, llama.FAMILY)).equal


def test_the_manifest_tells_how_many_layers_the_conversion_took(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf")
    mc.save(mc.map(tmp_path / "hf", layers=2), tmp_path / "two.ckpt")
    report = mc.verify(tmp_path / "hf", tmp_path / "two.ckpt")
    assert report.equal
    assert any(change.startswith("left out: model.layers.{2‥3}.") for change in report.changes)


def test_a_tensor_that_is_left_out_for_what_it_holds_is_looked_at_in_a_proof(tmp_path: Path) -> None:
    toy = mc.toy("qwen3-moe", tmp_path / "hf")
    mapped = mc.map(toy, to="mf")
    weights = {name: mc.read(mapped, name) for name in mapped.tensors}
    config, place = toy.config or {}, "decoder.layers.0.mlp.expert_mapping"
    in_order, moved = ({**weights, place: np.array(numbers, np.int32)} for numbers in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4]))
    assert mc.verify(mc.load(in_order, config=config), tmp_path / "hf").passed
    report = mc.verify(mc.load(moved, config=config), tmp_path / "hf")
    assert not report.passed
    assert any(c.outcome == "fail" and "expert_mapping holds other numbers" in c.seen for c in report.conditions)
