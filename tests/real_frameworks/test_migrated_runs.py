"""MindFormers loads migrated runs: its own bookkeeping of what was loaded, on the parameters of real networks, with its own optimizers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.families.networks import IS_THERE, Network, read_network
from tests.mindformers_package import mindformers_modules
from tests.steps.migrating.runs_with_optimizers import NUMBERS, OPTIMIZERS
from tests.support import write_safetensors

os.environ.setdefault("GLOG_v", "3")
pytest.importorskip("mindspore", reason="mindspore is not installed: make setup does")
pytestmark = [pytest.mark.real_frameworks, IS_THERE]


class Log:
    """MindFormers' log, kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *args: object) -> None:
        self.lines.append(text % args if args else text)

    debug = warning = error = info

    def not_loaded(self) -> dict[str, set[str]]:
        """What MindFormers says that it could not load, by its own headings."""
        found: dict[str, set[str]] = {}
        heading = ""
        for line in self.lines:
            if line.startswith("All ") and line.endswith(" are loaded."):
                found[line.removeprefix("All ").removesuffix(" are loaded.")] = set()
            elif line.endswith(" not loaded:"):
                found[heading := line.removesuffix(" not loaded:")] = set()
            elif line.startswith("  - "):
                found[heading].add(line[4:])
        return found


class NoDispatch:
    """hyper_parallel's switch for several devices: nothing to do on one."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@contextmanager
def mindformers(log: Log, *, is_dynamic: bool, optimizer: str) -> Iterator[Sequence[ModuleType]]:
    """`mindformers.checkpoint.checkpoint` on one card, and the module of an optimizer."""
    nothing = lambda *_, **__: None  # noqa: E731
    register = SimpleNamespace(register=lambda *_, **__: lambda cls: cls)
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.tools": {"get_output_root_path": lambda: "."},
        "mindformers.tools.logger": {"logger": log, "get_logger": lambda *_: log},
        "mindformers.tools.register": {"MindFormerRegister": register, "MindFormerModuleType": SimpleNamespace(OPTIMIZER="optimizer")},
        "mindformers.tools.utils": {
            "get_real_rank": lambda: 0,
            "get_real_group_size": lambda: 1,
            "set_safe_mode_for_file_or_dir": nothing,
            "get_output_subpath": nothing,
        },
        "mindformers.core.context": {"is_legacy_model": lambda: False},
        "mindformers.core.context.build_context": {"get_context": nothing},
        "mindformers.utils.file_utils": {"is_publicly_accessible_path": lambda _: True},
        "mindformers.utils.parallel_utils": {"barrier_world": nothing},
        "mindformers.pynative.pet.utils": {"is_lora_param_name": lambda _: False},
    }
    with mindformers_modules("mindformers.checkpoint.checkpoint", optimizer, stand_ins=stand_ins) as modules:
        modules[0].LayoutAdapter.is_pynative_mode = staticmethod(lambda: is_dynamic)  # type: ignore[attr-defined]
        yield modules


def cell_of(network: Network) -> Any:
    """A Cell that holds what the network holds, in its dtypes, all zeros; what it trains is trained."""
    import mindspore as ms

    class Holder(ms.nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            for n, (name, shape) in enumerate(network.shapes.items()):
                dtype = {"float32": ms.float32, "int32": ms.int32, "bfloat16": ms.bfloat16}[network.dtypes[name]]
                setattr(self, f"p{n}", ms.Parameter(ms.ops.zeros(shape, dtype), name=name, requires_grad=name in network.trained))

    holder = Holder()
    for parameter, name in zip(holder.get_parameters(), network.shapes, strict=True):
        parameter.name = name
    return holder


@pytest.fixture
def hyper_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """MindFormers' package for several devices, which it imports and does not use on one."""
    members = {
        "hyper_parallel": {"SkipDTensorDispatch": NoDispatch, "DTensor": NoDispatch},
        "hyper_parallel.core.dtensor.dtensor": {"distribute_tensor": None},
        "hyper_parallel.core.dtensor.layout": {"_infer_slice_area_by_rank": None},
        "hyper_parallel.core.dtensor.placement_types": {"Replicate": None},
        "hyper_parallel.core.dtensor.redistribute_infer": {"DevMat": None, "RedistributionOperatorInfer": None},
        "hyper_parallel.platform": {"get_platform": lambda: SimpleNamespace()},
    }
    for name, held in members.items():
        for depth in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:depth])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or ModuleType(part))
        sys.modules[name].__dict__.update(held)


class Model:
    """What Muon asks of the network that it trains."""

    def get_gpt_transformer_config(self) -> Any:
        return SimpleNamespace(multi_latent_attention=True, tensor_model_parallel_size=1, data_parallel_size=1)

    def make_model_muon_fns(self) -> tuple[Any, Any]:
        return None, None


def optimizer_of(module: ModuleType, kind: str, cell: Any) -> Any:
    trained = [p for p in cell.get_parameters() if p.requires_grad]
    if kind == "AdamW":
        return module.AdamW(trained)
    module._enable_muon_cube_math_type = lambda: None  # type: ignore[attr-defined]  # a switch of the device
    module.Muon._verify_model = lambda *_: None  # type: ignore[attr-defined]
    return module.Muon(trained, learning_rate=0.1, model=Model())


