# %% [markdown]
# # How checkpoint formats differ
#
# One small model, three files: safetensors, MindSpore's `.ckpt`, torch's `.bin`. They hold the same numbers. This notebook shows
# where each format keeps the names, the shapes and the bytes. Then it shows what a conversion must get right, and what no header
# can tell.
#
# Run the cells from top to bottom. It takes a few seconds and writes only into a temporary folder.

# %% [markdown]
# ## The same model, four times
#
# `mc.toy` makes a small Llama with real names and random numbers. The ending of a file name chooses the format. Beside the three
# files, the folder `hf` holds the same model in several safetensors files, the *shards*, as large models come.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
folder = Path(scratch.name)
toy = mc.toy("llama", folder / "hf", num_hidden_layers=2)
for ending in ("safetensors", "ckpt", "bin"):
    mc.save(toy, folder / f"model.{ending}")

mc.anatomy(folder)

# %% [markdown]
# ## safetensors
#
# Eight bytes say how long the header is. The header is JSON text: for every tensor its dtype, its shape, and where its numbers
# begin and end. Then the numbers follow, one tensor after the other, without gaps.
#
# Read the first row with care: `70 08` is the number 0x0870, which is 2,160. The lowest byte comes first. This order is called
# *little-endian*, and all three formats use it. Spaces fill up the header to a multiple of 8.

# %%
mc.anatomy(folder / "model.safetensors")

# %% [markdown]
# ## MindSpore's `.ckpt`
#
# There is no header for the whole file. Each tensor is an *entry*: its name, shape and dtype stand directly before its numbers. The
# form is that of *protobuf*: a tag byte says what comes next, then comes its length. Seven bits of each byte of a length count;
# the eighth says that another byte follows. So `cb 02` is 0x4b + 2 × 128 = 331, the number of words in the vocabulary.
#
# Nothing is filled up, so numbers may begin at any byte, odd ones too. To find a tensor, a reader goes from entry to entry.

# %%
mc.anatomy(folder / "model.ckpt")

# %% [markdown]
# ## torch's `.bin`
#
# This is a zip file, and nothing in it is compressed. `data.pkl` holds the names and shapes; the numbers lie in the members
# `data/0`, `data/1` and so on. Padding before each makes its numbers begin at a multiple of 64.
#
# `data.pkl` is a *pickle*. Loading a pickle can run any code that its writer put in. That is why safetensors exists. Here the pickle
# is read word by word, and nothing of it runs.

# %%
mc.anatomy(folder / "model.bin")

# %% [markdown]
# ## One tensor in three files
#
# Where the numbers of the same tensor begin, and the largest power of two that divides this place.

# %%
import pandas as pd

places = {}
for ending in ("safetensors", "ckpt", "bin"):
    starts = {field.owner: field.offset for field in mc.anatomy(folder / f"model.{ending}").numbers}
    places[ending, "begins at"] = starts
    places[ending, "multiple of"] = {name: at & -at for name, at in starts.items()}

pd.DataFrame(places).head(8)

# %% [markdown]
# ## Slices
#
# MindSpore cuts a tensor of more than 512 MiB into several entries with the same name. To see this without a large file, the next
# cell writes only the headers. Between them it leaves holes, which take no room on the disk: the file looks like 1.2 GiB.

# %%
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.formats import mindspore_ckpt

plan = mindspore_ckpt.plan_file("large.ckpt", [TensorSpec("embedding.weight", (152_064, 4_096), "BF16")])
with open(folder / "large.ckpt", "wb") as file:
    for offset, header in plan.fixed:
        file.seek(offset)
        file.write(header)
    file.truncate(plan.size)

mc.anatomy(folder / "large.ckpt")

# %% [markdown]
# ## The index
#
# A model in several files needs a list: which file holds which tensor. It is JSON too. The sizes are not in it, and neither are
# the shapes, so a reader still opens every file.

# %%
mc.anatomy(folder / "hf" / "model.safetensors.index.json")

# %% [markdown]
# ## Three matrices in one
#
# Attention needs three matrices: query, key and value, in short q, k and v. Some models keep them apart, some keep them in one, which
# saves two multiplications. In *grouped-query attention*, several query heads share one key head and one value head. Here there are 6
# query heads and 2 groups.
#
# To see what goes where, each row gets a number that says which head it belongs to. Llama's rows then stand in MindFormers' fused
# matrix in one of two orders: q, k and v end to end, or one group after the other.

# %%
import numpy as np

heads = ["q0", "q1", "q2", "q3", "q4", "q5", "k0", "k1", "v0", "v1"]
small = mc.toy("llama", num_hidden_layers=1, head_dim=2)
marked = {tensor.name: mc.read(small, tensor.name) for tensor in small}
for letter in "qkv":
    rows = np.repeat([number for number, head in enumerate(heads) if head[0] == letter], 2)  # two rows a head
    marked[f"model.layers.0.self_attn.{letter}_proj.weight"] = np.outer(rows, np.ones(96)).astype(np.float32)

