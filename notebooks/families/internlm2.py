# %% [markdown]
# # InternLM2
#
# `wqkv` interleaves: for every key/value group the query heads that use it, then its key, then its value. By default MindFormers
# takes the matrix as it is and calls it `w`. Choose `qkv_concat=False` for a network that wants wq, wk and wv; then the groups
# are taken apart.
#
# With MindFormers' command, `--qkv_concat False` arrives as text and counts as true. Worse is its reverse in 1.3.2, which
# replaces each letter w by `wqkv`, so that no name survives (`feed_forwqkvard`, for one). A later version repaired that, and
# still does not join the split form. Here both forms go back.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("internlm2-7b")
target_path = Path(scratch.name) / "internlm2.ckpt"  # yours: Path("internlm2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("internlm2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "internlm2")
mapped

# %% [markdown]
# ## One number
#
# Split, row 2 of key group 1 is found behind the queries of its own group.

# %%
split = mc.map(source, "internlm2", qkv_concat=False)
groups = source.config.get("num_key_value_heads", source.config["num_attention_heads"])
wqkv = mc.read(source, "model.layers.0.attention.wqkv.weight")
q, k = (mc.read(split, f"model.layers.0.attention.{name}.weight") for name in ("wq", "wk"))
of_q, of_k = len(q) // groups, len(k) // groups  # rows of a group
wqkv[(of_q + 2 * of_k) + of_q + 2, 5], k[of_k + 2, 5]

# %%
split.report.explain("model.layers.0.attention.wk.weight", (of_k + 2, 5))

# %%
split.report.drawing("model.layers.0.attention.wk.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Kept or split
#
# The comparison lists what the two values of the option disagree on, and the second cell shows that the split form is no dead
# end.

# %%
mc.diff(mapped, split)

# %%
mc.diff(source, mc.map(split, to="hf"), values=True)
