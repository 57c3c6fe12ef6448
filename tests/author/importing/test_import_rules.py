"""Rules of other tools as drafts: what the installed mindformers and transformers make of numbers, the drafts make too; and the lint."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.exporting.weight_converters import converters_of, converters_text
from mfconv_nb.author.importing.imported import (
    NEEDS_NAMES,
    NEVER_MATCHES,
    NO_ORDER,
    NO_WAY_BACK,
    NOT_ANCHORED,
    NOT_IDEMPOTENT,
    NOT_UNDERSTOOD,
    OVERLAPS,
    SHADOWED,
    ImportedRules,
)
from mfconv_nb.author.importing.transformers_rules import Engine, read_registered_transforms
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.rules import Family
from tests.author.exporting.test_export_converters import OP, SAYABLE, STAND_INS, TEMPLATE, label
from tests.mindformers_package import mindformers_modules
from tests.support import same
from tests.toys import arrays_of

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 7,
    "moe_intermediate_size": 5,
    "num_experts": 3,
}


@cache
def utils_of(model: str) -> Path:
    """The file of the installed mindformers that declares the rules of a model."""
    spec = find_spec("mindformers")
    if spec is None or spec.origin is None:
        pytest.skip("mindformers is not installed")
    return Path(spec.origin).parent / "models" / model / "utils.py"


def kinds(found: ImportedRules, kind: str) -> list[str]:
    """What the lint says of one kind, as text."""
    return [str(f) for f in found.findings if f.kind == kind]


def numbers(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tensors of which every element is another number."""
    rng, made = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        made[name] = rng.permutation(int(np.prod(shape))).astype(np.float32).reshape(shape) + 1000 * len(made)
    return made


def qwen3_names(*, experts: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (13, 10), "lm_head.weight": (13, 10), "model.norm.weight": (10,)}
    for layer in range(2):
        layer_shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (24, 10),
            "self_attn.k_proj.weight": (8, 10),
            "self_attn.v_proj.weight": (8, 10),
            "self_attn.o_proj.weight": (10, 24),
            "self_attn.q_norm.weight": (4,),
            "self_attn.k_norm.weight": (4,),
            "input_layernorm.weight": (10,),
            "post_attention_layernorm.weight": (10,),
        }
        if experts:
            layer_shapes["mlp.gate.weight"] = (3, 10)
            for expert in range(3):
                at = f"mlp.experts.{expert}."
                layer_shapes |= {f"{at}gate_proj.weight": (5, 10), f"{at}up_proj.weight": (5, 10), f"{at}down_proj.weight": (10, 5)}
        else:
            layer_shapes |= {"mlp.gate_proj.weight": (7, 10), "mlp.up_proj.weight": (7, 10), "mlp.down_proj.weight": (10, 7)}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    return shapes


def their_ops(path: Path) -> list[Any]:
    """The real operations of a `weight_converters` list; call inside ``mindformers_modules``."""
    import mindformers.checkpoint.converter.convert_op as ops

    text = path.read_text()
    lists = [
        node
        for outer in ast.parse(text).body
        if isinstance(outer, ast.ClassDef)
        for node in outer.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "weight_converters"
    ]
    names = dict(vars(ops))
    exec(compile(ast.unparse(lists[0]), "weight_converters.py", "exec"), names)
    made = names["weight_converters"]
    sizes = {"num_moe_experts": 3, "hidden_size": 10, "moe_ffn_hidden_size": 5, "expert_parallel_size": 1, "optimizer_parallel_size": 1}
    sizes |= {"num_attention_heads": 6, "num_query_groups": 2, "kv_channels": 4, "tensor_model_parallel_size": 1}
    for op in made:
        for key, value in sizes.items():
            if hasattr(op, key):
                setattr(op, key, value)
    return list(made)


