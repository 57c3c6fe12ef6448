# %% [markdown]
# # KnowLM
#
# A Llama of 13B under a key of its own. MindFormers 1.3.2 lists the key and lacks the file behind it, so its command ends in
# `ModuleNotFoundError`; 1.4.0-beta2 has it. Say the family by name, or leave it out and read `llama` in the report: the output is
# the same.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("knowlm-13b")
target_path = Path(scratch.name) / "knowlm.ckpt"  # yours: Path("knowlm.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("knowlm", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "knowlm")
mapped

# %% [markdown]
# ## One number
#
# The final norm, where a single name ends in `norm_out`.

# %%
mc.read(source, "model.norm.weight")[7], mc.read(mapped, "model.norm_out.weight")[7]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
