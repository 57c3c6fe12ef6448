"""Weights straight into a network: outputs equal to what the frameworks' own loaders give, bit for bit; refused before a change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MappingError, MfconvError, OutputError, UsageError
from mfconv_nb.families import llama
from mfconv_nb.rules import Family, Rule
from tests.real_frameworks.support import llama_config, logits, saved_llama
from tests.support import PATIENCE, flip_bit, numbered, place_of
from tests.toys import raws_of

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
ms = pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = pytest.mark.real_frameworks

SMALL = Family("small", "two matrices in one", (Rule("qk", ("q", "k"), "(q + k) hidden -> q hidden, k hidden"),), {"q": "q", "k": "k"})


def made(config: Any, *, device: str = "cpu", dtype: Any = None) -> Any:
    """The network with random numbers, or none."""
    torch.manual_seed(8)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype or torch.bfloat16).eval()


def bits(model: Any) -> dict[str, bytes]:
    return {n: t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()}


# ---- torch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_a_mindformers_file_in_a_torch_network_gives_the_logits_of_from_pretrained(tied: bool, device: str, tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf", tied=tied)
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    network = made(original.config, device=device)
    report = mc.assign(mc.map(mc.load(tmp_path / "mf.ckpt")), network)
    assert report.complete
    assert set(report.assigned) == set(network.state_dict())
    assert bits(network) == bits(original)
    assert torch.equal(logits(network), logits(original))
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied
    assert {t.device.type for t in (*network.parameters(), *network.buffers())} == {"cpu"}
    assert all(p.requires_grad for p in network.parameters())


def test_a_folder_is_assigned_as_it_is_and_a_live_model_too(tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf")
    for source in (tmp_path / "hf", original, original.state_dict()):
        network = made(original.config, device="meta")
        assert mc.assign(source, network).complete
        assert bits(network) == bits(original)
        assert network.lm_head.weight.data_ptr() != original.lm_head.weight.data_ptr()  # its own memory: training one leaves the other


def test_the_dtype_of_the_network_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf")
    wide = made(original.config, dtype=torch.float32)
    report = mc.assign(tmp_path / "hf", wide)
    assert report.casts == {("BF16", "F32"): 30}
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert torch.equal(logits(wide), logits(theirs))
    assert mc.assign(tmp_path / "hf", wide, dtype="bf16").casts == {}
    assert {p.dtype for p in wide.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(wide), logits(original))


def test_frozen_parameters_stay_frozen_and_buffers_are_carried() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    network[0].weight.requires_grad_(False)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other[1].num_batches_tracked += 5
    with torch.device("meta"):
        empty = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for target in (network, empty):
        mc.assign(other, target)
        assert bits(target) == bits(other)
        assert not isinstance(target[1].num_batches_tracked, torch.nn.Parameter)
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]


def test_everything_that_does_not_fit_is_told_at_once_and_nothing_is_changed(tmp_path: Path) -> None:
    saved_llama(tmp_path / "hf")
    config = llama_config(dtype=torch.bfloat16)
    config.num_hidden_layers, config.intermediate_size = 5, 88
    network = made(config)
    before = bits(network)
    state = {**torch.nn.Linear(2, 2).state_dict(), **mc.load(tmp_path / "hf").tensors}
    with pytest.raises(OutputError) as refused:
        mc.assign(state, network)
    text = str(refused.value)
    assert refused.value.code == "MFC408"
    assert "missing: model.layers.{3‥4}.self_attn.q_proj.weight (2 tensors): 60 × 48 bf16" in text
    assert "unexpected: weight: 2 × 2 fp32" in text
    assert "shape: model.layers.{0‥2}.mlp.up_proj.weight (3 tensors): 104 × 48, the network has 88 × 48" in text
    assert "config.json" in text
    assert {p.kind for p in refused.value.problems} == {"missing", "unexpected", "shape"}  # type: ignore[attr-defined]
    assert bits(network) == before
    with pytest.raises(OutputError, match="MFC408"):
        mc.assign(state, network, strict=False)  # shapes that differ are refused in any case
    assert bits(network) == before


def test_not_strict_puts_in_what_has_a_place_and_lists_the_rest() -> None:
    network = torch.nn.Linear(3, 4)
    before = network.bias.detach().clone()
    report = mc.assign({"weight": numbered(4, 3), "more": numbered(2)}, network, strict=False)
    assert network.weight.tolist() == numbered(4, 3).tolist()
    assert torch.equal(network.bias, before)
    assert (report.assigned, report.missing, report.unexpected, report.complete) == (("weight",), ("bias",), ("more",), False)
    assert report.table().verdict == "! Assigned in part."
    assert {row["name"]: row["status"] for row in report.rows()} == {"weight": "assigned", "bias": "missing", "more": "unexpected"}
    with pytest.raises(OutputError, match="MFC408"):
        mc.assign({"nothing": numbered(2)}, network, strict=False)


def test_names_of_the_other_side_are_refused_with_what_to_do(tmp_path: Path) -> None:
    network = made(llama_config(dtype=torch.bfloat16))
    with pytest.raises(OutputError) as refused:
        mc.assign(mc.map(mc.toy("llama"), "llama"), network)
    assert "mc.assign(mc.map(checkpoint), network)" in str(refused.value)


def test_two_tensors_for_one_place_must_be_equal() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    network = Tied()
    mc.assign({"embedding.weight": numbered(5, 3), "head.weight": numbered(5, 3)}, network)
    assert network.head.weight is network.embedding.weight
    mc.assign({"head.weight": numbered(5, 3, first=1)}, network)
    assert network.embedding.weight.tolist() == numbered(5, 3, first=1).tolist()
    with pytest.raises(MappingError) as refused:
        mc.assign({"embedding.weight": numbered(5, 3), "head.weight": numbered(5, 3, first=9)}, network)
    assert refused.value.code == "MFC308"
    assert network.embedding.weight.tolist() == numbered(5, 3, first=1).tolist()


def test_numbers_that_are_no_floats_are_never_cast() -> None:
    network = torch.nn.Linear(3, 4, bias=False)
    with pytest.raises(OutputError) as refused:
        mc.assign({"weight": numbered(4, 3, dtype=np.int64)}, network)
    assert "dtype: weight: int64, the network has fp32" in str(refused.value)


def test_a_table_on_the_meta_device_that_nothing_computes_is_refused_before_a_change() -> None:
    class Rotary(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3))
            self.register_buffer("table", torch.arange(3.0), persistent=False)

    with torch.device("meta"):
        network = Rotary()
    with pytest.raises(OutputError) as refused:
        mc.assign({"weight": numbered(3)}, network)
    assert "table" in str(refused.value)
    assert network.weight.device.type == "meta"


def test_a_checkpoint_without_values_and_a_source_that_changed_are_refused(tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf")
    network = made(original.config)
    before = bits(network)
    with pytest.raises(MappingError, match="MFC310"):
        mc.assign(made(original.config, device="meta"), network)
    loaded = mc.load(tmp_path / "hf")
    shard = next(p for p in (tmp_path / "hf").glob("*.safetensors") if "lm_head.weight" in mc.load([p]).tensors)
    flip_bit(shard, place_of(shard, "lm_head.weight"))
    with pytest.raises(MfconvError, match="MFC108"):
        mc.assign(loaded, network)
    assert bits(network) == before


def mixtral(folder: Path) -> Any:
    torch.manual_seed(9)
    config = transformers.MixtralConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=6, num_local_experts=3, max_position_embeddings=64,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    return transformers.MixtralForCausalLM.from_pretrained(folder).eval()


EXPERTS, ROUTER = "model.layers.{layer}.block_sparse_moe.experts.{expert}.", "model.layers.{layer}.block_sparse_moe.gate.weight"
JOINED = Family(
    "mixtral_in_memory",
    "Mixtral as transformers 5 holds it: the experts of a layer as two tensors. Names of a file left, names in memory right",
    rules=(
        Rule((EXPERTS + "w1.weight", EXPERTS + "w3.weight"), "model.layers.{layer}.mlp.experts.gate_up_proj",
             "gate hidden, up hidden -> expert (gate + up) hidden", sizes={"up": "gate"}),
        Rule(EXPERTS + "w2.weight", "model.layers.{layer}.mlp.experts.down_proj", "hidden ffn -> expert hidden ffn"),
        Rule(ROUTER, "model.layers.{layer}.mlp.gate.weight"),
        *(Rule(f"model.layers.{{layer}}.{n}.weight", f"model.layers.{{layer}}.{n}.weight") for n in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "input_layernorm", "post_attention_layernorm")),
        *(Rule(f"{n}.weight", f"{n}.weight") for n in ("model.embed_tokens", "model.norm", "lm_head")),
    ),
    sizes={"expert": "num_local_experts", "layer": "num_hidden_layers"},
)  # fmt: skip


def test_experts_that_transformers_joins_in_memory_are_joined_as_they_are_or_by_a_family_of_ones_own(tmp_path: Path) -> None:
    original = mixtral(tmp_path / "hf")
    for source in (tmp_path / "hf", mc.map(mc.load(tmp_path / "hf"), JOINED, to="mf")):
        network = made(original.config, device="meta", dtype=torch.float32)
        assert "model.layers.0.mlp.experts.gate_up_proj" in network.state_dict()
        assert mc.assign(source, network).complete
        assert bits(network) == bits(original)
        assert torch.equal(logits(network), logits(original))


def test_names_in_memory_of_a_model_that_no_family_has_are_refused_with_a_way(tmp_path: Path) -> None:
    config = transformers.OlmoeConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_experts=3, num_experts_per_tok=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    transformers.OlmoeForCausalLM(config).save_pretrained(tmp_path / "hf")
    with pytest.raises(OutputError) as refused:
        mc.assign(tmp_path / "hf", made(config, device="meta", dtype=torch.float32))
    assert "from_pretrained" in str(refused.value.hint)


@pytest.mark.parametrize("thing", [{}, None, "a path", numbered(3)])
def test_something_that_is_no_network_is_refused(thing: Any) -> None:
    with pytest.raises(UsageError) as refused:
        mc.assign({"w": numbered(2)}, thing)
    assert refused.value.code == "MFC501"


def test_progress_counts_every_byte() -> None:
    seen: list[int] = []
    mc.assign({"weight": numbered(4, 3), "bias": numbered(4)}, torch.nn.Linear(3, 4), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 4 * (4 * 3 + 4)


# ---- MindSpore -------------------------------------------------------------------------------------------------------------


class Mlp(ms.nn.Cell):  # type: ignore[misc, name-defined]
    """A gated feed-forward of Llama, with MindFormers' names, in a dtype."""

    def __init__(self, dtype: Any, hidden: int = 96, ffn: int = 176) -> None:
        super().__init__()
        zeros = lambda *shape: ms.Tensor(np.zeros(shape, np.float32), dtype)  # noqa: E731 - a word for this line only
        self.w1, self.w3, self.w2 = (
            ms.Parameter(zeros(*shape), name=f"layers.0.feed_forward.{name}.weight")
            for name, shape in (("w1", (ffn, hidden)), ("w3", (ffn, hidden)), ("w2", (hidden, ffn)))
        )

    def construct(self, x: Any) -> Any:
        gate, up = ms.ops.matmul(x, self.w1.T), ms.ops.matmul(x, self.w3.T)
        return ms.ops.matmul(gate * ms.ops.sigmoid(gate) * up, self.w2.T)


