# %% [markdown]
# # LLaVA-1.5
#
# Here fusing goes the other way: Hugging Face keeps q, k and v of the CLIP tower apart, MindFormers joins them in `attn.in_proj`,
# weight and bias alike. The two layers of the projector become an adapter, and what follows under `language_model.` is a Llama
# with its usual names.
#
# One spelling is deliberate: the norm before the tower is really called `pre_layrnorm` in these files. In older repositories the
# tower's names go on with `vision_model.`, those written by transformers 5 leave it out; `tower` decides on the way back.
#
# MindFormers (1.4.0-beta2) appends the joined tensors at the end of its file and cannot return.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("llava-1.5-7b-hf")
target_path = Path(scratch.name) / "llava.ckpt"  # yours: Path("llava.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("llava", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "llava")
mapped

# %% [markdown]
# ## One number
#
# k becomes the second of three blocks in `in_proj`.

# %%
tower = mapped.options["tower"]  # "vision_model.", or nothing
k = mc.read(source, f"vision_tower.{tower}encoder.layers.0.self_attn.k_proj.weight")
joined = mc.read(mapped, "vision_encoder.transformer.resblocks.0.attn.in_proj.weight")
k[7, 5], joined[len(k) + 7, 5]

# %%
mapped.report.explain("vision_encoder.transformer.resblocks.0.attn.in_proj.weight", (len(k) + 7, 5))

# %%
mapped.report.drawing("vision_encoder.transformer.resblocks.0.attn.in_proj.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## For transformers 5
#
# The shorter names, chosen for the return.

# %%
shorter = mc.map(mapped, to="hf", tower="")
[tensor.name for tensor in shorter][:4]
