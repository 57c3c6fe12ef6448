"""The averages of PMA: MindFormers' own optimizer trains a toy, MindSpore saves it, and what we give is the mean of the weights it had."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from tests.mindformers_package import mindformers_modules

os.environ.setdefault("GLOG_v", "3")
pytest.importorskip("mindspore", reason="mindspore is not installed: make setup does")
INTERLEAVE, FUSED = 2, 4  # weights are added every 2 steps, at most 4 times


def yaml_of(folder: Path, **changes: Any) -> Path:
    settings = {"type": "PmaAdamW", "interleave_step": INTERLEAVE, "fused_num": FUSED, "fused_algo": "ema", "ema_alpha": 0.2} | changes
    lines = "".join(f"  {name}: {value}\n" for name, value in settings.items() if value is not None)
    sizes = "".join(f"    {name}: {value}\n" for name, value in small().config.items() if isinstance(value, int | float))
    file = folder / "run.yaml"
    file.write_text(f"optimizer:\n{lines}model:\n  model_config:\n    type: LlamaConfig\n{sizes}")
    return file


@cache
def small() -> mc.Checkpoint:
    return mc.toy("llama", num_hidden_layers=1, dtype="fp32")


@cache
def start() -> dict[str, Any]:
    mapped = mc.map(small(), "llama", to="mf")
    return {name: np.array(mc.read(mapped, name)) for name in mapped.tensors}


def train(file: Path, steps: int, algorithm: str) -> list[dict[str, Any]]:
    """Train for some steps by MindFormers' optimizer and save; the weights after every step."""
    from mindspore import Parameter, Tensor, save_checkpoint

    params = [Parameter(Tensor(array), name=name) for name, array in start().items()]
    random = np.random.default_rng(7)
    seen = []
    with mindformers_modules("mindformers.core.optim.pma_adamw") as (real,):
        kind = {"fused_algo": algorithm, "interleave_step": INTERLEAVE, "fused_num": FUSED}
        optimizer = real.PmaAdamW(params, learning_rate=0.02, **kind)
        for _ in range(steps):
            optimizer(tuple(Tensor(random.standard_normal(p.shape).astype(np.float32)) for p in params))
            seen.append({p.name: p.asnumpy().copy() for p in params})
    held = {p.name: p for p in (*params, *optimizer.get_parameters())}
    save_checkpoint([{"name": name, "data": p} for name, p in held.items()], str(file))
    return seen


