"""Making rules for a model that is not in the list: draft them, edit them, prove them, and exchange them with other tools."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
