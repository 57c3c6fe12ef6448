"""What config.json says of the files beside it is true: dtype, layers, tied head, quantisation; what from_pretrained needs comes along."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.support import change_config, write_hf
from tests.toys import arrays_of

QUANTISED = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    mc.toy("llama", tmp_path / "hf", dtype="bf16")
    return tmp_path / "hf"


def there_and_back(hf: Path, tmp_path: Path, *, forget: bool = False, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of the way back, with the folder's own as assets; and what the report of the save notes."""
    mc.save(mc.map(mc.load(hf), "llama", layers=options.pop("layers", None)), tmp_path / "mf.ckpt")
    if forget:
        shutil.rmtree(tmp_path / "mf.ckpt.mfconv")
    back = mc.map(mc.load(tmp_path / "mf.ckpt", config=hf), "llama", to="hf", layers=options.pop("again", None))
    report = mc.save(back, tmp_path / "back", assets=hf, **options)
    return dict(json.loads((tmp_path / "back" / "config.json").read_text())), report.notes


def test_a_config_that_is_true_comes_back_to_the_byte(hf: Path, tmp_path: Path) -> None:
    before = (hf / "config.json").read_bytes()
    _, notes = there_and_back(hf, tmp_path)
    assert (tmp_path / "back" / "config.json").read_bytes() == before
    assert notes == ()


