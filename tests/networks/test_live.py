"""Live objects as checkpoints: arrays, torch, MindSpore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, MappingError, MfconvError
from mfconv_nb.families import llama
from mfconv_nb.rules import Family, Rule
from tests.mapping import mixed
from tests.support import numbered, raw_of, raws_in
from tests.toys import raws_of

BF16 = ml_dtypes.bfloat16


# ---- arrays ----------------------------------------------------------------------------------------------------------------


def test_a_dict_of_arrays_is_a_checkpoint_whatever_its_strides(tmp_path: Path) -> None:
    base = numbered(6, 8)
    arrays: dict[str, Any] = {
        "plain": base,
        "turned": base.T,
        "every other": base[::2, 1::3],
        "backwards": base[::-1, ::-1],
        "repeated": np.broadcast_to(numbered(3), (4, 3)),
        "bf16": numbered(5, 3, dtype=BF16).T,
        "scalar": np.float32(7),
        "zero axes": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "bool": np.array([True, False])[::-1],
        "fp8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    }
    loaded = mc.load(arrays)
    for name, array in arrays.items():
        found = mc.read(loaded, name)
        assert (found.shape, found.dtype, found.tobytes()) == (np.shape(array), np.asarray(array).dtype, np.asarray(array).tobytes()), name
    mc.save(loaded, tmp_path / "out.safetensors")
    kept = {n: a for n, a in arrays.items() if n != "fp8"}
    assert {n: r for n, r in raws_in(tmp_path / "out.safetensors").items() if n != "fp8"} == {
        n: raw_of(np.asarray(a)) for n, a in kept.items()
    }


def test_arrays_map_and_come_back_without_touching_them() -> None:
    hf = mixed.noise(mixed.hugging_face())
    before = {n: a.tobytes() for n, a in hf.items()}
    there = mc.map(mc.load(hf, config=mixed.CONFIG), mixed.FAMILY)
    assert raws_of(there) == {n: raw_of(a) for n, a in mixed.mindformers(hf).items()}
    assert raws_of(mc.map(there, mixed.FAMILY, to="hf")) == {n: raw_of(a) for n, a in hf.items()}
    assert {n: a.tobytes() for n, a in hf.items()} == before


def test_a_read_array_is_a_copy_that_may_be_written_to() -> None:
    array = numbered(3)
    found = mc.read({"w": array}, "w")
    found[:] = 7
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value, words",
    [
        (np.array(["a"]), "dtype <U1"),
        (np.array([object()]), "dtype object"),
        (numbered(3).astype(">f4"), "dtype >f4"),
        (np.zeros(2, np.complex128), "dtype complex128"),
        ([1.0, 2.0], "a list"),
        (3.5, "a float"),
        (None, "a NoneType"),
        ({"inner": numbered(2)}, "a dict"),
    ],
)
def test_a_value_that_is_no_tensor_is_refused_by_its_name(value: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        mc.load({"fine": numbered(2), "odd one": value})
    assert refused.value.code == "MFC109"
    assert "'odd one'" in str(refused.value)
    assert words in str(refused.value)


# ---- torch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
def test_a_state_dict_with_views_and_shared_storages_is_read_as_torch_sees_it(tmp_path: Path) -> None:
    import torch

    storage = torch.arange(60, dtype=torch.float32)
    state = {
        "whole": storage.view(6, 10),
        "turned": storage.view(6, 10).T,
        "part": storage[7:31].view(4, 6),
        "stepped": storage.view(6, 10)[1::2, ::3],
        "permuted": storage.view(3, 4, 5).permute(2, 0, 1),
        "expanded": torch.arange(3, dtype=torch.float32).expand(4, 3),
        "bf16": torch.randn(5, 7, dtype=torch.bfloat16).T,
        "half": torch.randn(3, dtype=torch.float16),
        "int": torch.arange(4),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "sparse": torch.eye(3).to_sparse(),
    }
    loaded = mc.load(state)
    assert loaded.side == "hf"
    for name, tensor in state.items():
        plain = tensor.detach().to_dense().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        found = mc.read(loaded, name)
        assert (found.shape, found.tobytes()) == (tuple(plain.shape), raw), name
    mc.save(loaded, tmp_path / "out.bin")
    again = torch.load(tmp_path / "out.bin", weights_only=True)
    assert all(torch.equal(again[n], t.detach().to_dense()) for n, t in state.items())


@pytest.mark.real_frameworks
def test_lazily_conjugated_and_negated_views_are_read_as_torch_sees_them() -> None:
    import torch

    numbers = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    state = {"conjugated": numbers.conj(), "negated": numbers.conj().imag}
    assert state["conjugated"].is_conj()
    assert state["negated"].is_neg()
    assert mc.read(state, "conjugated").tolist() == [1 - 2j, 3 + 4j]
    assert mc.read(state, "negated").tolist() == [-2.0, 4.0]


@pytest.mark.real_frameworks
def test_a_torch_module_maps_and_is_not_copied() -> None:
    import torch

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = torch.nn.Linear(4, 12)

    module = Attention()
    family = Family(
        "small",
        "",
        (
            Rule("c_attn.weight", ("wq", "wk", "wv"), "(q + k + v) hidden -> q hidden, k hidden, v hidden"),
            Rule("c_attn.bias", "bias"),
        ),
        {"q": "q", "k": "k", "v": "v"},
    )
    mapped = mc.map(mc.load(module), family, config={"q": 6, "k": 4, "v": 2})
    assert mapped["wk"].shape == (4, 4)
    with torch.no_grad():
        module.c_attn.weight[6:10] = 5  # seen through the mapping: the memory is the module's own
    assert mc.read(mapped, "wk").tolist() == [[5.0] * 4] * 4


@pytest.mark.real_frameworks
def test_a_module_on_the_meta_device_maps_and_cannot_be_saved(tmp_path: Path) -> None:
    import torch

    config = {**llama.FAMILY.toy, "num_hidden_layers": 1}
    specs = mc.expected("llama", config, side="hf").specs
    state = {s.name: torch.empty(s.shape, dtype=torch.bfloat16, device="meta") for s in specs}
    mapped = mc.map(mc.load(state, config=config), "llama")
    assert mc.diff(mapped, mc.expected("llama", config, dtype="bf16")).equal
    with pytest.raises(MappingError) as refused:
        mc.save(mapped, tmp_path / "out.ckpt")
    assert refused.value.code == "MFC310"
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.real_frameworks
def test_a_tensor_that_only_part_of_its_sources_have_values_for_is_refused(tmp_path: Path) -> None:
    """What offloading leaves behind: some parameters real, some on the meta device."""
    import torch

    family = Family("small", "", (Rule("e.{expert}.w", "stacked", "ffn hidden -> expert ffn hidden"),), {})
    state = {f"e.{n}.w": torch.ones(3, 4, device="meta" if n == 1 else "cpu") for n in range(3)}
    mapped = mc.map(mc.load(state), family)
    assert mapped["stacked"].shape == (3, 3, 4)
    with pytest.raises(MfconvError) as refused:
        mc.save(mapped, tmp_path / "out.ckpt")
    assert refused.value.code == "MFC310"
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.real_frameworks
def test_a_torch_dtype_without_a_name_is_refused() -> None:
    import torch

    with pytest.raises(InputError) as refused:
        mc.load({"w": torch.zeros(2, dtype=torch.complex128)})
    assert refused.value.code == "MFC109"
    assert "complex128" in str(refused.value)


@pytest.mark.real_frameworks
def test_a_parameter_that_has_no_shape_yet_is_refused_by_its_name() -> None:
    import torch

    for call in (mc.load, lambda network: mc.assign({"weight": numbered(2)}, network)):
        with pytest.raises(InputError, match="'weight'") as refused:
            call(torch.nn.LazyLinear(2))
        assert "no shape yet" in str(refused.value)


@pytest.mark.real_frameworks
def test_the_default_device_of_torch_changes_nothing() -> None:
    import torch

    network = torch.nn.Linear(3, 2)
    torch.set_default_device("meta")
    try:
        read = mc.read(mc.load(network), "weight").copy()
        mc.assign({"weight": numbered(2, 3), "bias": numbered(2)}, network)
    finally:
        torch.set_default_device(None)
    assert read.shape == (2, 3)
    assert network.weight.detach().numpy().tobytes() == numbered(2, 3).tobytes()


@pytest.mark.real_frameworks
def test_a_transformers_model_is_loaded_with_its_config_and_converted(tmp_path: Path) -> None:
    import torch
    import transformers

    config = transformers.LlamaConfig(**{k: v for k, v in llama.FAMILY.toy.items() if k != "dtype"})
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    loaded = mc.load(model)
    assert (loaded.side, (loaded.config or {})["model_type"]) == ("hf", "llama")
    mc.save(mc.map(loaded), tmp_path / "out.ckpt")
    mc.save(mc.map(mc.load(tmp_path / "out.ckpt")), tmp_path / "back")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.bfloat16).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())


# ---- MindSpore -------------------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
def test_a_mindspore_parameter_dict_is_read_and_mapped_back(tmp_path: Path) -> None:
    import mindspore

    toy = mc.toy("llama", num_hidden_layers=1)
    mapped = mc.map(toy)
    dtypes = {"BF16": mindspore.bfloat16}
    state = {
        t.name: mindspore.Parameter(mindspore.Tensor(mc.read(mapped, t.name).astype(np.float32), dtypes[t.dtype]), name=t.name)
        for t in mapped
    }
    loaded = mc.load(state, config=toy.config)
    assert loaded.side == "mf"
    assert raws_of(loaded) == raws_of(mapped)
    back = mc.map(loaded, "llama")
    assert back.side == "hf"
    assert raws_of(back) == raws_of(toy)
    mc.save(loaded, tmp_path / "out.safetensors")
    assert raws_in(tmp_path / "out.safetensors") == raws_of(mapped)


@pytest.mark.real_frameworks
def test_a_mindspore_cell_is_a_checkpoint_of_its_parameters() -> None:
    import mindspore

    cell = mindspore.nn.Dense(3, 5)
    loaded = mc.load(cell)
    assert (loaded.side, loaded.origin) == ("mf", "MindSpore Dense")
    assert {t.name: t.shape for t in loaded} == {"weight": (5, 3), "bias": (5,)}
    assert mc.read(loaded, "weight").tolist() == cell.weight.asnumpy().tolist()


@pytest.mark.real_frameworks
def test_a_mindspore_tensor_is_copied_out_about_once_when_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore hands out copies of whole tensors: one for each panel of half a MiB would take minutes for a real model."""
    import mindspore

    tensor = mindspore.Tensor(numbered(3 << 20))
    copies: list[int] = []
    real = mindspore.Tensor.get_bytes

    def counted(self: Any) -> bytes:
        copies.append(1)
        return bytes(real(self))

    monkeypatch.setattr(mindspore.Tensor, "get_bytes", counted)
    mc.save(mc.load({"w": tensor}), tmp_path / "out.safetensors")
    assert raws_in(tmp_path / "out.safetensors")["w"].array().tolist() == numbered(3 << 20).tolist()
    assert 1 <= len(copies) <= 2


@pytest.mark.real_frameworks
def test_a_mindspore_parameter_that_was_trained_on_is_read_as_it_is_now() -> None:
    import mindspore

    parameter = mindspore.Parameter(mindspore.Tensor(numbered(4)), name="w")
    loaded = mc.load({"w": parameter})
    assert mc.read(loaded, "w").tolist() == [0, 1, 2, 3]
    parameter.set_data(mindspore.Tensor(numbered(4, first=10)))
    assert mc.read(loaded, "w").tolist() == [10, 11, 12, 13]
