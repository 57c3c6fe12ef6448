# %% [markdown]
# # Qwen2 and Qwen2.5, under mcore names
#
# The file that MindFormers' older networks read comes from the key `qwen2`, and that key is also what a folder is taken for when none is
# said. Its newer inference class reads this one: three projections and their three biases joined, gate stacked on up, and no head
# where the model ties it. There is no converter for it that MindFormers ships; it renames while loading and joins in memory.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen2.5-7B-Instruct")
target_path = Path(scratch.name) / "qwen2_mcore.safetensors"  # yours: Path("qwen2_mcore.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen2-mcore", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen2-mcore")
mapped

# %% [markdown]
# ## One number
#
# A row of up lies behind all rows of gate: in a file for training it would stand next to its partner.

# %%
gate, up = (mc.read(source, f"model.layers.2.mlp.{name}_proj.weight") for name in ("gate", "up"))
joined = mc.read(mapped, "decoder.layers.2.mlp.linear_fc1.weight")
up[3, 14], joined[len(gate) + 3, 14]

# %%
mapped.report.drawing("decoder.layers.2.mlp.linear_fc1.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Told by its names
#
# Without a key, and without the manifest that lies beside a file, the names on MindFormers' side say which of both keys is meant.

# %%
tensors = {t.name: mc.read(mapped, t.name).astype("float32") for t in mapped}
back = mc.map(mc.load(tensors, config=source.config), to="hf")
back.family

# %%
back