@pytest.mark.real_frameworks
@pytest.mark.parametrize("model", ["qwen3", "qwen3_moe"])
def test_the_drafts_of_a_real_list_give_the_bytes_of_the_real_operations(model: str) -> None:
    tensors = numbers(qwen3_names(experts=model == "qwen3_moe"))
    path = utils_of(model)
    imported = mc.author.import_rules(path)
    assert imported.clean
    assert imported.form == "weight_converters"
    assert all(d.rule.written_at[0].endswith("utils.py") and d.line > 40 for d in imported.drafted)
    there = mc.map(mc.load(tensors, config=CONFIG), imported.family("mine"), to="mf")
    expected: dict[str, Any] = {}
    with mindformers_modules(OP, TEMPLATE, stand_ins=STAND_INS):
        for op in their_ops(path):
            experts = type(op).__name__ == "ExpertsConvertOp"
            for layer in (0, 1) if "{}" in op.hf_names[0] else (0,):
                given = {}
                for name in op.hf_names:
                    own = name.replace("{}", str(layer), 1)
                    stacked = np.stack([tensors[own.format(e)] for e in range(3)]) if experts else tensors[own]
                    given[name.format(layer, 0) if experts else own] = stacked
                expected |= op.hf_to_mf(given)
    expected = {name.removesuffix(".0") if "experts" in name else name: value for name, value in expected.items()}
    assert same(arrays_of(there), expected)
    assert same(arrays_of(mc.map(there, imported.family("mine"), to="hf", config=CONFIG)), tensors)


@pytest.mark.real_frameworks
def test_every_operation_of_deepseek4_is_drafted() -> None:
    imported = mc.author.import_rules(utils_of("deepseek4"))
    assert len(imported.drafted) == 68
    assert imported.clean
    by_target = {d.mf: d for d in imported.drafted}
    assert by_target["mtp.layers.0.eh_proj.weight"].layout.endswith("-> out (e_part + h_part)")
    assert by_target["decoder.layers.{layer}.mlp.experts.weight1"].layout == "gate hidden, up hidden -> (expert hidden) (gate + up)"
    assert by_target["mtp.layers.{mtp}.transformer_layer.mlp.experts.weight2"].hf == "mtp.{mtp}.ffn.experts.{expert}.w2.weight"


WITH_MTP = [form for form in SAYABLE if form.chosen.get("with_mtp") == 1 and form.key != "deepseek3"]


@pytest.mark.parametrize("form", WITH_MTP[::7], ids=label)
def test_an_exported_list_with_a_layer_of_its_own_number_is_read_with_findings(form: Family) -> None:
    toy = mc.toy(form.key, options=form.chosen)
    imported = mc.author.import_rules(converters_text(form, *converters_of(form, toy.config)), names=toy)
    overlapping = [finding for finding in imported.findings if finding.kind == OVERLAPS]
    assert any("model.layers.3.mlp.experts.3.down_proj.weight goes to the operation of line" in f.why for f in overlapping)
    assert {f.kind for f in imported.findings} <= {OVERLAPS, NOT_UNDERSTOOD, NO_WAY_BACK}
    copies = [f for f in imported.findings if f.kind == NOT_UNDERSTOOD and "CopiesConvertOp" in f.rule]
    assert len(copies) == (0 if form.key == "glm4-moe" else 2)


@pytest.mark.parametrize("form", [form for form in SAYABLE if form not in WITH_MTP], ids=label)
def test_an_exported_list_imported_again_maps_as_the_family_does(form: Family) -> None:
    toy = mc.toy(form.key, options=form.chosen)
    chosen: dict[str, Any] = dict(form.chosen)
    text = converters_text(form, *converters_of(form, toy.config))
    imported = mc.author.import_rules(text, names=toy)
    own = mc.map(toy, form.key, **chosen)
    dropped = imported.unmatched  # buffers that no operation takes
    assert {f.kind for f in imported.findings} <= {NEVER_MATCHES}  # a rule for a buffer that this checkpoint lacks
    assert all("freq" in name or "position" in name for name in dropped)
    drafted = mc.map(toy, imported.family("again"), to="mf", leave_out=dropped)
    assert same(arrays_of(drafted), arrays_of(own))
    back = mc.map(drafted, imported.family("again"), to="hf", config=toy.config)
    assert same(arrays_of(back), {n: v for n, v in arrays_of(toy).items() if n not in dropped})


