"""Yi and Yi-1.5: the Llama table.

Source: MindFormers 1.3.2, `research/yi`. The golden cases `yi-*` hold its output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, key="yi", covers="Yi, Yi-1.5", model_types=(), also=(), told_as="llama")
