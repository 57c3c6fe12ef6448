from .editing.rule_editor import edit
from .exporting.export import export
from .importing.import_rules import import_rules
from .proving.prove import prove
from .suggesting.probe import probe
from .suggesting.suggest import suggest

__all__ = ["edit", "export", "import_rules", "probe", "prove", "suggest"]