def test_operations_that_join_stack_and_split_any_number_of_axes_are_sentences() -> None:
    text = """
    weight_converters = [
        StackConvertOp(hf_names=["a.{}.x", "a.{}.y"], mf_names=["s.{}"], dim=1),
        ConcatConvertOp(["c.q.bias", "c.k.bias", "c.v.bias"], ["c.qkv.bias"], None, 0, [4, 2, 2], False),
        ScaleSplitConvertOp("t", ["t.one", "t.two"]),
    ]"""
    tensors = numbers({"a.0.x": (2, 3), "a.0.y": (2, 3), "c.q.bias": (4,), "c.k.bias": (2,), "c.v.bias": (2,), "t": (2, 3)})
    family = mc.author.import_rules("class A:" + text, names=mc.load(tensors)).family("mine")
    there = mc.map(mc.load(tensors), family, to="mf")
    found = arrays_of(there)
    assert np.array_equal(found["s.0"], np.stack([tensors["a.0.x"], tensors["a.0.y"]], axis=1))
    assert np.array_equal(found["c.qkv.bias"], np.concatenate([tensors[f"c.{p}.bias"] for p in "qkv"]))
    assert np.array_equal(found["t.two"], tensors["t"][1:])
    assert same(arrays_of(mc.map(there, family, to="hf")), tensors)


# ---- weight_mapping -----------------------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
@pytest.mark.parametrize(
    ("model", "family"), [("qwen2", "qwen2"), ("qwen3_moe", "qwen2-moe"), ("deepseek3", "deepseek3"), ("telechat2", "telechat")]
)
def test_the_drafts_of_a_weight_mapping_rename_as_its_loop_does(model: str, family: str) -> None:
    toy = mc.toy(family)
    text = utils_of(model).read_text()
    pairs = next(
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "weight_mapping"
    )
    expected = []
    for tensor in toy:
        name = tensor.name
        for old, new in pairs:
            name = name.replace(old, new) if old in name else name
        expected.append(name)
    imported = mc.author.import_rules(utils_of(model), form="weight_mapping", names=toy)
    there = mc.map(toy, imported.family("mine"), to="mf")
    assert sorted(t.name for t in there) == sorted(expected)
    assert mc.diff(toy, mc.map(there, imported.family("mine"), to="hf"), values=True).equal


@pytest.mark.real_frameworks
def test_pairs_that_stand_in_no_text_are_told_without_a_line() -> None:
    found = mc.author.import_rules([("gate", "up"), ("up", "gate"), ("x", "gate")], names=["a.gate.w", "a.up.w"]).findings
    assert not [finding.why for finding in found if "line 0" in finding.why]
    assert "('up', 'gate') changes what it becomes" in [finding.why for finding in found]


def test_a_set_of_pairs_has_no_order() -> None:
    imported = mc.author.import_rules(utils_of("telechat2"), names=mc.toy("telechat"))
    assert len(kinds(imported, NO_ORDER)) == 1
    assert "another order in each process" in kinds(imported, NO_ORDER)[0]
    depends = mc.author.import_rules({(".norm.", ".n."), (".q_norm.x", ".y")} | {("m.norm.", "z.")}, names=["m.norm.a"])
    assert any("result depends" in text for text in kinds(depends, NO_ORDER))


@pytest.mark.real_frameworks
def test_what_is_wrong_with_deepseek4s_mapping_is_named_with_its_line() -> None:
    names = ["norm.weight", "layers.0.attn_norm.weight", "layers.0.attn.q_norm.weight", "layers.0.ffn.experts.1.w1.weight"]
    names += ["mtp.0.e_proj.weight", "mtp.0.h_proj.weight", "mtp.0.attn.wkv.weight"]
    imported = mc.author.import_rules(utils_of("deepseek4"), form="weight_mapping", names=names)
    assert any("'.experts.{}.w1.'" in text and "no name has braces" in text for text in kinds(imported, NEVER_MATCHES))
    assert any("'mtp.0.e_proj.'" in text and "'mtp.0.h_proj.'" in text for text in kinds(imported, NO_WAY_BACK))
    assert any("('layers.', 'decoder.layers.')" in text for text in kinds(imported, NOT_IDEMPOTENT))
    assert any("'.attn_norm.'" in text and "line 39" in text for text in kinds(imported, SHADOWED))
    assert any("'norm.'" in text and "attn_norm" in text for text in kinds(imported, NOT_ANCHORED))
    assert imported.unmatched == ("mtp.0.h_proj.weight",)  # two names become one: the first is drafted
    by_old = {d.hf: d.mf for d in imported.drafted}
    assert by_old["layers.{layer}.attn_norm.weight"] == "decoder.layers.{layer}.attn_decoder.final_layernorm.weight"  # as theirs does


