"""What other readers make of the same codes: transformers, which dequantises block-wise fp8 by itself, and MindFormers' own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import mfconv_nb as mc
from tests.quantised import as_raws, by_blocks, fp4, fp8, llama_fp8
from tests.support import raws_in, write_hf
from tests.toys import arrays_of

RNG = np.random.default_rng(4)


def test_transformers_dequantises_the_same_folder_to_the_same_bits(tmp_path: Path) -> None:
    import torch
    import transformers

    folder, _, numbers = llama_fp8(tmp_path / "q", block=8)  # every matrix is made of whole blocks, which it asks for
    how = transformers.FineGrainedFP8Config(weight_block_size=(8, 8), dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=how)
    theirs = {n: t.view(torch.int16).numpy().tobytes() for n, t in model.state_dict().items()}
    compared = {n for n in numbers if n.endswith("_proj.weight")}
    assert len(compared) == 28
    assert {n: theirs[n] for n in compared} == {n: numbers[n].data for n in compared}
    back = tmp_path / "back"
    mc.save(mc.map(mc.load(folder)), tmp_path / "mf.ckpt", progress=False)
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder), back, assets=folder, progress=False)
    again = transformers.AutoModelForCausalLM.from_pretrained(back, dtype=torch.bfloat16, quantization_config=how)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_mindformers_own_reader_reads_the_codes_that_are_kept_for_it(tmp_path: Path) -> None:
    import importlib.util
    from importlib.metadata import distribution

    file = distribution("mindformers").locate_file("mindformers/checkpoint/safetensors_utils.py")
    spec = importlib.util.spec_from_file_location("reader", str(file))
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    codes, scales, _ = fp8((RNG.standard_normal((256, 128)) * 0.02).astype(np.float32), (128, 128))
    packed, e8m0, _ = fp4(RNG.standard_normal((6, 64)).astype(np.float32))
    stored = as_raws({"a.weight": codes, "a.weight_scale_inv": scales, "b.weight": packed.view(np.int8), "b.scale": e8m0})
    write_hf(tmp_path / "q", stored, {"model_type": "own", **by_blocks(128)})
    rules = (mc.rules.Rule("a.weight", "x.weight"), mc.rules.Rule("b.weight", "y.weight"))
    own = mc.rules.Family("own", "", rules, sizes={})
    mc.save(mc.map(mc.load(tmp_path / "q"), own), tmp_path / "mf.safetensors", dtype="keep", progress=False)
    assert set(raws_in(tmp_path / "mf.safetensors")) == {"x.weight", "x.scale", "y.weight", "y.scale"}
    theirs, ours = reader.load_safetensors_file(str(tmp_path / "mf.safetensors")), arrays_of(tmp_path / "mf.safetensors")
    assert ours.keys() == {"x.weight", "y.weight"}  # theirs gives a scale too, where it stands before its codes
    for name, numbers in ours.items():
        np.testing.assert_array_equal(np.asarray(theirs[name]).astype(numbers.dtype).view(np.uint16), numbers.view(np.uint16))