@pytest.mark.parametrize(
    "said",
    [
        {"quantization_config": QUANTISED},
        {"compression_config": {"format": "int-quantized"}},
        {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
        {"text_config": {"hidden_act": "silu", "quantization_config": QUANTISED}},
    ],
    ids=lambda said: next(iter(said)),
)
def test_plain_weights_are_not_called_quantised(said: Mapping[str, Any], hf: Path, tmp_path: Path) -> None:
    change_config(hf, **said)
    config, notes = there_and_back(hf, tmp_path)
    assert "quant" not in json.dumps(config)
    assert config.get("text_config", {"hidden_act": "silu"}) == {"hidden_act": "silu"}
    assert any("not quantised" in note for note in notes)


def test_a_quantised_checkpoint_that_is_only_saved_anew_keeps_what_its_config_says(tmp_path: Path) -> None:
    tensors = {"a.weight": np.ones((4, 4), np.int8), "a.weight_scale": np.ones(1, np.float32)}
    write_hf(tmp_path / "q", tensors, {"quantization_config": {"quant_method": "compressed-tensors"}})
    mc.save(mc.load(tmp_path / "q"), tmp_path / "copy", assets=tmp_path / "q")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["quantization_config"] == {"quant_method": "compressed-tensors"}


@pytest.mark.parametrize("cast", [None, "fp32"])
def test_the_dtype_is_that_of_the_files_with_and_without_a_cast_and_inside_the_text_model_too(
    cast: str | None, hf: Path, tmp_path: Path
) -> None:
    change_config(hf, torch_dtype="float16", dtype="float16", text_config={"torch_dtype": "float16"}, vision_config={"dtype": None})
    config, _ = there_and_back(hf, tmp_path, dtype=cast)
    right = "bfloat16" if cast is None else "float32"
    assert (config["torch_dtype"], config["dtype"], config["text_config"]["torch_dtype"]) == (right, right, right)
    assert config["vision_config"] == {"dtype": None}


def test_of_several_dtypes_the_one_of_most_numbers_is_told_and_a_part_keeps_its_own(tmp_path: Path) -> None:
    made = mc.toy("llama", dtype="bf16")
    tensors = arrays_of(made)
    norms = {n: t.astype(np.float32) for n, t in tensors.items() if n.endswith("norm.weight")}
    config = dict(made.config) | {"dtype": "float16", "vision_config": {"dtype": "float32"}, "text_config": {"dtype": "float16"}}
    write_hf(tmp_path / "hf", tensors | norms, config)
    mc.save(mc.map(mc.load(tmp_path / "hf"), "llama", to="mf"), tmp_path / "mf.safetensors")
    mc.save(mc.map(mc.load(tmp_path / "mf.safetensors"), to="hf"), tmp_path / "back")
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert [part["dtype"] for part in (said, said["vision_config"], said["text_config"])] == ["bfloat16", "float32", "bfloat16"]


def test_of_the_first_layers_the_config_says_their_number_whatever_the_folder_of_assets_says(hf: Path, tmp_path: Path) -> None:
    config, _ = there_and_back(hf, tmp_path, layers=2, again=2, forget=True)
    assert config["num_hidden_layers"] == 2
    assert json.loads((hf / "config.json").read_text())["num_hidden_layers"] == 4


def test_a_head_of_other_numbers_is_not_called_tied_and_an_equal_one_still_is(hf: Path, tmp_path: Path) -> None:
    change_config(hf, tie_word_embeddings=True)
    config, notes = there_and_back(hf, tmp_path)  # the toy has a head of its own
    assert config["tie_word_embeddings"] is False
    assert any("'lm_head.weight' and 'model.embed_tokens.weight' differ" in note for note in notes)
    tensors = arrays_of(mc.load(hf))
    same = tmp_path / "same"
    write_hf(same, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, json.loads((hf / "config.json").read_text()))
    (tmp_path / "again").mkdir()
    config, notes = there_and_back(same, tmp_path / "again")
    assert config["tie_word_embeddings"] is True
    assert notes == ()


def test_a_head_that_is_left_out_is_called_tied_whatever_the_folder_of_assets_says(hf: Path, tmp_path: Path) -> None:
    tensors = {n: mc.read(mc.load(hf), n) for n in mc.load(hf).tensors if n != "lm_head.weight"}
    tied = write_hf(tmp_path / "tied", tensors, change_config(hf, tie_word_embeddings=True))
    mc.save(mc.map(mc.load(tied)), tmp_path / "mf.ckpt")
    change_config(hf, tie_word_embeddings=False)
    report = mc.save(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf"), tmp_path / "back", assets=hf)
    assert "lm_head.weight" not in mc.load(tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is True
    assert any("left out" in note for note in report.notes)


# ---- what comes along ------------------------------------------------------------------------------------------------------

COMES_ALONG = [
    "tekken.json",
    "normalizer.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/rag.jinja",
    "additional_chat_templates/tool_use.jinja",
    "source.spm",
    "sentencepiece.bpe.model",
    "vocab-src.json",
]
STAYS = [
    "README.md",
    "modeling_x.py",
    "additional_chat_templates/run.py",
    "trainer_state.json",
    "model.safetensors.index.json",
    "data/vocab.json",
]


def test_files_of_tokenizers_and_processors_come_along_in_their_folders_and_nothing_else_does(hf: Path, tmp_path: Path) -> None:
    (hf / "additional_chat_templates").mkdir()
    (hf / "data").mkdir()
    for name in [*COMES_ALONG, *(n for n in STAYS if "index" not in n)]:
        (hf / name).write_text(f'"{name}"')
    there_and_back(hf, tmp_path)
    found = {
        p.relative_to(tmp_path / "back").as_posix(): p.read_text()
        for p in (tmp_path / "back").rglob("*")
        if p.is_file() and p.suffix != ".safetensors"
    }
    assert {n: found.get(n) for n in COMES_ALONG} == {n: f'"{n}"' for n in COMES_ALONG}
    assert not {*STAYS} & {*found} - {"model.safetensors.index.json"}
    (tmp_path / "back" / "notes.txt").write_text("kept")  # a folder inside is no second run, beside which nothing may lie
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf"), tmp_path / "back", assets=hf, overwrite=True)
    assert (tmp_path / "back" / "notes.txt").read_text() == "kept"


def test_code_that_a_config_names_is_not_copied_and_is_named(hf: Path, tmp_path: Path) -> None:
    change_config(hf, auto_map={"AutoConfig": "configuration_x.XConfig", "AutoModel": "org/elsewhere--modeling_y.Y"})
    (hf / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}))
    (hf / "configuration_x.py").write_text("")
    _, notes = there_and_back(hf, tmp_path)
    assert [n for n in notes if n.endswith(": configuration_x.py, tokenization_x.py")]
    assert not list((tmp_path / "back").glob("*.py"))


@pytest.mark.parametrize("auto_map", [None, [], "x", {"AutoModel": 3}, {"AutoModel": ["", None, 4]}, {"AutoModel": "no_dot"}], ids=str)
def test_an_odd_auto_map_stops_nothing(auto_map: Any, hf: Path, tmp_path: Path) -> None:
    change_config(hf, auto_map=auto_map)
    (hf / "tokenizer_config.json").write_text("{ broken")
    _, notes = there_and_back(hf, tmp_path)
    assert notes == ()


def test_every_file_that_a_tokenizer_of_transformers_has_is_among_those_that_come_along(hf: Path, tmp_path: Path) -> None:
    found = find_spec("transformers")
    if found is None or found.origin is None:
        pytest.skip("transformers is not installed")
    tables = re.compile(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", re.DOTALL)
    sources = [p.read_text() for p in Path(found.origin).parent.rglob("tokenization_*.py")]
    names = {n for text in sources for table in tables.findall(text) for n in re.findall(r':\s*"([^"]+)"', table)}
    assert len(names) > 20
    for name in names:
        (hf / name).write_text("{}")
    there_and_back(hf, tmp_path)
    assert names <= {p.name for p in (tmp_path / "back").iterdir()}


def test_a_written_config_names_no_file_of_the_original(tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "hf")
    config = {**(toy.config or {}), "transformers_weights": "tuned.safetensors"}
    mc.save(mc.map(mc.map(mc.load(toy, config=config), "llama"), "llama", to="hf"), tmp_path / "back", progress=False)
    assert "transformers_weights" not in json.loads((tmp_path / "back" / "config.json").read_text())
    assert mc.diff(tmp_path / "back", toy, values=True).equal
