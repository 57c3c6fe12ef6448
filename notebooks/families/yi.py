# %% [markdown]
# # Yi and Yi-1.5
#
# Yi is read with Llama's table. MindFormers has two converters for it, one behind the key and a script that always writes
# bfloat16; beyond the dtype they agree on models without a tied head. Adapters are renamed by neither.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Yi-1.5-9B")
target_path = Path(scratch.name) / "yi.ckpt"  # yours: Path("yi.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("yi", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "yi")
mapped

# %% [markdown]
# ## One number
#
# Embedding to embedding.

# %%
before = mc.read(source, "model.embed_tokens.weight")
after = mc.read(mapped, "model.tok_embeddings.embedding_weight")
before[7, 5], after[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
