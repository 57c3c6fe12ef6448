# %% [markdown]
# # T5
#
# Encoder and decoder follow one table, the decoder with a second attention in between. Of each attention `o` is transposed and q,
# k, v are not; of the feed-forward, both `wi` and `wo`. A model has up to three copies of its embedding, `shared` and one on each
# side. They must be equal, are written once, and those that were there come back.
#
# Gated versions have other names and are refused. MindFormers' script takes a single layer by default and knows one direction.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("t5-small")
target_path = Path(scratch.name) / "t5.ckpt"  # yours: Path("t5.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("t5", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "t5")
mapped

# %% [markdown]
# ## One number
#
# `wi` of the encoder's first block, mirrored at its diagonal.

# %%
wi = mc.read(source, "encoder.block.0.layer.1.DenseReluDense.wi.weight")
mapping = mc.read(mapped, "t5_model.tfm_encoder.blocks.0.output.mapping.weight")
wi[7, 5], mapping[5, 7]

# %%
mapped.report.explain("t5_model.tfm_encoder.blocks.0.output.mapping.weight", (5, 7))

# %%
mapped.report.drawing("t5_model.tfm_encoder.blocks.0.output.mapping.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Not mirrored
#
# q, for comparison, is found where it was.

# %%
q = mc.read(source, "encoder.block.0.layer.0.SelfAttention.q.weight")
dense1 = mc.read(mapped, "t5_model.tfm_encoder.blocks.0.attention.dense1.weight")
q[7, 5], dense1[7, 5]
