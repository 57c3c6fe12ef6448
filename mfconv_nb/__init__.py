"""Carry model weights between Hugging Face and MindFormers, in both directions, and prove that no bit changed.

    import mfconv_nb as mc

    source = mc.load("Llama-3.1-8B/")          # headers only: names, shapes, dtypes. No weight is read
    out = mc.map(source, "llama")              # a lazy checkpoint with MindFormers names. Still nothing read
    mc.save(out, "llama.ckpt")                 # now the bytes stream through, in bounded memory
    mc.verify("Llama-3.1-8B/", "llama.ckpt")   # there and back, every byte compared

Names are looked up on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "steps.load",
    "map": "steps.map",
    "diff": "steps.diff",
    "save": "steps.save",
    "merge_adapters": "steps.merge",
    "only_adapters": "steps.merge",
    "assign": "steps.assign",
    "verify": "steps.verify",
    "toy": "steps.toy",
    "expected": "steps.toy",
    "read": "steps.read",
    "anatomy": "steps.anatomy",
    "doctor": "steps.doctor",
    "RankLayout": "trained.cutting",
    "panel": "converter_panel",
    "prove": "steps.prove",
    "export": "steps.export",
    "import_rules": "steps.import_rules",
    "run_converter": "steps.foreign_converter",
    "suggest": "steps.suggest",
    "edit": "rule_editor",
    "probe": "steps.probe",
    "register": "families.registry",
    "known_families": "families.registry",  # not `families`: importing that subpackage would take the place of the function
    "Family": "mapping.rules",
    "Rule": "mapping.rules",
    "Drop": "mapping.rules",
    "Tied": "mapping.rules",
    "Repeated": "mapping.rules",
    "Option": "mapping.rules",
    "Checkpoint": "checkpoint",
    "MfconvError": "errors",
}
__all__ = [
    "Checkpoint",
    "Drop",
    "Family",
    "MfconvError",
    "Option",
    "RankLayout",
    "Repeated",
    "Rule",
    "Tied",
    "__version__",
    "anatomy",
    "assign",
    "diff",
    "doctor",
    "edit",
    "expected",
    "export",
    "import_rules",
    "known_families",
    "load",
    "map",
    "merge_adapters",
    "only_adapters",
    "panel",
    "probe",
    "prove",
    "read",
    "register",
    "run_converter",
    "save",
    "suggest",
    "toy",
    "verify",
]

if TYPE_CHECKING:
    from mfconv_nb.checkpoint import Checkpoint
    from mfconv_nb.converter_panel import panel
    from mfconv_nb.errors import MfconvError
    from mfconv_nb.families.registry import known_families, register
    from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, Tied
    from mfconv_nb.rule_editor import edit
    from mfconv_nb.steps.anatomy import anatomy
    from mfconv_nb.steps.assign import assign
    from mfconv_nb.steps.diff import diff
    from mfconv_nb.steps.doctor import doctor
    from mfconv_nb.steps.export import export
    from mfconv_nb.steps.foreign_converter import run_converter
    from mfconv_nb.steps.import_rules import import_rules
    from mfconv_nb.steps.load import load
    from mfconv_nb.steps.map import map
    from mfconv_nb.steps.merge import merge_adapters, only_adapters
    from mfconv_nb.steps.probe import probe
    from mfconv_nb.steps.prove import prove
    from mfconv_nb.steps.read import read
    from mfconv_nb.steps.save import save
    from mfconv_nb.steps.suggest import suggest
    from mfconv_nb.steps.toy import expected, toy
    from mfconv_nb.steps.verify import verify
    from mfconv_nb.trained.cutting import RankLayout


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
