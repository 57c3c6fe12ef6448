# %% [markdown]
# # From training to Hugging Face
#
# A run on many devices leaves many files: every rank has its slices, and every step its own set. This notebook takes such a folder to
# what `from_pretrained` opens, and shows what is refused on the way:
#
# 1. look at the folder: which rank has which step, and which part of a tensor
# 2. four ways in which such a folder goes wrong, and what is said of each
# 3. convert it in one pass, and prove it
# 4. the other way: cut a Hugging Face checkpoint for the ranks of a new run
#
# The run is a toy. Nothing is downloaded, and nothing is left behind.

# %%
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

import mfconv_nb as mc

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
folder = Path(scratch.name)
run = folder / "run"  # yours: Path("output/checkpoint"); then skip the two cells that make the toy
original = folder / "original"  # yours: the model that the training began with, or just its config.json

# %% [markdown]
# ## A toy run
#
# A small Llama on eight ranks: two pipeline stages of two layers each, and in a stage two data-parallel groups (`dp`) of two
# tensor-parallel ranks (`tp`). A pattern says which axis of a matrix `tp` cuts. What no pattern fits, norms and embeddings, is whole
# on every rank of its stage.

# %%
mc.toy("llama", original)

by_rows = ("*.wq.weight", "*.wk.weight", "*.wv.weight", "*.w1.weight", "*.w3.weight")
by_columns = ("*.wo.weight", "*.w2.weight")
counters = ("epoch_num", "step_num", "global_step")
layout = mc.RankLayout(
    devices={"dp": 2, "tp": 2},
    cuts=dict.fromkeys(by_rows, ("tp", None)) | dict.fromkeys(by_columns, (None, "tp")),
    stages=(
        ("*tok_embeddings*", "*.layers.0.*", "*.layers.1.*", *counters),
        ("*.layers.2.*", "*.layers.3.*", "*norm_out*", "*lm_head*", *counters),
    ),
    epoch=1,
    step=200,
    prefix="llama",
)
layout.ranks

# %% [markdown]
# Beside the weights, a run keeps two moments of Adam for each of them, and counters. Two steps are saved, 100 and 200, and their
# numbers differ. MindFormers would write these files; here the toy is cut into the same ones, with the strategy files that say how.

# %%
mapped = mc.map(mc.load(original))
weights = {tensor.name: mc.read(mapped, tensor.name) for tensor in mapped}


def state_at(step):
    now = {name: (array * (step / 200)).astype(array.dtype) for name, array in weights.items()}
    first = {f"adam_m.{name}": array.astype(np.float32) for name, array in now.items()}
    second = {f"adam_v.{name}": array.astype(np.float32) ** 2 for name, array in now.items()}
    counts = {name: np.array([1 if name == "epoch_num" else step], np.int32) for name in counters}
    return now | first | second | counts


for step in (100, 200):
    mc.save(mc.load(state_at(step)), folder / f"step_{step}", layout_of_ranks=replace(layout, step=step))
    shutil.copytree(folder / f"step_{step}", run, dirs_exist_ok=True)

sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())[:6]

# %% [markdown]
# ## What is this folder?
#
# `doctor` looks at headers only, and never fails: it says what a path holds, what is still needed, and what to run next. Its last table
# has a row for each rank and a column for each step; the arrow marks the step that would be read.

# %%
mc.doctor(run, config=original)

# %% [markdown]
# ## Which rank holds what?
#
# `load` gives whole tensors, although no file has one. `.run` is the folder behind them. Choose a row to see how a tensor lies on the
# ranks. The optimizer's state and the counters are here too, under their own chips.

# %%
trained = mc.load(run, config=original)
trained.run

# %% [markdown]
# The same picture for one tensor by name. `wo` is cut along its columns. Ranks 4 and 6 hold the same half, since they do the same work
# on other data. Of such copies one is read, and the others are compared with it.

# %%
trained.run.slice_map("model.layers.3.attention.wo.weight")

# %% [markdown]
# ## A rank that is a step ahead
#
# A run was stopped while it saved: rank 3 has step 300, nobody else has. The newest file of every rank would be a mixture of two models.
# It would load, and nobody would notice until the output is strange. So the newest step that is whole is read, and the note says so.

# %%
done = run / "rank_3" / "llama_rank_3-1_200.safetensors"
ahead = done.with_name("llama_rank_3-1_300.safetensors")
shutil.copy(done, ahead)

