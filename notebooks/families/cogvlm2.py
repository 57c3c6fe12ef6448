# %% [markdown]
# # CogVLM2
#
# Three parts share a file: an EVA vision tower, an adapter and a Llama. For video the language model's fused `query_key_value` is
# cut into wq, wk and wv, of which the first is the tallest since keys and values are shared between heads. For images it stays
# whole, and each layer has a vision expert next to the language expert. In the tower two embeddings gain an axis of length one,
# and the rotary buffer, which every layer repeats, is written a single time.
#
# `modal` says which of the two models it is; names and shapes usually tell. With `sft="lora"` the language model's names are
# wrapped for a run that trains adapters.
#
# The reference has the row numbers of the 8B model typed in (4096 and 5120), wraps a single tensor of an image model, and has no
# way back.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("cogvlm2-video-llama3-chat")
target_path = Path(scratch.name) / "cogvlm2.ckpt"  # yours: Path("cogvlm2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("cogvlm2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "cogvlm2")
mapped

# %% [markdown]
# ## One number
#
# Rows of k follow all rows of q.

# %%
fused = mc.read(source, "model.layers.0.self_attn.language_expert_query_key_value.weight")
q = mc.read(mapped, "llm_model.model.layers.0.attention.wq.weight")
k = mc.read(mapped, "llm_model.model.layers.0.attention.wk.weight")
fused[len(q) + 7, 5], k[7, 5]

# %%
mapped.report.explain("llm_model.model.layers.0.attention.wk.weight", (7, 5))

# %%
mapped.report.drawing("llm_model.model.layers.0.attention.wk.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Wrapped for adapters
#
# With `sft="lora"`, thirty tensors of the toy change their names and all others agree.

# %%
mc.diff(mapped, mc.map(source, "cogvlm2", sft="lora"))

# %% [markdown]
# ## The image model
#
# A second toy, for the other modality: its expert matrices are not cut.

# %%
mc.map(mc.toy("cogvlm2", options={"modal": "image"}), "cogvlm2")
