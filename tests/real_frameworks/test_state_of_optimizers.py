"""The state of real optimizers: MindSpore's and MindFormers' are constructed over the weights of a toy, saved by MindSpore, and loaded.

Whatever such an optimizer holds is told as state: the weights alone are counted, written, and come back to Hugging Face byte for byte.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.mapping.kinds import amounts_by_category, kinds_by_company
from tests.mindformers_package import mindformers_modules

os.environ.setdefault("GLOG_v", "3")
pytest.importorskip("mindspore", reason="mindspore is not installed: make setup does")
LISTS = Path(__file__).parents[3] / "shared" / "networks" / "optimizers"


@cache
def toy() -> mc.Checkpoint:
    return mc.toy("qwen3", dtype="fp32")


@cache
def weights() -> dict[str, Any]:
    """The weights of a small Qwen3 under MindFormers' names."""
    mapped = mc.map(toy(), "qwen3", to="mf")
    return {name: np.array(mc.read(mapped, name)) for name in mapped.tensors}


def parameters() -> list[Any]:
    from mindspore import Parameter, Tensor

    return [Parameter(Tensor(array), name=name) for name, array in weights().items()]


def save_with(optimizer: Any, params: list[Any], file: Path, **more: Any) -> set[str]:
    """Save weights and optimizer as MindSpore does; the names of what the optimizer adds."""
    from mindspore import save_checkpoint

    held = {p.name: p for p in (*params, *optimizer.get_parameters())}
    save_checkpoint([{"name": name, "data": p} for name, p in held.items()], str(file), format=file.suffix[1:], **more)
    return held.keys() - weights().keys()


