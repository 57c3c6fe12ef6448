"""What kind of tensor a name stands for: a weight, or what a MindFormers training run keeps beside the weights.

Names decide. A name that no kind claims is a weight, so no weight is lost among the state of a run; unless its company shows what it is
(``kinds_by_company``): the state of an optimizer that is not in the table stands before names of weights that are there too, as in
`lamb_m.w` beside `w`, or lies in the files of the optimizer.

Source: names seen in checkpoints of MindFormers' trainer (`adam_m.`, `adam_v.`, `accu_grads.`, `epoch_num` ...), the parameters of
MindSpore's own optimizers and loss-scale managers (`moment1.`, `beta1_power`, `scale_sense` ...), and what the optimizers and networks of
MindFormers (master, July 2026, and 2.1.0) hold when they are constructed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.errors import UsageError, did_you_mean, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.rules import COUNTING, ONES, Drop

# What stands before the name of a weight. A longer prefix comes before the one that it begins with.
OPTIMIZER_PREFIXES = (
    *("adam_m.", "adam_v.", "muon_m.", "main_param.", "pma_weight_ema.", "pma_weight_sma."),
    *("moment1.", "moment2.", "moments.", "moment.", "accum.", "vhat.", "slow_m."),
    *("exp_avg.", "exp_avg_sq.", "max_exp_avg_sq.", "exp_inf."),
    *("lamb_m.", "lamb_v.", "mean_square.", "mean_grad.", "accum_update.", "momentum_buf."),
    *("exp_avg_sq_row_", "exp_avg_sq_col_", "exp_avg_sq_", "exp_avg_insta_row_", "exp_avg_insta_col_"),  # of Came, without a point
)
GRADIENT_PREFIXES = ("accu_grads.", "grad_accum.")
COUNTERS = frozenset(
    {
        "global_step",
        "epoch_num",
        "step_num",
        "loss_scale",
        "scale_sense",
        "current_iterator_step",
        "last_overflow_iterator_step",
        "current_step",
        "learning_rate",
        "beta1_power",
        "beta2_power",
        "afactor_step",
        "state_step",
        "step_t",
        "momentum",
        "global_batch_size",
        "ckpt_status",
        "optimizer.global_step",
        "optimizer.learning_rate",
        "random_op",
        "scale_window",
        "list_index",
        "scale_window_up_count",
        "scale_window_down_count",
        "_device_local_loss",
    }
)
# What layers hold in training: sums and counts of the experts, the largest logit.
LAYER_STATE_ENDINGS = (
    *(".mlp.router.fi_accu", ".mlp.router.expert_load", ".mlp.expert_load_history", ".mlp.expert_load_history_cnt"),
    *(".mlp.experts.num_tokens_per_expert", ".mlp.tokens_per_expert", ".mlp.router.global_tokens_per_expert", ".mlp.router.ga_steps"),
    ".core_attention.max_logits_val",
    # of the older networks (`modules/transformer/moe.py` and `moev3.py`); 1.0 leaves out some of these
    *(f".router.router.{name}" for name in ("expert_load", "fi_parameter", "pi_cache", "fi_cache")),
    *(f".routed_experts.{name}" for name in ("expert_load", "pi_cache", "fi_cache")),
)
ONES_ENDINGS = (".attn_hc.rms_weight", ".ffn_hc.rms_weight", ".self_attention.q_rms_gamma")
COUNTING_ENDINGS = (".mlp.expert_mapping",)  # where expert e lies
BUFFER_NAMES = frozenset(
    {
        "inv_freq",
        "freqs_cis",
        "freqs_cos",
        "freqs_sin",
        "position_ids",
        "causal_mask",
    }  # the last part of a name
)
CACHE_NAMES = frozenset(  # what networks that generate, or compute a sequence in pieces, fill while they do
    {"key_cache", "value_cache", "key_cache_grad", "value_cache_grad", "key_past", "value_past", "mask_cache", "seq_chunk"}
)

WEIGHTS, OPTIMIZER_STATE, GRADIENT_SUMS, RUN_STATE, BUFFERS = "weights", "optimizer", "gradients", "run state", "buffers"
CATEGORIES = (WEIGHTS, OPTIMIZER_STATE, GRADIENT_SUMS, RUN_STATE, BUFFERS)


@dataclass(frozen=True)
class Kind:
    """A kind of tensor, and how its names look: any one of the four marks is enough.

    Attributes:
        name: as reports print it.
        category: one of ``CATEGORIES``, what a user names with `only`.
        why: why a conversion to Hugging Face leaves it out, without ", no weight"; empty for what has a place there or may have one.
        prefixes, names: what its names begin with; whole names.
        layer_endings: how its names end, inside a layer.
        last_parts: what stands behind the last point of its names.
        numbers: ``ONES`` or ``COUNTING`` for a tensor that can be left out only where it holds these numbers.
    """

    name: str
    category: str
    why: str = ""
    prefixes: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    layer_endings: tuple[str, ...] = ()
    last_parts: frozenset[str] = frozenset()
    numbers: str = ""

    def fits(self, name: str) -> bool:
        """Whether a tensor of this name is of this kind."""
        return (
            name.startswith(self.prefixes)
            or name in self.names
            or (name.endswith(self.layer_endings) and ".layers." in f".{name}")
            or name.rpartition(".")[2] in self.last_parts
        )

    @cached_property  # reports group rows by this very object
    def drop(self) -> Drop | None:
        """The rule that leaves it out of a Hugging Face checkpoint; None for what a rule of the family must place."""
        return Drop(self.name, f"{self.why}, no weight", side="mf", holds=self.numbers) if self.why else None


COUNTER = Kind("run state", RUN_STATE, "a counter of the training run", names=COUNTERS)
CACHE = Kind("cache", BUFFERS, "a cache of attention", last_parts=CACHE_NAMES)
LAYER_STATE = Kind("state of a layer", RUN_STATE, "state of a layer in training", layer_endings=LAYER_STATE_ENDINGS)
SAVED_NUMBER = Kind("number of the run", RUN_STATE, "a number that was saved beside the weights")  # as `append_info` of MindSpore does
OPTIMIZER = Kind("optimizer state", OPTIMIZER_STATE, "optimizer state", prefixes=OPTIMIZER_PREFIXES)
WEIGHT = Kind("weight", WEIGHTS)
KINDS = (  # the first that fits counts
    OPTIMIZER,
    Kind("accumulated gradients", GRADIENT_SUMS, "accumulated gradients", prefixes=GRADIENT_PREFIXES),
    COUNTER,
    LAYER_STATE,
    Kind("constant of a layer", WEIGHTS, f"holds {ONES}", layer_endings=ONES_ENDINGS, numbers=ONES),
    Kind("constant of a layer", WEIGHTS, f"holds {COUNTING}", layer_endings=COUNTING_ENDINGS, numbers=COUNTING),
    CACHE,
    Kind("buffer", BUFFERS, last_parts=BUFFER_NAMES),
)
LONGEST_WORD = 64  # of an optimizer, before the name of a weight
_IN_A_LAYER = re.compile(r"\.\d+\.")
_BEGINNINGS = tuple(prefix for kind in KINDS for prefix in kind.prefixes)
_ENDINGS = tuple(ending for kind in KINDS for ending in (*kind.layer_endings, *kind.last_parts))


def kind_of(name: str) -> Kind:
    """The kind of a tensor, by its name."""
    if not (name.startswith(_BEGINNINGS) or name in COUNTERS or name.endswith(_ENDINGS)):
        return WEIGHT  # nearly all names, five times faster: this runs several times for each of 100,000
    return next((kind for kind in KINDS if kind.fits(name)), WEIGHT)


def is_run_state(name: str) -> bool:
    """Whether a conversion to Hugging Face leaves a tensor out because it belongs to the training run and not to the model."""
    return bool(kind_of(name).why)


def category_of(name: str, told: Mapping[str, Kind] = {}) -> str:
    """One of ``CATEGORIES``. ``told``: from ``kinds_by_company``."""
    return (told.get(name) or kind_of(name)).category


def weight_of(name: str) -> str:
    """The weight that a part of the optimizer's state, or a gradient, belongs to; empty for all other names."""
    return next((name[len(prefix) :] for prefix in (*OPTIMIZER_PREFIXES, *GRADIENT_PREFIXES) if name.startswith(prefix)), "")


