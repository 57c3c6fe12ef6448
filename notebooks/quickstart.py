# %% [markdown]
# # Quickstart
#
# A Hugging Face checkpoint becomes a MindFormers checkpoint, and you see proof that no bit changed.
#
# Five steps: **load**, **map**, **diff**, **save**, **verify**. Run the cells from top to bottom. It takes a few seconds and
# writes only into a temporary folder.

# %% [markdown]
# ## The one cell to change
#
# As it stands, this cell makes a toy Llama: real tensor names, tiny sizes. For your own checkpoint, give its folder and the file
# to write, and remove the line that makes the toy.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
source_path = Path(scratch.name) / "toy"  # yours: Path("Llama-3.1-8B")
target_path = Path(scratch.name) / "toy.ckpt"  # yours: Path("llama.ckpt")
mc.toy("llama", source_path)  # yours: remove this line

[path.name for path in sorted(source_path.iterdir())]

# %% [markdown]
# ## 1. Load
#
# Only headers are read: names, shapes, dtypes. A folder of 16 GB opens as quickly as the toy. Layers that repeat fold into one
# row.

# %%
source = mc.load(source_path)
source

# %% [markdown]
# ## 2. Map
#
# The same numbers under MindFormers' names. The family is told from `config.json` and the names; no size has to be typed. Each
# row is a rule of that family. Every tensor must be matched by exactly one rule, or nothing goes on. Still no weight is read.

# %%
mapped = mc.map(source)
mapped

# %% [markdown]
# ## 3. Diff
#
# Is this what MindFormers expects? `mc.expected` knows the names and shapes from the config alone. It has no values, so only
# names, shapes and dtypes are compared, and the verdict says so.

# %%
mc.diff(mapped, mc.expected(mapped.family, source.config, dtype=source.specs[0].dtype))

# %% [markdown]
# ## 4. Save
#
# Now the bytes stream through, in a small buffer, whatever the model's size. The ending of the name chooses the format. If the
# kernel dies here, run the cell again: it goes on where it stopped.

# %%
mc.save(mapped, target_path)

# %% [markdown]
# ## 5. Verify
#
# The file is opened again, mapped back, and compared with the original, byte by byte.

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## Can the proof fail?
#
# A check that never fails shows nothing. So here is one tensor, and a copy of it with one number moved to its neighbour.

# %%
name = min(mapped, key=lambda tensor: tensor.spec.nbytes).name
numbers = mc.read(mapped, name)
damaged = numbers.copy()
damaged.view("u1")[0] ^= 1  # the lowest bit of the first number

mc.diff({name: numbers}, {name: damaged}, values=True)

# %% [markdown]
# ## The way back
#
# The same rules, read from right to left. Saved to a folder, this is what `from_pretrained` opens.

# %%
back = mc.map(mc.load(target_path), to="hf", config=source.config)
mc.save(back, target_path.with_name("back"))

# %% [markdown]
# Every result gives its rows as data too: one row a tensor here.

# %%
rows = mc.diff(source, back, values=True).to_frame()
rows[["name", "status", "dtype_first", "differing", "max_ulp"]].head()

# %% [markdown]
# In a shell, the same is:
#
# ```
# mfconv convert Llama-3.1-8B/ llama.ckpt
# mfconv verify Llama-3.1-8B/ llama.ckpt
# mfconv convert --reversed --input_path llama.ckpt --output_path back/ --config Llama-3.1-8B/
# ```