def check(file: Path, state: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    """All of ``state`` is told as such, and the weights are right in every way out."""
    saved = mc.load(file)
    assert saved.tensors.keys() == state | weights().keys()
    back = mc.map(saved, to="hf", config=toy().config)  # the family is told, whatever lies beside the weights
    assert back.report.plan.family.key == "qwen3"
    assert mc.diff(back, toy(), values=True).equal
    assert back.report.counts["left out"] == len(state)
    assert mfconv(["save", str(file), str(file.with_name("only.safetensors")), "--only", "weights", "--quiet"]) == 0
    assert mc.load(file.with_name("only.safetensors")).tensors.keys() == weights().keys()
    mfconv(["doctor", str(file)])
    assert f"weights {len(weights())} tensors" in capsys.readouterr().out


# ---- MindSpore ---------------------------------------------------------------------------------------------------------------

OF_MINDSPORE = [  # the class in mindspore, what it is called with, and words before the names of weights that it must have
    ("nn.Adam", {"use_amsgrad": True, "use_nesterov": False}, ("moment1.", "moment2.", "vhat.")),
    ("nn.AdamWeightDecay", {}, ("adam_m.", "adam_v.")),
    ("nn.AdaFactor", {}, ("exp_avg_sq_row_",)),
    ("nn.AdaMax", {}, ("moment1.",)),
    ("nn.Adadelta", {}, ("accum.", "accum_update.")),
    ("nn.ASGD", {}, ("ax_.", "eta_", "mu_")),
    ("nn.FTRL", {}, ("linear.", "moments.")),
    ("nn.Lamb", {"learning_rate": 0.001}, ("lamb_m.", "lamb_v.")),
    ("nn.Momentum", {"learning_rate": 0.1, "momentum": 0.9}, ("moments.",)),
    ("nn.RMSProp", {}, ("mean_square.", "moment.")),
    ("nn.Rprop", {}, ("prev.", "step_size.")),
    ("nn.SGD", {}, ("accum.", "stat.")),
    ("mint.optim.AdamW", {"amsgrad": True}, ("exp_avg.", "exp_avg_sq.")),
    ("mint.optim.SGD", {"lr": 0.1, "momentum": 0.9}, ("momentum_buf.",)),
    ("experimental.optim.ASGD", {}, ("ax.",)),
    ("experimental.optim.Adamax", {}, ("exp_inf.",)),
    ("experimental.optim.RMSprop", {}, ("mean_grad.", "mean_square.")),
    ("experimental.optim.Rprop", {}, ("prev.", "step_size.")),
    ("experimental.optim.SGD", {"lr": 0.1}, ("stat.",)),
]


@pytest.mark.parametrize("name, arguments, words", OF_MINDSPORE, ids=[name for name, *_ in OF_MINDSPORE])
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_the_state_of_an_optimizer_of_mindspore_is_left_out(
    name: str, arguments: dict[str, Any], words: tuple[str, ...], ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    module, _, kind = f"mindspore.{name}".rpartition(".")
    params = parameters()
    optimizer = getattr(importlib.import_module(module), kind)(params, **arguments)
    state = save_with(optimizer, params, tmp_path / f"run.{ending}")
    assert all(word + params[3].name in state for word in words), {
        n.removesuffix(params[3].name) for n in state if n.endswith(params[3].name)
    }
    check(tmp_path / f"run.{ending}", state, capsys)


# ---- MindFormers -------------------------------------------------------------------------------------------------------------


class AnyDispatch:
    """hyper_parallel's switch for several devices: nothing to do on one."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def stand_ins() -> dict[str, dict[str, Any]]:
    """What MindFormers' optimizers import around themselves: a registry, a log, a context."""
    log = logging.getLogger("quiet")
    log.disabled = True
    register = SimpleNamespace(register=lambda *_, **__: lambda cls: cls)
    return {
        "mindformers.tools.register": {"MindFormerRegister": register, "MindFormerModuleType": SimpleNamespace(OPTIMIZER="optimizer")},
        "mindformers.tools.logger": {"logger": log},
        "mindformers.core.context": {"is_legacy_model": lambda: False},
        "mindformers.core.context.build_context": {"get_context": lambda *_: None},
    }


@contextmanager
def optimizer_module(name: str, **more: dict[str, Any]) -> Iterator[Any]:
    with mindformers_modules(f"mindformers.core.optim.{name}", stand_ins=stand_ins() | more) as (module,):
        yield module


OF_MINDFORMERS = [
    ("adamw", "AdamW", {}, ("adam_m.", "adam_v.")),
    ("fused_adamw", "FusedAdamW", {"amsgrad": True}, ("exp_avg.", "exp_avg_sq.", "max_exp_avg_sq.")),
    ("pma_adamw", "PmaAdamW", {}, ("adam_m.", "adam_v.", "pma_weight_ema.")),
    ("pma_adamw", "PmaAdamW", {"fused_algo": "sma"}, ("adam_m.", "adam_v.", "pma_weight_sma.")),
    ("came", "Came", {"learning_rate": 0.001}, ("exp_avg_sq_row_", "exp_avg_insta_col_")),
]


@pytest.mark.parametrize("module, kind, arguments, words", OF_MINDFORMERS)
def test_the_state_of_an_optimizer_of_mindformers_is_left_out(
    module: str, kind: str, arguments: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = parameters()
    with optimizer_module(module) as real:
        state = save_with(getattr(real, kind)(params, **arguments), params, tmp_path / "run.ckpt")
    assert all(word + params[3].name in state for word in words), {
        n.removesuffix(params[3].name) for n in state if n.endswith(params[3].name)
    }
    check(tmp_path / "run.ckpt", state, capsys)


def test_the_state_of_muon_is_left_out_with_its_placeholders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mindspore import nn

    class Net(nn.Cell):
        """What Muon asks of the network that it trains."""

        def get_gpt_transformer_config(self) -> Any:
            return SimpleNamespace(multi_latent_attention=True, tensor_model_parallel_size=1, data_parallel_size=1)

        def make_model_muon_fns(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
            return lambda *_: None, lambda *_: None

        def get_muon_filter(self) -> Callable[[Any], bool]:
            return lambda p: len(p.shape) == 2 and p.name.startswith("decoder.")

        def get_param_layer_indices(self, params: Any) -> tuple[int, ...]:
            return tuple(0 for _ in params)

        def get_tp_dims(self, params: Any) -> tuple[int, ...]:
            return tuple(-1 for _ in params)

        def get_op_groups_info(self, params: Any, *_: Any) -> tuple[Any, Any]:
            return tuple(1 for _ in params), tuple("" for _ in params)

    params = parameters()
    with optimizer_module("muon") as real:
        real.get_rank = lambda: 0
        real.Muon._initialize_op_groups = lambda *_: None  # groups of ranks: there is one
        real.Muon._initialize_communication_groups = lambda *_: None
        state = save_with(real.Muon(params, model=Net()), params, tmp_path / "run.ckpt")
    kinds = {name.partition(".")[0] for name in state}
    assert kinds >= {"muon_m", "adam_m", "adam_v"}
    assert any(name.startswith("muon_m.placeholder.") for name in state)
    check(tmp_path / "run.ckpt", state, capsys)


def test_the_masters_of_the_dynamic_graph_are_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mindspore import bfloat16

    monkeypatch.setitem(sys.modules, "hyper_parallel", SimpleNamespace(SkipDTensorDispatch=AnyDispatch, DTensor=AnyDispatch))
    params = parameters()
    for param in params:
        if param.name.startswith("decoder.layers."):
            param.set_dtype(bfloat16)
    with mindformers_modules("mindformers.pynative.optimizer.adamw", stand_ins=stand_ins()) as (real,):
        state = save_with(real.AdamW(params), params, tmp_path / "run.ckpt")
    masters = {n for n in state if n.startswith("main_param.")}
    assert masters == {f"main_param.{n}" for n in weights() if n.startswith("decoder.layers.")}
    saved = mc.load(tmp_path / "run.ckpt")
    back = mc.map(saved, to="hf", config=toy().config)
    assert back.tensors.keys() == toy().tensors.keys()
    assert {t.dtype for t in back} == {"BF16", "F32"}  # the weights as they are, not their masters
    assert back.report.counts["left out"] == len(state)
    assert mc.load(tmp_path / "run.ckpt", only="weights").tensors.keys() == weights().keys()


@pytest.mark.skipif(not LISTS.is_dir(), reason="no shared/networks beside the project: parameters of real optimizers, not copied here")
@pytest.mark.parametrize("file", sorted(p.name for p in LISTS.glob("*.json")))
def test_every_name_that_a_real_optimizer_holds_is_told_as_state(file: str) -> None:
    held = json.loads((LISTS / file).read_text())
    specs = [TensorSpec(name, tuple(shape), "F32") for name, shape, _ in held["state"]]
    found = amounts_by_category(specs, kinds_by_company([s.name for s in specs]))
    assert found.keys() == {"optimizer", "run state"}
    assert found["run state"].tensors in (2, 3)  # global_step, learning_rate, of Came afactor_step


# ---- what only the company of a name tells ----------------------------------------------------------------------------------------


def trained(**more: Any) -> dict[str, Any]:
    return {**weights(), "global_step": np.int32(7), **more}


def refused(tensors: dict[str, Any]) -> str:
    with pytest.raises(mc.MfconvError) as error:
        mc.map(mc.load(tensors), "qwen3", to="hf", config=toy().config)
    assert error.value.code == "MFC303"
    return str(error.value)


def test_an_optimizer_that_nobody_knows_is_told_by_the_word_before_the_names_of_weights(tmp_path: Path) -> None:
    lion = {f"lion_beta.{name}": np.ones_like(array) for name, array in weights().items() if array.ndim == 2}
    mapped = mc.map(mc.load(trained(**lion)), "qwen3", to="hf", config=toy().config)
    assert mc.diff(mapped, toy(), values=True).equal
    assert mc.load(trained(**lion), only="weights").tensors.keys() == weights().keys()


def test_a_word_that_stands_before_other_names_too_is_no_mark_of_an_optimizer() -> None:
    lion = {f"lion_beta.{name}": np.ones_like(array) for name, array in weights().items() if array.ndim == 2}
    assert "lion_beta.decoder.gate: no rule" in refused(trained(**lion, **{"lion_beta.decoder.gate": np.ones(3, np.float32)}))


def test_a_second_head_is_no_state_of_the_first() -> None:
    assert "draft.output_layer.weight: no rule" in refused(trained(**{"draft.output_layer.weight": weights()["output_layer.weight"]}))


def test_a_copy_of_the_weights_is_no_state_where_nothing_of_a_training_run_is_there() -> None:
    copies = {f"teacher.{name}": array for name, array in weights().items()}
    assert "teacher.decoder" in refused({**weights(), **copies})
    assert len(mc.load({**weights(), **copies}, only="weights").tensors) == 2 * len(weights())


def iteration(folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    """A Checkpoint 2.0 with these files."""
    from safetensors.numpy import save_file

    inner = folder / "iteration_00000007"
    inner.mkdir(parents=True)
    for name, tensors in files.items():
        save_file({n: np.asarray(a) for n, a in tensors.items()}, inner / name, {"format": "ms"})
    return folder


MODEL, OPT = "net-model-{}.safetensors", "net-opt-{}.safetensors"


def test_what_only_files_of_the_optimizer_hold_is_state_whatever_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"shampoo_left.0": np.ones((3, 3), np.float32), "rounds": np.ones(1, np.float32)}
    run = iteration(tmp_path / "run", {MODEL.format("0000000-0000001"): weights(), OPT.format("0000000-0000001"): odd})
    assert mc.diff(mc.map(mc.load(run), "qwen3", to="hf", config=toy().config), toy(), values=True).equal
    assert mc.load(run, only="weights").tensors.keys() == weights().keys()
    assert mc.load(run, only="optimizer").tensors.keys() == odd.keys()


def test_a_weight_in_a_file_of_the_optimizer_stays_a_weight(tmp_path: Path) -> None:
    late = {n: a for n, a in weights().items() if ".1." in n or n == "output_layer.weight"}
    early = {n: a for n, a in weights().items() if n not in late}
    moments = {f"adam_m.{n}": np.zeros_like(a) for n, a in weights().items()}
    run = iteration(tmp_path / "run", {MODEL.format("0000000-0000001"): early, OPT.format("0000000-0000001"): late | moments})
    assert mc.load(run, only="weights").tensors.keys() == weights().keys()
    assert mc.diff(mc.map(mc.load(run), "qwen3", to="hf", config=toy().config), toy(), values=True).equal


# ---- numbers that a run appends ---------------------------------------------------------------------------------------------------


def test_numbers_that_a_run_appends_are_listed_and_left_out(tmp_path: Path) -> None:
    from mindspore import save_checkpoint

    params = [{"name": p.name, "data": p} for p in parameters()]
    save_checkpoint(params, str(tmp_path / "run.ckpt"), append_dict={"lr_x": 0.1, "rounds": 3, "is_last": True})
    back = mc.map(mc.load(tmp_path / "run.ckpt"), to="hf", config=toy().config)
    assert mc.diff(back, toy(), values=True).equal
    assert back.report.left_out == ("left out: 3 tensors, 13 B: a number that was saved beside the weights, no weight",)


def test_a_number_among_the_weights_is_still_a_problem(tmp_path: Path) -> None:
    from mindspore import Parameter, Tensor, save_checkpoint

    params = [Parameter(Tensor(np.float32(2.5)), name="logit_scale"), *parameters()]
    save_checkpoint([{"name": p.name, "data": p} for p in params], str(tmp_path / "run.ckpt"))
    with pytest.raises(mc.MfconvError) as error:
        mc.map(mc.load(tmp_path / "run.ckpt"), "qwen3", to="hf", config=toy().config)
    assert "logit_scale: no rule" in str(error.value)


def test_an_array_that_a_run_appends_is_still_a_problem(tmp_path: Path) -> None:
    assert "odd: no rule" in refused(trained(odd=np.ones(3, np.float32)))
