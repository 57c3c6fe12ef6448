# %% [markdown]
# # CLIP
#
# This is CLIP as OpenAI spelled it: two towers, an image and a text side, with q, k and v of each block in `in_proj_weight`. They
# stay together. What changes are five kinds of norms, now `gamma` and `beta`, the token table, and a dot for an underscore in
# `in_proj.weight`. `logit_scale` is a single number without an axis and remains one.
#
# OpenAI's archives also hold three loose settings, such as `context_length`. They are no weights; the manifest's folder keeps
# them. MindFormers brings a script for this direction alone, so the return trip below has no counterpart there.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("ViT-B-32.pt")
target_path = Path(scratch.name) / "clip.ckpt"  # yours: Path("clip.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("clip", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "clip")
mapped

# %% [markdown]
# ## One number
#
# Nothing moves here, so the same position is read twice, under the name with the underscore and under the one with the dot.

# %%
before = mc.read(source, "transformer.resblocks.0.attn.in_proj_weight")
after = mc.read(mapped, "transformer.resblocks.0.attn.in_proj.weight")
before[7, 5], after[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