def test_one_layer_that_goes_elsewhere_keeps_its_number() -> None:
    pairs = [("m.layers.2.", "d.mtp."), ("m.layers.", "d.layers.")]
    names = [f"m.layers.{n}.{w}.weight" for n in range(3) for w in ("a", "b")] + [
        f"m.layers.{n}.e.{e}.w" for n in range(3) for e in range(2)
    ]
    imported = mc.author.import_rules(pairs, names=names)
    by_old = {d.hf: d.mf for d in imported.drafted}
    assert by_old["m.layers.2.a.weight"] == "d.mtp.a.weight"
    assert by_old["m.layers.1.b.weight"] == "d.layers.1.b.weight"
    assert by_old["m.layers.0.e.{e}.w"] == "d.layers.0.e.{e}.w"
    assert by_old["m.layers.2.e.{e}.w"] == "d.mtp.e.{e}.w"
    there = mc.map(mc.load(numbers(dict.fromkeys(names, (2,)))), imported.family("f"), to="mf")
    assert {t.name for t in there} == {n.replace("m.layers.2.", "d.mtp.").replace("m.layers.", "d.layers.") for n in names}


def test_a_mapping_without_names_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="MFC501") as raised:
        mc.author.import_rules([("a.", "b.")])
    assert "--names" in str(raised.value)


# ---- transformers ---------------------------------------------------------------------------------------------------------------------


def names_for(patterns: list[str]) -> list[str]:
    """Names that patterns of theirs could be about."""
    names = []
    for pattern in patterns:
        plain = pattern.replace(r"(\d+)", "3").replace(r"\d+", "3").replace("*", "1").replace("(.+)", "x.y").replace("\\", "")
        text = "".join(c for c in plain if c not in "^$()?!:<=[]+|")
        names += [text, f"model.{text}.weight", f"model.layers.2.{text}weight", f"{text}_scale_inv", f"a_{text}.bias"]
    return [".".join(part for part in name.split(".") if part) for name in names]


@pytest.mark.real_frameworks
def test_every_registered_mapping_renames_as_transformers_itself_does() -> None:
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = _build_checkpoint_conversion_mapping()
    compared = changed = 0
    for model_type, theirs in mapping.items():
        if any(type(t).__name__ == "GroupWeightRename" for t in theirs):
            continue  # keeps a state of its own
        found = read_registered_transforms(model_type)
        assert found is not None
        names = list(dict.fromkeys(names_for([p for t in theirs for p in t._original_source_patterns])))
        engine = Engine(found[0], names)
        renamings = [t for t in theirs if isinstance(t, WeightRenaming)]
        converters = [t for t in theirs if isinstance(t, WeightConverter)]
        for name in names:
            expected, pattern = rename_source_key(name, renamings, converters)
            ours = engine.apply(name)
            assert ours.new == expected, (model_type, name)
            assert (ours.converter is None) == (pattern is None)
            compared, changed = compared + 1, changed + (expected != name)
    assert compared > 2000
    assert changed > 1000


def their_values(transforms: list[Any], tensors: dict[str, Any], config: Any = None) -> dict[str, Any]:
    """What transformers' own operations make of some tensors."""
    import torch
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    made: dict[str, Any] = {}
    collected: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, value in tensors.items():
        new, pattern = rename_source_key(name, renamings, converters)
        if pattern is None:
            made[new] = value
        else:
            collected[new][pattern].append(torch.from_numpy(value))
    for new, given in collected.items():
        converter = next(c for c in converters if set(given) <= set(c.source_patterns))
        state: dict[str, Any] = dict(given)
        for op in converter.operations:
            state = op.convert(state, source_patterns=converter.source_patterns, target_patterns=converter.target_patterns, config=config)
        for target, value in state.items():
            made[new.replace(converter.target_patterns[0], target)] = (value[0] if isinstance(value, list) else value).numpy()
    return made


@pytest.mark.real_frameworks
@pytest.mark.parametrize(("model_type", "family"), [("mixtral", "mixtral"), ("qwen2_moe", "qwen2-moe"), ("deepseek_v3", "deepseek2")])
def test_the_drafts_of_a_registered_mapping_give_what_transformers_gives(model_type: str, family: str) -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    toy = mc.toy(family, dtype="fp32")
    imported = mc.author.import_rules(model_type, form="transformers", names=toy)
    there = mc.map(toy, imported.family("mine"), to="mf")
    expected = their_values(get_checkpoint_conversion_mapping(model_type), arrays_of(toy))
    assert same(arrays_of(there), {n: np.ascontiguousarray(v) for n, v in expected.items()})
    assert any(d.layout.startswith("gate hidden, up hidden -> expert (gate + up) hidden") for d in imported.drafted)
    assert same(arrays_of(mc.map(there, imported.family("mine"), to="hf")), arrays_of(toy))


