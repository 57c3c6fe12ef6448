from . import author, rules
from .core.checkpoint import Checkpoint
from .core.errors import MfconvError
from .families.registry import known_families, register
from .panels.converter import panel
from .runs.rank_layout import RankLayout
from .steps.comparing.diff import diff
from .steps.comparing.verify import verify
from .steps.converting.map import map
from .steps.converting.merge import merge_adapters, only_adapters
from .steps.foreign.run_converter import run_converter
from .steps.inspecting.anatomy import anatomy
from .steps.inspecting.doctor import doctor
from .steps.loading.load import load
from .steps.loading.read import read
from .steps.saving.assign import assign
from .steps.saving.save import save
from .steps.saving.toy import expected, toy

__version__: str
__all__ = [
    "Checkpoint",
    "MfconvError",
    "RankLayout",
    "anatomy",
    "assign",
    "author",
    "diff",
    "doctor",
    "expected",
    "known_families",
    "load",
    "map",
    "merge_adapters",
    "only_adapters",
    "panel",
    "read",
    "register",
    "rules",
    "run_converter",
    "save",
    "toy",
    "verify",
]
