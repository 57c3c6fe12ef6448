"""What a MindFormers training run holds beside the weights: optimizer state, gradients, counters, buffers of its layers. Told by names.

Source: names seen in checkpoints of MindFormers' trainer (`adam_m.`, `adam_v.`, `accu_grads.`, `epoch_num` ...), the parameters of
MindSpore's own optimizers and loss-scale managers (`moment1.`, `beta1_power`, `scale_sense` ...), and what the optimizers and networks of
MindFormers (master, July 2026, and 2.1.0) hold when they are constructed.
"""

from __future__ import annotations

from collections.abc import Collection

from mfconv_nb.mapping.rules import Drop

# What stands before the name of a weight. A longer one comes before the one that it begins with.
OPTIMIZER = (
    *("adam_m.", "adam_v.", "muon_m.", "main_param.", "pma_weight_ema.", "pma_weight_sma."),
    *("moment1.", "moment2.", "moments.", "moment.", "accum.", "vhat.", "slow_m."),
    *("exp_avg.", "exp_avg_sq.", "max_exp_avg_sq."),
    *("exp_avg_sq_row_", "exp_avg_sq_col_", "exp_avg_sq_", "exp_avg_insta_row_", "exp_avg_insta_col_"),  # of Came, without a point
)
GRADIENTS = ("accu_grads.", "grad_accum.")
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
        "global_batch_size",
        "ckpt_status",
        "optimizer.global_step",
        "optimizer.learning_rate",
        "random_op",
    }
)
# How the names of what layers hold in training end: sums and counts of the experts, the largest logit.
IN_LAYERS = (
    *(".mlp.router.fi_accu", ".mlp.router.expert_load", ".mlp.expert_load_history", ".mlp.expert_load_history_cnt"),
    *(".mlp.experts.num_tokens_per_expert", ".mlp.tokens_per_expert", ".mlp.router.global_tokens_per_expert", ".mlp.router.ga_steps"),
    ".core_attention.max_logits_val",
)
# What the numbers of such a tensor must be for a model without it to be the same.
ONES, COUNTING = "ones", "0, 1, 2 ..."
CONSTANTS = {
    ".mlp.expert_mapping": COUNTING,  # where expert e lies
    ".attn_hc.rms_weight": ONES,
    ".ffn_hc.rms_weight": ONES,
    ".self_attention.q_rms_gamma": ONES,
}

_OPTIMIZER = Drop("optimizer state", "optimizer state, no weight", side="mf")
_GRADIENTS = Drop("accumulated gradients", "accumulated gradients, no weight", side="mf")
_COUNTER = Drop("run state", "a counter of the training run, no weight", side="mf")
_BUFFER = Drop("state of a layer", "state of a layer in training, no weight", side="mf")
_CONSTANTS = {what: Drop("constant of a layer", f"holds {what}, no weight", side="mf") for what in (ONES, COUNTING)}


def run_state_of(name: str) -> Drop | None:
    """What part of a run's state a tensor is, by its name; None for a weight."""
    if name.startswith(OPTIMIZER):
        return _OPTIMIZER
    if name.startswith(GRADIENTS):
        return _GRADIENTS
    if name in COUNTERS:
        return _COUNTER
    what = constant_of(name)
    return _CONSTANTS[what] if what else _BUFFER if is_layer_state(name) else None


def is_layer_state(name: str) -> bool:
    """Whether a tensor is what a layer holds in training, and can be left out whatever its numbers are."""
    return name.endswith(IN_LAYERS) and _is_in_a_layer(name)


def constant_of(name: str) -> str:
    """``ONES`` or ``COUNTING`` for a tensor that can be left out only where it holds these numbers; empty for all others."""
    return next((what for ending, what in CONSTANTS.items() if name.endswith(ending) and _is_in_a_layer(name)), "")


def _is_in_a_layer(name: str) -> bool:
    return ".layers." in f".{name}"


def weight_of(name: str) -> str:
    """The weight that a part of the optimizer's state, or a gradient, belongs to; empty for all other names."""
    return next((name[len(prefix) :] for prefix in (*OPTIMIZER, *GRADIENTS) if name.startswith(prefix)), "")


def prefixes_before_names(names: Collection[str]) -> frozenset[str]:
    """What stands before other names, and before nothing else, as the name of an optimizer's state does.

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