TRANSFORMS = r"""
[
    WeightRenaming(r"^top\.norm\.(\d+)\.weight$", r"last.norm.\1.weight"),
    WeightConverter("fused.weight", ["gate_proj.weight", "up_proj.weight"], operations=[Interleave(dim=0), Chunk(dim=0)]),
    WeightConverter(source_patterns="in_proj.weight", target_patterns=["q.weight", "k.weight"], operations=[Chunk(dim=0)]),
    WeightConverter(r"\.turned$", ".straight", [Transpose(0, 1)]),
    WeightConverter("rope.weight", "rotated.weight", [PermuteForRope()]),
    WeightConverter(["m.*.a.weight", "m.*.b.weight"], "m.ab", operations=[MergeModulelist(dim=0), Concatenate(dim=1)]),
]"""


@pytest.mark.real_frameworks
def test_chains_of_operations_are_the_sentences_that_do_the_same() -> None:
    import transformers.core_model_loading as theirs

    shapes = {"l.0.fused.weight": (6, 4), "l.0.in_proj.weight": (8, 3), "l.0.turned": (2, 5), "l.0.rope.weight": (12, 5)}
    shapes |= {f"m.{e}.{w}.weight": (3, 2) for e in range(3) for w in "ab"} | {"top.norm.0.weight": (3,)}
    tensors = numbers(shapes)
    imported = mc.author.import_rules(TRANSFORMS, names=mc.load(tensors), config={"num_attention_heads": 3})
    assert imported.form == "transformers"
    assert not kinds(imported, NOT_UNDERSTOOD)
    there = mc.map(mc.load(tensors, config={"num_attention_heads": 3}), imported.family("mine"), to="mf")
    config = SimpleNamespace(num_attention_heads=3)
    assert same(
        arrays_of(there), {n: np.ascontiguousarray(v) for n, v in their_values(eval(TRANSFORMS, vars(theirs)), tensors, config).items()}
    )
    assert same(arrays_of(mc.map(there, imported.family("mine"), to="hf", config={"num_attention_heads": 3})), tensors)


def test_without_names_only_whole_names_are_drafted_and_the_lint_still_speaks() -> None:
    text = TRANSFORMS.replace("Transpose(0, 1)", "Transpose(0, 1, check_dims=True)").replace('"rotated.weight"', '"new.rope.weight"')
    imported = mc.author.import_rules(text)
    assert [(d.hf, d.mf, d.line) for d in imported.drafted] == [("top.norm.{norm}.weight", "last.norm.{norm}.weight", 3)]
    assert any("check_dims" in t and "line 6" in t for t in kinds(imported, NO_WAY_BACK))
    assert any("rope.weight" in t for t in kinds(imported, NOT_IDEMPOTENT))
    assert len(kinds(imported, NEEDS_NAMES)) == 5


def test_the_lint_of_transforms_sees_what_the_names_show() -> None:
    text = """[
    WeightRenaming("norm.", "layernorm."),
    WeightRenaming("a.w", "c.w"), WeightRenaming("b.w", "c.w"),
    WeightConverter("x.weight", ["y.weight", "z.weight"], [Chunk(0)]),
    WeightConverter("0.x.weight", "u.weight", [Transpose(0, 1)]),
    PrefixChange(prefix_to_remove="model"),
    WeightRenaming("nothing", "something"),
]"""
    imported = mc.author.import_rules(text, names=["q_norm.weight", "a.w", "b.w", "0.x.weight"])
    assert any("begins inside a word of q_norm.weight" in t for t in kinds(imported, NOT_ANCHORED))
    assert any("a.w and b.w both become c.w" in t for t in kinds(imported, NO_WAY_BACK))
    assert any("prefix is taken away" in t for t in kinds(imported, NO_WAY_BACK))
    assert any("line 5" in t and "0.x.weight is taken by line 4" in t for t in kinds(imported, OVERLAPS))
    assert any("line 7" in t for t in kinds(imported, NEVER_MATCHES))
    assert any("layernorm" in t for t in kinds(imported, NOT_IDEMPOTENT))


