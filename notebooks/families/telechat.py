# %% [markdown]
# # TeleChat and TeleChat2
#
# Three kinds of files carry this name. 12B and TeleChat2 begin with `transformer.` and have a head, 7B has neither; in both
# `key_value` stays one matrix, each head's key above its value. 52B resembles GPT-2: weights stand input first, q, k and v are
# fused, and so are gate and up. Names tell which is which, or `telechat_type` does.
#
# For 52B the fused matrices are regrouped for `mp` cards, four unless you say otherwise, and a file made for four is wrong on
# eight. `conv1d` describes how the Hugging Face side is turned; where shapes show it, leave it out.
#
# In MindFormers the key fails on the names of 12B, and on the way back puts strings in the place of tensors. TeleChat2's own
# scripts work.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = None  # a toy; yours: Path("TeleChat-12B")
target_path = Path(scratch.name) / "telechat.ckpt"  # yours: Path("telechat.ckpt"), in a place that stays
if source_path is None:
    source_path = Path(scratch.name) / "toy"
    mc.toy("telechat", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "telechat")
mapped

# %% [markdown]
# ## One number
#
# Packed before, packed after: the key and value rows of layer 0.

# %%
prefix = "transformer." if mapped.options["telechat_type"] == "telechat_12b" else ""
before = mc.read(source, f"{prefix}h.0.self_attention.key_value.weight")
after = mc.read(mapped, "model.layers.0.attention.wk_v.weight")
before[7, 5], after[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## 52B, for one card and for four
#
# Equal shapes, other numbers: six tensors of this toy depend on `mp`.

# %%
large = mc.toy("telechat", options={"telechat_type": "telechat_52b"})
one_card, four_cards = mc.map(large, "telechat", mp=1), mc.map(large, "telechat", mp=4)
mc.diff(one_card, four_cards, values=True)

# %%
hidden, heads = large.config["hidden_size"], large.config["n_head"]
size = hidden // heads
joint = mc.read(large, "transformer.h.0.attn.c_attn.weight")
fused = mc.read(one_card, "model.layers.0.attention.w_qkv.weight")
joint[5, hidden + size + 2], fused[(3 + 1) * size + 2, 5]  # k of head 1

# %%
four_cards.report.drawing("model.layers.0.attention.w_qkv.weight")
