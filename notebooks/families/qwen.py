# %% [markdown]
# # Qwen, the first
#
# `c_attn` is cut into three equal blocks of rows, weight and bias. The trap is in the feed-forward: Qwen's `w2` is the gate, and
# MindFormers files it as `w3`, while `w1` stays `w1` and `c_proj` turns into `w2`. Shapes cannot warn of a mix-up there, as two
# of the three are alike. Note also that `intermediate_size` in this config counts gate and up together.
#
# MindFormers does not get back from here: of q, k and v it joins the biases only, and the weights are left over as three tensors
# that Hugging Face does not know. Qwen1.5 and Qwen2 have tables of their own; given this key, their names lead there.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen-7B-Chat")
target_path = Path(scratch.name) / "qwen.ckpt"  # yours: Path("qwen.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen")
mapped

# %% [markdown]
# ## One number
#
# Row 7 of v, two blocks down.

# %%
c_attn = mc.read(source, "transformer.h.0.attn.c_attn.weight")
v = mc.read(mapped, "transformer.layers.0.attention.wv.weight")
c_attn[2 * len(v) + 7, 5], v[7, 5]

# %%
mapped.report.explain("transformer.layers.0.attention.wv.weight", (7, 5))

# %%
mapped.report.drawing("transformer.layers.0.attention.wv.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## The gate
#
# What is called w2 before is called w3 after.

# %%
gate = mc.read(source, "transformer.h.0.mlp.w2.weight")
w3 = mc.read(mapped, "transformer.layers.0.feed_forward.w3.weight")
gate[7, 5], w3[7, 5]
