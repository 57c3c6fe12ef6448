from .editing.rule_editor import edit as edit
from .exporting.export import export as export
from .exporting.run_config import translate_config as translate_config
from .importing.import_rules import import_rules as import_rules
from .proving.prove import prove as prove
from .suggesting.probe import probe as probe
from .suggesting.suggest import suggest as suggest
