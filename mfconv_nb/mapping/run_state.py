"""What a MindFormers training run writes beside the weights: optimizer state and counters. Listed and left out on the way back.

Source: names seen in checkpoints of MindFormers' trainer (`adam_m.`, `adam_v.`, `accu_grads.`, `epoch_num` ...), and the parameters of
MindSpore's own optimizers and loss-scale managers (`moment1.`, `beta1_power`, `scale_sense` ...).
"""

from __future__ import annotations

from mfconv_nb.mapping.rules import Drop

OPTIMIZER = ("adam_m.", "adam_v.", "moment1.", "moment2.", "moments.", "moment.", "accum.", "vhat.", "exp_avg.", "exp_avg_sq.", "slow_m.")
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
        "global_batch_size",
        "ckpt_status",
        "optimizer.global_step",
        "optimizer.learning_rate",
        "random_op",
    }
)

_OPTIMIZER = Drop("optimizer state", "optimizer state, no weight", side="mf")
_GRADIENTS = Drop("accumulated gradients", "accumulated gradients, no weight", side="mf")
_COUNTER = Drop("run state", "a counter of the training run, no weight", side="mf")


def run_state_of(name: str) -> Drop | None:
    """What part of a run's state a tensor is, by its name; None for a weight."""
    if name.startswith(OPTIMIZER):
        return _OPTIMIZER
    if name.startswith(GRADIENTS):
        return _GRADIENTS
    return _COUNTER if name in COUNTERS else None
