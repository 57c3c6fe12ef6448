# %% [markdown]
# # DeepSeek-V2
#
# Queries, keys and values pass through a narrow latent space here, and MindFormers has its own names for each stage: `q2l_proj`,
# `lq_norm`, `l2q_proj`, `kv2l`, `lkv2kv`. None of them moves a number. The experts do: a layer's gates become one tensor with an
# axis of experts in front, likewise its ups and downs. The first layers are dense and have no experts, which the layer numbers of
# the rules show. V2-Lite skips the latent step for q and has a plain `q_proj`.
#
# The script in MindFormers counts on 160 experts. Fed with eight, it writes a file without any; its `--dtype` reaches nothing but
# the routed experts, and it has no reverse. Here the count comes from `config.json`; `num_routed_experts` is needed only where
# there is no config, and is checked where there is one.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("DeepSeek-V2-Lite")
target_path = Path(scratch.name) / "deepseek2.ckpt"  # yours: Path("deepseek2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseek2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseek2")
mapped

# %% [markdown]
# ## One number
#
# Expert 3 is slice 3 of the stack.

# %%
layer = source.config["first_k_dense_replace"]  # the first with experts
gate = mc.read(source, f"model.layers.{layer}.mlp.experts.3.gate_proj.weight")
stack = mc.read(mapped, f"model.layers.{layer}.feed_forward.routed_experts.ffn.w1.weight")
gate[7, 5], stack[3, 7, 5]

# %%
mapped.report.explain(f"model.layers.{layer}.feed_forward.routed_experts.ffn.w1.weight", (3, 7, 5))

# %%
mapped.report.drawing(f"model.layers.{layer}.feed_forward.routed_experts.ffn.w1.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## A wrong number of experts
#
# A count that contradicts the config is refused before anything is read.

# %%
try:
    mc.map(source, "deepseek2", num_routed_experts=4096)
except mc.MfconvError as refusal:
    print(refusal)
