"""A small Llama from transformers to MindSpore and back. Every claim is checked with the real frameworks; one that fails ends the demo.

Writes into build/demo/ only, which is emptied first. Nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(PYTHONUTF8="1", GLOG_v="3", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
warnings.filterwarnings("ignore")

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "demo"
HF, CKPT, BACK, PAGE = BUILD / "llama", BUILD / "llama.ckpt", BUILD / "back", BUILD / "quickstart.html"
MFCONV = Path(sys.executable).with_name("mfconv")

# MindFormers' names, written down a second time: the proof should not rest on the rules that it proves.
MINDFORMERS_NAMES = (
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("embed_tokens.weight", "tok_embeddings.embedding_weight"),
    ("model.norm.", "model.norm_out."),
)


class DemoError(Exception):
    """A claim that did not hold. The message is the sentence that the reader sees."""


def main() -> int:
    """Run every step; 0 when each of them held."""
    begun = time.monotonic()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    try:
        model, tokens = make_llama()
        convert(f"--model llama --input_path {shown(HF)}/ --output_path {shown(CKPT)}")
        check_in_mindspore(model)
        convert(f"--model llama --reversed --input_path {shown(CKPT)} --output_path {shown(BACK)}/ --config {shown(HF)}/")
        check_in_transformers(model, tokens)
        run_mfconv(f"verify {shown(HF)} {shown(CKPT)}")
        write_page()
    except DemoError as error:
        say(f"✗ Stopped.  {error}")
        return 1
    except Exception:
        say("✗ Stopped.  Something failed that this demo does not know:")
        raise
    say(f"\n{time.monotonic() - begun:.0f} s in all. Everything lies in {shown(BUILD)}/.")
    return 0


# ---- the steps -------------------------------------------------------------------------------------------------------


def make_llama() -> tuple[Any, Any]:
    """A small Llama in bf16 with random weights, the same every time, saved in shards; and some tokens to feed it."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(20)
    config = transformers.LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        dtype="bfloat16",
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(HF, max_shard_size="20MB")
    model = transformers.LlamaForCausalLM.from_pretrained(HF, dtype="auto").eval()  # opened as the one that comes back will be
    shards = sorted(HF.glob("*.safetensors"))
    require(len(shards) > 1, f"{shown(HF)} was to have several shards, it has {len(shards)}.")
    size = sum(p.stat().st_size for p in shards) / 2**20
    versions = f"transformers {transformers.__version__}"
    say(f"A small Llama from {versions}: {len(model.state_dict())} tensors, bf16, {size:.1f} MiB in {len(shards)} shards, {shown(HF)}/")
    return model, torch.randint(0, config.vocab_size, (2, 32))


def convert(arguments: str) -> None:
    """Convert on the command line and say how long the whole process took."""
    seconds = run_mfconv(f"convert {arguments}")
    size = sum(p.stat().st_size for p in HF.glob("*.safetensors")) / 2**20
    say(f"  whole process, start to end: {seconds:.2f} s, {size / seconds:.0f} MiB/s")


def check_in_mindspore(model: Any) -> None:
    """The real mindspore loads the .ckpt, and every parameter has the bytes of its tensor."""
    mindspore = quietly(lambda: __import__("mindspore"))
    loaded = quietly(lambda: mindspore.load_checkpoint(str(CKPT)))
    found = {name: (tuple(p.shape), bytes(p.get_bytes())) for name, p in loaded.items()}
    compare(found, {mindformers_name(n): shape_and_bytes(t) for n, t in model.state_dict().items()}, shown(CKPT))
    say(f"✓ Equal.  mindspore {mindspore.__version__} loads {shown(CKPT)}: {len(found)} of {len(found)} tensors, byte by byte.")


def check_in_transformers(model: Any, tokens: Any) -> None:
    """The real transformers loads the folder: the same bytes in every tensor, and the same logits."""
    import torch
    from transformers import LlamaForCausalLM

    again = LlamaForCausalLM.from_pretrained(BACK, dtype="auto").eval()
    found = {name: shape_and_bytes(t) for name, t in again.state_dict().items()}
    compare(found, {name: shape_and_bytes(t) for name, t in model.state_dict().items()}, shown(BACK))
    say(f"✓ Equal.  transformers loads {shown(BACK)}/: {len(found)} of {len(found)} tensors, byte by byte.")
    with torch.no_grad():
        logits, expected = again(tokens).logits, model(tokens).logits
    require(torch.equal(logits, expected), "The logits of the model that came back differ from those of the original.")
    say(f"✓ Equal.  {logits.numel():,} logits of both models: the same, not close.")


def write_page() -> None:
    """The quickstart notebook, run from top to bottom, as a page."""
    from nbclient.exceptions import CellExecutionError
    from page import page_html, run_notebook

    try:
        html = page_html(run_notebook(ROOT / "notebooks" / "quickstart.ipynb", BUILD), "Quickstart")
    except CellExecutionError as error:
        raise DemoError(f"A cell of the quickstart notebook failed.\n{error}") from None
    for verdict in ("✓ Converted.", "✓ Equal.", "✗ Not equal."):
        require(verdict in html, f"The quickstart notebook ran, but does not show {verdict!r}.")
    PAGE.write_text(html, encoding="utf-8")
    say(f"\nThe quickstart notebook, run from top to bottom, as a page: {shown(PAGE)}")


# ---- small tools -----------------------------------------------------------------------------------------------------


def run_mfconv(arguments: str) -> float:
    """Run the command line as a reader would, show what it prints, and return its seconds."""
    say(f"\n$ mfconv {arguments}")
    begun = time.monotonic()
    done = subprocess.run([MFCONV, *arguments.split()], cwd=ROOT, text=True, capture_output=True, encoding="utf-8")
    seconds = time.monotonic() - begun
    say((done.stdout + done.stderr).rstrip())
    require(done.returncode == 0, f"`mfconv {arguments}` ended with exit code {done.returncode}.")
    require("✓" in done.stdout, f"`mfconv {arguments}` gave no verdict.")
    return seconds


def mindformers_name(name: str) -> str:
    """What MindFormers calls a tensor of Llama."""
    for ours, theirs in MINDFORMERS_NAMES:
        name = name.replace(ours, theirs)
    return name


def shape_and_bytes(tensor: Any) -> tuple[tuple[int, ...], bytes]:
    """What must not change: the shape and every byte."""
    import torch

    return tuple(tensor.shape), tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def compare(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """The same names, shapes and bytes, or the first name that differs."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    require(not missing, f"{where} lacks {len(missing)} tensors, first {missing[:1]}.")
    require(not extra, f"{where} has {len(extra)} tensors too many, first {extra[:1]}.")
    wrong = [name for name in expected if found[name] != expected[name]]
    require(not wrong, f"{where}: {len(wrong)} tensors have other shapes or bytes, first {wrong[:1]}.")


def require(holds: bool, sentence: str) -> None:
    """Raises DemoError with the sentence when the claim does not hold."""
    if not holds:
        raise DemoError(sentence)


def quietly(call: Callable[[], Any]) -> Any:
    """The result of a call whose library talks on stdout and stderr while it works, below Python too."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        return call()
    finally:
        sys.stdout.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, silence):
            os.close(descriptor)


def shown(path: Path) -> str:
    """A path as the reader types it, from the project's folder."""
    return path.relative_to(ROOT).as_posix()


def say(text: str) -> None:
    """A line for the reader, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
