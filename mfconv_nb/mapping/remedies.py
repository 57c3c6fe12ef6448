"""Find what helps where names do not fit a family, and say it as the next step. Pure; looks at names and shapes only.

Known causes: a wrapper of a trainer before every name, a few names beside a whole model, tensors that a trainer emptied, a head without
a place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

from mfconv_nb.core.checkpoint import MF, TensorSpec
from mfconv_nb.core.dtypes import CASTABLE
from mfconv_nb.core.errors import as_word, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import text_part
from mfconv_nb.mapping.plan import MappingPlan, Problem

# who puts a text before names, or into them
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel or DDP",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "pretrained_model.": "TRL",
    "language_model.": "a model with a part for images or sound",
}
WRAPPED_ANYWHERE = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
WRAPPED_IN_FRONT = re.compile(r"module\.|base_model\.model\.")
HEADS = re.compile(r"(?:.*\.)?(?:score|classifier|classification_head|v_head|value_head|reward_head|regression_head|qa_outputs)(?:\.|$)")
MOST_TEMPLATES, LONGEST = 150, 300  # name patterns that are looked at, and characters of one: strangers have any number
HOW_TO_UNWRAP = "--unwrap (unwrap=True in Python) takes it off."
MOST_PATTERNS = 6  # that a hint can list

HINT_UNMERGED = (
    "A model that PEFT saved with its adapters beside the weights (base_layer). Merge them with PEFT, then convert the result: "
    "model.merge_and_unload().save_pretrained(DIR) in Python."
)
HINT_ZERO = (
    "ZeRO-3 left these tensors empty: their numbers are in the folder of the training. Gather them with DeepSpeed's own "
    "zero_to_fp32.py, which lies in that folder, or save again with stage3_gather_16bit_weights_on_model_save."
)
HINT_FLAT = "FSDP keeps several weights in one flat parameter. Save a full state dict in the training (StateDictType.FULL_STATE_DICT)."
HINT_FAMILY = "Is it another family? `mfconv families` lists those that are known; --model KEY (family= in Python) chooses one."


@dataclass(frozen=True, slots=True)
class Remedy:
    """What helps, in words; if leaving tensors out is enough, the patterns of their names."""

    hint: str
    leave_out: tuple[str, ...] = ()


def remedy_of(plan: MappingPlan, specs: Sequence[TensorSpec], source: str | None, config: Mapping[str, Any] | None = None) -> Remedy | None:
    """What caused the problems of a plan, where it is known and something helps.

    Args:
        specs: the tensors of the plan.
        source, config: the path of the checkpoint and its config, where it has them.
    """
    names = [s.name for s in specs]
    unmatched = [p.name for p in plan.problems if p.kind == "unmatched"]
    if any(".base_layer." in name for name in unmatched):
        return Remedy(HINT_UNMERGED)
    if any(name.rpartition(".")[2].lstrip("_").startswith("flat_param") for name in unmatched):
        return Remedy(HINT_FLAT)
    empty = {s.name for s in specs if s.shape == (0,)}
    if any(p.kind == "shape" and p.name in empty for p in plan.problems):
        return Remedy(HINT_ZERO)
    wrapped = wrapped_names(Counter(fold(n)[0] for n in names), plan.family.templates(plan.to))
    if wrapped is not None:
        return Remedy(wrapped.hint(source, plan.to, config))
    if unwrap := hint_to_unwrap(names):
        return Remedy(unwrap)
    return _few_left_over(plan, specs, unmatched)


# ---- wrappers ----------------------------------------------------------------------------------------------------------------


def without_wrappers(name: str) -> str:
    """A name without what trainers put into it: what begins with an underscore wherever it stands, the rest in front only."""
    return split_wrappers(name)[1]


def split_wrappers(name: str) -> tuple[tuple[str, ...], str]:
    """What trainers put into a name, and the name without it."""
    texts, inner = WRAPPED_ANYWHERE.findall(name), WRAPPED_ANYWHERE.sub("", name)
    while found := WRAPPED_IN_FRONT.match(inner):
        texts.append(found[0])
        inner = inner[found.end() :]
    return tuple(texts), inner


def hint_to_unwrap(names: Collection[str]) -> str | None:
    """The hint for names that a wrapper changed, whatever model they are of; None where most were not changed, or two would become one."""
    found = [name for name in names if "lora_" not in name and without_wrappers(name) != name]  # PEFT names adapters so
    if 2 * len(found) <= len(names) or len(set(map(without_wrappers, names))) < len(names):
        return None
    texts = [f"{quote(text)} ({WRAPPERS[text]} puts it there)" for text in dict.fromkeys(split_wrappers(found[0])[0])]
    return f"The names have {' and '.join(texts)} too much. {HOW_TO_UNWRAP}"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Names that fit without some texts, or with one more in front.

    Attributes:
        texts: what is too much, and whether it stands in front only.
        lacks: what is missing in front of the names.
        fitting, total: how many names fit then, of how many.
    """

    texts: tuple[tuple[str, bool], ...]
    lacks: str
    fitting: int
    total: int

    def rename(self, name: str) -> str:
        """The name as it fits."""
        for text, in_front in self.texts:
            name = _remove_text(name, text, in_front)
        return self.lacks + name

    def hint(self, source: str | None, to: str, config: Mapping[str, Any] | None) -> str:
        """What is too much, where it may be from, and a line of Python that takes it off.

        Args:
            source: the path of the checkpoint, where it has one.
            to: the side that it is mapped to.
            config: of the checkpoint; of a model of several parts only the language model's part is taken.
        """
        if self.lacks:
            said, code = f"The names lack {quote(self.lacks)} in front", f"{self.lacks!r} + n"
        else:
            texts = (quote(text) + (f" ({WRAPPERS[text]} puts it there)" if text in WRAPPERS else "") for text, _ in self.texts)
            said = f"The names have {' and '.join(texts)} too much"
            known = all(without_wrappers(f"{text}w") == "w" for text, _ in self.texts)
            said += f". {HOW_TO_UNWRAP.removesuffix('.')}" if known else ""
            code = "n" + "".join(f".removeprefix({text!r})" if front else f".replace({text!r}, '')" for text, front in self.texts)
        fit = "They fit" if self.fitting == self.total else f"{self.fitting:,} of {how_many(self.total, 'name')} fit"
        place, target = "..." if source is None else repr(source), "OUT.ckpt" if to == MF else "OUT"
        part = text_part(config) if config is not None else None
        loaded, before, after = f"mc.load({place})", "", ""
        if part is not None:
            loaded, before, after = "c", f"c = mc.load({place}); ", f", config=c.config[{part!r}]"
        return f"{said}. {fit} as in Python: {before}mc.save(mc.map({loaded}.renamed(lambda n: {code}){after}), {target!r})"


