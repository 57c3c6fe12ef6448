# %% [markdown]
# # GPT-2
#
# GPT-2 stores its linear layers as Conv1D, input first. MindFormers keeps that orientation for three of the four matrices of a
# block; `c_attn` alone is cut by columns into q, k and v, and each third is turned around. So a rule that transposes everything,
# or nothing, is wrong for this family. The head is the embedding once more, so a `lm_head.weight` in a file is redundant and set
# aside; attention masks, if present, travel along.
#
# Names come bare or with `transformer.` before them. MindFormers knows the bare ones. Given the others it matches nothing, writes
# an empty checkpoint and reports success. Its `--layers` defaults to 12, which silently shortens a larger model.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("gpt2-xl")
target_path = Path(scratch.name) / "gpt.ckpt"  # yours: Path("gpt.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("gpt", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "gpt")
mapped

# %% [markdown]
# ## One number
#
# Column 7 of the middle third becomes row 7 of `dense2`.

# %%
prefix = mapped.options["prefix"]
joint = mc.read(source, f"{prefix}h.0.attn.c_attn.weight")
k = mc.read(mapped, "backbone.blocks.0.attention.dense2.weight")
joint[5, len(k) + 7], k[7, 5]

# %%
mapped.report.explain("backbone.blocks.0.attention.dense2.weight", (7, 5))

# %%
mapped.report.drawing("backbone.blocks.0.attention.dense2.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Back under the other names
#
# `prefix` matters on the way to Hugging Face, when the program that will read the file expects the longer names.

# %%
longer = mc.map(mapped, to="hf", prefix="transformer.")
[tensor.name for tensor in longer][:4]
