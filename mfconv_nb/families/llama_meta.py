"""Llama as Meta publishes it: `consolidated.00.pth` and on, with `params.json`. MindFormers' side is that of `llama`.

Each file holds a slice of every matrix (model parallel), whole copies of the norms, and rows of q and k in pairs, where Hugging Face and
MindFormers have halves. Llama 2 slices the embedding by columns, Llama 3 by rows.
Source: MindFormers 1.3.2, `models/llama`, its reader of Meta's files; names and slices as Meta's files have them.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, when

FILE = "consolidated.{shard}/"
META, MF = FILE + "layers.{layer}.", "model.layers.{layer}."
HALVES = {"half": 2}

FAMILY = Family(
    key="llama_meta",
    covers="Llama 2, 3, Code Llama in Meta's own files (consolidated.*.pth)",
    model_types=("llama_meta",),
    told_as="llama",
    sizes={
        "hidden": "dim",
        "heads": "n_heads",
        "pair": "dim / n_heads / 2",
        "vocab": "vocab_size | ?",
        "layer": "n_layers",
        "shard": "shards | ?",
        "heads_here": "n_heads / shards | ?",
        "groups_here": "n_kv_heads / shards | ?",
        "values_here": "dim / n_heads * n_kv_heads / shards | ?",
        "hidden_here": "dim / shards | ?",
        "ffn_here": "ffn_dim / shards | ?",
        "vocab_here": "vocab_size / shards | ?",
    },
    options=(
        Option("embedding_slices", ("columns", "rows"), side="hf", help="How the files share the embedding: Llama 2 columns, 3 rows."),
        Option("shards", size="shard", help="How many files there are, on a way back without a manifest."),
    ),
    rules=(
        *when(
            Rule(FILE + "tok_embeddings.weight", "model.tok_embeddings.embedding_weight", "vocab hidden_here -> vocab (shard hidden_here)"),
            embedding_slices="columns",
        ),
        *when(
            Rule(FILE + "tok_embeddings.weight", "model.tok_embeddings.embedding_weight", "vocab_here hidden -> (shard vocab_here) hidden"),
            embedding_slices="rows",
        ),
        Rule(
            META + "attention.wq.weight",
            MF + "attention.wq.weight",
            "(heads_here pair half) hidden -> (shard heads_here half pair) hidden",
            sizes=HALVES,
        ),
        Rule(
            META + "attention.wk.weight",
            MF + "attention.wk.weight",
            "(groups_here pair half) hidden -> (shard groups_here half pair) hidden",
            sizes=HALVES,
        ),
        Rule(META + "attention.wv.weight", MF + "attention.wv.weight", "values_here hidden -> (shard values_here) hidden"),
        Rule(META + "attention.wo.weight", MF + "attention.wo.weight", "hidden hidden_here -> hidden (shard hidden_here)"),
        Rule(META + "feed_forward.w1.weight", MF + "feed_forward.w1.weight", "ffn_here hidden -> (shard ffn_here) hidden"),
        Rule(META + "feed_forward.w3.weight", MF + "feed_forward.w3.weight", "ffn_here hidden -> (shard ffn_here) hidden"),
        Rule(META + "feed_forward.w2.weight", MF + "feed_forward.w2.weight", "hidden ffn_here -> hidden (shard ffn_here)"),
        Repeated(META + "attention_norm.weight", MF + "attention_norm.weight", "hidden"),
        Repeated(META + "ffn_norm.weight", MF + "ffn_norm.weight", "hidden"),
        Repeated(FILE + "norm.weight", "model.norm_out.weight", "hidden"),
        Rule(FILE + "output.weight", "lm_head.weight", "vocab_here hidden -> (shard vocab_here) hidden"),
        Drop(FILE + "rope.freqs", "a buffer that both sides compute from rope_theta"),
    ),
    toy={
        "dim": 96,
        "ffn_dim": 176,
        "n_layers": 3,
        "n_heads": 8,
        "n_kv_heads": 4,
        "vocab_size": 338,
        "norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "shards": 2,
    },
    source=LLAMA.source,
)
