"""What every family must do, in every form: its options, its toy, without a recorded output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import Drop, Family, Tied
from tests.every_form import every_form, forms


def toy_of(form: Family) -> Checkpoint:
    return mc.toy(form.key, options=dict(form.chosen))


def refusal(checkpoint: Checkpoint, form: Family, **more: Any) -> mc.MfconvError:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(checkpoint, form.key, **{**form.chosen, **more})
    return refused.value


@every_form
def test_a_toy_comes_back_bit_by_bit_from_its_tensors_and_its_config_alone(form: Family) -> None:
    source = toy_of(form)
    there = mc.map(source, form.key, **form.chosen)
    shards = {"shards": 2} if form.key == "llama_meta" else {}  # no params.json says how many files there are
    config = {k: v for k, v in form.toy.items() if k != "shards"}
    back = mc.map(Checkpoint(there.tensors, side=MF), form.key, to=HF, config=config, **form.chosen, **shards)
    assert mc.diff(back, source, values=True).equal
    is_said = "not restored, if it was there: " in str(back.report)
    assert is_said == any(isinstance(rule, Drop) and rule.side == HF and not rule.holds for rule in form.rules)


@forms
def test_every_number_of_the_target_has_one_source(form: Family) -> None:
    there = mc.map(toy_of(form), form.key, **form.chosen)
    for tensor in there:
        assert sum(piece.block.elements for piece in tensor.pieces) == tensor.spec.elements


def layer_keys(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of a config that count layers."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from layer_keys(value, (*path, key))
        elif isinstance(value, int) and (
            key in ("depth", "layers", "decoder_depth", "image_layers", "text_layers") or key.endswith(("_layers", "n_layer"))
        ):
            yield (*path, key)


def with_one_more(config: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    inner = config[path[0]]
    return {**config, path[0]: with_one_more(inner, path[1:]) if len(path) > 1 else inner + 1}


@forms
def test_a_config_that_names_one_more_layer_is_refused(form: Family) -> None:
    source = toy_of(form)
    paths = [p for p in layer_keys(form.toy) if p[-1] != "num_nextn_predict_layers" or form.chosen.get("with_mtp")]
    assert paths or form.key.startswith("swin"), "swin counts blocks in a list"
    for path in paths:
        error = refusal(source, form, config=with_one_more(form.toy, path))
        assert error.code == "MFC303", path
        assert "missing" in {p.kind for p in getattr(error, "problems", ())}, path


@pytest.mark.parametrize("key", ["swin", "swin_hf"])
@pytest.mark.parametrize("depths", [[2, 4], [3, 3], [2, 3, 1]])
def test_a_swin_whose_config_names_more_blocks_is_refused(key: str, depths: list[int]) -> None:
    source = mc.toy(key)
    heads = [3, 6, 12][: len(depths)]
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(source, key, config={**(source.config or {}), "depths": depths, "num_heads": heads})
    assert refused.value.code == "MFC303"
    assert "not in the checkpoint" in str(refused.value) or "stage" in str(refused.value)


@forms
def test_a_tensor_of_any_kind_that_is_missing_is_noticed_on_either_side(form: Family) -> None:
    sizes = read_sizes(form.toy, form.sizes)
    there = mc.map(toy_of(form), form.key, **form.chosen)
    for side, specs in ((MF, toy_of(form).specs), (HF, there.specs)):
        last_of = {fold(spec.name)[0]: spec for spec in specs}  # of each kind the last layer's
        tied = {rule.mf for rule in form.rules if isinstance(rule, Tied) and side == HF and sizes[rule.only_if].value}
        for gone in (spec for spec in last_of.values() if spec.name not in tied):  # a head that the config ties may be missing
            plan = plan_mapping([s for s in specs if s is not gone], form, side, sizes=sizes)
            assert [p.name for p in plan.problems if p.kind == "missing"][:1] == [gone.name] or plan.problems, gone.name


@forms
def test_a_tensor_too_much_is_noticed_on_either_side(form: Family) -> None:
    source = toy_of(form)
    there = mc.map(source, form.key, **form.chosen)
    for checkpoint, side in ((source, MF), (there, HF)):
        first = next(iter(checkpoint))
        tensors = {**checkpoint.tensors, "nobody.knows.this": first.renamed("nobody.knows.this")}
        error = refusal(Checkpoint(tensors, side=checkpoint.side), form, to=side, config=form.toy)
        assert "nobody.knows.this: no rule" in str(error)