@pytest.mark.parametrize("algorithm, shares", [("sma", [1, 1]), ("ema", [0.8, 1])])
def test_the_averages_are_the_mean_of_the_weights_that_the_optimizer_had(algorithm: str, shares: list[float], tmp_path: Path) -> None:
    seen = train(tmp_path / "run.ckpt", 5, algorithm)  # weights of steps 2 and 4 were added
    averaged = mc.load(tmp_path / "run.ckpt", weights="pma", config=yaml_of(tmp_path, fused_algo=algorithm))
    for name in start():
        expected = np.average([seen[1][name], seen[3][name]], axis=0, weights=shares)
        np.testing.assert_allclose(np.asarray(mc.read(averaged, name)), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(expected - seen[4][name]).max() > 0.01  # the last weights are others
    assert "at step 5); divided in float32" in " ".join(averaged.notes)


def test_the_command_line_converts_the_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = train(tmp_path / "run.ckpt", 5, "ema")
    yaml, back = yaml_of(tmp_path, ema_alpha=None), tmp_path / "back.safetensors"
    command = ["convert", "--reversed", str(tmp_path / "run.ckpt"), str(back), "--model", "llama", "--config", str(yaml), "--quiet"]
    assert mfconv([*command, "--weights", "pma"]) == 0
    said = capsys.readouterr()
    assert "averages of PMA: 12 weights (ema, the last 2 of one every 2 steps, at step 5)" in said.out + said.err
    assert "12 weights computed (averages of PMA)" in said.out
    written = mc.load(back)
    embedding, mf = "model.embed_tokens.weight", "model.tok_embeddings.embedding_weight"
    expected = np.average([seen[1][mf], seen[3][mf]], axis=0, weights=[0.8, 1])
    np.testing.assert_allclose(np.asarray(mc.read(written, embedding)), expected, rtol=1e-5, atol=1e-6)
    assert mfconv(["save", str(tmp_path / "run.ckpt"), str(tmp_path / "only.ckpt"), "--weights", "pma", "--only", "weights",
                   "--config", str(yaml), "--quiet"]) == 0  # fmt: skip
    assert mc.load(tmp_path / "only.ckpt").tensors.keys() == start().keys()


def refusal(file: Path, **more: Any) -> str:
    with pytest.raises(mc.MfconvError) as error:
        mc.load(file, weights="pma", **more)
    assert error.value.code == "MFC501"
    return str(error.value)


def test_averages_are_refused_where_they_cannot_be_told(tmp_path: Path) -> None:
    file = tmp_path / "run.ckpt"
    state = {f"{word}.{n}": a for n, a in start().items() for word in ("adam_m", "pma_weight_ema")} | {"global_step": np.int32(9)}
    mc.save(mc.load({**start(), **state}), file, progress=False)  # after step 8 they took the place of the weights
    said = refusal(file, config=yaml_of(tmp_path))
    assert "nothing was added up between steps 8 and 9" in said
    assert "At step 8 the averages took the place of the weights: take that step" in said
    assert "no settings of PMA" in refusal(file)
    assert "--config RUN.yaml" in refusal(file, config=small().config)
    assert "the optimizer 'AdamW'" in refusal(file, config=yaml_of(tmp_path, type="AdamW"))
    assert "fused_algo 'sma' in the YAML" in refusal(file, config=yaml_of(tmp_path, fused_algo="sma"))
    assert "interleave_step: '0'" in refusal(file, config=yaml_of(tmp_path, interleave_step=0))
    with pytest.raises(mc.MfconvError, match="expected  'pma'"):
        mc.load(file, weights="ema")


def test_a_checkpoint_without_averages_or_with_some_of_them_is_refused(tmp_path: Path) -> None:
    yaml = yaml_of(tmp_path)
    mc.save(mc.load(start()), tmp_path / "plain.ckpt", progress=False)
    assert "no averages of PMA in this checkpoint" in refusal(tmp_path / "plain.ckpt", config=yaml)
    norm = "model.norm_out.weight"
    state = {f"{word}.{n}": a for n, a in start().items() for word in ("adam_m", "pma_weight_ema")} | {"global_step": np.int32(3)}
    half = {n: a for n, a in state.items() if n != f"pma_weight_ema.{norm}"}
    mc.save(mc.load({**start(), **half}), tmp_path / "half.ckpt", progress=False)
    assert f"trained, but without an average: 1 weight; first '{norm}'" in refusal(tmp_path / "half.ckpt", config=yaml)
    frozen = {n: a for n, a in half.items() if n != f"adam_m.{norm}"}
    mc.save(mc.load({**start(), **frozen}), tmp_path / "frozen.ckpt", progress=False)
    averaged = mc.load(tmp_path / "frozen.ckpt", weights="pma", config=yaml)
    assert f"not trained, and taken as they are: 1 weight, such as {norm}" in averaged.notes
    np.testing.assert_array_equal(mc.read(averaged, norm), start()[norm])
    other = "model.layers.0.attention.wo.weight"  # once added with a share of 0.2
    np.testing.assert_allclose(np.asarray(mc.read(averaged, other)), start()[other] / np.float32(0.2), rtol=1e-5)


def test_the_fused_optimizer_counts_its_steps_from_minus_one(tmp_path: Path) -> None:
    state = {f"{word}.{n}": a for n, a in start().items() for word in ("exp_avg", "exp_avg_sq", "pma_weight_sma")}
    mc.save(mc.load({**start(), **state, "global_step": np.int32(5)}), tmp_path / "run.ckpt", progress=False)  # six steps were taken
    averaged = mc.load(tmp_path / "run.ckpt", weights="pma", config=yaml_of(tmp_path, fused_algo="sma"))
    name = "model.layers.0.attention.wo.weight"
    np.testing.assert_array_equal(mc.read(averaged, name), start()[name] / np.float32(3))