def split_state(name: str, weights: Collection[str]) -> tuple[str, str]:
    """What stands before the weight in a name of optimizer state, and that weight; for a name without one, the name and nothing.

    ``weights``: by them alone an optimizer that is not in the table is told.
    """
    words = (name[at + 1 :] for at, c in enumerate(name[:LONGEST_WORD]) if c in "._")
    weight = weight_of(name) or next((word for word in words if word in weights), "")
    return name.removesuffix(weight), weight


def prefixes_before_names(names: Collection[str]) -> frozenset[str]:
    """Prefixes that stand before other names of ``names`` and before nothing else, as those of optimizer state do.

    ``lion.`` where ``w`` and ``lion.w`` are there; not ``encoder.`` where ``encoder.x`` is there and ``x`` is not.
    """
    found = {name[: at + 1] for name in names for at, c in enumerate(name) if c in "._" and name[at + 1 :] in names}
    others = {
        name[: at + 1]
        for name in names
        for at, c in enumerate(name)
        if c in "._" and name[: at + 1] in found and name[at + 1 :] not in names
    }
    return frozenset(found - others)


# ---- what only the other names tell ------------------------------------------------------------------------------------------


def kinds_by_company(names: Collection[str], of_optimizer: Collection[str] = ()) -> Mapping[str, Kind]:
    """Optimizer state that no kind knows by its name, and that the other names of the checkpoint show to be it.

    Of an optimizer is what has one word, ending in a point or a low line, before the name of a weight that is there too, where the word
    stands before nothing else and before tensors of layers, and something else of a training run is there. So is what only files of the
    optimizer hold, but for the weights that state belongs to, and those of a kind that the files of the weights hold for other layers.

    Args:
        of_optimizer: names that only files of the optimizer hold.
    """
    kinds = {name: kind_of(name) for name in names}
    weights = {name for name, kind in kinds.items() if kind is WEIGHT}
    if len(weights) == len(kinds) and not of_optimizer:
        return {}
    of_training = any(kind.category == OPTIMIZER_STATE or kind is COUNTER for kind in kinds.values())
    by_prefix = _behind_new_prefixes(weights) if of_training or of_optimizer else {}
    return dict.fromkeys((*by_prefix, *_unknown_in_files(of_optimizer, kinds, {*by_prefix.values()})), OPTIMIZER)


