# %% [markdown]
# # Qwen-VL
#
# Within one file two habits of fusing meet. The vision tower weaves q, k and v together head by head, the resampler behind it and
# the language model put them end to end. All three are taken apart. The output projections of tower and resampler are transposed,
# everything with `ln` in its name gets gamma and beta, and the language part is Qwen's table under `llm_model.`.
#
# `use_qkv_concat` leaves the language model's matrix whole. `enable_emb_opt` adds rows of zeros to embedding and head until their
# number is a multiple of 512 times `emb_strategy`; coming back they are cut off again.
#
# Through MindFormers' command bfloat16 weights are squeezed into the range of float16 on their way, whatever dtype is asked for,
# and `vit_num_head` cannot be passed. Nor does it go back.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen-VL-Chat")
target_path = Path(scratch.name) / "qwenvl.ckpt"  # yours: Path("qwenvl.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwenvl", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwenvl")
mapped

# %% [markdown]
# ## One number
#
# In the tower: k of head 1, in the fused matrix and by itself.

# %%
heads = source.config["visual"]["heads"]
fused = mc.read(source, "transformer.visual.transformer.resblocks.0.attn.in_proj.weight")
k = mc.read(mapped, "vision_encoder.transformer.resblocks.0.attn.dense2.weight")
rows = len(k) // heads  # of one head
fused[(3 + 1) * rows + 2, 5], k[rows + 2, 5]

# %%
mapped.report.explain("vision_encoder.transformer.resblocks.0.attn.dense2.weight", (rows + 2, 5))

# %%
mapped.report.drawing("vision_encoder.transformer.resblocks.0.attn.dense2.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## A padded vocabulary
#
# The toy's 331 words become 512 rows. The added ones are zero.

# %%
padded = mc.map(source, "qwenvl", enable_emb_opt=True)
mc.diff(mapped, padded)

# %%
words = len(mc.read(source, "transformer.wte.weight"))
bool(mc.read(padded, "llm_model.transformer.wte.embedding_weight")[words:].any())
