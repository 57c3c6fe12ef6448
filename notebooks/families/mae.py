# %% [markdown]
# # MAE, pre-training
#
# A masked autoencoder is a ViT twice over: an encoder and a narrower decoder, whose blocks follow one and the same scheme. In
# each, `qkv` falls into three thirds, and three weights are transposed: the attention's projection, `fc1`, `fc2`. The encoder
# lands under `vit.`, the decoder beside it, the mask token with an s at its end; `norm` and `decoder_norm` get gamma and beta
# without being renamed to layernorm. `named_by="converter"` puts the decoder under `vit.` too, as MindFormers' script does.
#
# The key does not work in MindFormers 1.3.2: its entry point hands the converter arguments that it does not accept. The reverse
# side cuts the prefix off letter by letter, so a name that began with one of v, i, t or a dot after it would lose more than it
# should.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("mae_pretrain_vit_base_full.pth")
target_path = Path(scratch.name) / "mae.ckpt"  # yours: Path("mae.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("mae", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "mae")
mapped

# %% [markdown]
# ## One number
#
# The value rows of a decoder block are the last third.

# %%
fused = mc.read(source, "decoder_blocks.0.attn.qkv.weight")
v = mc.read(mapped, "decoder_blocks.0.attention.dense3.weight")
fused[2 * len(v) + 7, 5], v[7, 5]

# %%
mapped.report.explain("decoder_blocks.0.attention.dense3.weight", (7, 5))

# %%
mapped.report.drawing("decoder_blocks.0.attention.dense3.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
