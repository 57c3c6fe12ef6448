# %% [markdown]
# # Whisper
#
# Two convolutions at the start of the encoder run along time only. MindFormers computes them as images of height one, so their
# kernels gain an axis of length one, third of four. No byte is touched by that. Norms get gamma and beta, embeddings
# `embedding_weight`, and every k projection lacks a bias on either side.
#
# bfloat16 files are refused by MindFormers in both directions, and its reverse fails as a script on its own default dtype.
# Neither happens here; the toy is bfloat16 on purpose.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("whisper-large-v3")
target_path = Path(scratch.name) / "whisper.ckpt"  # yours: Path("whisper.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("whisper", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "whisper")
mapped

# %% [markdown]
# ## One number
#
# The kernel of `conv1` with three and with four indices.

# %%
before = mc.read(source, "model.encoder.conv1.weight")
after = mc.read(mapped, "model.encoder.conv1.weight")
before[7, 5, 2], after[7, 5, 0, 2]

# %%
mapped.report.explain("model.encoder.conv1.weight", (7, 5, 0, 2))

# %%
mapped.report.drawing("model.encoder.conv1.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
