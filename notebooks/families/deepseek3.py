# %% [markdown]
# # DeepSeek-V3 and R1
#
# No other family moves so much. `q_b_proj` and `kv_b_proj` are split head by head, and the rows of q and k that rotate are
# reordered: pairs on the Hugging Face side, first halves and then second halves on the other. Experts are stacked, and with
# `use_grouped_gemm` (the default, as in MindFormers 1.5) gate and up lie side by side, transposed. One more layer, past the last,
# predicts a further token; it repeats the embedding and the head, which MindFormers keeps once.
#
# Turn `use_grouped_gemm` off for a network that multiplies expert by expert. `with_mtp=0` is for checkpoints without the extra
# layer. The published fp8 weights are taken as they are: [quantised checkpoints](../quantised_checkpoints.ipynb).
#
# In MindFormers' way back the router's correction bias returns as bf16 instead of float32, and the shards land in the folder you
# happen to be in.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("DeepSeek-V3")
target_path = Path(scratch.name) / "deepseek3.ckpt"  # yours: Path("deepseek3.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseek3", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseek3")
mapped

# %% [markdown]
# ## One number
#
# Below the latent rows of `kv_a_proj_with_mqa` stand the rotary ones, in pairs. The second row of pair 1 moves to the second
# half.

# %%
joint = mc.read(source, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight")
latent = mc.read(mapped, "model.layers.0.attention.kv2l_latent_kv.weight")
rotary = mc.read(mapped, "model.layers.0.attention.kv2l_k_pe.weight")
joint[len(latent) + 2 * 1 + 1, 5], rotary[len(rotary) // 2 + 1, 5]

# %%
mapped.report.explain("model.layers.0.attention.kv2l_k_pe.weight", (len(rotary) // 2 + 1, 5))

# %%
mapped.report.drawing("model.layers.0.attention.kv2l_k_pe.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Experts one by one
#
# Without grouping the two halves of `ffn.w1` are tensors of their own, weights stand output first, and the router has longer
# names.

# %%
mc.diff(mapped, mc.map(source, "deepseek3", use_grouped_gemm=False))