def wrapped_names(counts: Mapping[str, int], known: Iterable[str]) -> Wrapped | None:
    """What has to be taken off the names, or put before them, so that they fit, all or nearly; None where nothing does.

    Args:
        counts: the templates of all names of the checkpoint, with how many names have each.
        known: the templates of the rules.
    """
    if len(counts) > MOST_TEMPLATES:
        return None
    known = frozenset(known)
    left = {t for t in counts if t not in known and len(t) <= LONGEST}
    if len(left) < 2:
        return None
    texts: list[tuple[str, bool]] = []
    while left and len(texts) < 3 and (found := _best_text(left, known)) is not None:
        texts.append(found)
        left = {_remove_text(t, *found) for t in left} - known
    lacks = "" if texts else _best_beginning(left, known)
    total = sum(counts.values())
    wrapped = Wrapped(tuple(texts), lacks, 0, total)
    fitting = sum(n for t, n in counts.items() if (t in known and not lacks) or wrapped.rename(t) in known)
    changed = fitting - sum(n for t, n in counts.items() if t in known)
    is_one_to_one = len(set(map(wrapped.rename, counts))) == len(counts)
    if (not texts and not lacks) or fitting < 0.9 * total or 2 * changed < total or not is_one_to_one:
        return None
    return Wrapped(wrapped.texts, lacks, fitting, total)


def _remove_text(name: str, text: str, in_front: bool) -> str:
    return name.removeprefix(text) if in_front else name.replace(text, "")


def _best_text(left: set[str], known: frozenset[str]) -> tuple[str, bool] | None:
    """The text without which most of the templates are known, and whether it need be taken off in front only."""
    seen = Counter(text for template in left for text in {_find_insertion(template, k) for k in known} if text)
    ways = [(text, in_front) for text, _ in seen.most_common(8) for in_front in (True, False)]
    return max(ways, key=lambda way: sum(_remove_text(t, *way) in known for t in left), default=None)


def _best_beginning(left: set[str], known: frozenset[str]) -> str:
    """The text that most of the templates lack in front, up to a dot; empty where there is none."""
    seen = Counter(k[: -len(t)] for t in left for k in known if k.endswith(f".{t}"))
    return next((text for text, _ in seen.most_common(1)), "")


