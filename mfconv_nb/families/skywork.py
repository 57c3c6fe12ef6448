"""Skywork 13B: the Llama table.

Source: MindFormers 1.4.0-beta2, `research/skywork`. The golden case `skywork-bf16-st` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(
    LLAMA, key="skywork", covers="Skywork 13B", model_types=("skywork",), told_as="llama", source="MindFormers 1.4.0-beta2"
)
