"""DeepSeek-Coder and Coder 1.5: the Llama table. This key also stands for DeepSeek-V2.

Source: MindFormers 1.3.2, `research/deepseek`. The golden cases `deepseekcoder*` hold its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(
    LLAMA,
    key="deepseek",
    covers="DeepSeek-Coder 1.3B, 6.7B, 33B, Coder 1.5",
    aliases=("deepseek1_5",),
    also=("deepseek2",),
    told_as="llama",
)
