# %% [markdown]
# # DeepSeek-V3.2
#
# This is DeepSeek-V3 and, in every layer, a small attention of its own: the indexer scores all earlier tokens, and only the best ones are
# attended to. MindFormers builds it with `experimental_attention_variant: dsa`, in the dynamic graph, which is the default here, and in the
# static one. No converter of its own knows the indexer.
#
# Each graph has its own opinion on where the rotary rows of an indexer's head belong. The dynamic graph agrees with transformers and starts
# with them; the static graph puts them last and turns neighbours instead of halves. Since queries, keys and the norm of the keys are
# reordered alike, no score changes.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("DeepSeek-V3.2-bf16")
target_path = Path(scratch.name) / "deepseekv32.safetensors"  # yours: Path("deepseekv32.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("deepseekv32", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "deepseekv32", graph="static")
mapped

# %% [markdown]
# ## One number
#
# The second head of the indexer has 26 rows, eight of them rotary. Its row 5 is the partner of row 1; the static graph wants the two side
# by side, behind the 18 rows that are not turned.

# %%
head, plain = 26, 18
theirs = mc.read(source, "model.layers.2.self_attn.indexer.wq_b.weight")
ours = mc.read(mapped, "decoder.layers.2.self_attention.core_attention.indexer.linear_wq_b.weight")
theirs[head + 5, 9], ours[head + plain + 3, 9]

# %%
mapped.report.explain("decoder.layers.2.self_attention.core_attention.indexer.linear_wq_b.weight", (head + plain + 3, 9))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## The other graph
#
# Nothing moves inside its indexer, while the projections of latent attention are joined.

# %%
dynamic = mc.map(source, "deepseekv32")
[(t.name, t.shape) for t in dynamic if t.name.startswith("decoder.layers.2.self_attention")]
