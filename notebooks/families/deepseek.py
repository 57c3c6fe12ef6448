# %% [markdown]
# # DeepSeek-Coder
#
# DeepSeek-Coder and Coder 1.5 are Llama in everything but the name on the box. Left to guess, the tool says `llama`, with the
# same result; the key is here so that the flags of MindFormers work as they are, `deepseek1_5` included. Given a checkpoint of
# DeepSeek-V2, the key means that family, as its names show.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("deepseek-coder-6.7b-base")
target_path = Path(scratch.name) / "deepseek.ckpt"  # yours: Path("deepseek.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseek", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseek")
mapped

# %% [markdown]
# ## One number
#
# The gate of the feed-forward becomes `w1`, element by element.

# %%
gate = mc.read(source, "model.layers.0.mlp.gate_proj.weight")
w1 = mc.read(mapped, "model.layers.0.feed_forward.w1.weight")
gate[7, 5], w1[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## One matrix for gate and up
#
# `qkv_concat=True` is the layout of MindFormers' tool for inference. Gate comes first, up below it.

# %%
fused = mc.map(source, "deepseek", qkv_concat=True)
mc.diff(mapped, fused)
