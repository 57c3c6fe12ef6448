"""The words that a model family is written with: a ``Family`` is a table of rules.

from mfconv_nb.rules import Family, Rule
"""

from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, Tied

__all__ = ["Drop", "Family", "Option", "Repeated", "Rule", "Tied"]


def __dir__() -> list[str]:
    return __all__
