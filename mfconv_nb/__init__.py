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
    "load": "steps.loading.load",
    "map": "steps.converting.map",
    "diff": "steps.comparing.diff",
    "save": "steps.saving.save",
    "merge_adapters": "steps.converting.merge",
    "only_adapters": "steps.converting.merge",
    "assign": "steps.saving.assign",
    "verify": "steps.comparing.verify",
    "toy": "steps.saving.toy",
    "expected": "steps.saving.toy",
    "read": "steps.loading.read",
    "anatomy": "steps.inspecting.anatomy",
    "doctor": "steps.inspecting.doctor",
    "RankLayout": "runs.cutting",
    "panel": "panels.converter",
    "prove": "author.proving.prove",
    "export": "author.exporting.export",
    "import_rules": "author.importing.import_rules",
    "run_converter": "steps.foreign.run_converter",
    "suggest": "author.suggesting.suggest",
    "edit": "author.editing.rule_editor",
    "probe": "author.suggesting.probe",
    "register": "families.registry",
    "known_families": "families.registry",  # not `families`: importing that subpackage would take the place of the function
    "Family": "mapping.rules",
    "Rule": "mapping.rules",
    "Drop": "mapping.rules",
    "Tied": "mapping.rules",
    "Repeated": "mapping.rules",
    "Option": "mapping.rules",
    "Checkpoint": "core.checkpoint",
    "MfconvError": "core.errors",
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
    from mfconv_nb.author.editing.rule_editor import edit
    from mfconv_nb.author.exporting.export import export
    from mfconv_nb.author.importing.import_rules import import_rules
    from mfconv_nb.author.proving.prove import prove
    from mfconv_nb.author.suggesting.probe import probe
    from mfconv_nb.author.suggesting.suggest import suggest
    from mfconv_nb.core.checkpoint import Checkpoint
    from mfconv_nb.core.errors import MfconvError
    from mfconv_nb.families.registry import known_families, register
    from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, Tied
    from mfconv_nb.panels.converter import panel
    from mfconv_nb.runs.cutting import RankLayout
    from mfconv_nb.steps.comparing.diff import diff
    from mfconv_nb.steps.comparing.verify import verify
    from mfconv_nb.steps.converting.map import map
    from mfconv_nb.steps.converting.merge import merge_adapters, only_adapters
    from mfconv_nb.steps.foreign.run_converter import run_converter
    from mfconv_nb.steps.inspecting.anatomy import anatomy
    from mfconv_nb.steps.inspecting.doctor import doctor
    from mfconv_nb.steps.loading.load import load
    from mfconv_nb.steps.loading.read import read
    from mfconv_nb.steps.saving.assign import assign
    from mfconv_nb.steps.saving.save import save
    from mfconv_nb.steps.saving.toy import expected, toy


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
