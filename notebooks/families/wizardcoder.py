# %% [markdown]
# # WizardCoder and StarCoder
#
# All query heads share one key and one value head. So the three parts of `c_attn` are unequal: as many rows as the model is wide
# for q, then one head's worth each for k and v. This matrix keeps its orientation and the other three of a block are transposed,
# the reverse of what GPT-2 needs, even though the names are nearly the same.
#
# 6144 and 6272, the cuts of the 15B model, are constants in MindFormers' converter, which rules out every smaller sibling. A tied
# head is written as `head.head_weight`; its way back leaves an extra `lm_head.weight` behind, ours leaves it out if it was not
# there.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("WizardCoder-15B-V1.0")
target_path = Path(scratch.name) / "wizardcoder.ckpt"  # yours: Path("wizardcoder.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("wizardcoder", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "wizardcoder")
mapped

# %% [markdown]
# ## One number
#
# v is the last and smallest part.

# %%
c_attn = mc.read(source, "transformer.h.0.attn.c_attn.weight")
v = mc.read(mapped, "backbone.blocks.0.attention.dense3.weight")
c_attn[len(c_attn) - len(v) + 7, 5], v[7, 5]

# %%
mapped.report.explain("backbone.blocks.0.attention.dense3.weight", (7, 5))

# %%
mapped.report.drawing("backbone.blocks.0.attention.dense3.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Turned around
#
# `c_fc` is one of those that are transposed.

# %%
c_fc = mc.read(source, "transformer.h.0.mlp.c_fc.weight")
mapping = mc.read(mapped, "backbone.blocks.0.output.mapping.weight")
c_fc[7, 5], mapping[5, 7]
