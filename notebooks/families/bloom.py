# %% [markdown]
# # BLOOM and BLOOMZ
#
# BLOOM fuses q, k and v head by head: three thin slices of rows to a head, all in one `query_key_value`. To take them apart one
# has to know the number of heads. The three matrices of MindFormers keep their orientation, while the attention's output and both
# feed-forward weights are transposed.
#
# Here the head count is read from `config.json` and checked against the shapes. MindFormers asks for `n_head` and `hidden_size`
# on the command line, falls back to 32 and 4096, and takes a wrong head count without a word as long as the product fits: the
# file looks right and every head is scrambled.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("bloom-7b1")
target_path = Path(scratch.name) / "bloom.ckpt"  # yours: Path("bloom.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("bloom", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "bloom")
mapped

# %% [markdown]
# ## One number
#
# Each head owns three slices. The k of head 1 is the middle one of the second three, so four slices lie above it.

# %%
heads = source.config.get("n_head") or source.config["num_attention_heads"]
prefix = mapped.options["prefix"]
fused = mc.read(source, f"{prefix}h.0.self_attention.query_key_value.weight")
k = mc.read(mapped, f"{prefix}blocks.0.attention.dense2.weight")
rows = len(k) // heads  # of one head
fused[3 * rows + rows + 2, 5], k[rows + 2, 5]

# %%
mapped.report.explain(f"{prefix}blocks.0.attention.dense2.weight", (rows + 2, 5))

# %%
mapped.report.drawing(f"{prefix}blocks.0.attention.dense2.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## With `transformer.` in front
#
# Some repositories put a prefix before every name. It changes no shape, and it stays on both sides; MindFormers' reverse
# converter stops with an error on it.

# %%
mc.map(mc.toy("bloom", options={"prefix": "transformer."}), "bloom")
