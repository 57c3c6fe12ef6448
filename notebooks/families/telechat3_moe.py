# %% [markdown]
# # TeleChat3 with experts
#
# Forty-five layers, latent attention, and behind them one that looks a token further: in every name this is DeepSeek-V3, and the table is
# the same. Only the model type differs, `telechat3_moe`.
#
# MindFormers' renaming for it spells out the number 46 for that further layer and would put it beside the decoder. Training keeps it in
# `mtp.layers.0`, and so does this.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("TeleChat3-105B-A4B")
target_path = Path(scratch.name) / "telechat3_moe.safetensors"  # yours: Path("telechat3_moe.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("telechat3-moe", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "telechat3-moe")
mapped

# %% [markdown]
# ## One number
#
# The correcting bias of a router. It is float32 on both sides.

# %%
before = mc.read(source, "model.layers.2.mlp.gate.e_score_correction_bias")
after = mc.read(mapped, "decoder.layers.2.mlp.router.expert_bias")
before[4], after[4]

# %%
mapped.report.drawing("decoder.layers.2.mlp.shared_experts.linear_fc1.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Without the further layer
#
# A folder that transformers saved may lack it. The names tell.

# %%
plain = mc.toy("telechat3-moe", options={"with_mtp": 0}, num_nextn_predict_layers=0)
mc.map(plain, "telechat3-moe").report.options

# %%
mc.diff(plain, mc.map(mc.map(plain, "telechat3-moe"), to="hf"), values=True)
