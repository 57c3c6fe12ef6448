# %% [markdown]
# # TeleChat2, under mcore names
#
# `telechat` writes what MindFormers trained up to 1.5; this key writes what it serves since 1.6. TeleChat2 keeps the keys and values of a
# head together, and its queries apart. The network has one matrix, in which all keys precede all values. Biases stand where a layer ends:
# behind attention, and behind the feed-forward.
#
# MindFormers does not train this layout, so gate and up always lie one behind the other.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("TeleChat2-35B")
target_path = Path(scratch.name) / "telechat2-mcore.safetensors"  # yours: Path("telechat2-mcore.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("telechat2-mcore", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "telechat2-mcore")
mapped

# %% [markdown]
# ## One number
#
# Row 2 of the second head's values: behind 96 rows of queries, 12 of keys, and the values of the first head.

# %%
head = source.config["hidden_size"] // source.config["n_head"]
packed = mc.read(source, "transformer.h.1.self_attention.key_value.weight")
joined = mc.read(mapped, "decoder.layers.1.self_attention.linear_qkv.weight")
packed[2 * head + head + 2, 7], joined[96 + 2 * head + head + 2, 7]

# %%
mapped.report.explain("decoder.layers.1.self_attention.linear_qkv.weight", (96 + 2 * head + head + 2, 7))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Two layouts of one model
#
# The older one leaves keys and values as they are.

# %%
older = mc.map(source, "telechat")
[t.name for c in (mapped, older) for t in c if "layers.0." in t.name and "att" in t.name]
