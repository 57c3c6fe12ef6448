"""LoRA adapters of MindFormers (`mindpet_delta_lora_a`, `tk_delta_lora_a`, `lora_a`) and under PEFT's names (`lora_A.weight`).

Each rule is derived from a rule of the family: `wq` stands for `q_proj` in an adapter as in a weight. An adapter is a pair: A, rank x in,
and B, out x rank; the weight gets B A added. So a rule that moves rows of the weight moves rows of B; one that moves columns moves columns
of A; one that joins layers of Hugging Face by rows joins their B, and their A must be equal. Anything else (a layer of Hugging Face that is
several in MindFormers, a transpose) has no adapter of the same rank on the other side; the plan then says why.
Source: PEFT's names and shapes; MindPet's names, whose shapes are the same; `parallel_core` and `pynative` of MindFormers 2.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.core.checkpoint import HF, TensorSpec
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.core.layout import TensorLayout, axis_names, describe_tensor, parse_layout
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Family, Repeated, Rule, Tied, patterns

WEIGHT = ".weight"
PEFT = "base_model.model."  # what PEFT puts before the names of the model it wraps

# how MindFormers names the two halves: MindPet's layer, an older one of the toolkit, the dynamic graph of 2.x
STYLES = {"mindpet": ".mindpet_delta_lora_{}", "tk": ".tk_delta_lora_{}", "lora": ".lora_{}"}
DEFAULT_STYLE = "mindpet"

_ADAPTER = re.compile(
    r"(?P<module>.+?)(?:(?:\.(?P<kind>tk|mindpet)_delta_lora_|\.lora_)(?P<mf>[ab])"
    r"|\.lora_(?P<hf>[AB])(?:\.default)?\.weight|\.lora_embedding_(?P<embedding>[AB])(?:\.default)?)"
)

# of the dynamic graph, one tensor for all experts of a layer: experts x in x rank, experts x rank x out (`pet/moe_lora_layer.py`)
_OF_EXPERTS = re.compile(r"(?P<weight>.+\.experts\.weight[12])_lora_[ab]")

HINT_EXPERTS = (
    "Convert without them: --leave_out '*.experts.weight*_lora_*' (leave_out= in Python). "
    "The experts are then as they were before the training."
)
HINT_ALPHA = (
    "It is model.model_config.pet_config.lora_alpha in the YAML of the run: give that with --config run.yaml (config= in Python), "
    "or the number with --lora_alpha (lora_alpha=)."
)
HINT_HALVES = "Fetch the adapters again, or save them again with what trained them."
HINT = (
    "Merge them into the weights first, on this side (mfconv merge; mc.merge_adapters), then convert. "
    "Or convert without them: --leave_out '*lora_*' (leave_out= in Python)."
)


@dataclass(frozen=True, slots=True)
class Half:
    """Which half of which adapter a tensor is: of the layer ``module``, "a" or "b", named in one of ``STYLES`` or as PEFT does.

    In an ``embedding``, A is rank x words and B is out x rank: the weight gets the transpose of their product added.
    """

    module: str
    half: str
    style: str
    embedding: bool = False

    @property
    def weight(self) -> str:
        """The name of the weight it belongs to."""
        return self.module + WEIGHT


def half_of(name: str) -> Half | None:
    """Which half of which adapter a tensor is, by its name; None for any other tensor."""
    match = _ADAPTER.fullmatch(name) if "lora_" in name else None
    if match is None or is_run_state(name):
        return None
    if half := match["hf"] or match["embedding"]:
        return Half(match["module"].removeprefix(PEFT), half.lower(), "peft", match["embedding"] is not None)
    return Half(match["module"], match["mf"], match["kind"] or "lora")


def is_adapter(name: str) -> bool:
    """Whether a tensor is half of an adapter."""
    return half_of(name) is not None


def peft_name(module: str, half: str) -> str:
    """``base_model.model.MODULE.lora_A.weight``."""
    return f"{PEFT}{module}.lora_{half.upper()}{WEIGHT}"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The two halves of one adapter."""

    module: str
    a: TensorSpec
    b: TensorSpec
    embedding: bool = False

    @property
    def weight(self) -> str:
        """The name of the weight it belongs to."""
        return self.module + WEIGHT

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of what it adds: out x in."""
        return self.b.shape[0], self.a.shape[1]


def adapters_of(specs: Iterable[TensorSpec]) -> tuple[Adapter, ...]:
    """Every adapter, whole, in the order of the tensors.

    Raises:
        MappingError: MFC319 for a half without the other, two of one name, or shapes that do not belong together.
    """
    halves: dict[str, dict[str, TensorSpec]] = {}
    embeddings = set()
    for spec in specs:
        half = half_of(spec.name)
        if half is not None:
            known = halves.setdefault(half.module, {})
            embeddings |= {half.module} if half.embedding else set()
            if half.half in known:
                found = f"{quote(known[half.half].name)} and {quote(spec.name)}"
                hint = "Save them apart, one adapter a folder (save_pretrained of PEFT does)."
                raise MappingError("MFC319", quote(half.module), found=found, expected="one adapter for a layer", hint=hint)
            known[half.half] = spec
    return tuple(_whole(module, pair, module in embeddings) for module, pair in halves.items())


def _whole(module: str, pair: dict[str, TensorSpec], embedding: bool) -> Adapter:
    if len(pair) < 2:
        (half, spec), *_ = pair.items()
        other = "b" if half == "a" else "a"
        found, expected = f"no half {other} of this adapter", "both halves in the checkpoint"
        raise MappingError("MFC319", quote(spec.name), found=found, expected=expected, hint=HINT_HALVES)
    a, b = pair["a"], pair["b"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        found = f"{list(a.shape)} and {list(b.shape)}"
        raise MappingError("MFC319", quote(module), found=found, expected="halves of rank x in and out x rank", hint=HINT_HALVES)
    return Adapter(module, a, b, embedding)


def rank_of(adapters: Sequence[Adapter], lora: Lora | None) -> int:
    """The one rank of all adapters, as their tensors have it.

    Raises:
        MappingError: MFC319 where there are several ranks, or a config says another one.
    """
    if lora is not None:
        lora.check()
    ranks = {adapter.rank: adapter.module for adapter in adapters}
    if len(ranks) != 1:
        found = ", ".join(f"{rank} ({quote(module)})" for rank, module in sorted(ranks.items())[:3]) or "no adapters"
        hint = "Several ranks are told apart by rank_pattern in adapter_config.json: put that file beside the adapters."
        raise MappingError("MFC319", "rank", found=found, expected="one rank", hint=hint)
    (rank,) = ranks
    if lora is not None and lora.rank is not None and lora.rank != rank:
        hint = "The config belongs to another run: give the one of the run that made these adapters."
        raise MappingError("MFC319", "rank", found=f"{rank} in the tensors", expected=f"{lora.rank}, as the config says", hint=hint)
    return rank


# ---- the rules -----------------------------------------------------------------------------------------------------------


def with_adapters(family: Family, names: Iterable[str], to: str, style: str = DEFAULT_STYLE) -> Family:
    """The family with rules for adapters; unchanged where there are none.

    If a checkpoint holds adapters only, the family's own tensors do not count as missing.

    Args:
        names: the tensors that need a rule.
        style: on the way to MindFormers: how it names the halves, one of ``STYLES``.
    """
    names = list(names)
    halves = {name: half for name in names if (half := half_of(name)) is not None}
    if not halves:
        return family
    styles = sorted({half.style for half in halves.values() if half.style in STYLES}) if to == HF else [style]
    derived = tuple(a for rule in family.rules for a in _adapters_of(rule, styles))
    alone = all(name in halves or is_run_state(name) for name in names)
    rules = tuple(_not_missed(rule) for rule in family.rules if not isinstance(rule, Tied)) if alone else family.rules
    return family.with_rules((*rules, *derived))


def _not_missed(rule: AnyRule) -> AnyRule:
    return replace(rule, optional=ANYWHERE) if isinstance(rule, Rule | Repeated) else rule


def _adapters_of(rule: AnyRule, styles: Sequence[str]) -> Iterator[AnyRule]:
    halves = _halves(rule)
    if isinstance(halves, str) or not isinstance(rule, Rule | Tied):
        return
    rows, columns = halves
    hf_names = (rule.hf,) if isinstance(rule.hf, str) else rule.hf
    hf = [name.removesuffix(WEIGHT) for name in hf_names]
    mf = str(rule.mf).removesuffix(WEIGHT)
    first, second = (tuple(peft_name(name, half) for name in hf) for half in "ab")
    sizes = rule.sizes if isinstance(rule, Rule) else {}
    for style in styles:
        a, b = (mf + STYLES[style].format(half) for half in "ab")
        if len(hf) == 1:
            yield Rule(first[0], a, columns, sizes, optional=ANYWHERE)
        else:
            yield Repeated(first, a, columns, optional=ANYWHERE)
        yield Rule(second if len(hf) > 1 else second[0], b, rows, sizes, optional=ANYWHERE)


def _halves(rule: AnyRule) -> tuple[str, str] | str:
    """The sentences of B (the rows of the weight) and of A (its columns); else why this rule carries no adapter."""
    if not isinstance(rule, Rule | Tied):
        return "no linear layer"
    hf_names = (rule.hf,) if isinstance(rule.hf, str) else rule.hf
    if not isinstance(rule.mf, str):
        return f"{_short(hf_names)} is several layers on the MindFormers side, each with an A of its own"
    if not all(name.endswith(WEIGHT) for name in (*hf_names, rule.mf)):
        return "no linear layer"
    if _loops(hf_names) != _loops((rule.mf,)):
        return f"{_short(hf_names)} is not one layer on both sides"
    if rule.layout is None:
        return ("out rank", "rank in") if len(hf_names) == 1 else f"{_short(hf_names)} is not one layer on both sides"
    layout = parse_layout(rule.layout)
    tensors = (*layout.left, *layout.right)
    if any(len(tensor) != 2 for tensor in tensors):
        return "no linear layer"
    rows = [[(describe_tensor(tensor[:1])) for tensor in side] for side in (layout.left, layout.right)]
    columns = [[(describe_tensor(tensor[1:])) for tensor in side] for side in (layout.left, layout.right)]
    if len(hf_names) > 1 and len({text for side in columns for text in side}) > 1:
        return f"the columns of {_short(hf_names)} are not the same in all of them ({rule.layout})"
    if len(hf_names) == 1 and any(_axes(t[:1]) != _axes(layout.left[0][:1]) for t in layout.right):
        return f"the numbers of {_short(hf_names)} move between rows and columns ({rule.layout})"
    left, right = (", ".join(f"{row} rank" for row in side) for side in rows)
    a = f"rank {columns[0][0]}" if columns[0][0] == columns[1][0] else f"rank {columns[0][0]} -> rank {columns[1][0]}"
    return (left if left == right else f"{left} -> {right}"), a


def _axes(tensor: TensorLayout) -> frozenset[str]:
    return axis_names(tensor)


def _loops(names: Iterable[str]) -> set[frozenset[str]]:
    return {frozenset(parse_pattern(name).placeholders) for name in names}


def _short(names: Sequence[str]) -> str:
    return ", ".join(name.rpartition("layers.{layer}.")[2] for name in names)


def why_no_adapter(name: str, family: Family) -> tuple[str, str, str] | None:
    """For an adapter that no rule takes: what was found, what would do, and what to do. None for other names."""
    if experts := _OF_EXPERTS.fullmatch(name):
        return f"an adapter of all experts in {experts['weight']}", "adapters of layers, not of stacked experts", HINT_EXPERTS
    half = half_of(name)
    if half is None:
        return None
    template, numbers = fold(half.weight)
    for rule in family.rules:
        if isinstance(rule, Rule | Tied):
            for text in patterns(rule.hf if half.style == "peft" else rule.mf):
                pattern = parse_pattern(text.text)
                if pattern.template == template and pattern.match(numbers) is not None:
                    halves = "that of an embedding" if half.embedding else _halves(rule)
                    reason = halves if isinstance(halves, str) else "no rule"
                    return f"an adapter, but {reason}", "an adapter of a layer that is one on both sides", HINT
    return f"an adapter of {half.module}, which no rule knows", "an adapter of a known layer", HINT
