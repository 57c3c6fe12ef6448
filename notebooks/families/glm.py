# %% [markdown]
# # ChatGLM-6B, the first
#
# The first ChatGLM is the only one of its line that MindFormers gives `gamma` and `beta`: three layer norms and the embedding are
# renamed, and the rest keeps its name letter for letter. `query_key_value` stays fused, with its bias. Even the rotary buffers
# are carried over.
#
# Beware of dtypes when you compare with MindFormers. It halves the model on loading and forces `input_layernorm` to float16 after
# any cast that you asked for, so its round trip is exact for float16 alone. This tool leaves every dtype as it is. The toy is
# float16 for that reason.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("chatglm-6b")
target_path = Path(scratch.name) / "glm.ckpt"  # yours: Path("glm.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("glm", source_path, dtype="fp16")

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "glm")
mapped

# %% [markdown]
# ## One number
#
# A gain of the first norm, before and after the renaming.

# %%
gain = mc.read(source, "transformer.layers.0.input_layernorm.weight")
gamma = mc.read(mapped, "transformer.layers.0.input_layernorm.gamma")
gain[7], gamma[7]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
