# %% [markdown]
# # Llama
#
# Of all families this is the plainest: eleven names change and not one number moves. q, k, v, gate and up keep their own
# matrices, and the rows of a head keep the order that Hugging Face's rotary embedding wants. Two tensors need care. A head that
# is tied to the embedding (Llama 3.2) is written out, because MindFormers always reads one; and the rotary buffer of old files
# has no place over there, so it waits in the folder beside the output.
#
# MindFormers' own converter writes that buffer nowhere and cannot give it back. Where `config.json` names more layers than the
# files hold, it fills the gap with random numbers and ends as if all were well; here such a config is refused.
#
# `qkv_concat` is for inference with fused matrices: `True` lays q, k, v end to end, as the tool of MindFormers 1.3.2 does, and
# `"grouped"` interleaves them by key/value group, as 1.5 does.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Llama-3.1-8B")
target_path = Path(scratch.name) / "llama.ckpt"  # yours: Path("llama.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("llama", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "llama")
mapped

# %% [markdown]
# ## One number
#
# A row of k stays the row it was; only its name is new.

# %%
k_hf = mc.read(source, "model.layers.0.self_attn.k_proj.weight")
k_mf = mc.read(mapped, "model.layers.0.attention.wk.weight")
k_hf[7, 5], k_mf[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Fused for inference
#
# Both fused forms have equal names and shapes, so no header can tell them apart. Their numbers can: row 0 is the first row of q
# in both, and the first row of k comes after all of q in one, after the q of its own group in the other.

# %%
end_to_end = mc.map(source, "llama", qkv_concat=True)
grouped = mc.map(source, "llama", qkv_concat="grouped")
mc.diff(end_to_end, grouped, values=True)

# %%
q = mc.read(source, "model.layers.0.self_attn.q_proj.weight")
groups = source.config.get("num_key_value_heads", source.config["num_attention_heads"])
fused = mc.read(end_to_end, "model.layers.0.attention.w_qkv.weight")
by_group = mc.read(grouped, "model.layers.0.attention.w_qkv.weight")
k_hf[0, 5], fused[len(q), 5], by_group[len(q) // groups, 5]

# %%
grouped.report.drawing("model.layers.0.attention.w_qkv.weight")

# %% [markdown]
# ## Meta's own files
#
# `consolidated.00.pth` and its siblings are a family of their own, `llama_meta`, with the same MindFormers side. Every file has a
# slice of each matrix and a full copy of each norm. Meta keeps the two rows of a rotary pair next to each other; on both other
# sides the first halves of all pairs come before the second halves. The toy has two files.

# %%
meta = mc.toy("llama_meta")
from_meta = mc.map(meta, "llama_meta")
from_meta

# %%
pairs = meta.config["dim"] // meta.config["n_heads"] // 2
q_meta = mc.read(meta, "consolidated.0/layers.0.attention.wq.weight")
q_mf = mc.read(from_meta, "model.layers.0.attention.wq.weight")
q_meta[2 * 1 + 1, 5], q_mf[pairs + 1, 5]  # pair 1, second half

# %%
from_meta.report.drawing("model.layers.0.attention.wq.weight")

# %%
mc.diff(meta, mc.map(from_meta, to="hf"), values=True)
