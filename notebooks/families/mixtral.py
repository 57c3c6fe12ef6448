# %% [markdown]
# # Mixtral
#
# All experts of a layer are stacked, one tensor for w1, one for w2, one for w3, with the expert's number as the new first axis.
# Attention, norms and embedding are as in Llama, and the router is `router.dense`. Nothing needs the whole stack in memory; each
# expert is copied to its place.
#
# Set `use_gmm=True` for a network built on grouped matrix multiplication, which wants each expert transposed.
#
# MindFormers has the number eight written into its converter and groups any other count wrongly. Typing `--use_gmm False` there
# turns the option on, since the word is not empty. Its reverse leaves transposed experts transposed, under the ordinary names,
# and without a dtype it lifts everything to float32.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Mixtral-8x7B-v0.1")
target_path = Path(scratch.name) / "mixtral.ckpt"  # yours: Path("mixtral.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("mixtral", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "mixtral")
mapped

# %% [markdown]
# ## One number
#
# Expert 1 keeps its rows and columns, one step into the stack.

# %%
w1 = mc.read(source, "model.layers.0.block_sparse_moe.experts.1.w1.weight")
stack = mc.read(mapped, "model.layers.0.feed_forward.ffn.w1.weight")
w1[7, 5], stack[1, 7, 5]

# %%
mapped.report.explain("model.layers.0.feed_forward.ffn.w1.weight", (1, 7, 5))

# %%
mapped.report.drawing("model.layers.0.feed_forward.ffn.w1.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Transposed for grouped multiplication
#
# The same names with the last two axes exchanged: shapes give it away.

# %%
gmm = mc.map(source, "mixtral", use_gmm=True)
mc.diff(mapped, gmm)

# %%
w1[7, 5], mc.read(gmm, "model.layers.0.feed_forward.ffn.w1.weight")[1, 5, 7]
