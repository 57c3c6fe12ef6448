# %% [markdown]
# # Baichuan2
#
# Baichuan2 is the Llama table with one difference: q, k and v lie in a single matrix, `W_pack`, one block of rows after the
# other. All three blocks have the same height, since every head has its own keys and values. 7B has rotary positions and 13B has
# ALiBi, yet their tensors have equal names, so one notebook serves both.
#
# The converter of MindFormers splits `W_pack` rightly and joins it again, the joined ones last in its file. Adapters are another
# matter: of the LoRA parts of q, k and v it makes one pair that means nothing. And when the model cannot be opened it prints the
# error and still leaves with exit status 0.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("Baichuan2-13B-Chat")
target_path = Path(scratch.name) / "baichuan2.ckpt"  # yours: Path("baichuan2.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("baichuan2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "baichuan2")
mapped

# %% [markdown]
# ## One number
#
# The block of k begins where the block of q ends, so row 7 of `wk` is found that far down in `W_pack`.

# %%
packed = mc.read(source, "model.layers.0.self_attn.W_pack.weight")
k = mc.read(mapped, "model.layers.0.attention.wk.weight")
packed[len(k) + 7, 5], k[7, 5]

# %%
mapped.report.explain("model.layers.0.attention.wk.weight", (7, 5))

# %%
mapped.report.drawing("model.layers.0.attention.wk.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
