"""KnowLM 13B: the Llama table.

Source: MindFormers 1.4.0-beta2, `research/knowlm`. The golden case `knowlm-fp16-bin` holds its output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, key="knowlm", covers="KnowLM 13B", model_types=(), also=(), told_as="llama", source="MindFormers 1.4.0-beta2")
