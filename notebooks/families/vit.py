# %% [markdown]
# # ViT, fine-tuned from MAE
#
# These are the `.pth` files of the MAE repository after fine-tuning. All but the classifier moves under `vit.`. Linear weights
# are transposed, with one exception: `qkv` is cut into dense1, dense2 and dense3, whose orientation stays. A file has `fc_norm`
# or plain `norm`; either will do.
#
# There is no config in such a file; sizes come from the tensors themselves. MindFormers cannot reach its converter through the
# usual command, as that passes an `n_head` it has no use for. Called directly, both of its directions are right.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("mae_finetuned_vit_base.pth")
target_path = Path(scratch.name) / "vit.ckpt"  # yours: Path("vit.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("vit", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "vit")
mapped

# %% [markdown]
# ## One number
#
# `fc1`, seen from both sides.

# %%
fc1 = mc.read(source, "blocks.0.mlp.fc1.weight")
mapping = mc.read(mapped, "vit.blocks.0.output.mapping.weight")
fc1[7, 5], mapping[5, 7]

# %%
mapped.report.explain("vit.blocks.0.output.mapping.weight", (5, 7))

# %%
mapped.report.drawing("vit.blocks.0.output.mapping.weight")

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
