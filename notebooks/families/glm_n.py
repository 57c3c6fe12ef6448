# %% [markdown]
# # ChatGLM2, ChatGLM3 and GLM-4
#
# From the second generation on, just the embedding is renamed. Packed matrices remain packed: `query_key_value` has all query
# heads first, then the few key and value groups, and `dense_h_to_4h` has gate above up. Some repositories list the head twice;
# the spare copy is put aside and comes back.
#
# What breaks in MindFormers is the return: its reverse converter searches for `embedding_table`, the word of older releases, and
# leaves the newer `embedding_weight` under that name in the Hugging Face file, where no model finds it.
#
# Old checkpoints of MindFormers do say `embedding_table`. Coming from them, the option `embedding` is told from the names; going
# to them, set it.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("chatglm3-6b")
target_path = Path(scratch.name) / "glm_n.ckpt"  # yours: Path("glm_n.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("glm-n", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "glm-n")
mapped

# %% [markdown]
# ## One number
#
# Gate and up share a matrix on both sides, and row 7 of it is row 7.

# %%
name = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
mc.read(source, name)[7, 5], mc.read(mapped, name)[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## For an older MindFormers
#
# Exactly one name is affected.

# %%
older = mc.map(source, "glm-n", embedding="embedding_table")
mc.diff(mapped, older)