def _behind_new_prefixes(weights: Collection[str]) -> dict[str, str]:
    """By name the weight that it belongs to: names of one word and a name of ``weights``, where that word stands before nothing else."""
    found: dict[str, dict[str, str]] = {}
    for name in weights:
        first = name[:LONGEST_WORD].partition(".")[0]
        for end in (*(at for at, c in enumerate(first) if c == "_"), len(first)) if "_" in first else (len(first),):
            if name[end + 1 :] in weights:
                found.setdefault(name[: end + 1], {})[name] = name[end + 1 :]
    ordered = sorted(weights) if found else []
    count = {prefix: bisect_left(ordered, prefix[:-1] + chr(ord(prefix[-1]) + 1)) - bisect_left(ordered, prefix) for prefix in found}
    alone = {p: hits for p, hits in found.items() if count[p] == len(hits) and any(_IN_A_LAYER.search(name) for name in hits)}
    return {name: weight for hits in alone.values() for name, weight in hits.items()}


def _unknown_in_files(of_optimizer: Collection[str], kinds: Mapping[str, Kind], have_state: set[str]) -> Iterator[str]:
    """Names that only files of the optimizer hold and that belong to no weight: it has no state, and the other files none of its kind."""
    unknown = [name for name in of_optimizer if kinds.get(name) is WEIGHT]
    if not unknown:
        return
    apart = {fold(name)[0] for name, kind in kinds.items() if kind is WEIGHT and name not in of_optimizer}
    have_state |= {weight_of(name) for name, kind in kinds.items() if kind is not WEIGHT}
    yield from (name for name in unknown if apart and name not in have_state and fold(name)[0] not in apart)


# ---- categories --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """How many tensors of a category there are, and their bytes."""

    tensors: int
    nbytes: int


def amounts_by_category(specs: Iterable[TensorSpec], told: Mapping[str, Kind] = {}) -> Mapping[str, Amount]:
    """Tensors and bytes by category; empty categories are left out. ``told``: from ``kinds_by_company``."""
    counts = dict.fromkeys(CATEGORIES, (0, 0))
    for spec in specs:
        category = category_of(spec.name, told)
        tensors, nbytes = counts[category]
        counts[category] = (tensors + 1, nbytes + spec.nbytes)
    return {category: Amount(*found) for category, found in counts.items() if found[0]}


def parse_categories(only: str | Iterable[str]) -> tuple[str, ...]:
    """The categories that a caller names, as ``"weights,optimizer"`` or one by one.

    Raises:
        UsageError: MFC501 for an unknown one.
    """
    words = tuple(w.strip().replace("_", " ") for w in (only.split(",") if isinstance(only, str) else only))
    for word in words:
        if word not in CATEGORIES:
            expected = ", ".join(CATEGORIES)
            hint = did_you_mean(word, CATEGORIES) or "Leave --only out (only= in Python) to take everything."
            raise UsageError("MFC501", "only", found=quote(word), expected=expected, hint=hint)
    return words
