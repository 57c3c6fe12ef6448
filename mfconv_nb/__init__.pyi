from . import author as author
from . import rules as rules
from .core.checkpoint import Checkpoint as Checkpoint
from .core.errors import MfconvError as MfconvError
from .families.registry import known_families as known_families
from .families.registry import register as register
from .panels.converter import panel as panel
from .runs.rank_layout import RankLayout as RankLayout
from .steps.comparing.diff import diff as diff
from .steps.comparing.verify import verify as verify
from .steps.converting.map import map as map
from .steps.converting.merge import merge_adapters as merge_adapters
from .steps.converting.merge import only_adapters as only_adapters
from .steps.foreign.run_converter import run_converter as run_converter
from .steps.inspecting.anatomy import anatomy as anatomy
from .steps.inspecting.doctor import doctor as doctor
from .steps.loading.load import load as load
from .steps.loading.read import read as read
from .steps.migrating.migrate import migrate as migrate
from .steps.saving.assign import assign as assign
from .steps.saving.save import save as save
from .steps.saving.toy import expected as expected
from .steps.saving.toy import toy as toy

__version__: str
