"""CodeGeeX2: the GLM table. MindFormers' converter writes the embedding under its older name, which its network does not have.

Source: MindFormers 1.3.2, `models/codegeex2`. The golden case `codegeex2-fp16-bin` holds its output.
"""

from mfconv_nb.families.glm_n import FAMILY as GLM
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(
    GLM,
    key="codegeex2",
    covers="CodeGeeX2 6B",
    told_as="glm-n",
    options=GLM.options,
)
