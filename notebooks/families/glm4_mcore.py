# %% [markdown]
# # GLM-4 (transformers' own form)
#
# The repositories of GLM-4-0414 say model type `glm4`, and their tensors have Llama's words. Those of the first GLM-4 say
# `chatglm` and belong to the key `glm-n`, which keeps `glm4` as a second name from MindFormers 1.3. That is why this key ends in mcore.
#
# Four norms stand in a layer instead of two. Gate and up arrive joined and stay as they are. Only q, k and v are put together, with
# their biases. MindFormers offers inference for this model and no training, so all of q comes first, then all of k, then all of v.
# It ships no way back; the inverse is taken here.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("GLM-4-9B-0414")
target_path = Path(scratch.name) / "glm4_mcore.safetensors"  # yours: Path("glm4_mcore.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("glm4-mcore", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "glm4-mcore")
mapped

# %% [markdown]
# ## One number
#
# A bias of v, behind all biases of q and k.

# %%
q, k, v = (mc.read(source, f"model.layers.1.self_attn.{name}_proj.bias") for name in "qkv")
joined = mc.read(mapped, "decoder.layers.1.self_attention.linear_qkv.bias")
v[4], joined[len(q) + len(k) + 4]

# %%
mapped.report.explain("decoder.layers.1.self_attention.linear_qkv.bias", len(q) + len(k) + 4)

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## By group, for a network that was trained elsewhere
#
# Megatron's own order, should a network want it. The first differing rows are those after the queries of the first group.

# %%
grouped = mc.map(source, "glm4-mcore", use_contiguous_weight_layout_attention=False)
mc.diff(mapped, grouped, values=True)

# %%
mc.diff(source, mc.map(grouped, to="hf"), values=True)
