"""Skywork 13B: the Llama table.

Source: MindFormers 1.4.0-beta2, `research/skywork`. The golden case `skywork-bf16-st` holds its output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import FAMILY as LLAMA

FAMILY = replace(
    LLAMA, key="skywork", covers="Skywork 13B", model_types=("skywork",), also=(), told_as="llama", source="MindFormers 1.4.0-beta2"
)