MLP = Family(
    "mlp",
    "the feed-forward of Llama",
    rules=tuple(
        Rule(f"layers.{{layer}}.mlp.{hf}_proj.weight", f"layers.{{layer}}.feed_forward.{mf}.weight", layout)
        for hf, mf, layout in (("gate", "w1", "ffn hidden"), ("up", "w3", "ffn hidden"), ("down", "w2", "hidden ffn"))
    ),
    sizes={"hidden": "hidden_size", "ffn": "intermediate_size", "layer": "1"},
)


def mlp_weights() -> dict[str, Any]:
    toy = mc.toy("llama")
    return {f"layers.0.mlp.{n}_proj.weight": mc.read(toy, f"model.layers.0.mlp.{n}_proj.weight") for n in ("gate", "up", "down")}


def output(cell: Any, dtype: Any) -> bytes:
    x = np.linspace(-1, 1, 4 * 96, dtype=np.float32).reshape(4, 96)
    return bytes(cell(ms.Tensor(x, dtype)).get_bytes())


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16], ids=str)
def test_weights_of_hugging_face_in_a_cell_give_what_mindspores_own_loader_gives(dtype: Any, tmp_path: Path) -> None:
    mapped = mc.map(mc.load(mlp_weights(), config=llama.FAMILY.toy), MLP, to="mf")
    cast = {ms.float32: "fp32", ms.float16: "fp16", ms.bfloat16: "bf16"}[dtype]
    mc.save(mapped, tmp_path / "mf.ckpt", dtype=cast)
    mine, theirs = Mlp(dtype), Mlp(dtype)
    ms.load_param_into_net(theirs, ms.load_checkpoint(str(tmp_path / "mf.ckpt")), strict_load=True)
    report = mc.assign(mapped, mine)
    assert report.complete
    assert raws_of(mine) == raws_of(theirs)
    if dtype is not ms.bfloat16:  # the CPU of MindSpore multiplies none: the bytes above are what there is to compare
        assert output(mine, dtype) == output(theirs, dtype)
        assert any(output(mine, dtype))


