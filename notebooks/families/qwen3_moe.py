# %% [markdown]
# # Qwen3-MoE
#
# Attention is that of Qwen3. The experts of a layer, 128 times three matrices in the published models, become two: `weight1` holds
# gate and up, `weight2` holds down, both turned so that the input comes first. Unlike the joined matrix of a dense model, gate and
# up lie side by side in `weight1`, and no switch of a run changes that.
#
# Training keeps the experts one below the other, in two axes. What MindFormers builds when it loads a Hugging Face folder for
# inference has an axis for the expert. The bytes are the same; on the way back the shape tells which it is.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen3-30B-A3B")
target_path = Path(scratch.name) / "qwen3_moe.safetensors"  # yours: Path("qwen3_moe.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen3-moe", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen3-moe")
mapped

# %% [markdown]
# ## One number
#
# Expert 2, its up projection: row 7 has become a column, behind all columns of gate.

# %%
hidden, ffn = source.config["hidden_size"], source.config["moe_intermediate_size"]
expert = mc.read(source, "model.layers.1.mlp.experts.2.up_proj.weight")
weight1 = mc.read(mapped, "decoder.layers.1.mlp.experts.weight1")
expert[7, 40], weight1[2 * hidden + 40, ffn + 7]

# %%
mapped.report.explain("decoder.layers.1.mlp.experts.weight1", (2 * hidden + 40, ffn + 7))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## With an axis for the expert
#
# The same bytes in three axes, and what is told of them on the way back.

# %%
stacked = mc.map(source, "qwen3-moe", experts_2d=False)
mc.diff(mapped, stacked)

# %%
mc.diff(source, mc.map(stacked, to="hf"), values=True)
