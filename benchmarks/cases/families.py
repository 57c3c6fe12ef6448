"""Real families whose numbers move, through the command line: BLOOM (q, k and v split by head, weights transposed) and Mixtral.

There from safetensors to `.ckpt`, back from `.ckpt` to a folder, whole processes, against `cp` of the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

from benchmarks.bench import Bench, conversion, copy
from benchmarks.cases.layouts import MOST
from benchmarks.measure import run
from benchmarks.models import make_of_family
from benchmarks.results import Row, memory_row, ratio_row
from mfconv_nb.families.registry import family_named
from mfconv_nb.mapping.rules import default_form

EXPERTS = 8

# what is measured: the family, its options on the command line, and the words for the table
MODELS: Mapping[str, tuple[str, tuple[str, ...], str]] = MappingProxyType(
    {
        "bloom": ("bloom", (), "BLOOM"),
        "mixtral": ("mixtral", (), "Mixtral, 8 experts stacked"),
        "mixtral-gmm": ("mixtral", ("--use_gmm", "True"), "Mixtral, 8 experts stacked and transposed"),
    }
)


def config_of(key: str, size: int) -> dict[str, object]:
    """A config whose bf16 weights come to about ``size`` bytes; layers are as wide as in a 7B model where one fits."""
    toy = dict(family_named(key).toy)
    hidden, vocab = (4096 if size >= 3_000_000_000 else 2048 if size >= 400_000_000 else 1024), 8_000
    if key == "bloom":
        layers = max(1, size // (24 * hidden * hidden))
        return {**toy, "hidden_size": hidden, "n_head": hidden // 128, "n_layer": layers, "vocab_size": vocab}
    ffn = hidden * 7 // 2
    layers = max(1, size // (6 * EXPERTS * hidden * ffn))
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "vocab_size": vocab}
    heads = {"num_attention_heads": hidden // 128, "num_key_value_heads": hidden // 512, "head_dim": 128}
    return {**toy, **sizes, **heads, "num_local_experts": EXPERTS}


def _model(name: str, bench: Bench) -> Iterator[Row]:
    key, options, words = MODELS[name]
    with bench.room(name, 4 * bench.size) as room:
        folder = make_of_family(room / "source", default_form(family_named(key)), config_of(key, bench.size))
        shard, ckpt = folder / "model.safetensors", room / "source.ckpt"
        run(*conversion("made", folder, ckpt, *options, model=key).argv)
        there = conversion(f"{name} to mf", folder, room / "out.ckpt", "--no_fsync", *options, model=key)
        back = conversion(f"{name} to hf", ckpt, room / "back", "--no_fsync", "--reversed", model=key)
        for ours, file, way in ((there, shard, "to .ckpt"), (back, ckpt, "back to a folder")):
            seen = bench.rotate([copy(file, room / "copy"), ours])
            yield ratio_row(name, f"{words}, {way} / cp", seen[ours.label], seen["cp"], MOST)
            yield memory_row(name, f"{words}, {way}, peak memory", seen[ours.label])


CASES: Mapping[str, Callable[[Bench], Iterator[Row]]] = {name: partial(_model, name) for name in MODELS}
