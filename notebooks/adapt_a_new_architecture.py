# %% [markdown]
# # Adapt a new architecture
#
# You have a checkpoint of an architecture that `mfconv families` does not list, and a MindSpore network for it. This notebook goes the
# whole way:
#
# 1. draft the rules: which tensor becomes which
# 2. load the weights, and see that the output is wrong although everything fits
# 3. find the tensor, and what is wrong with it
# 4. correct the rule, prove the rules, and keep them as one small file that converts in both directions
#
# The example is a small GPT-NeoX with random weights, and a `Cell` of some fifty lines. Nothing is downloaded, and nothing is left
# behind. The two sides differ in one thing that no name and no shape shows.

# %%
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import mfconv_nb as mc

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # goes away with the kernel
folder = Path(scratch.name)
family_path = folder / "my_neox.py"  # yours: Path("my_neox.py"), in a place that stays

# %% [markdown]
# ## One side: a checkpoint
#
# The sizes all differ, so that two axes cannot be mixed up unseen: a vocabulary of 331, a hidden size of 96, 224 in the feed-forward
# part, 6 heads.

# %%
torch.manual_seed(0)
config = transformers.GPTNeoXConfig(
    vocab_size=331,
    hidden_size=96,
    intermediate_size=224,
    num_hidden_layers=3,
    num_attention_heads=6,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
model = transformers.GPTNeoXForCausalLM(config).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.05)  # norms and biases too: zeros and ones would hide a swap
model.save_pretrained(folder / "neox")

source = mc.load(folder / "neox")
source

# %% [markdown]
# ## The other side: a network
#
# The same computation with MindSpore's cells. q, k and v are one matrix here too, `qkv`. Its rows are first all of q, then all of k,
# then all of v: see `ops.split` in `Attention.construct`.
#
# Yours would be imported instead. Only its names and shapes matter to what follows.

# %%
import mindspore as ms
from mindspore import nn, ops


class Attention(nn.Cell):
    def __init__(self, hidden: int, heads: int, rotary: int):
        super().__init__()
        self.heads, self.head, self.rotary = heads, hidden // heads, rotary
        self.qkv = nn.Dense(hidden, 3 * hidden)
        self.wo = nn.Dense(hidden, hidden)

    def construct(self, x, cos, sin, mask):
        batch, length, hidden = x.shape
        by_head = (batch, length, self.heads, self.head)
        parts = ops.split(self.qkv(x), hidden, -1)
        q, k, v = (part.reshape(by_head).transpose(0, 2, 1, 3) for part in parts)
        q, k = self.turned(q, cos, sin), self.turned(k, cos, sin)
        weights = ops.softmax(ops.matmul(q, k.transpose(0, 1, 3, 2)) / self.head**0.5 + mask, -1)
        return self.wo(ops.matmul(weights, v).transpose(0, 2, 1, 3).reshape(x.shape))

    def turned(self, x, cos, sin):
        some, rest = x[..., : self.rotary], x[..., self.rotary :]
        half = self.rotary // 2
        return ops.cat((some * cos + ops.cat((-some[..., half:], some[..., :half]), -1) * sin, rest), -1)


class Block(nn.Cell):
    def __init__(self, hidden: int, ffn: int, heads: int, rotary: int, epsilon: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm((hidden,), epsilon=epsilon)
        self.ffn_norm = nn.LayerNorm((hidden,), epsilon=epsilon)
        self.attention = Attention(hidden, heads, rotary)
        self.w1 = nn.Dense(hidden, ffn)
        self.w2 = nn.Dense(ffn, hidden)

    def construct(self, x, cos, sin, mask):
        attended = self.attention(self.attention_norm(x), cos, sin, mask)
        return x + attended + self.w2(ops.gelu(self.w1(self.ffn_norm(x)), approximate="none"))


class NeoX(nn.Cell):
    def __init__(self, c):
        super().__init__()
        rotary = c.hidden_size // c.num_attention_heads // 4  # a quarter of each head is turned
        self.tok_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        sizes = (c.hidden_size, c.intermediate_size, c.num_attention_heads, rotary, c.layer_norm_eps)
        self.layers = nn.CellList([Block(*sizes) for _ in range(c.num_hidden_layers)])
        self.norm_out = nn.LayerNorm((c.hidden_size,), epsilon=c.layer_norm_eps)
        self.lm_head = nn.Dense(c.hidden_size, c.vocab_size, has_bias=False)
        speeds = 10000.0 ** (-np.arange(0, rotary, 2) / rotary)
        angles = np.tile(np.outer(np.arange(c.max_position_embeddings), speeds), 2)
        self.cos, self.sin = (ms.Tensor(f(angles).astype(np.float32)) for f in (np.cos, np.sin))

    def construct(self, words):
        length = words.shape[1]
        mask = ms.Tensor(np.triu(np.full((length, length), -1e9, np.float32), 1))
        x = self.tok_embeddings(words)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length], mask)
        return self.lm_head(self.norm_out(x))


network = NeoX(config)
mc.load(network)

# %% [markdown]
# ## A draft
#
# `suggest` pairs the names of both sides by their words and shapes, finds the loop over layers, and says how sure it is. Where both
# sides hold the same weights, the numbers decide, and a rule is certain. This network holds random numbers, so each rule is likely or a
# guess.

# %%
draft = mc.author.suggest(source, network)
draft

# %% [markdown]
# ## Will it load?
#
# Four guesses, and a name for everything. `map` gives the checkpoint the names of the other side, without reading a weight. `diff`
# compares it with the network itself: names, shapes and dtypes. The values are not compared, and need not be: the network has none yet
# that mean anything.

