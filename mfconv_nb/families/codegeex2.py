"""CodeGeeX2: the GLM table, with the embedding under MindFormers' older name.

Source: MindFormers 1.3.2, `models/codegeex2`. The golden case `codegeex2-fp16-bin` holds its output.
"""

from dataclasses import replace

from mfconv_nb.families.glm_n import FAMILY as GLM
from mfconv_nb.mapping.rules import Option

FAMILY = replace(
    GLM,
    key="codegeex2",
    covers="CodeGeeX2 6B",
    model_types=(),
    aliases=(),
    told_as="glm-n",
    options=(Option("embedding", ("embedding_table", "embedding_weight"), help="The embedding's name."),),
)
