"""The words that a model family is written with: a ``Family`` is a table of rules.

from mfconv_nb.rules import Family, Rule
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, Tied, Window

__all__ = ["Drop", "Family", "Option", "Repeated", "Rule", "RunClass", "Tied", "Window"]


def __dir__() -> list[str]:
    return __all__