# ---- TroubleShooter -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["llama", "whisper", "internlm2", "glm"])
def test_a_weight_map_written_and_read_again_maps_as_the_family_does(key: str, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"qkv_concat": False} if key == "llama" else {}
    mc.author.export(key, tmp_path / "map.json", to="troubleshooter", **chosen)
    toy = mc.toy(key, options=chosen)
    imported = mc.author.import_rules(tmp_path / "map.json")
    assert imported.clean
    assert imported.form == "troubleshooter"
    assert len(imported.drafted) < len(toy)
    there = mc.map(toy, imported.family("mine"), to="mf")
    assert same(arrays_of(there), arrays_of(mc.map(toy, key, **chosen)))
    assert same(arrays_of(mc.map(there, imported.family("mine"), to="hf")), arrays_of(toy))


def test_a_foreign_function_is_named_and_never_imported(tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef f(x): return x\n")
    (tmp_path / "map.json").write_text(json.dumps([{"conv.weight": "c.weight", "bn.weight": "bn.gamma"}, {"conv.weight": "trap.f"}]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        imported = mc.author.import_rules(tmp_path / "map.json")
    assert not (tmp_path / "sprung").exists()
    assert [d.hf for d in imported.drafted] == ["bn.weight"]
    assert "'trap.f' is not run" in kinds(imported, NOT_UNDERSTOOD)[0]


def test_a_sequential_keeps_its_numbers_where_they_decide() -> None:
    names = {"f.0.weight": "f.0.weight", "f.1.weight": "f.1.gamma", "f.3.weight": "f.3.weight", "f.4.weight": "f.4.gamma", "g.007.w": "h.w"}
    imported = mc.author.import_rules(json.dumps([names, {}]))
    there = {d.hf: d.mf for d in imported.drafted}
    assert there == {n: new for n, new in names.items() if n != "g.007.w"}
    assert "g.007.w" in kinds(imported, NOT_UNDERSTOOD)[0]


def test_two_names_that_become_one_are_told() -> None:
    imported = mc.author.import_rules('[{"a": "c", "b": "c", "b": "d", "e": "c"}, {}]')
    assert len(kinds(imported, OVERLAPS)) == 1
    assert len(kinds(imported, NO_WAY_BACK)) == 1
    assert {d.hf for d in imported.drafted} == {"a", "b"}


# ---- the lint of weight_converters ------------------------------------------------------------------------------------------------------


def test_operations_that_meet_never_run_or_lose_something_are_named() -> None:
    text = """weight_converters = [
    RenameConvertOp("a.{}.w", "x.{}.w"),
    RenameConvertOp("a.{}.w_more", "y.{}.w"),
    RenameConvertOp("b.qkv.w", "z"),
    RenameConvertOp("c.{}.w", "all.w"),
    RenameConvertOp("d.w", "d.{}.w"),
    RenameConvertOp("e.w", "x.{}.w"),
    RenameConvertOp("f.one", "f"),
    RenameConvertOp("g.one", "f"),
    RenameConvertOp(f"h.{1}", "h"),
    build("i"),
    *[RenameConvertOp("j", "j") for _ in range(3)],
]"""
    imported = mc.author.import_rules(text)
    assert any("line 4" in t and "qkv" in t for t in kinds(imported, NEVER_MATCHES))
    assert any("line 5" in t and "overwrites" in t for t in kinds(imported, NO_WAY_BACK))
    assert any("line 6" in t for t in kinds(imported, NEVER_MATCHES))
    assert any("line 8" in t and "stands in line 9 too" in t for t in kinds(imported, NO_WAY_BACK))
    assert any("line 9" in t and "makes the same names as" in t for t in kinds(imported, NO_WAY_BACK))
    assert [t.split(",")[0] for t in kinds(imported, NOT_UNDERSTOOD)] == ["line 10", "line 11", "line 12"]
    assert "an f-string" in kinds(imported, NOT_UNDERSTOOD)[0]
    assert "a comprehension" in kinds(imported, NOT_UNDERSTOOD)[2]
    taken = mc.author.import_rules('[RenameConvertOp("a.{}.w", "x.{}"), RenameConvertOp("{}.{}.{}", "y.{}.{}.{}")]')
    assert ["a.0.w goes to the operation" in t for t in kinds(taken, OVERLAPS)] == [True]  # theirs takes the longer pattern


def test_names_show_what_a_list_passes_over_and_what_it_takes_too_much() -> None:
    names = ["a.0.w", "a.0.w_scale_inv", "b.0.w"]
    imported = mc.author.import_rules('[RenameConvertOp("a.{}.w", "x.{}.w"), RenameConvertOp("c", "d")]', names=names)
    assert any("also accepts a.0.w_scale_inv" in t for t in kinds(imported, NOT_ANCHORED))
    assert len(kinds(imported, NEVER_MATCHES)) == 1
    assert imported.unmatched == ("a.0.w_scale_inv", "b.0.w")
    assert "b.0.w" in repr(imported)


def test_names_that_stand_for_texts_are_read() -> None:
    text = 'HF = "model.layers.{}."\nMF = "decoder.layers.{}."\nMORE = [RenameConvertOp(HF + "a", MF + "b")]\n'
    text += 'class M:\n    weight_converters = MORE + [RenameConvertOp(hf_names=HF + "c", mf_names=MF + "d")]\n'
    assert [d.hf for d in mc.author.import_rules(text).drafted] == ["model.layers.{layer}.a", "model.layers.{layer}.c"]


def test_the_rules_of_a_config_read_its_sizes() -> None:
    text = '[QKVConvertOp(["q", "k", "v"], "qkv"), QKVBiasConvertOp(["q.bias", "k.bias", "v.bias"], "qkv.bias")]'.replace('"qkv', '"all')
    imported = mc.author.import_rules(text, config=CONFIG)
    assert imported.sizes["groups"] == "num_key_value_heads"
    assert any("6 heads, 2 groups" in t for t in kinds(imported, NO_WAY_BACK))
    assert mc.author.import_rules(text).clean
    assert mc.author.import_rules(text).sizes["groups"].endswith("| ?")


# ---- the command ------------------------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_drafts_and_writes_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("qwen2", tmp_path / "toy")
    mc.author.export("qwen2", tmp_path / "c.py", to="weight_converters", config=tmp_path / "toy")
    assert run(["import", str(tmp_path / "c.py"), "--out", str(tmp_path / "again.py"), "--config", str(tmp_path / "toy")]) == 0
    shown = capsys.readouterr().out
    assert "Nothing to object to" in shown
    assert "self_attn.q_proj.weight" in shown
    assert "written: " in shown
    text = (tmp_path / "again.py").read_text()
    assert 'key="again"' in text
    assert "# line " in text
    assert "RenameConvertOp" in text
    assert run(["convert", "--model", str(tmp_path / "again.py"), str(tmp_path / "toy"), str(tmp_path / "o.ckpt"), "--quiet"]) == 0
    assert mc.diff(tmp_path / "o.ckpt", mc.map(mc.load(tmp_path / "toy"), "qwen2"), values=True).equal
    assert run(["import", str(tmp_path / "c.py"), "--out", str(tmp_path / "again.py")]) == 2
    (tmp_path / "m.py").write_text("weight_mapping = [('model.', 'm.'), ('x', 'y')]")
    assert run(["import", str(tmp_path / "m.py")]) == 2
    capsys.readouterr()
    assert run(["import", str(tmp_path / "m.py"), "--names", str(tmp_path / "toy"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["line"] == 1


def test_a_text_without_rules_or_with_several_lists_is_refused() -> None:
    for text in ("x = 1\n", "def f(): pass\n", "[1, 2]", "{}", '[["a", 1]]'):
        with pytest.raises(MappingError, match="MFC315"):
            mc.author.import_rules(text + "\n")
    two = "class A:\n    weight_mapping = [('a', 'b')]\nclass B:\n    weight_mapping = [('a', 'b')]\n"
    with pytest.raises(MappingError, match="line 2 in A; line 4 in B"):
        mc.author.import_rules(two, names=["a"])
    with pytest.raises(UsageError, match="no_such_model"):
        mc.author.import_rules("no_such_model", form="transformers")
    with pytest.raises(UsageError, match="MFC501"):
        mc.author.import_rules("x\n", form="nothing")
    with pytest.raises(UsageError, match="MFC501"):
        mc.author.import_rules(5)  # type: ignore[arg-type]


def test_the_example_on_the_page_runs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    [example] = re.findall(r"<!-- example: import -->\n```python\n(.*?)```", page, flags=re.S)
    exec(compile(example, "families.md", "exec"), {})
