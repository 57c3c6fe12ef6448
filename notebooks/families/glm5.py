# %% [markdown]
# # GLM-5
#
# The names are those of DeepSeek-V3.2, the numbers are not: the indexer of this model turns neighbouring rows, so they have to part for the
# network of MindFormers, which turns halves. That is why a folder without a `config.json` is asked about.
#
# Layers may share an indexer. The config says which layers run one, by a list, `indexer_types`, or by a step: that of the toy is two, so
# layers 1 and 3 take over what was chosen before them. Whatever is missing or too much by the config is refused. Only MindFormers' dynamic
# graph shares, as `dsa_indexer_types`, and it insists on 64 heads of 128 in an indexer.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("GLM-5-bf16")
target_path = Path(scratch.name) / "glm5.safetensors"  # yours: Path("glm5.safetensors"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("glm5", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "glm5")
mapped

# %% [markdown]
# ## One number
#
# Rows 4 and 5 of the keys are a pair, the third of four; in halves they are rows 2 and 6.

# %%
theirs = mc.read(source, "model.layers.2.self_attn.indexer.wk.weight")
ours = mc.read(mapped, "decoder.layers.2.self_attention.core_attention.indexer.linear_wk.weight")
theirs[5, 11], ours[6, 11]

# %%
mapped.report.explain("decoder.layers.2.self_attention.core_attention.indexer.linear_wk.weight", (6, 11))

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Which layers have an indexer
#
# The layer that predicts a further token keeps its own.

# %%
[t.name for t in mapped if t.name.endswith("indexer.k_norm.gamma")]
