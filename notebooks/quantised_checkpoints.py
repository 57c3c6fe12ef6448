# %% [markdown]
# # Quantised checkpoints
#
# DeepSeek-V3, R1 and Kimi-K2 are published in fp8: a code of one byte for each number, and a scale for each block of codes. Here a
# small DeepSeek is quantised in the same way, converted to MindFormers as numbers, and brought back as the bytes that were published.
# On the way: what a block scale is, what bf16 loses, why the codes come back all the same, and what happens to a weight that was
# trained. It runs in a temporary folder; [docs/quantised.md](../docs/quantised.md) lists what else is read.

# %%
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
folder = Path(scratch.name)
FP8, BLOCK = ml_dtypes.float8_e4m3fn, 32  # published ones have blocks of 128 x 128; a toy has no room for these
LARGEST = np.float32(448)  # the largest number of this kind of fp8


def quantise(weight, block=BLOCK):
    """Codes, and for each block the scale that makes its largest number the largest code."""
    codes, scales = np.empty(weight.shape, FP8), np.empty([-(-size // block) for size in weight.shape], np.float32)
    for row, column in np.ndindex(scales.shape):
        place = np.s_[row * block : (row + 1) * block, column * block : (column + 1) * block]
        scales[row, column] = np.abs(weight[place]).max().astype(np.float32) / LARGEST
        codes[place] = weight[place].astype(np.float32) / scales[row, column]
    return codes, scales


# %% [markdown]
# ## A published folder
#
# Every projection becomes two tensors, `X.weight` and `X.weight_scale_inv`; norms, embeddings and routers stay as they are. The
# config says how large a block is; it is never guessed.

# %%
toy = mc.toy("deepseek3")
stored = {tensor.name: mc.read(toy, tensor.name) for tensor in toy}
gate = stored["model.layers.0.mlp.gate_proj.weight"]
gate[2 * BLOCK : 3 * BLOCK, BLOCK : 2 * BLOCK] *= 8  # one block of larger numbers, to be seen below
for name in [name for name in stored if name.endswith("_proj.weight")]:
    stored[name], stored[f"{name}_scale_inv"] = quantise(stored[name])
config = {**toy.config, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}}

published_path = folder / "DeepSeek-fp8"  # yours: Path("DeepSeek-V3"), and leave out the rest of this cell
mc.save(mc.load(stored, config=config), published_path)

# %% [markdown]
# Opened, it is a checkpoint of numbers. The line above the table says what they are computed from. Nothing is computed yet.

# %%
source = mc.load(published_path)
source

# %% [markdown]
# ## One number
#
# A number is its code times the scale of its block, in float32, rounded once. By hand, and as it is read:

# %%
name = "model.layers.0.mlp.gate_proj.weight"
row, column = 70, 41
code, scale = stored[name][row, column], stored[f"{name}_scale_inv"][row // BLOCK, column // BLOCK]
by_hand = np.float32(code) * scale
code, scale, by_hand, by_hand.astype(ml_dtypes.bfloat16), mc.read(source, name)[row, column]

# %% [markdown]
# ## Block by block
#
# All scales of this weight, drawn: `.computed` of a save lists what comes from codes, and `.blocks` shows one of them; a dry run is
# enough. The block with the larger numbers has the larger scale, and its neighbours lose nothing by it.

# %%
mapped = mc.map(source, "deepseek3")
target_path = folder / "deepseek.ckpt"  # yours: Path("deepseek.ckpt"), in a place that stays
planned = mc.save(mapped, target_path, dry_run=True)
planned.computed.blocks("model.layers.0.feed_forward.w1.weight")

# %% [markdown]
# ## What bf16 loses
#
# A code has four significant bits and a scale up to 24. bf16 has room for eight: what is beyond is rounded away, at most 1 part in
# 256. That is the right half of the picture. Where a block is grey, all its products fit. The report counts it for every tensor.

# %%
report = mc.save(mapped, target_path)
report

# %% [markdown]
# One row a tensor; in a running notebook, click one and its blocks are drawn.

# %%
report.computed

# %% [markdown]
# The numbers of the picture, the worst blocks first:

# %%
report.computed.blocks("model.layers.0.feed_forward.w1.weight").to_frame().sort_values("largest_error", ascending=False).head()

# %% [markdown]
# Scales that are powers of two, as DeepSeek-V3.1 has them, only move the binary point. Then nothing is rounded, and the right half
# is grey throughout.

# %%
power = mc.load({name: stored[name], f"{name}_scale_inv": np.exp2(np.ceil(np.log2(stored[f"{name}_scale_inv"])))}, config=config)
mc.save(power, folder / "power.safetensors", dtype="bf16").computed.blocks(name)

# %% [markdown]
# ## Why the codes come back
#
# Two neighbours among the codes lie at least 6 % apart, and bf16 moves a number by at most 0.4 %. Divided by its scale, a number
# still lies next to the code it came from, and next to no other. So the scales are all that has to be kept: 0.02 % of the size
# with blocks of 128. They lie in `NAME.mfconv/`, beside the output.

# %%
numbers = mc.read(source, name).astype(np.float32)
wide = stored[f"{name}_scale_inv"].repeat(BLOCK, 0).repeat(BLOCK, 1)[: numbers.shape[0], : numbers.shape[1]]
again = (numbers / wide).astype(FP8)
f"{np.count_nonzero(again.view('u1') == stored[name].view('u1')):,} of {again.size:,} codes are those that were published"

# %%
mc.verify(published_path, target_path)

# %% [markdown]
# The way back writes them. Every number is checked to be what its code stands for, and at the end the checksums must be those of
# what was published.

# %%
mc.save(mc.map(mc.load(target_path), to="hf", config=published_path), folder / "back")

# %% [markdown]
# ## A wrong pairing
#
# A code without its scale is not a small mistake: read as a number it may be 448 where the weight is 0.06. So a weight and its scale
# are paired by name, in whatever files they lie, and a pair that does not fit is refused before anything is written. First a scale
# that is missing, then one of another weight.

# %%
scale_name, other_name = f"{name}_scale_inv", "model.layers.0.self_attn.o_proj.weight_scale_inv"
without = {key: value for key, value in stored.items() if key != scale_name}
exchanged = {**stored, scale_name: stored[other_name], other_name: stored[scale_name]}

for wrong in (without, exchanged):
    try:
        mc.map(mc.load(wrong, config=config), "deepseek3")
    except mc.MfconvError as refusal:
        print(refusal, end="\n\n")

# %% [markdown]
# What no header shows: two scales of one shape, exchanged. Whoever writes such a file has other weights, and only a comparison
# with the original tells.

# %%
up_name = "model.layers.0.mlp.up_proj.weight_scale_inv"
mc.diff(source, mc.load({**stored, scale_name: stored[up_name], up_name: stored[scale_name]}, config=config), values=True)

# %% [markdown]
# ## A weight that was trained
#
# Its numbers are those of no code any more. A training run writes a file of its own, without the scales, so the way back gives
# numbers, and says so; config.json no longer claims that they are codes.

# %%
numbers = {tensor.name: mc.read(mapped, tensor.name) for tensor in mapped}
down = numbers["model.layers.0.feed_forward.w2.weight"].astype(np.float32)
down += np.random.default_rng(0).standard_normal(down.shape, np.float32) * down.std() / 100
numbers["model.layers.0.feed_forward.w2.weight"] = down.astype(ml_dtypes.bfloat16)
mc.save(mc.load(numbers, config=mapped.config), folder / "trained.ckpt")

trained = mc.map(mc.load(folder / "trained.ckpt"), "deepseek3", to="hf", config=published_path)
mc.save(trained, folder / "trained")

# %% [markdown]
# With `requantise=True` the published folder says how codes were made. The weight that was trained gets new scales and new codes, and
# its error is said; the others return as they were published. (Beside an output of `mc.save` lie the scales: changed numbers are then
# refused by name, until you ask for one or the other.)

# %%
anew = mc.save(trained, folder / "trained-fp8", requantise=True)
anew

# %%
anew.computed

# %% [markdown]
# Read again and compared with what was published: one weight differs, by what training and quantising did to it.

# %%
mc.diff(source, folder / "trained-fp8", values=True)
