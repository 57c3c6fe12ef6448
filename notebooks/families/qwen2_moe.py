# %% [markdown]
# # Qwen1.5-MoE and Qwen2-MoE
#
# Two kinds of experts live in a layer. The routed ones are stacked by number; the shared one, with a width of its own, is
# renamed, and its gate is a matrix of a single row. Attention has Qwen2's biases.
#
# 64 experts are assumed by the converter in MindFormers, so the 60 of Qwen1.5-MoE break it, and there is no way back. Its
# function and its script disagree on the default of `use_gmm`: off in the first, on in the second. This tool's default is off.
# Look at the shapes if you are unsure which one made a file; going back, they are enough to tell.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen1.5-MoE-A2.7B")
target_path = Path(scratch.name) / "qwen2_moe.ckpt"  # yours: Path("qwen2_moe.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen2-moe", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen2-moe")
mapped

# %% [markdown]
# ## One number
#
# A down projection: expert 2, then slice 2.

# %%
down = mc.read(source, "model.layers.0.mlp.experts.2.down_proj.weight")
stack = mc.read(mapped, "model.layers.0.feed_forward.routed_experts.ffn.w2.weight")
down[7, 5], stack[2, 7, 5]

# %%
mapped.report.explain("model.layers.0.feed_forward.routed_experts.ffn.w2.weight", (2, 7, 5))

# %%
mapped.report.drawing("model.layers.0.feed_forward.routed_experts.ffn.w2.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## With `use_gmm`
#
# Only the three stacks differ; the shared expert is left alone.

# %%
gmm = mc.map(source, "qwen2-moe", use_gmm=True)
mc.diff(mapped, gmm)
