# %% [markdown]
# # Swin Transformer
#
# The width doubles from stage to stage, so each rule is worked out per stage from `embed_dim` and `depths`. In every block `qkv`
# is cut in three, and `fc1` and `fc2` are transposed and renamed mapping and projection; the attention's own projection is not
# turned. Position indices are integers. They keep their type when weights are cast, where MindFormers casts them too, and tables
# with numbers over 256 do not survive that in bfloat16.
#
# `is_pretrain` tells a SimMIM checkpoint, with a mask token and a decoder, from a fine-tuned one. Mind that MindFormers'
# converter does nothing at all, silently, when its output file is already there.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("swin_base_patch4_window7_224.pth")
target_path = Path(scratch.name) / "swin.ckpt"  # yours: Path("swin.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("swin", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "swin")
mapped

# %% [markdown]
# ## One number
#
# In the second stage, a row of v.

# %%
fused = mc.read(source, "layers.1.blocks.0.attn.qkv.weight")
v = mc.read(mapped, "encoder.layers.1.blocks.0.attn.v.weight")
fused[2 * len(v) + 7, 5], v[7, 5]

# %%
mapped.report.explain("encoder.layers.1.blocks.0.attn.v.weight", (7, 5))

# %%
mapped.report.drawing("encoder.layers.1.blocks.0.attn.v.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## A checkpoint of pre-training
#
# The names begin with `encoder.` on both sides now, there is a mask token, and the classifier is gone.

# %%
mc.map(mc.toy("swin", options={"is_pretrain": True}), "swin")

# %% [markdown]
# ## Hugging Face's names
#
# `swin_hf` starts from `SwinForImageClassification`, which has q, k and v apart. It arrives at exactly the names and shapes that
# Microsoft's files lead to. Values were random in both toys, so only headers are compared.

# %%
from_hf = mc.map(mc.toy("swin_hf"), "swin_hf")
mc.diff(from_hf, mc.map(mc.toy("swin"), "swin"))
