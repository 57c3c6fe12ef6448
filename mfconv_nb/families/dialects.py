"""Names in memory: how transformers 5 names the tensors of a live model, where `save_pretrained` writes others. The one table of them.

Files have them too: those of `save_original_format=False`, and a state dict that was saved with torch. Our families know the names that
`save_pretrained` writes. Source: `conversion_mapping.py` of transformers 5.23; `tests/real_frameworks/test_names_in_memory.py` compares
this table with the installed one, and with the names of real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mfconv_nb.mapping.rules import ANYWHERE, Family, Rule

SAVED, MEMORY = "saved", "memory"  # what hf_names may be


@dataclass(frozen=True)
class Dialect:
    """The two sets of names of some models.

    Attributes:
        model_types: the models, as config.json names them.
        told_by: a part of a name that only the names in memory have.
        renamed: parts of names: as saved, and in memory. The first that a name has counts. One that begins with a dot may stand anywhere in
            a name, another one only in front.
        joined: tensors that are others in memory: rules, with the saved names on the left.
    """

    model_types: tuple[str, ...]
    told_by: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    joined: tuple[Rule, ...] = ()

    @property
    def family(self) -> Family:
        """The tensors that are joined, as a family: saved names on the Hugging Face side, names in memory on the other."""
        return Family(key="names in memory", covers=", ".join(self.model_types), rules=self.joined, sizes={})

    def name_in_memory(self, saved: str) -> str:
        """The name in memory of a tensor that is not joined."""
        return _change_part(saved, self.renamed)

    def saved_name(self, in_memory: str) -> str:
        """The saved name of a tensor that is not joined."""
        return _change_part(in_memory, {there: here for here, there in self.renamed.items()})


def _change_part(name: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        if name.startswith(old) or (old.startswith(".") and old in name):
            return name.replace(old, new, 1)
    return name


def joined_experts(saved: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """The experts of a layer, one tensor each as they are saved, and stacked in memory, gate and up in one tensor."""
    each, together = f"{saved}.{{expert}}.", "model.layers.{layer}.mlp.experts."
    halves = (f"{each}{gate}.weight", f"{each}{up}.weight")
    sentence = "gate hidden, up hidden -> expert (gate + up) hidden"
    return (
        Rule(halves, f"{together}gate_up_proj", sentence, sizes={"up": "gate"}, optional=ANYWHERE),
        Rule(f"{each}{down}.weight", f"{together}down_proj", "hidden ffn -> expert hidden ffn", optional=ANYWHERE),
    )


DIALECTS = (
    Dialect(
        model_types=("mixtral",),
        told_by=".mlp.experts.gate_up_proj",
        renamed={".block_sparse_moe.": ".mlp."},
        joined=joined_experts("model.layers.{layer}.block_sparse_moe.experts", "w1", "w3", "w2"),
    ),
    Dialect(
        model_types=(
            "qwen2_moe",
            "qwen3_moe",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe",
            "glm4_moe_lite",
            "glm_moe_dsa",
        ),
        told_by=".mlp.experts.gate_up_proj",
        joined=joined_experts("model.layers.{layer}.mlp.experts", "gate_proj", "up_proj", "down_proj"),
    ),
    Dialect(
        model_types=("llava",),
        told_by="model.multi_modal_projector.",
        renamed={
            "language_model.lm_head.": "lm_head.",
            "language_model.model.": "model.language_model.",
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
    ),
    Dialect(
        model_types=("swin",),
        told_by=".attention.q_proj.",
        renamed={
            ".attention.self.query.": ".attention.q_proj.",
            ".attention.self.key.": ".attention.k_proj.",
            ".attention.self.value.": ".attention.v_proj.",
            ".attention.self.relative_position_bias_table": ".attention.relative_position_bias.relative_position_bias_table",
            ".attention.output.dense.": ".attention.o_proj.",
            ".intermediate.dense.": ".mlp.fc1.",
            ".output.dense.": ".mlp.fc2.",
        },
    ),
)

# transformers saves a form of its own (`model.layers.{layer}.ffn`), which is neither the published one nor that in memory
WITHOUT_DIALECT = ("deepseek_v4",)