def saved_run(folder: Path, network: Network, optimizer: str, steps: Any = np.int32) -> Path:
    """A run of a network, with its optimizer; the dtype of its steps is that of its graph."""
    weights = {n: a + 0.5 if n.endswith("weight") else a for n, a in network.arrays().items()}
    weights |= {n: np.arange(a.size, dtype=a.dtype) for n, a in weights.items() if n.endswith("expert_mapping")}  # none was moved
    state = OPTIMIZERS[optimizer.lower()]({n: a for n, a in weights.items() if n in network.trained})
    return write_safetensors(folder / "run.safetensors", {**weights, **state, **NUMBERS, "global_step": np.array([400], steps)})


CASES = [
    ("deepseekv3", "deepseek_v3", "deepseekv3-static-split", "deepseekv3-dynamic", {"graph": "dynamic"}),
    ("deepseekv3", "deepseek_v3", "deepseekv3-static-joined-norms", "deepseekv3-dynamic", {"graph": "dynamic"}),
    ("qwen3", "qwen3", "qwen3-static", "qwen3-dynamic", {}),
]


@pytest.mark.usefixtures("hyper_parallel")
@pytest.mark.parametrize("optimizer", ["AdamW", "Muon"])
@pytest.mark.parametrize(("family", "model_type", "before", "after", "form"), CASES, ids=lambda x: str(x))
def test_mindformers_finds_all_that_the_dynamic_network_and_its_optimizer_hold(
    family: str, model_type: str, before: str, after: str, form: dict[str, Any], optimizer: str, tmp_path: Path
) -> None:
    network = read_network(before, model_type=model_type)
    run = saved_run(tmp_path, network, optimizer)
    mc.migrate(run, tmp_path / "out", family, config=network.config, **form)
    wanted = read_network(after)
    log = Log()
    with mindformers(log, is_dynamic=True, optimizer=f"mindformers.pynative.optimizer.{optimizer.lower()}") as (checkpoint, module):
        cell = cell_of(wanted)
        real = optimizer_of(module, optimizer, cell)
        checkpoint.load_checkpoint(str(tmp_path / "out"), cell, real)
        steps = checkpoint.CommonInfo.load_common(str(tmp_path / "out" / "iteration_00000400" / "common.json")).global_step
    missed = log.not_loaded()
    made_anew = {n for n in wanted.shapes if n.endswith("tokens_per_expert")}
    untrained = wanted.shapes.keys() - wanted.trained - made_anew  # MindFormers offers the optimizer the weights of the network too
    assert missed["Network parameters"] == made_anew
    assert missed["Checkpoint weights"] == missed["Optimizer parameters"] == set()
    assert missed["Optimizer weights"] == untrained
    held = {p.name: p.asnumpy() for p in (*cell.get_parameters(), *real.get_parameters())}
    written = {n: mc.read(t, n) for t in [mc.load(tmp_path / "out")] for n in t.tensors}
    assert written.keys() <= held.keys()  # nothing is unexpected
    assert held.keys() - written.keys() == made_anew
    assert all(np.array_equal(held[n], written[n].reshape(held[n].shape)) for n in written)
    assert steps == 400
    assert held["global_step"].tolist() == [400]


BACK = [
    ("deepseekv3", "deepseek_v3", "deepseekv3-dynamic", "deepseekv3-static-split", {"graph": "static", "mla_qkv_concat": False}),
    ("qwen3", "qwen3", "qwen3-dynamic", "qwen3-static", {}),
    ("qwen3-moe", "qwen3_moe", "qwen3-moe-static", "qwen3-moe-static", {}),
    # as they save all that they count in training
    ("qwen3-moe", "qwen3_moe", "qwen3-moe-static-counters", "qwen3-moe-static", {}),
    (
        "deepseekv3",
        "deepseek_v3",
        "deepseekv3-dynamic-counters",
        "deepseekv3-static-joined-norms",
        {"graph": "static", "mla_qkv_concat": True},
    ),
]


@pytest.mark.parametrize(("family", "model_type", "before", "after", "form"), BACK, ids=lambda x: str(x))
def test_mindformers_finds_all_that_the_static_network_and_its_optimizer_hold(
    family: str, model_type: str, before: str, after: str, form: dict[str, Any], tmp_path: Path
) -> None:
    network = read_network(before, model_type=model_type)
    run = saved_run(tmp_path, network, "AdamW", np.int64 if "dynamic" in before else np.int32)
    mc.migrate(run, tmp_path / "out", family, config=network.config, **form)
    wanted, log = read_network(after), Log()
    with mindformers(log, is_dynamic=False, optimizer="mindformers.core.optim.adamw") as (checkpoint, module):
        cell = cell_of(wanted)
        real = optimizer_of(module, "AdamW", cell)
        checkpoint.load_checkpoint(str(tmp_path / "out"), cell, real)
    made_anew = {n for n in wanted.shapes if n.endswith((".fi_accu", ".expert_load"))}
    missed = log.not_loaded()
    assert missed.pop("Network parameters") == made_anew
    assert not any(missed.values())
    held = {p.name: p.asnumpy() for p in (*cell.get_parameters(), *real.get_parameters())}
    written = {n: mc.read(t, n) for t in [mc.load(tmp_path / "out")] for n in t.tensors}
    assert held.keys() - written.keys() == made_anew
    assert written.keys() <= held.keys()
    assert all(np.array_equal(held[n], written[n].reshape(held[n].shape)) for n in written)
