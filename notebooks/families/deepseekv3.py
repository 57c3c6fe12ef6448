# %% [markdown]
# # DeepSeek-V3 and R1, under mcore names
#
# `deepseek3` writes what MindFormers 1.5 trained; this key writes what it trains since 1.6, and what `--model deepseekv3` of its own
# command means. Latent attention keeps every number where it was and only changes names, so no rotary row moves. Gate and up of the
# dense layers and of the shared experts take turns; those of the routed experts lie side by side, turned.
#
# The layer behind the last one, which predicts a further token, becomes `mtp.layers.0`. Where it stands on the Hugging Face side depends
# on how many layers there are, so its way back needs the config. Its embedding and its head must equal those of the model: MindFormers'
# toolkit writes the embedding twice and keeps either copy, depending on the hash seed of Python. Weights in fp8 have to be made bf16 first.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("DeepSeek-V3-bf16")
target_path = Path(scratch.name) / "deepseekv3.safetensors"  # yours: Path("deepseekv3.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseekv3", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseekv3")
mapped

# %% [markdown]
# ## One number
#
# From the last layer, which is number 3 in the toy, to a layer of its own.

# %%
last = source.config["num_hidden_layers"]
here = mc.read(source, f"model.layers.{last}.mlp.shared_experts.up_proj.weight")
there = mc.read(mapped, "mtp.layers.0.transformer_layer.mlp.shared_experts.linear_fc1.weight")
here[6, 9], there[2 * 6 + 1, 9]

# %%
mapped.report.explain("mtp.layers.0.transformer_layer.mlp.shared_experts.linear_fc1.weight", (13, 9))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Two layouts of one model
#
# Both keys take the same folder. What becomes of latent attention shows the difference: five matrices as they were, or seven with
# their rotary rows in another order.

# %%
older = mc.map(source, "deepseek3")
[t.name for c in (mapped, older) for t in c if "layers.0." in t.name and "att" in t.name]

# %%
[mc.diff(source, mc.map(each, to="hf"), values=True).equal for each in (mapped, older)]
