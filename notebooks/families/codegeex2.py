# %% [markdown]
# # CodeGeeX2
#
# CodeGeeX2 has the architecture of ChatGLM2 and also its names, so nothing in a file says which of the two it is: name the family
# when you map. One single tensor is renamed, the embedding: MindFormers' network calls it `embedding_weight`. Query, key, value as
# well as gate and up stay packed.
#
# `embedding="embedding_table"` writes the older word, as MindFormers' converter for CodeGeeX2 does. The network does not have it:
# loaded from such a file, its embedding stays random, with a warning.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("codegeex2-6b")
target_path = Path(scratch.name) / "codegeex2.ckpt"  # yours: Path("codegeex2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("codegeex2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "codegeex2")
mapped

# %% [markdown]
# ## One number
#
# The embedding is the one tensor to follow: a new name over the same numbers.

# %%
before = mc.read(source, "transformer.embedding.word_embeddings.weight")
after = mc.read(mapped, "transformer.embedding.embedding_weight")
before[7, 5], after[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## The older name
#
# One row differs between the two choices, and no number.

# %%
mc.diff(mapped, mc.map(source, "codegeex2", embedding="embedding_table"))
