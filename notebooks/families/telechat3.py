# %% [markdown]
# # TeleChat3
#
# The dense model of 36 billion numbers has Llama's names in its repository, so a folder without a `config.json` is taken for a Llama; its
# model type, `telechat3`, says better. MindFormers 2.1 trains it under mcore names. MindFormers serves it without norms of the heads; where
# a checkpoint has some, they go along.
#
# The conversion script in `research/telechat3` writes the older layout instead, the one that belongs to `llama`, and its way back leaves a
# single name as it should be.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("TeleChat3-36B-Thinking")
target_path = Path(scratch.name) / "telechat3.safetensors"  # yours: Path("telechat3.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("telechat3", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "telechat3")
mapped

# %% [markdown]
# ## One number
#
# A row of k in group 1: behind the whole of group 0, and behind the queries of its own group.

# %%
groups, head = source.config["num_key_value_heads"], source.config["head_dim"]
k = mc.read(source, "model.layers.0.self_attn.k_proj.weight")
joined = mc.read(mapped, "decoder.layers.0.self_attention.linear_qkv.weight")
of_q = head * source.config["num_attention_heads"] // groups  # rows of the queries in a group
k[head + 2, 11], joined[(of_q + 2 * head) + of_q + 2, 11]

# %%
mapped.report.explain("decoder.layers.0.self_attention.linear_qkv.weight", ((of_q + 2 * head) + of_q + 2, 11))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## All of q first
#
# With the switch that a YAML may set. The report says who decided it.

# %%
other = mc.map(source, "telechat3", use_contiguous_weight_layout_attention=True)
other.report.decided

# %%
mc.diff(source, mc.map(other, to="hf"), values=True)
