"""LoRA adapters of MindFormers (four styles of names, see ``STYLES``) and under PEFT's names (`base_model.model.….lora_A.weight`).

Each rule is derived from a rule of the family: `wq` stands for `q_proj` in an adapter as in a weight. An adapter is a pair: A, rank x in,
and B, out x rank; the weight gets B A added. So a rule that moves rows of the weight moves rows of B; one that moves columns moves columns
of A. Where layers of Hugging Face are joined by rows, there are two exact forms:

    equal A     their B are joined, A is the same for all of them, the rank stays
    stacked     each has an A of its own: these lie below each other, every B has columns of its own, zeros elsewhere; the rank is the sum

Anything else (a layer of Hugging Face that is several in MindFormers, a transpose) has no adapter on the other side; the plan says why.
Source: PEFT's names and shapes; MindPet's names, whose shapes are the same; of MindFormers 2.1.0
`parallel_core/training_graph/tensor_parallel/lora_layers.py` (static graph) and `pynative/pet/lora_layer.py` (dynamic graph).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.core.checkpoint import HF, TensorSpec
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.core.layout import axis_names, describe_tensor, parse_layout
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Family, Repeated, Rule, Tied, patterns

WEIGHT = ".weight"
PEFT = "base_model.model."  # what PEFT puts before the names of the model it wraps

# how MindFormers names the two halves: MindPet's layer, an older one of the toolkit, mcore networks of the static and the dynamic graph
STYLES = {
    "mindpet": (".mindpet_delta_lora_a", ".mindpet_delta_lora_b"),
    "tk": (".tk_delta_lora_a", ".tk_delta_lora_b"),
    "mcore": (".lora_A.weight", ".lora_B.weight"),
    "lora": (".lora_a", ".lora_b"),
}
MCORE = "self_attention.linear_"  # in the names of layers that only mcore networks have

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
        module, is_embedding = match["module"], match["embedding"] is not None
        style = "peft" if module.startswith(PEFT) or is_embedding else "mcore"
        return Half(module.removeprefix(PEFT), half.lower(), style, is_embedding)
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


@dataclass(frozen=True, slots=True)
class Stacking:
    """Adapters that are stacked on the MindFormers side. It has one rank for all layers, so the others get zeros until they have it too.

    The scale is alpha / rank on both sides, so alpha is ``factor`` times as large there.

    Attributes:
        part: the rank of every adapter on the Hugging Face side.
        whole: the rank of every adapter on the MindFormers side, a multiple of it.
        hf_names: the tensors of the Hugging Face side: of joined layers, not all need an adapter.
    """

    part: int
    whole: int
    hf_names: frozenset[str]

    @property
    def factor(self) -> int:
        return self.whole // self.part

    def sentence(self, alpha: float | None) -> str:
        """What a reader must know: rank and alpha of the run.

        Args:
            alpha: on the Hugging Face side; None where nobody said it.
        """
        said = (
            f"lora_alpha must be {self.factor} times as large" if alpha is None else f"lora_alpha {alpha:g} became {alpha * self.factor:g}"
        )
        how = f"rank {self.part} became {self.whole}, {said}: the run must say so" if self.factor > 1 else f"rank {self.part} stays"
        return f"adapters of layers that are one in MindFormers lie stacked, with zeros between them, and add the same; {how}"


def default_style(family: Family) -> str:
    """How MindFormers names adapters of a family where nothing else is said: its networks of today have them so."""
    names = [text.text for rule in family.rules for text in patterns(getattr(rule, "mf", ()))]
    return family.adapters or ("mcore" if any(MCORE in name for name in names) else "mindpet")


def joined_layers(family: Family) -> Iterator[tuple[str, ...]]:
    """The layers of Hugging Face, by the name patterns of their weights, that have one adapter together in MindFormers."""
    for rule in family.rules:
        if isinstance(rule, Rule) and not isinstance(rule.hf, str) and not isinstance(_halves(rule), str):
            yield rule.hf


def with_adapters(family: Family, names: Iterable[str], to: str, style: str | None = None, stacking: Stacking | None = None) -> Family:
    """The family with rules for adapters; unchanged where there are none.

    If a checkpoint holds adapters only, the family's own tensors do not count as missing.

    Args:
        names: the tensors that need a rule.
        style: on the way to MindFormers: how it names the halves, one of ``STYLES``. Left out: see ``default_style``.
        stacking: of what is stacked in MindFormers; None where layers that are joined have equal A.
    """
    names = list(names)
    halves = {name: half for name in names if (half := half_of(name)) is not None}
    if not halves:
        return family
    styles = sorted({half.style for half in halves.values() if half.style in STYLES}) if to == HF else [style or default_style(family)]
    derived = tuple(a for rule in family.rules for a in _adapters_of(rule, styles, stacking))
    alone = all(name in halves or is_run_state(name) for name in names)
    rules = tuple(_not_missed(rule) for rule in family.rules if not isinstance(rule, Tied)) if alone else family.rules
    return family.with_rules((*rules, *derived))


def _not_missed(rule: AnyRule) -> AnyRule:
    return replace(rule, optional=ANYWHERE) if isinstance(rule, Rule | Repeated) else rule


def _adapters_of(rule: AnyRule, styles: Sequence[str], stacking: Stacking | None) -> Iterator[AnyRule]:
    axes = _halves(rule)
    if isinstance(axes, str) or not isinstance(rule, Rule | Tied):
        return
    mf = str(rule.mf).removesuffix(WEIGHT)
    for style in styles:
        a, b = (mf + ending for ending in STYLES[style])
        yield from _stacked_rules(rule, axes, a, b, stacking) if stacking is not None else _plain_rules(rule, axes, a, b)


def _plain_rules(rule: Rule | Tied, axes: _Axes, a: str, b: str) -> Iterator[AnyRule]:
    first, second = (tuple(peft_name(name.removesuffix(WEIGHT), half) for name in _hf_names(rule)) for half in "ab")
    sizes = rule.sizes if isinstance(rule, Rule) else {}
    columns = f"rank {axes.hf_columns}" + ("" if axes.hf_columns == axes.mf_columns else f" -> rank {axes.mf_columns}")
    if len(first) == 1:
        yield Rule(first[0], a, columns, sizes, optional=ANYWHERE)
    else:
        yield Repeated(first, a, columns, optional=ANYWHERE)
    left, right = ", ".join(f"{row} rank" for row in axes.hf_rows), f"{axes.mf_rows} rank"
    yield Rule(second if len(second) > 1 else second[0], b, left if left == right else f"{left} -> {right}", sizes, optional=ANYWHERE)


def _stacked_rules(rule: Rule | Tied, axes: _Axes, a: str, b: str, stacking: Stacking) -> Iterator[AnyRule]:
    """As ``_plain_rules``; each layer has a rank of its own, and those without an adapter have none."""
    modules, known = [name.removesuffix(WEIGHT) for name in _hf_names(rule)], {fold(name)[0] for name in stacking.hf_names}
    there = [n for n, module in enumerate(modules) if parse_pattern(peft_name(module, "a")).template in known]
    if stacking.part * len(there) not in range(1, stacking.whole + 1):
        return
    ranks = [f"rank_{n}" for n in there]
    spare = stacking.whole - stacking.part * len(there)
    whole = f"({' + '.join(ranks)}{' + 0 spare' if spare else ''})"
    sizes = {**(rule.sizes if isinstance(rule, Rule) else {}), **dict.fromkeys(ranks, stacking.part), **({"spare": spare} if spare else {})}
    columns = ", ".join(f"{rank} {axes.hf_columns}" for rank in ranks)
    rows = ", ".join(f"{axes.hf_rows[n]} {rank}" for n, rank in zip(there, ranks, strict=True))
    first, second = (tuple(peft_name(modules[n], half) for n in there) for half in "ab")
    yield Rule(first, a, f"{columns} -> {whole} {axes.mf_columns}", sizes, optional=ANYWHERE)
    yield Rule(second, b, f"{rows} -> {axes.mf_rows} {whole}{' | 0' if len(modules) > 1 else ''}", sizes, optional=ANYWHERE)


@dataclass(frozen=True, slots=True)
class _Axes:
    """The axes of a weight: its rows on both sides, of each layer of Hugging Face; and its columns, which all of them share."""

    hf_rows: tuple[str, ...]
    mf_rows: str
    hf_columns: str
    mf_columns: str


def _halves(rule: AnyRule) -> _Axes | str:
    """The axes of the halves: B has the rows of the weight, A its columns; else why this rule carries no adapter."""
    if isinstance(rule, Repeated):
        return "its weight has copies in other layers, which are one tensor on the MindFormers side"
    if not isinstance(rule, Rule | Tied):
        return "no linear layer"
    hf_names = _hf_names(rule)
    if not isinstance(rule.mf, str):
        return f"{_short(hf_names)} is several layers on the MindFormers side, each with an A of its own"
    if not all(name.endswith(WEIGHT) for name in (*hf_names, rule.mf)):
        return "no linear layer"
    if _loops(hf_names) != _loops((rule.mf,)):
        return f"{_short(hf_names)} is not one layer on both sides"
    if rule.layout is None:
        return _Axes(("out",), "out", "in", "in") if len(hf_names) == 1 else f"{_short(hf_names)} is not one layer on both sides"
    layout = parse_layout(rule.layout)
    tensors = (*layout.left, *layout.right)
    if any(len(tensor) != 2 for tensor in tensors):
        return "no linear layer"
    columns = [[describe_tensor(tensor[1:]) for tensor in side] for side in (layout.left, layout.right)]
    if len(hf_names) > 1 and len({text for side in columns for text in side}) > 1:
        return f"the columns of {_short(hf_names)} are not the same in all of them ({rule.layout})"
    if len(hf_names) == 1 and any(axis_names(t[:1]) != axis_names(layout.left[0][:1]) for t in layout.right):
        return f"the numbers of {_short(hf_names)} move between rows and columns ({rule.layout})"
    rows = tuple(describe_tensor(tensor[:1]) for tensor in layout.left)
    return _Axes(rows, describe_tensor(layout.right[0][:1]), columns[0][0], columns[1][0])


def _hf_names(rule: Rule | Tied) -> tuple[str, ...]:
    return (rule.hf,) if isinstance(rule.hf, str) else rule.hf


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
        if isinstance(rule, Rule | Tied | Repeated):
            for text in (*patterns(rule.hf), *(patterns(rule.mf) if half.style != "peft" else ())):
                pattern = parse_pattern(text.text)
                if pattern.template == template and pattern.match(numbers) is not None:
                    halves = "that of an embedding" if half.embedding else _halves(rule)
                    reason = halves if isinstance(halves, str) else f"named as no adapter of its side ({PEFT}….lora_A{WEIGHT} of PEFT)"
                    return f"an adapter, but {reason}", "an adapter of a layer that is one on both sides", HINT
    return f"an adapter of {half.module}, which no rule knows", "an adapter of a known layer", HINT