def test_a_cell_takes_the_dtype_that_is_asked_for_and_stays_the_same_parameter() -> None:
    mapped = mc.map(mc.load(mlp_weights(), config=llama.FAMILY.toy), MLP, to="mf")
    cell = Mlp(ms.float32)
    parameter = cell.w1
    mc.assign(mapped, cell, dtype="bf16")
    assert cell.w1 is parameter
    assert raws_of(cell) == raws_of(mapped)  # bf16 as it came


def test_a_cell_whose_parameters_were_never_initialised_becomes_real() -> None:
    with ms.nn.utils.no_init_parameters():
        cell = ms.nn.Dense(3, 5)
    assert mc.diff({"weight": numbered(5, 3), "bias": numbered(5)}, cell).equal
    with pytest.raises(MappingError, match="MFC310"):
        mc.read(cell, "weight")  # its memory holds nothing yet
    mc.assign({"weight": numbered(5, 3), "bias": numbered(5)}, cell)
    assert cell.weight.asnumpy().tolist() == numbered(5, 3).tolist()
    assert mc.read(cell, "weight").tolist() == numbered(5, 3).tolist()
    assert cell(ms.Tensor(np.ones((1, 3), np.float32))).asnumpy().tolist() == (numbered(5, 3).sum(1) + numbered(5)).reshape(1, -1).tolist()


