"""KnowLM 13B: the Llama table.

Source: MindFormers 1.4.0-beta2, `research/knowlm`. The golden case `knowlm-fp16-bin` holds its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(LLAMA, key="knowlm", covers="KnowLM 13B", told_as="llama", source="MindFormers 1.4.0-beta2")
