# %% [markdown]
# # Qwen3
#
# The first of the models that MindFormers keeps under Megatron's names, the layout it calls mcore: `decoder.layers.0`, `linear_qkv`,
# `linear_fc1`. The three projections of attention become one matrix. For each key/value group it holds the rows of its query heads,
# then those of its key, then those of its value. Gate and up become one too, and there the rows alternate.
#
# A run may order both differently, by two switches of its YAML. Neither a name nor a shape changes then, so no tool can see it, and
# the reverse script in MindFormers' toolkit, which knows one order only, writes wrong weights without a word. Here the YAML given as
# config decides, and the manifest of a file remembers what was used.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen3-8B")
target_path = Path(scratch.name) / "qwen3.safetensors"  # yours: Path("qwen3.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen3", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen3")
mapped

# %% [markdown]
# ## One number
#
# Row 5 of the up projection is row 11 of the joined matrix: each row of up follows the row of gate with the same number.

# %%
up = mc.read(source, "model.layers.0.mlp.up_proj.weight")
joined = mc.read(mapped, "decoder.layers.0.mlp.linear_fc1.weight")
up[5, 3], joined[2 * 5 + 1, 3]

# %%
mapped.report.drawing("decoder.layers.0.self_attention.linear_qkv.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## The trap: two orders, one shape
#
# Map the toy with the other order of gate and up, then read the result as if it had the usual one. Nothing is refused: names and
# shapes agree. The comparison shows that gate and up are not what they were.

# %%
other = mc.map(source, "qwen3", use_interleaved_weight_layout_mlp=False)
taken_wrongly = mc.map(other, to="hf", use_interleaved_weight_layout_mlp=True)
mc.diff(source, taken_wrongly, values=True)

# %% [markdown]
# What `other` remembers of itself leads back to the original.

# %%
mc.diff(source, mc.map(other, to="hf"), values=True)
