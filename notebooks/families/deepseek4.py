# %% [markdown]
# # DeepSeek-V4
#
# Its repository names tensors as DeepSeek's own code does: `layers.0.attn.wq_a`, with w1, w3 and w2 for gate, up and down.
# MindFormers gives them mcore names. Three kinds of tensors exist nowhere else: hyper-connections around attention and
# feed-forward, compressors of keys and values, and an indexer, the last two in some layers only.
#
# A hyper-connection has its three scales in one tensor here and in three there. The layer that looks a token further has two
# projections of its own input, which become one, side by side. MindFormers' list of operations goes both ways; its other
# list, for inference, has a rule that hits inside longer names. Files in fp8 or fp4 are codes and have to be made bf16
# before.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("DeepSeek-V4-bf16")
target_path = Path(scratch.name) / "deepseek4.safetensors"  # yours: Path("deepseek4.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseek4", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseek4")
mapped

# %% [markdown]
# ## One number
#
# The third scale of the feed-forward's hyper-connection has become a tensor of one number.

# %%
scales = mc.read(source, "layers.1.hc_ffn_scale")
residual = mc.read(mapped, "decoder.layers.1.ffn_hc.alpha_res")
scales[2], residual[0]

# %%
mapped.report.drawing("mtp.layers.0.eh_proj.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## What only some layers have
#
# A compressor in one layer, added by hand: the config does not promise it, and it goes along.

# %%
import numpy as np

tensors = {t.name: mc.read(source, t.name).astype("float32") for t in source}
tensors["layers.1.attn.compressor.ape"] = np.arange(160, dtype="float32").reshape(4, 40)
[t.name for t in mc.map(mc.load(tensors, config=source.config), "deepseek4", to="mf") if "compressor" in t.name]
