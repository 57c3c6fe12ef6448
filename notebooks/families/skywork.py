# %% [markdown]
# # Skywork
#
# Skywork 13B needs nothing beyond Llama's names. In MindFormers 1.3.2 its key leads to a missing file; the converter came with
# 1.4.0-beta2. If your `config.json` says `skywork`, the family is told from that, and otherwise you get `llama`, which is as
# good.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Skywork-13B-base")
target_path = Path(scratch.name) / "skywork.ckpt"  # yours: Path("skywork.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("skywork", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "skywork")
mapped

# %% [markdown]
# ## One number
#
# `post_attention_layernorm` is what MindFormers calls `ffn_norm`.

# %%
before = mc.read(source, "model.layers.0.post_attention_layernorm.weight")
after = mc.read(mapped, "model.layers.0.ffn_norm.weight")
before[7], after[7]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
