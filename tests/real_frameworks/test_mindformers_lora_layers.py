"""Adapters in the LoRA layers of the installed mindformers, of both graphs: they take every tensor, and compute what PEFT's do."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.mindformers_package import mindformers_modules

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
mindspore = pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = pytest.mark.real_frameworks

RANK, ALPHA = 4, 10
# end to end: then the outputs of PEFT's layers, one after the other, are those of the joined layer
LAYOUT = {"use_contiguous_weight_layout_attention": True, "use_interleaved_weight_layout_mlp": False}
JOINED = {
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.linear_proj": ("self_attn.o_proj",),
    "mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.linear_fc2": ("mlp.down_proj",),
}
ALL = tuple(name.rpartition(".")[2] for names in JOINED.values() for name in names)
LAYERS = 2

MakeLayer = Callable[..., Any]


def static_layers(stack: ExitStack) -> MakeLayer:
    """Layers of `parallel_core`, as the networks of the static graph make them."""
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.parallel_core.transformer_config": {"TransformerConfig": object, "MLATransformerConfig": object},
        "mindformers.tools.logger": {"logger": logging.getLogger("mindformers")},
        "mindformers.models.utils": {"convert_mstype": lambda dtype: dtype},
        "mindformers.parallel_core.training_graph.device_matrix": {"layout": lambda *axes: axes},
        "mindformers.core.context": {"is_legacy_model": lambda: False},
        "mindformers.checkpoint.sharded_tensor": {"ShardedTensor": object},
    }
    (module,) = stack.enter_context(
        mindformers_modules("mindformers.parallel_core.training_graph.tensor_parallel.lora_layers", stand_ins=stand_ins)
    )
    sizes = dict.fromkeys(("data_parallel_size", "tensor_model_parallel_size", "context_parallel_size", "expert_model_parallel_size"), 1)
    off = dict.fromkeys(("sequence_parallel", "use_seq_parallel", "print_separate_loss", "add_bias_linear"), False)
    config = SimpleNamespace(**sizes, **off, params_dtype=mindspore.float32, compute_dtype=mindspore.float32, init_method=None)

    def make(name: str, out: int, into: int, rank: int, alpha: float) -> Any:
        kind = module.ColumnParallelLinearWithLoRA if name.endswith(("linear_qkv", "linear_fc1")) else module.RowParallelLinearWithLoRA
        init = mindspore.common.initializer.initializer
        return kind(into, out, config=config, bias=False, lora_rank=rank, lora_alpha=alpha, init_method=lambda shape: init("zeros", shape))

    return make


def dynamic_layers(stack: ExitStack) -> MakeLayer:
    """Layers of `pynative`, as the networks of the dynamic graph make them."""
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.models.utils": {"convert_mstype": lambda dtype: mindspore.float32},
        "mindformers.parallel_core.utils.init_method": {"init_method_zero": lambda dtype: None},
    }
    (module,) = stack.enter_context(mindformers_modules("mindformers.pynative.pet.lora_layer", stand_ins=stand_ins))

    def make(name: str, out: int, into: int, rank: int, alpha: float) -> Any:
        return module.LinearWithLoRA(into, out, compute_dtype="fp32", bias=False, lora_rank=rank, lora_alpha=alpha)

    return make


@pytest.fixture(params=["static", "dynamic"])
def graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, MakeLayer]]:
    before = mindspore.get_context("mode")
    if "hyper_parallel" not in sys.modules:
        stand_in = ModuleType("hyper_parallel")
        stand_in.__dict__["DTensor"] = type("DTensor", (), {})
        monkeypatch.setitem(sys.modules, "hyper_parallel", stand_in)
    is_static = request.param == "static"
    mindspore.set_context(mode=mindspore.GRAPH_MODE if is_static else mindspore.PYNATIVE_MODE)
    with ExitStack() as stack:
        yield ("mcore", static_layers(stack)) if is_static else ("lora", dynamic_layers(stack))
    mindspore.set_context(mode=before)


def trained_by_peft(folder: Path, targets: tuple[str, ...]) -> Any:
    """A Qwen3 with adapters of random numbers; it and they are saved."""
    torch.manual_seed(3)
    config = transformers.Qwen3Config(
        vocab_size=131, hidden_size=48, intermediate_size=72, num_hidden_layers=LAYERS, num_attention_heads=6, num_key_value_heads=2,
        head_dim=10, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    base = transformers.Qwen3ForCausalLM(config)
    base.save_pretrained(folder / "hf")
    model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(targets), task_type="CAUSAL_LM"))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.3)
    model.save_pretrained(folder / "peft")
    return model.eval()


def network_for(make: MakeLayer, weights: mc.Checkpoint, rank: int, alpha: float, trained: set[str]) -> tuple[Any, dict[str, Any]]:
    """A network of real LoRA layers, where adapters are; and these layers by their names."""
    net, layers = mindspore.nn.Cell(), {}
    for name in (f"decoder.layers.{layer}.{part}" for layer in range(LAYERS) for part in JOINED):
        if name in trained:
            out, into = weights[name + ".weight"].shape
            layers[name] = make(name, out, into, rank, alpha)
            for own, parameter in layers[name].parameters_dict().items():
                parameter.name = f"{name}.{own}"
            net.insert_child_to_cell(name.replace(".", "_"), layers[name])
    return net, layers


def output_of(layer: Any, x: np.ndarray) -> np.ndarray:
    found = layer(mindspore.Tensor(x))
    return np.asarray((found[0] if isinstance(found, tuple) else found).asnumpy())


def output_of_peft(model: Any, name: str, x: np.ndarray) -> np.ndarray:
    _, _, layer, part = name.split(".", 3)
    modules = [model.get_submodule(f"base_model.model.model.layers.{layer}.{m}") for m in JOINED[part]]
    with torch.no_grad():
        return np.concatenate([m(torch.from_numpy(x)).numpy() for m in modules], axis=-1)


def check_same_outputs(layers: dict[str, Any], model: Any) -> None:
    rng = np.random.default_rng(5)
    for name, layer in layers.items():
        x = rng.normal(size=(3, 1, layer.weight.shape[1])).astype(np.float32)
        expected = output_of_peft(model, name, x)
        np.testing.assert_allclose(output_of(layer, x), expected, rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.abs(expected).max() > 1, name  # adapters that do nothing would pass too


@pytest.mark.parametrize(("targets", "whole"), [(ALL, 12), (("q_proj", "v_proj"), 8), (("o_proj", "down_proj"), 4)], ids=str)
def test_adapters_of_peft_fill_the_lora_layers_and_compute_the_same(
    targets: tuple[str, ...], whole: int, graph: tuple[str, MakeLayer], tmp_path: Path
) -> None:
    style, make = graph
    model = trained_by_peft(tmp_path, targets)
    weights = mc.map(mc.load(tmp_path / "hf"), "qwen3", **LAYOUT)
    mapped = mc.map(mc.load(tmp_path / "peft", config=tmp_path / "hf"), "qwen3", adapters=style, **LAYOUT)
    mc.save(weights, tmp_path / "base.ckpt")
    mc.save(mapped, tmp_path / "run.ckpt")
    lora = mc.load(tmp_path / "run.ckpt").history.lora
    assert (lora.rank or RANK, lora.alpha) == (whole, ALPHA * whole / RANK)
    trained = {name.split(".lora_")[0] for name in mapped.tensors}
    net, layers = network_for(make, weights, whole, lora.alpha, trained)
    frozen = {n: p for n, p in mindspore.load_checkpoint(str(tmp_path / "base.ckpt")).items() if n.removesuffix(".weight") in trained}
    adapters = mindspore.load_checkpoint(str(tmp_path / "run.ckpt"))
    assert mindspore.load_param_into_net(net, frozen | adapters, strict_load=True) == ([], [])
    check_same_outputs(layers, model)


def test_what_the_layers_save_is_opened_by_peft_and_computes_the_same(graph: tuple[str, MakeLayer], tmp_path: Path) -> None:
    style, make = graph
    trained_by_peft(tmp_path, ALL)
    weights = mc.map(mc.load(tmp_path / "hf"), "qwen3", **LAYOUT)
    names = {f"decoder.layers.{layer}.{part}" for layer in range(LAYERS) for part in JOINED}
    net, layers = network_for(make, weights, RANK, ALPHA, names)
    rng = np.random.default_rng(8)
    for name, parameter in net.parameters_dict().items():
        own = mc.read(weights, name) if "lora" not in name else rng.normal(size=parameter.shape, scale=0.3).astype(np.float32)
        parameter.set_data(mindspore.Tensor(own))
    mindspore.save_checkpoint([{"name": n, "data": p} for n, p in net.parameters_dict().items()], str(tmp_path / "run.ckpt"))
    found = mc.only_adapters(mc.load(tmp_path / "run.ckpt", config=tmp_path / "hf", lora_alpha=ALPHA))
    mc.save(mc.map(found, "qwen3", to="hf", **LAYOUT), tmp_path / "of run")
    model = peft.PeftModel.from_pretrained(transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "hf"), tmp_path / "of run").eval()
    check_same_outputs(layers, model)
    back = mc.map(mc.load(tmp_path / "of run", config=tmp_path / "hf"), "qwen3", adapters=style, **LAYOUT)
    assert {n: mc.read(back, n).tobytes() for n in back.tensors} == {n: mc.read(found, n).tobytes() for n in found.tensors}


def test_the_loader_of_mindformers_finds_the_config_of_adapters_alone(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, ("o_proj",))
    mapped = mc.map(mc.load(tmp_path / "peft", config=tmp_path / "hf"), "qwen3", adapters="lora")
    mc.save(mapped, tmp_path / "run", layout_of_ranks=mc.RankLayout({"dp": 1}, {}, form="checkpoint 2.0", step=6))
    tools = {"get_output_root_path": lambda: str(tmp_path)}
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.tools": tools,
        "mindformers.tools.logger": {"logger": logging.getLogger("mindformers")},
        "mindformers.tools.utils": {"get_real_rank": lambda: 0, "get_real_group_size": lambda: 1},
    }
    with mindformers_modules("mindformers.checkpoint.utils", stand_ins=stand_ins) as (module,):
        root = module.get_adapter_manifest_path(str(tmp_path / "run"))
        assert root == str(tmp_path / "run" / "mindformers_adapter_config.json")
        (tmp_path / "run" / "mindformers_adapter_config.json").unlink()
        of_step = module.get_adapter_manifest_path(str(tmp_path / "run"))
    said = json.loads(Path(of_step).read_text())
    assert Path(of_step).parent.name == "iteration_00000006"
    assert said["base_fingerprint"] is None  # known to no one here: MindFormers warns, and goes on
    assert (said["lora_config"]["lora_rank"], said["lora_config"]["lora_alpha"]) == (RANK, ALPHA)