fused = {}
for form in (True, "grouped"):
    mapped = mc.map(mc.load(marked, config=small.config), "llama", qkv_concat=form)
    first_column = mc.read(mapped, "model.layers.0.attention.w_qkv.weight")[:, 0]
    fused[f"qkv_concat={form}"] = [heads[int(number)] for number in first_column[::2]]

pd.DataFrame(fused).T

# %% [markdown]
# Why two orders? Cut both rows of the table in the middle, as for two devices. End to end, the first device gets query heads only, and
# the second holds all keys and values. By group, each device gets whole groups: three query heads with the key and the value that
# they need. InternLM2 stores its matrices by group from the start.
#
# In mfconv_nb an order is a sentence. `(q + k + v) hidden` means: rows of q, then of k, then of v. In `(groups (group_q + group_k +
# group_v)) hidden` the same happens inside each group.

# %%
from mfconv_nb.families import internlm2, llama

pd.set_option("display.max_colwidth", None)
sentences = {
    "Llama, end to end": llama.CONCATENATED[0].layout,
    "Llama, by group": llama.GROUPED[0].layout,
    "InternLM2, taken apart": next(r.layout for r in internlm2.FAMILY.rules if "->" in (getattr(r, "layout", None) or "")),
}
pd.DataFrame({"layout": sentences})

# %% [markdown]
# The same as a picture. Here a block is what moves in one piece: `q 0` is the three query heads of group 0, which are 6 rows.

# %%
mapped.report.drawing("model.layers.0.attention.w_qkv.weight")

# %% [markdown]
# And for one number: row 6 of the fused matrix is the first row behind these query heads, so it must be the first key.

# %%
mapped.report.explain("model.layers.0.attention.w_qkv.weight", (6, 0))

# %% [markdown]
# ## A wrong layout may have the right shape
#
# Keys and values have the same shape. So let us make a mistake on purpose: in the rule that joins q, k and v, the names of k and v
# change places. What the config promises, names and shapes, is all still true. `mc.diff` finds nothing, and says that it has not
# seen the values.

# %%
from dataclasses import replace


def with_mistake(rule):
    if getattr(rule, "layout", None) != llama.CONCATENATED[0].layout:
        return rule
    q, k, v = rule.hf
    return replace(rule, hf=(q, v, k))


mistaken = llama.FAMILY.with_rules(tuple(with_mistake(rule) for rule in llama.FAMILY.rules))
wrong = mc.map(toy, mistaken, qkv_concat=True)

mc.diff(wrong, mc.expected("llama", toy.config, dtype="bf16", qkv_concat=True))

# %% [markdown]
# Only the numbers tell. Compared with a correct conversion, one matrix a layer is wrong, and every other tensor is equal. A model with
# this mistake loads without a complaint, and writes nonsense.

# %%
mc.diff(wrong, mc.map(toy, "llama", qkv_concat=True), values=True)

# %% [markdown]
# There and back is no proof against such a mistake: the way back undoes it. Therefore rules are also checked against outputs of other
# programs, and `mc.author.prove` makes such mistakes by the dozen and counts those that go unnoticed.

# %% [markdown]
# ## What a dtype does to a number
#
# Of the 32 bits of fp32, 1 is the sign, 8 are the exponent and 23 the fraction. bf16 keeps the 8 bits of the exponent and only 7 of
# the fraction: it reaches as far, but is coarse. fp16 has 5 and 10: it is finer, but ends at 65,504, and below 0.00000003 there is
# nothing but zero.
#
# NaN, "not a number", has a fraction too, its *payload*. Hardly anything reads it, but it is part of the bytes. Of a cast to
# bf16 or fp16 only its first bits remain. A copy keeps it: without `dtype=` it arrives as it was.

# %%
from mfconv_nb.core.dtypes import cast_into, numpy_dtype

numbers = np.array([1 / 3, 65_504, 65_520, 1e-8, 3.0e38, 0], np.float32)
numbers.view(np.uint32)[-1] = 0x7FC12345  # NaN with a payload
named = ["1/3", "65504", "65520", "1e-8", "3.0e38", "NaN, payload 0x12345"]

table = {}
for dtype, exponent in (("F32", 8), ("BF16", 8), ("F16", 5)):
    cast = np.empty(numbers.shape, numpy_dtype(dtype))
    cast_into(cast, numbers)
    bits = [f"{word:0{8 * cast.itemsize}b}" for word in cast.view(f"u{cast.itemsize}")]
    table[dtype, "value"] = [f"{float(value):.9g}" for value in cast]
    table[dtype, "bits"] = [f"{b[0]} {b[1 : 1 + exponent]} {b[1 + exponent :]}" for b in bits]

pd.DataFrame(table, index=named)
