# %% [markdown]
# # Verify a round trip
#
# Is the converted file right? This notebook takes a checkpoint to MindFormers and back, and looks at each way in which the answer
# can be less than yes: a cast that rounds, a number too large, a byte that flipped on a disk, a head that should be a copy, a
# buffer that has nowhere to go. It writes a few copies into a temporary folder; the parts that spoil something use the toy, whatever
# checkpoint you give.

# %%
import shutil
import tempfile
from pathlib import Path

import numpy as np

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
folder = Path(scratch.name)
toy_path = folder / "toy"
toy = mc.toy("llama", toy_path)
source_path = toy_path  # yours: Path("Llama-3.1-8B")
target_path = folder / "llama.ckpt"  # yours: Path("llama.ckpt"), in a place that stays

source = mc.load(source_path)
mapped = mc.map(source)
mc.save(mapped, target_path)

# %% [markdown]
# ## There and back
#
# The file is opened, mapped back by the same rules read from right to left, and compared with the original. Every row below is a
# sentence that can turn out false. The verdict is the worst of them.
#
# | verdict | what it means |
# |---|---|
# | `✓ Equal.` | every name, shape and byte came back; after a cast: once the numbers are cast back |
# | `≈ Close.` | you asked for a cast, and its rounding is the only difference |
# | `✗ Not equal.` | something differs that no cast explains, or became infinite in one |
# | `! Incomplete.` | what could be compared is right, but not everything could |

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# In a shell: `mfconv verify Llama-3.1-8B/ llama.ckpt`. It ends with 0 for the first two verdicts and with 1 for the others.
#
# ## A cast that costs nothing
#
# float32 holds every bfloat16 number, so nothing is lost on the way up. The report adds a condition: each number is the original,
# rounded to nearest even.

# %%
mc.save(mapped, folder / "fp32.ckpt", dtype="fp32")
mc.verify(source_path, folder / "fp32.ckpt")

# %% [markdown]
# ## A cast that rounds
#
# float16 has more digits than bfloat16 but far less range. Ordinary weights pass unharmed; very small ones lose digits. The
# distance is counted in ULP, steps from one representable number to the next: 1 is a neighbour.

# %%
mc.save(mapped, folder / "fp16.ckpt", dtype="fp16")
rounded = mc.verify(source_path, folder / "fp16.ckpt")
rounded

# %% [markdown]
# Which tensors suffered most?

# %%
cost = rounded.differences.to_frame().sort_values("max_ulp", ascending=False)
cost[["name", "differing", "max_abs", "max_ulp"]].head()

# %% [markdown]
# ## A cast that breaks
#
# Above 65504 float16 has only infinity. One such number, in a norm, and the verdict is no longer close: infinity does not come back.

# %%
numbers = {tensor.name: mc.read(toy, tensor.name) for tensor in toy}
numbers["model.norm.weight"][0] = 70000
large = mc.load(numbers, config=toy.config)
mc.save(mc.map(large), folder / "large.ckpt", dtype="fp16")
mc.verify(large, folder / "large.ckpt")

# %% [markdown]
# ## A damaged file
#
# Beside every output lies a manifest with a checksum for each tensor. So a file can be checked alone, months later and without the
# original: `mfconv verify llama.ckpt` in a shell, or here. First as it was written, then with one bit turned.

# %%
damaged_path = folder / "damaged.ckpt"
mc.save(mc.map(toy), damaged_path)
mc.verify(damaged_path)

# %%
with damaged_path.open("r+b") as file:
    file.seek(damaged_path.stat().st_size // 2)
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))

mc.verify(damaged_path)

# %% [markdown]
# Against the original, the same damage has a place and a size.

# %%
found = mc.verify(toy_path, damaged_path)
found

# %%
changed = found.differences.to_frame().query("differing > 0")
changed[["name", "differing", "max_ulp", "first_difference"]]

# %% [markdown]
# ## Keep the result
#
# `to_frame` gives the conditions, `.differences.to_frame` one row a tensor, `to_json` the verdict with its reasons.

# %%
found.to_frame().to_csv(folder / "conditions.csv", index=False)
found.differences.to_frame().to_csv(folder / "tensors.csv", index=False)
(folder / "verdict.json").write_text(found.to_json(), encoding="utf-8")

sorted(path.name for path in folder.iterdir() if path.suffix in (".csv", ".json"))

# %% [markdown]
# ## A tied head
#
# Where the config says that the head is the embedding, the Hugging Face file holds one matrix and MindFormers' file two. On the way
# back one of them is left out, so the proof needs one more condition: that it really is a copy.

# %%
tied_path = folder / "tied"
tied = mc.map(mc.toy("llama", tied_path, tie_word_embeddings=True))
mc.save(tied, folder / "tied.ckpt")
mc.verify(tied_path, folder / "tied.ckpt")

# %% [markdown]
# Train the head apart from the embedding, and leaving it out would lose it. The condition notices.

# %%
trained = {tensor.name: mc.read(tied, tensor.name) for tensor in tied}
trained["lm_head.weight"] = trained["lm_head.weight"] * 2
mc.verify(tied_path, mc.load(trained, config=mc.load(tied_path).config))

# %% [markdown]
# ## Buffers without a place
#
# Old Llama files carry a rotary buffer in every layer, and MindFormers has no tensor for it. It is not thrown away: it waits in
# `NAME.mfconv/`, next to the manifest, and the way back takes it from there.

# %%
layers, half = toy.config["num_hidden_layers"], toy.config["head_dim"] // 2
inv_freq = (10000.0 ** -(np.arange(half) / half)).astype(np.float32)
buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": inv_freq for layer in range(layers)}
numbers = {tensor.name: mc.read(toy, tensor.name) for tensor in toy}
old = mc.load({**numbers, **buffers}, config=toy.config)
mc.save(mc.map(old), folder / "old.ckpt")
mc.verify(old, folder / "old.ckpt")

# %% [markdown]
# Lose that folder, and the verdict says what no longer comes back. The weights are as right as before.

# %%
shutil.rmtree(folder / "old.ckpt.mfconv")
mc.verify(old, folder / "old.ckpt")

# %% [markdown]
# ## The file itself, back again
#
# A verdict is a promise about the way back. Here it is kept: written to a folder, opened anew, compared byte by byte.

# %%
mc.save(mc.map(mc.load(target_path), to="hf", config=source.config), folder / "back")
mc.diff(source_path, folder / "back", values=True)
