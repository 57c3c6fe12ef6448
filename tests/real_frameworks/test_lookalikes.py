"""Equal names are not equal mathematics: what passes as one of our families without a word computes what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MappingError
from mfconv_nb.families.registry import known_families
from tests.real_frameworks import lookalikes

pytestmark = pytest.mark.real_frameworks

SAME = {model_type: family.key for family in known_families() for model_type in family.same_maths}
WINDOWS = sorted({model_type for family in known_families() for model_type in family.windows})

# The model types of transformers 5.23 whose tensor names are nearest to those of a family, by names that are missing or too many.
NEAREST = (
    *("arcee", "big_bird", "bitnet", "cohere", "cohere2", "cwm", "diffllama", "dots1", "ernie4_5", "exaone4", "flex_olmo", "gemma"),
    *("gemma3_text", "glm", "glm4_moe_lite", "granite", "granite_swa", "helium", "hunyuan_v1_dense", "hyperclovax", "internlm3"),
    *("iquestcoder", "mellum", "ministral", "ministral3", "mistral", "olmo2", "olmoe", "seed_oss", "smollm3"),
)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    lookalikes.quieten()


@pytest.mark.parametrize("model_type", sorted({*NEAREST, *SAME}))
def test_a_model_with_the_names_of_a_family_is_refused_or_gives_the_logits_of_its_class(model_type: str, tmp_path: Path) -> None:
    tried = lookalikes.outcome(model_type, "as it is", tmp_path / model_type)
    assert tried.why == ""
    if model_type in SAME:
        assert (tried.family, tried.away) == (SAME[model_type], 0)
        assert tried.spread > 0.5  # of logits that are all alike equality would say nothing
    else:
        assert tried.refused == "MFC302"


@pytest.mark.parametrize("switch", [s for s in lookalikes.SWITCHES if s != "as it is"])
@pytest.mark.parametrize("model_type", SAME)
def test_what_computes_the_same_does_so_whatever_its_config_switches_on_or_it_is_refused(
    model_type: str, switch: str, tmp_path: Path
) -> None:
    tried = lookalikes.outcome(model_type, switch, tmp_path / model_type)
    limited = (model_type, switch) == ("mistral", "a short window")
    assert (tried.family, tried.refused, tried.away) == (("", "MFC302", None) if limited else (SAME[model_type], "", 0))


@pytest.mark.parametrize(
    ("model_type", "switch", "family"),
    [
        ("gemma", "as it is", "llama"),
        ("granite", "as it is", "llama"),
        ("helium", "as it is", "llama"),
        ("ernie4_5", "as it is", "llama"),
        ("smollm3", "layers without rotary", "llama"),
        ("ministral3", "stretched rotary", "llama"),
        ("ministral", "a short window", "llama"),
        ("cwm", "a short window", "llama"),
        ("mistral", "a short window", "llama"),
        ("mellum", "as it is", "qwen3-moe"),
    ],
)
def test_the_comparison_notices_other_mathematics_under_the_same_names(model_type: str, switch: str, family: str, tmp_path: Path) -> None:
    config = lookalikes.config_of(model_type, **lookalikes.SWITCHES[switch])
    lookalikes.random_model(config).save_pretrained(tmp_path / "hf")
    away, spread = lookalikes.largest_difference(tmp_path / "hf", family)
    assert away > 0.01 * spread


@pytest.mark.parametrize("model_type", WINDOWS)
def test_a_window_that_hides_something_is_refused_and_does_change_the_logits(model_type: str, tmp_path: Path) -> None:
    import torch

    assert lookalikes.outcome(model_type, "a short window", tmp_path / "short").refused == "MFC302"
    assert lookalikes.outcome(model_type, "no window", tmp_path / "none").family
    logits = []
    for switch in ("a short window", "no window"):
        config = lookalikes.config_of(model_type, **lookalikes.SWITCHES[switch])
        logits.append(lookalikes.logits_of(lookalikes.random_model(config)))
    assert not torch.allclose(*logits, atol=0.01)


@pytest.mark.parametrize(
    "model_type, more",
    [
        ("bitnet", "model.layers.{0‥3}.mlp.ffn_sub_norm.weight, model.layers.{0‥3}.self_attn.attn_sub_norm.weight"),
        ("hunyuan_v1_dense", "model.layers.{0‥3}.self_attn.key_layernorm.weight, model.layers.{0‥3}.self_attn.query_layernorm.weight"),
    ],
)
def test_a_model_with_more_than_a_family_has_is_refused_with_what_it_has_more(model_type: str, more: str, tmp_path: Path) -> None:
    lookalikes.random_model(lookalikes.config_of(model_type)).save_pretrained(tmp_path / "hf")
    with pytest.raises(MappingError) as refused:
        mc.map(mc.load(tmp_path / "hf"))
    assert str(refused.value.found) == f"model_type '{model_type}'; nearest: llama; 2 names it does not know ({more})"


def test_every_type_that_is_said_to_compute_the_same_is_one_that_no_family_has_as_its_own() -> None:
    own = {model_type for family in known_families() for model_type in family.model_types}
    assert not own & SAME.keys()


def test_a_composite_model_is_refused_where_its_language_model_is_another_one(tmp_path: Path) -> None:
    import transformers

    sizes = {n: v for n, v in lookalikes.SIZES.items() if n in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 16}
    vision |= {"num_attention_heads": 4, "patch_size": 4, "projection_dim": 24}
    for text, refused in (("llama", False), ("gemma", True), ("mistral", True)):
        parts = {"text_config": {"model_type": text, **sizes, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}}
        config = transformers.AutoConfig.for_model("llava", **parts, vision_config=vision)
        transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / text)
        source = mc.load(tmp_path / text)
        if refused:
            with pytest.raises(MappingError, match=f"model_type '{text}' in 'text_config', which llava does not list"):
                mc.map(source)
        assert mc.map(source, "llava").family == "llava"
        assert refused or mc.map(source).family == "llava"
