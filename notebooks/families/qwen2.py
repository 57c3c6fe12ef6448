# %% [markdown]
# # Qwen1.5, Qwen2 and Qwen2.5
#
# Llama's table plus three biases, on q, k and v but not on the output. Small models tie their head to the embedding. `qwen2` then
# writes a copy of it, which is what MindFormers' converter of that name does; `qwen1_5` writes none, as the script in
# `research/qwen1_5` does. Choose by the network that shall load the file.
#
# MindFormers lists no reverse for `qwen2`; the inverse hides in the folder of Qwen1.5. With transformers 5 the forward converter
# stumbles over bfloat16 files, and the other script always writes float16. Here no dtype changes unless you ask.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Qwen2.5-7B-Instruct")
target_path = Path(scratch.name) / "qwen2.ckpt"  # yours: Path("qwen2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("qwen2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "qwen2")
mapped

# %% [markdown]
# ## One number
#
# The third bias, over to `wv`.

# %%
before = mc.read(source, "model.layers.0.self_attn.v_proj.bias")
after = mc.read(mapped, "model.layers.0.attention.wv.bias")
before[7], after[7]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## A tied head, written or not
#
# A toy with a tied head, mapped with each of the two keys. Both come back whole, since the head is the embedding.

# %%
tied = mc.toy("qwen2", tie_word_embeddings=True)
with_head, without_head = mc.map(tied, "qwen2"), mc.map(tied, "qwen1_5")
mc.diff(with_head, without_head)

# %%
[mc.diff(tied, mc.map(each, to="hf"), values=True).equal for each in (with_head, without_head)]