mc.doctor(run, config=original)

# %% [markdown]
# ## A folder that is mixed
#
# Worse: all names say step 200, but the file of rank 5 was fetched from step 100. The counters inside tell. Every refusal is one message
# that says what was found, what was expected, and what to do.

# %%
ahead.unlink()  # of the cell before

mixed = folder / "mixed"
shutil.copytree(folder / "step_200", mixed)
old = folder / "step_100" / "rank_5" / "llama_rank_5-1_100.safetensors"
shutil.copy(old, mixed / "rank_5" / "llama_rank_5-1_200.safetensors")

try:
    mc.load(mixed)
except mc.MfconvError as refusal:
    print(refusal)

# %% [markdown]
# ## A copy that is not one
#
# One bit differs in a file of rank 6. Headers cannot tell, so the folder opens. But copies are compared before the first byte is
# written, and no output is left.

# %%
flipped = folder / "flipped"
shutil.copytree(folder / "step_200", flipped)
with open(flipped / "rank_6" / "llama_rank_6-1_200.safetensors", "r+b") as file:
    file.seek(-1, 2)
    last = file.read(1)[0]
    file.seek(-1, 2)
    file.write(bytes([last ^ 1]))

try:
    mc.save(mc.map(mc.load(flipped, config=original)), folder / "from_flipped")
except mc.MfconvError as refusal:
    print(refusal)

# %% [markdown]
# ## The strategy of another run
#
# Strategy files say how slices make up a tensor. These are of a run with four tensor-parallel ranks: as many ranks in all, the same
# names, and slices that would fit together. Only the tensors would be twice as large as they were. The config knows better.

# %%
mc.save(mc.load(state_at(200)), folder / "other", layout_of_ranks=replace(layout, devices={"tp": 4}))

try:
    mc.load(run, config=original, strategy=folder / "other" / "strategy")
except mc.MfconvError as refusal:
    print(refusal)

# %% [markdown]
# ## Convert
#
# One pass: slices are read, joined, renamed and written. No merged copy lies on the disk in between, and memory stays small however
# large the model is. The optimizer's state has no place on the other side and stays behind.

# %%
mc.save(mc.map(trained), folder / "hf")

# %% [markdown]
# The toy had its weights of step 200 from `original`, so both must give the same output, to the last bit.

# %%
words = torch.arange(20).reshape(1, 20) * 7 % 331


def logits_of(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        return model(words).logits


torch.equal(logits_of(original), logits_of(folder / "hf"))

# %% [markdown]
# Without an original there is still a proof: what was written is mapped back and compared with the slices, byte by byte. `only` leaves
# out what was not to come along.

# %%
mc.verify(mc.load(run, config=original, only="weights"), folder / "hf")

# %% [markdown]
# In a shell:
#
# ```shell
# mfconv doctor output/checkpoint/ --config Llama-3.1-8B/
# mfconv convert --reversed output/checkpoint/ hf/ --config Llama-3.1-8B/
# mfconv verify output/checkpoint/ hf/ --config Llama-3.1-8B/ --only weights
# ```
#
# `--step 1_100` takes another step: number 100 of epoch 1. `mfconv save --only weights` merges without mapping.
#
# ## The other way
#
# A new run begins with a checkpoint of Hugging Face. The same layout cuts it, and the result is what MindFormers loads, here in its
# newer form, Checkpoint 2.0: each slice is written once, by the first rank that has it. There are no counters yet, and a pattern that
# fits nothing would be refused.

# %%
stages = [[pattern for pattern in stage if pattern not in counters] for stage in layout.stages]
fresh = replace(layout, form="checkpoint 2.0", epoch=0, step=0, stages=stages)
mc.save(mc.map(mc.load(original)), folder / "start", layout_of_ranks=fresh)

# %%
mc.load(folder / "start").run.slice_map("model.layers.0.feed_forward.w1.weight")

# %% [markdown]
# Read back, put together and mapped back, it is the checkpoint that it was cut from:

# %%
mc.verify(original, folder / "start")

# %% [markdown]
# In a shell, with the fields of the layout in a JSON file:
#
# ```shell
# mfconv convert Llama-3.1-8B/ llama.ckpt
# mfconv save llama.ckpt start/ --layout_of_ranks layout.json
# ```
#
# More: [training runs](../docs/training.md).
