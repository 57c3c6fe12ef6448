"""Yi and Yi-1.5: the Llama table.

Source: MindFormers 1.3.2, `research/yi`. The golden cases `yi-*` hold its output.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(LLAMA, key="yi", covers="Yi, Yi-1.5", told_as="llama")
