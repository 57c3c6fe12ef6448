"""Carry model weights between Hugging Face and MindFormers, in both directions, and prove that no bit changed.

    import mfconv_nb as mc

    source = mc.load("Llama-3.1-8B/")          # headers only: names, shapes, dtypes. No weight is read
    out = mc.map(source, "llama")              # a lazy checkpoint with MindFormers names. Still nothing read
    mc.save(out, "llama.ckpt")                 # now the bytes stream through, in bounded memory
    mc.verify("Llama-3.1-8B/", "llama.ckpt")   # there and back, every byte compared

``mc.rules`` holds the words that a family is written with, ``mc.author`` the tools that draft, edit and prove one. Names are looked up on
first use, so that importing the package costs next to nothing; ``__init__.pyi`` lists them.
"""

import warnings as _warnings

import lazy_loader as _lazy

__version__ = "0.1.0"

_find, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

_MOVED = {
    **dict.fromkeys(("Drop", "Family", "Option", "Repeated", "Rule", "Tied"), "rules"),
    **dict.fromkeys(("edit", "export", "import_rules", "probe", "prove", "suggest"), "author"),
}


def __getattr__(name: str) -> object:
    """A public name on first use. Names of 0.1 that have moved still work until 0.3, with a warning."""
    if name not in _MOVED:
        return _find(name)
    _warnings.warn(f"mc.{name} has moved: mc.{_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(_find(_MOVED[name]), name)
