# %% [markdown]
# # BERT
#
# Three weights of every layer are transposed on the way, those of the attention's output and of both feed-forward layers; query,
# key, value, pooler and the head's own dense layer are not. The norms change places in name only: the one after attention becomes
# `layernorm2`, the one after the feed-forward `layernorm1`. The decoder of the head is the word embedding, kept once.
#
# The heads are named as MindFormers' network names them, `mlmloss` and `nsploss`. `named_by="converter"` writes what MindFormers'
# script does: the first under `bert.`, without its bias, and no next-sentence head. That script offers no way back.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("bert-base-uncased")
target_path = Path(scratch.name) / "bert.ckpt"  # yours: Path("bert.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("bert", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "bert")
mapped

# %% [markdown]
# ## One number
#
# One weight of the first feed-forward layer, at row 7 and column 5, then at row 5 and column 7.

# %%
before = mc.read(source, "bert.encoder.layer.0.intermediate.dense.weight")
after = mc.read(mapped, "bert.bert_encoder.encoder.blocks.0.output.mapping.weight")
before[7, 5], after[5, 7]

# %%
mapped.report.explain("bert.bert_encoder.encoder.blocks.0.output.mapping.weight", (5, 7))

# %%
mapped.report.drawing("bert.bert_encoder.encoder.blocks.0.output.mapping.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Old and new names of the norms
#
# Older files say `gamma` and `beta` for what newer ones call `weight` and `bias`. Coming in, the names themselves tell which it
# is. Going back, `layer_norm` chooses, and without it you get what the manifest remembers.

# %%
back = mc.map(mapped, to="hf", layer_norm="weight_bias")
mc.diff(source, back)