def test_a_parameter_under_two_names_of_a_cell_is_one_and_a_tied_copy_is_not_left_over() -> None:
    class Tied(ms.nn.Cell):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = ms.Parameter(ms.Tensor(np.zeros((331, 96), np.float32)), name="model.tok_embeddings.embedding_weight")
            self.head = self.embedding

    cell, toy = Tied(), mc.toy("llama", tie_word_embeddings=True, num_hidden_layers=1)
    embedding = mc.load({"model.embed_tokens.weight": toy["model.embed_tokens.weight"]}, config=None)
    rules = (Rule("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight"), mc.rules.Tied("lm_head.weight", "lm_head.weight",
             same_as="model.embed_tokens.weight", layout="vocab hidden"))  # fmt: skip
    family = Family("head", "a tied head", rules, {"tied": "tie_word_embeddings", "vocab": "vocab_size", "hidden": "hidden_size"})
    mapped = mc.map(embedding, family, to="mf", config=toy.config)
    assert set(mapped.tensors) == {"model.tok_embeddings.embedding_weight", "lm_head.weight"}
    assert mc.assign(mapped, cell).complete  # MindFormers always writes the head; here it is the embedding once more
    assert cell.head.asnumpy().tolist() == mc.read(toy, "model.embed_tokens.weight").astype(np.float32).tolist()


def test_a_cell_is_not_changed_when_something_does_not_fit() -> None:
    cell = ms.nn.Dense(3, 5)
    before = raws_of(cell)
    with pytest.raises(OutputError) as refused:
        mc.assign({"weight": numbered(3, 5), "gamma": numbered(2)}, cell)
    text = str(refused.value)
    assert "missing: bias: 5 fp32" in text
    assert "unexpected: gamma: 2 fp32" in text
    assert "shape: weight: 3 × 5, the network has 5 × 3 (transposed?)" in text
    assert raws_of(cell) == before