# %%
mc.diff(mc.map(source, draft.family("neox")), network)

# %% [markdown]
# It will load. So load it: `assign` puts the weights into the network. Then both networks see the same twenty words.

# %%
words = np.arange(20).reshape(1, 20) * 7 % config.vocab_size
with torch.no_grad():
    expected = model(torch.tensor(words)).logits.numpy()


def distance() -> str:
    """How far apart the logits of both are, and how often both expect the same next word."""
    found = network(ms.Tensor(words.astype(np.int32))).asnumpy()
    apart, reach = np.abs(found - expected).max(), np.abs(expected).max()
    agree = np.mean(found.argmax(-1) == expected.argmax(-1))
    return f"largest difference {apart:.1e} (logits reach {reach:.2f}), same word {agree:.0%}"


mc.assign(mc.map(source, draft.family("neox")), network)
before = distance()
before

# %% [markdown]
# **Every key is loaded, no shape complains, and the output is wrong.** The same network should give the same logits, up to rounding.
#
# ## Which tensor, and what is wrong with it?
#
# The four guesses of the draft are the first place to look. The column "reason" says why each of them is one (in a narrow window:
# `draft.rows()`). Two pair `dense_h_to_4h` with `w1`: no other tensor has that shape, so they are right. The other two are the fused
# matrix and its bias. There the order inside may differ, says the reason.
#
# What do its rows mean? The code of GPT-NeoX in `transformers` views them as *heads × (q, k, v)*: q, k and v of the first head, then
# those of the second. The network above wants all of q first. So, by hand, this is what it should have got:

# %%
name = "gpt_neox.layers.0.attention.query_key_value.weight"
stored = mc.read(source, name)
heads, head = config.num_attention_heads, config.hidden_size // config.num_attention_heads
wanted = stored.reshape(heads, 3, head, config.hidden_size).swapaxes(0, 1).reshape(stored.shape)

mc.author.probe(stored, wanted)  # what it got, and what it should have got

# %% [markdown]
# `probe` has tried the known ways in which such tensors differ, and names the one that makes both equal, also as a layout sentence. You
# need not work out the reference by hand if you have one: a checkpoint that a colleague converted will do, and then `probe` finds what
# you did not know.
#
# ## Correct the draft
#
# The editor shows the rules as rows. Choose one, change its layout, and see at once what matches, what does not, and where in a
# sentence a mistake is. A layout reads like a shape: `(heads (q + k + v)) hidden` says that the rows are, for each head, those of q, of
# k and of v.

# %%
editor = mc.author.edit(draft, source, network)
editor

# %% [markdown]
# Rows 7 and 8 are to be changed. You would type into the fields above. The next cell does it for you, so that the notebook runs by
# itself; once it has run, the editor above shows the new sentences.
#
# Left of the arrow is the checkpoint: q, k and v in turns, head by head. Right of it is the network: q of all heads, then k, then v. The
# sizes say where in `config.json` each of these words gets its number.

# %%
rows = "heads q + heads k + heads v"
for place, row in enumerate(editor.draft.rows):
    if "query_key_value" in row.hf:
        columns = " hidden" if row.hf.endswith("weight") else ""
        editor.choose(place)
        editor.layout_field.value = f"(heads (q + k + v)){columns} -> ({rows}){columns}"
        editor.row_sizes.value = ""  # not needed any more: the words of the sentence get their sizes below

editor.sizes.value += "\nheads = num_attention_heads"
for part in "qkv":
    editor.sizes.value += f"\n{part} = hidden_size / num_attention_heads"
editor.key.value = "my_neox"
editor.covers.value = "GPT-NeoX"
editor.report

# %% [markdown]
# ## Prove it
#
# No weight is read. The first five rows of the table are conditions: the rules contradict nothing, and lose nothing. Then small
# mistakes are made in the rules on purpose, one at a time: a rule left out, parts in another order, a wrong number of heads. Something
# must notice each of them. Choose one in the table: the picture shows where its numbers would have gone.
#
# What a proof cannot know is what your network expects. Rules that kept the rows in the order of the checkpoint could be proved just as
# well. For that, ask the output, below.

# %%
proof = mc.author.prove(editor.family)
proof

# %% [markdown]
# ## Keep it as a file
#
# One table, read in both directions. Keep it wherever you like. Each rule has the reason that the draft gave; a rule that you
# changed has none. `toy`, at the end, is the config that `mc.author.prove` tries the rules on.

# %%
editor.save(family_path)
print(family_path.read_text())

# %% [markdown]
# ## The same words again

# %%
mapped = mc.map(source, family_path)
mc.assign(mapped, network)
after = distance()
after

# %% [markdown]
# Now they agree: what is left is rounding in float32, since two frameworks add up in different orders.
#
# Last, a file for MindSpore. `verify` maps it back by the same rules, and compares it with the checkpoint, byte by byte:

# %%
mc.save(mapped, folder / "neox.ckpt")
mc.verify(folder / "neox", folder / "neox.ckpt", family_path)

# %% [markdown]
# In a shell, with the file of rules at hand:
#
# ```shell
# mfconv prove my_neox.py
# mfconv convert --model my_neox.py neox/ neox.ckpt
# mfconv verify --model my_neox.py neox/ neox.ckpt
# mfconv convert --model my_neox.py --reversed neox.ckpt back/
# ```
#
# To give it to others: [families of one's own](../docs/families.md) says how to install a family as a package, and how to write it as
# the pair of files that MindFormers' own converters are.
