# %% [markdown]
# # InternLM
#
# The 7B model has biases in its attention, on the output too, and the 20B model has none; `bias` in `config.json` says which, and
# the rules for the biases apply or not accordingly. Apart from that the table is Llama's. Where Llama's rotary buffer is set
# aside, InternLM's is carried over under its own name, because MindFormers does so.
#
# Two things to know of the original converter: any dtype you ask for is applied to that buffer as well, and a model that fails to
# load ends with a printed message and exit status 0.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("internlm-7b")
target_path = Path(scratch.name) / "internlm.ckpt"  # yours: Path("internlm.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("internlm", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "internlm")
mapped

# %% [markdown]
# ## One number
#
# The bias that Llama does not have, at the attention's output.

# %%
before = mc.read(source, "model.layers.0.self_attn.o_proj.bias")
after = mc.read(mapped, "model.layers.0.attention.wo.bias")
before[7], after[7]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