def test_what_layers_count_is_not_asked_for_and_a_weight_is() -> None:
    names = {
        "decoder.layers.0.mlp.router.weight": (3, 4),
        "decoder.layers.0.mlp.router.fi_accu": (3,),
        "decoder.layers.0.mlp.norm.weight": (4,),
    }
    cell = ms.nn.Cell()
    for n, (name, shape) in enumerate(names.items()):
        cell.insert_param_to_cell(f"p{n}", ms.Parameter(ms.Tensor(np.full(shape, 5, np.float32)), name=name))
    weights = {n: np.ones(s, np.float32) for n, s in names.items() if n.endswith("weight")}
    report = mc.assign(weights, cell)
    assert report.missing == ("decoder.layers.0.mlp.router.fi_accu",)
    assert [float(p.asnumpy().flat[0]) for p in cell.get_parameters()] == [1, 5, 1]
    with pytest.raises(OutputError, match="MFC408") as refused:
        mc.assign({n: a for n, a in weights.items() if "norm" not in n}, cell)
    assert "norm.weight" in str(refused.value)
    assert "fi_accu" not in str(refused.value)


def test_every_bit_pattern_of_bfloat16_reaches_both_frameworks() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(256, 256)
    cell, module = ms.nn.Cell(), torch.nn.Linear(256, 256, bias=False, dtype=torch.bfloat16)
    cell.insert_param_to_cell("weight", ms.Parameter(ms.Tensor(np.zeros((256, 256), np.float32), ms.bfloat16), name="weight"))
    mc.assign({"weight": every}, cell)
    mc.assign({"weight": every}, module)
    assert bytes(cell.weight.get_bytes()) == every.tobytes()
    assert bits(module)["weight"] == every.tobytes()


MEASURED = """
import resource, sys
import numpy as np
import mfconv_nb as mc

count, elements = 8, 8 << 20  # 32 MiB a tensor
if sys.argv[2] == "torch":
    import torch
    network = torch.nn.ParameterDict({f"w{n}": torch.ones(elements) for n in range(count)})
    small = torch.nn.Linear(3, 4)
else:
    import mindspore as ms
    network, small = ms.nn.Cell(), ms.nn.Dense(3, 4)
    for n in range(count):
        network.insert_param_to_cell(f"w{n}", ms.Parameter(ms.Tensor(np.ones(elements, np.float32)), name=f"w{n}"))
mc.assign({"weight": np.ones((4, 3), np.float32), "bias": np.ones(4, np.float32)}, small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mc.assign(sys.argv[1], network)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_memory_beside_the_network_is_that_of_one_tensor(framework: str, tmp_path: Path) -> None:
    mc.save(mc.load({f"w{n}": np.full(8 << 20, n, np.float32) for n in range(8)}), tmp_path / "x.safetensors")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "x.safetensors"), framework]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert int(done.stdout.split()[-1]) < 3 * 32  # MiB; all of it would be 256


# ---- will this load? -------------------------------------------------------------------------------------------------------


def test_diff_of_a_mapped_checkpoint_and_a_network_says_whether_it_loads(tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf")
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    back = mc.map(mc.load(tmp_path / "mf.ckpt"))
    assert mc.diff(back, made(original.config, device="meta")).equal
    other = llama_config(dtype=torch.bfloat16)
    other.intermediate_size = 88
    found = mc.diff(back, made(other, device="meta"))
    assert not found.equal
    assert found.counts["shape"] == 9
    mapped = mc.map(mc.load(mlp_weights(), config=llama.FAMILY.toy), MLP, to="mf")
    assert mc.diff(mapped, Mlp(ms.bfloat16)).equal
    assert mc.diff(mapped, Mlp(ms.bfloat16, ffn=80)).counts["shape"] == 3


def test_loading_mapping_and_comparing_names_of_a_cell_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    real = ms.Tensor.get_bytes
    monkeypatch.setattr(ms.Tensor, "get_bytes", lambda self: copies.append(1) or real(self))
    loaded = mc.load(Mlp(ms.float32))
    back = mc.map(loaded, MLP, to="hf", config=llama.FAMILY.toy)
    assert not mc.diff(back, mlp_weights()).equal  # fp32 and bf16
    assert copies == []
    mc.read(back, "layers.0.mlp.up_proj.weight")
    assert len(copies) == 1


def test_loading_a_module_hands_out_its_own_memory() -> None:
    module = torch.nn.Linear(3, 4)
    views = [t.pieces[0].source.view() for t in mc.load(module)]
    assert [v.ctypes.data for v in views] == [p.data_ptr() for p in module.parameters()]
