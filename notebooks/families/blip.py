# %% [markdown]
# # BLIP-2, first stage
#
# Two surprises wait in the vision tower. It has biases for q and v and none for k, while MindFormers wants three: the third is
# filled with zeros. And the feed-forward is crossed: the weight of `fc1` goes, transposed, under `output.projection`, although
# its bias goes under `output.mapping`; `fc2` the other way round. The Q-Former keeps its matrices; only its names are spelled
# anew.
#
# The fused `attn.qkv` becomes `dense1`, `dense2` and `dense3`. Back in MindFormers' own reverse script they stay three, because
# it waits for a name that never occurs. Here the same rule runs backwards, and the zeros disappear again.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("blip2_pretrained.pth")
target_path = Path(scratch.name) / "blip.ckpt"  # yours: Path("blip.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("blip", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "blip")
mapped

# %% [markdown]
# ## One number
#
# A weight of `fc1`, found again under the name that one would expect for `fc2`.

# %%
fc1 = mc.read(source, "visual_encoder.blocks.0.mlp.fc1.weight")
projection = mc.read(mapped, "visual_encoder.blocks.0.output.projection.weight")
fc1[7, 5], projection[5, 7]

# %%
mapped.report.explain("visual_encoder.blocks.0.output.projection.weight", (5, 7))

# %%
mapped.report.drawing("visual_encoder.blocks.0.output.projection.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## The bias that was not there
#
# All of `dense2.bias` is zero; its neighbours came from the file.

# %%
biases = [mc.read(mapped, f"visual_encoder.blocks.0.attention.dense{n}.bias") for n in (1, 2, 3)]
[bool(bias.any()) for bias in biases]