def _find_insertion(template: str, known: str) -> str:
    """What a template has more than a known one at one place: whole words of it, with their dots; else empty."""
    more, less = template.split("."), known.split(".")
    extra = len(more) - len(less)
    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(more, less, strict=False)))
    if extra <= 0 or more[at + extra :] != less[at:] or any("#" in word for word in more[at : at + extra]):
        return ""
    return "".join(f"{word}." for word in more[at : at + extra])


# ---- a few too many -----------------------------------------------------------------------------------------------------------


def _few_left_over(plan: MappingPlan, specs: Sequence[TensorSpec], unmatched: Sequence[str]) -> Remedy | None:
    """A whole model with a few tensors beside it, which can be left out; or one whose only head has no place."""
    heads = [n for n in unmatched if HEADS.match(n)]
    others = [p for p in plan.problems if p.kind != "unmatched"]
    if heads and others and len(heads) == len(unmatched) and all(p.kind == "missing" and _is_head(p) for p in others):
        mine, theirs = quote(heads[0]), quote(others[0].name)
        return Remedy(
            f"A reward or classification model: its head {mine} has no place in MindFormers' causal model, which wants {theirs}. "
            f"There is no way for such a model."
        )
    if others or not unmatched or 3 * len(unmatched) > len(specs) or _computes_more(unmatched, specs):
        return None
    patterns = patterns_of(unmatched, [s.name for s in specs])
    if patterns is None:
        return None
    what = f"All but {how_many(len(unmatched), 'name')} fit. If the model works without them, leave them out"
    if heads:
        what = f"{quote(heads[0])} is of a reward or classification model, and has no place here. The rest is whole. Leave it out"
    python = repr(patterns[0]) if len(patterns) == 1 else repr(list(patterns))
    return Remedy(f"{what}: {leave_out_flags(patterns)} (leave_out={python} in Python).", patterns)


def leave_out_flags(patterns: Iterable[str]) -> str:
    """``--leave_out 'v_head.*'``, as it is typed."""
    return " ".join(f"--leave_out {as_word(pattern)}" for pattern in patterns)


def _is_head(problem: Problem) -> bool:
    return bool(re.fullmatch(r"(?:.*\.)?(?:lm_head|embed_out|output|output_layer)\.(?:weight|bias)", problem.name))


def _computes_more(unmatched: Sequence[str], specs: Sequence[TensorSpec]) -> bool:
    """Whether some of the names say that this is another model, or that its weights are codes: then nothing may be left out.

    That is so of weights and biases that every layer has; of what stands beside a weight that is no floating number of 16 bits or more;
    of adapters; and of what is called the scale or another part of a weight.
    """
    by_name, strange = {s.name: s for s in specs}, set(unmatched)
    layers = Counter(fold(n)[0] for n in unmatched)
    most = max(Counter(fold(n)[0] for n in by_name).values())
    for name in unmatched:
        module, _, last = name.rpartition(".")
        weight = by_name.get(f"{module}.weight")
        if ".lora_" in name or "lora_" in last or "weight_" in last or last in ("qweight", "scales", "qzeros", "g_idx"):
            return True
        if weight is not None and weight.name not in strange and (last == "bias" or weight.dtype not in CASTABLE):
            return True
        if last in ("weight", "bias") and fold(name)[1] and 2 * layers[fold(name)[0]] >= most:
            return True
    return False


def patterns_of(unmatched: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """A few patterns with ``*`` that match these names and no others; None where that takes too many."""
    wanted = set(unmatched)
    kept = [n for n in names if n not in wanted]
    patterns: dict[str, None] = {}
    for name in unmatched:
        if not any(fnmatchcase(name, p) for p in patterns):
            exact = _literal(name)
            beginning = f"{_literal(name.partition('.')[0])}.*"
            candidates = [beginning] if sum(fnmatchcase(n, beginning) for n in wanted) > 1 else []
            candidates += [_with_stars(name), exact]
            patterns[next(p for p in candidates if p == exact or not any(fnmatchcase(n, p) for n in kept))] = None
        if len(patterns) > MOST_PATTERNS:
            return None
    return tuple(patterns)


def _with_stars(name: str) -> str:
    return re.sub(r"(?<=\.)[0-9]+(?=\.)", "*", _literal(name))


def _literal(name: str) -> str:
    """A pattern for this name alone: the signs that mean something in patterns stand for themselves."""
    return re.sub(r"([*?\[])", r"[\1]", name)
