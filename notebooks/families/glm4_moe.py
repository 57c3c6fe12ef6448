# %% [markdown]
# # GLM-4.5 and GLM-4.6
#
# Attention in groups as in GLM-4, with biases, in the larger models also with a norm for the heads of q and of k. Behind the first layers
# each has routed experts, shared ones, and a router whose correcting bias stays float32 whatever is asked for.
#
# MindFormers serves these models and does not train them. So the order of inference is what a plain call gives: q, k and v end to end,
# gate before up, an axis that counts the experts. Its renaming overlooks the norms of the heads, and would leave them under a name that
# its own network lacks. Nor does it take the layer that predicts a further token, which travels here under Megatron's name for it.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("GLM-4.5-Air")
target_path = Path(scratch.name) / "glm4_moe.safetensors"  # yours: Path("glm4_moe.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("glm4-moe", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "glm4-moe")
mapped

# %% [markdown]
# ## One number
#
# Expert 3 of layer 2, the down projection, turned.

# %%
expert = mc.read(source, "model.layers.2.mlp.experts.3.down_proj.weight")
weight2 = mc.read(mapped, "decoder.layers.2.mlp.experts.weight2")
expert[50, 8], weight2[3, 8, 50]

# %%
mapped.report.drawing("decoder.layers.2.mlp.experts.weight1")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## As a network in training would have it
#
# The three options at once. Only the experts show it in their shape.

# %%
trained = {"use_contiguous_weight_layout_attention": False, "use_interleaved_weight_layout_mlp": True, "experts_2d": True}
for_training = mc.map(source, "glm4-moe", **trained)
mc.diff(mapped, for_training, values=True)

# %%
mc.diff(source, mc.map(for_training, to="hf"), values=True)
