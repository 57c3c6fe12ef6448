"""Which side a checkpoint is on: names tell it before the format does.

MindNLP and mindone write Hugging Face's names into MindSpore's formats, and MindFormers' names may lie in files of torch. A format only
says who wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.families.registry import built_in, known_families
from mfconv_nb.families.words.mcore import is_mcore_name
from mfconv_nb.mapping.adapters import half_of
from mfconv_nb.mapping.forms import templates_of
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.rules import Family, all_templates

# parts of names that MindFormers alone has
OF_MF = ("embedding_weight", "embedding_table", ".attention.wq.", ".attention_norm.", ".gamma", ".beta", "linear_qkv", "mindpet_delta")
Templates = tuple[frozenset[str], frozenset[str]]  # the name templates of Hugging Face's side, and of MindFormers'


def side_of_names(names: Iterable[str], family: Family | None = None) -> str | None:
    """The side that names tell: most of them are known there, and some there only, but none on the other side only. None where they do not.

    Args:
        family: the one that is meant, where the caller has one of its own; left out, all that are known.
    """
    weights = (n if (half := half_of(n)) is None else half.weight for n in names if not is_run_state(n))
    templates = templates_of(weights)
    hf, mf = _known_templates() if family is None else _templates_of((family,))
    for side, here, there in ((HF, hf, mf), (MF, mf, hf)):
        if templates & here - there and not templates & there - here and 2 * len(templates & here) > len(templates):
            return side
    return None


def has_words_of_mindformers(names: Iterable[str]) -> bool:
    """Whether some name has a part that MindFormers alone uses: a hint, where no family knows enough of the names to tell the side."""
    return any(is_mcore_name(name) or any(word in name for word in OF_MF) for name in names)


def _known_templates() -> Templates:
    hf, mf = _built_in_templates()
    own = [f for f in known_families() if built_in().get(f.key) is not f]  # those that were registered
    more = _templates_of(own)
    return hf | more[0], mf | more[1]


@lru_cache(maxsize=1)
def _built_in_templates() -> Templates:
    return _templates_of(built_in().values())


def _templates_of(families: Iterable[Family]) -> Templates:
    known = [(all_templates(f, MF), all_templates(f, HF)) for f in families]
    return frozenset().union(*(hf for hf, _ in known)), frozenset().union(*(mf for _, mf in known))
