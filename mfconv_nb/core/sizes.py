"""config.json as untrusted input, and the sizes of named axes that a family reads from it.

Refuses: a file over 16 MiB, broken JSON, anything but an object, deep nesting. Runs nothing: `auto_map`, `trust_remote_code` and the
like are plain strings here.

A family says where each size stands as a short sentence of arithmetic: ``"head_dim | hidden_size / num_attention_heads"``.
Alternatives are tried from left to right; a key that is absent or null makes its alternative fail; ``?`` as the last one means that
the size may be unknown. ``vision_config.hidden_size`` looks inside, ``depths[{stage}]`` depends on a placeholder, and
``first_k_dense_replace .. num_hidden_layers`` says where a placeholder begins to count, and ``places(indexer_types, full)`` which numbers
it has, where it does not have all.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError, MappingError, quote
from mfconv_nb.core.paths import parse_object, read_small

MAX_CONFIG_BYTES = 16 << 20
MAX_AXIS = 1 << 40  # larger than any axis of a tensor that fits on a disk; keeps arithmetic honest
MOST_LAYERS = 100_000  # that are counted one by one
UNKNOWN = "?"
PARAMS = "params.json"
RUN_CONFIG = "mindformers_run"  # key of a config that was read from a run's YAML: its sizes serve, but it is no config.json to publish
SIZES_FROM = "pretrained_model_dir"  # key of the YAML of a run that names the Hugging Face folder the sizes stand in

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a named axis or the limit of a placeholder, and the config keys it was read from.

    ``first`` is where a placeholder begins to count: layers 3 to 60 hold experts, say. ``only`` are the numbers that it has where it does
    not have all of them in between.
    """

    value: int
    origin: str
    first: int = 0
    only: tuple[int, ...] = ()

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of a placeholder."""
        return self.only or range(self.first, self.value)


class Sizes(Mapping[str, Size]):
    """The size of each axis, placeholder and flag of a family. Some depend on a placeholder, as the width of a Swin stage does:
    ``at({"stage": 2})`` gives those too.
    """

    def __init__(self, known: Mapping[str, Size], config: Mapping[str, Any] | None = None, later: Mapping[str, str] | None = None) -> None:
        self._known, self._config, self._later = known, config or {}, later or {}
        self._at: dict[tuple[int, ...], Sizes] = {}
        self._placeholders = sorted({p for sentence in self._later.values() for p in _PLACEHOLDER.findall(sentence)})

    def __getitem__(self, axis: str) -> Size:
        return self._known[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def values_by_axis(self) -> dict[str, int]:
        """The numbers alone."""
        return {axis: size.value for axis, size in self._known.items()}

    @property
    def file(self) -> str:
        """The name of the file they were read from."""
        return config_name(self._config)

    @property
    def hint(self) -> str:
        """What to do where they do not fit the weights."""
        return hint_of_config(self._config)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The placeholders that some sizes depend on."""
        return tuple(self._placeholders)

    def for_indices(self, indices: Mapping[str, int]) -> Sizes:
        """The sizes where some placeholders have these values; what none of them decides is left out."""
        key = tuple(indices.get(p, -1) for p in self._placeholders)
        if not self._later or all(index < 0 for index in key):
            return self
        if key not in self._at:
            found = dict(self._known)
            for axis, sentence in self._later.items():
                if all(indices.get(p, -1) >= 0 for p in _PLACEHOLDER.findall(sentence)):
                    size = read_size(self._config, sentence.format_map(indices))
                    found |= {axis: size} if size is not None else {}
            self._at[key] = Sizes(found, self._config)
        return self._at[key]

    def with_more(self, told: Mapping[str, Size]) -> Sizes:
        """These sizes, and those of ``told`` that are not among them."""
        return Sizes({**told, **self._known}, self._config, self._later)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        InputError: MFC101 (no such file) or MFC106 (not a JSON object, too large, too deep).
    """
    try:
        raw = read_small(path, MAX_CONFIG_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte or a lone surrogate
        found = f"a link to nothing -> {quote(os.readlink(path))}" if path.is_symlink() else getattr(error, "strerror", error)
        raise InputError("MFC101", path, found=found, expected="a readable config.json") from None
    if raw is None:
        raise InputError("MFC106", path, found="more than 16 MiB", expected="a small JSON object")
    return parse_object(raw, "a JSON object", partial(InputError, "MFC106", path))


def read_params(path: Path) -> dict[str, Any]:
    """The `params.json` of Meta's Llama files, as a config: its model type added, and a vocabulary of -1 (not known yet) left away.

    Raises:
        InputError: as ``read_config``.
    """
    params = read_config(path)
    return {"model_type": "llama_meta", **{k: v for k, v in params.items() if k != "vocab_size" or v != -1}}


def read_sizes(config: Mapping[str, Any], sentences: Mapping[str, str]) -> Sizes:
    """The size of each axis in ``sentences``, read from ``config``. A sentence with a placeholder is read later, see ``Sizes.for_indices``.

    Raises:
        MappingError: MFC107 when no alternative of a sentence has a value, with the keys that were looked for.
    """
    later = {axis: sentence for axis, sentence in sentences.items() if "{" in sentence}
    known = {}
    for axis, sentence in sentences.items():
        if axis in later:
            continue
        size = read_size(config, sentence)
        if size is not None:
            known[axis] = size
        elif UNKNOWN not in sentence:
            expected, hint = sentence.replace("|", "or"), _hint_of_a_size(config)
            raise MappingError("MFC107", f"axis {quote(axis)} in {config_name(config)}", found="no value", expected=expected, hint=hint)
    return Sizes(known, config, later)


SIZES_OF_LANGUAGE = ("hidden_size", "n_embd", "d_model")


def says_sizes(config: Mapping[str, Any]) -> bool:
    """Whether a config has sizes of a model, at the top or in a part, as a YAML with nothing but switches has not."""
    return any(part.get(key) is not None for part in (config, *config.values()) if isinstance(part, Mapping) for key in SIZES_OF_LANGUAGE)


def text_part(config: Mapping[str, Any]) -> str | None:
    """Under which key a config of a model of several parts, such as images and text, has the sizes of its language model; else None."""
    sizes = SIZES_OF_LANGUAGE
    parts = (k for k, part in config.items() if isinstance(part, Mapping) and re.search("text|language|llm|decoder", k))
    return None if any(k in config for k in sizes) else next((k for k in parts if any(s in config[k] for s in sizes)), None)


def config_name(config: Mapping[str, Any] | None) -> str:
    """How messages call a config: `config.json`, or the name of the YAML that it was read from."""
    return str((config or {}).get(RUN_CONFIG) or "config.json")


def hint_of_config(config: Mapping[str, Any] | None) -> str:
    """What to do where the sizes of a config are missing, or do not fit the weights."""
    name = quote(config_name(config))
    if RUN_CONFIG not in (config or {}):
        return f"Does this {name} belong to these weights? Another one can be given with --config (config= in Python)."
    both = "give the model's Hugging Face folder too: --config HF_DIR --config RUN.yaml (config=[HF_DIR, RUN_YAML] in Python)."
    folder = (config or {}).get(SIZES_FROM)
    if isinstance(folder, str) and folder:
        return f"The run takes its sizes from {SIZES_FROM}, {quote(folder)}, which has no config here: {both}"
    return f"Is {name} the YAML of these weights? A size that it leaves to the defaults of its class is not known here; {both}"


def _hint_of_a_size(config: Mapping[str, Any]) -> str:
    part = text_part(config)
    if part is None:
        return hint_of_config(config)
    return (
        f"The sizes of the language model stand under {quote(part)}. Save that part of config.json as a file of its own and give it with "
        f"--config (config=mc.load(...).config[{quote(part)}] in Python)."
    )


def read_size(config: Mapping[str, Any], sentence: str) -> Size | None:
    """The value of the first alternative that has one; of ``a .. b`` both ends."""
    for alternative in (text.strip() for text in sentence.split("|")):
        if is_choice(alternative):
            if only := _chosen_numbers(config, _parse_sentence(alternative)):
                return Size(only[-1] + 1, alternative, only[0], only)
            continue
        first, dots, last = alternative.rpartition("..")
        limits = [_whole(config, text.strip()) for text in ((first, last) if dots else (last,)) if text.strip() != UNKNOWN]
        if limits and None not in limits:
            numbers = [n for n in limits if n is not None]
            return Size(numbers[-1], (last if dots else alternative).strip(), numbers[0] if dots else 0)
    return None


CHOICES = ("places", "every")


def is_choice(alternative: str) -> bool:
    """Whether a sentence says which numbers a placeholder has, not how many."""
    return alternative.strip().startswith(tuple(f"{name}(" for name in CHOICES))


def _chosen_numbers(config: Mapping[str, Any], node: ast.expr) -> tuple[int, ...]:
    """``places(a, word)``: where a word stands in a list, or a letter in a text. ``every(step, begin, count)``: of so many numbers all up
    to ``begin``, and from there on one of each ``step``. Nothing where a key is absent, or the word nowhere.
    """
    match node:
        case ast.Call(ast.Name("places"), [asked, ast.Name(word)]):
            found = _look_up(config, asked)
            return tuple(n for n, each in enumerate(found) if each == word) if isinstance(found, list | str) else ()
        case ast.Call(ast.Name("every"), arguments):
            step, begin, count = (_evaluate(config, argument) for argument in arguments)
            if not step or begin is None or count is None or count > MOST_LAYERS:
                return ()
            return tuple(n for n in range(count) if max(n - begin, 0) % step == 0)
    raise ValueError(f"a size sentence cannot hold {ast.unparse(node)}")


def _whole(config: Mapping[str, Any], text: str) -> int | None:
    """The value of an arithmetic sentence as a whole number, or None where a key is absent."""
    value = _evaluate(config, _parse_sentence(text))
    if value is None:
        return None
    if value != int(value) or not 0 <= value <= MAX_AXIS:
        raise _not_whole(value, text, config)
    return int(value)


@lru_cache(maxsize=4096)
def _parse_sentence(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _power(base: Any, exponent: Any) -> Any:
    """A power that stays a number a tensor can have: a name may say stage 999,999,999."""
    return base**exponent if exponent <= 64 else MAX_AXIS + 1


_OPERATIONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _evaluate(config: Mapping[str, Any], node: ast.expr) -> Any:
    """``a``, ``a.b``, ``a[2]``, numbers, + - * / // % **, ``int(...)``, which rounds down, ``len(a)`` of a list, ``count(a, word)``, how
    often a word stands in a list, and ``not a``, which is 1 where ``a`` is absent or 0. A division must come out even.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(config, node.left), _evaluate(config, node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod) and (right == 0 or (isinstance(node.op, ast.Div) and left % right)):
            found, expected = f"{left} / {right}", "a division without remainder"
            where = f"{ast.unparse(node)} in {config_name(config)}"
            raise MappingError("MFC107", where, found=found, expected=expected, hint=hint_of_config(config))
        return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return int(not _evaluate(config, node.operand))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
        found = _look_up(config, node.args[0])
        return len(found) if isinstance(found, list) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "count":
        found = _look_up(config, node.args[0])
        return found.count(ast.unparse(node.args[1])) if isinstance(found, list) else None
    if isinstance(node, ast.Call):
        inner = _evaluate(config, node.args[0])
        return None if inner is None else int(inner)
    value = _look_up(config, node)
    return value if value is None else _number(value, ast.unparse(node), config)


def is_readable(sentence: str) -> bool:
    """Whether a sentence without ``|``, ``..`` and placeholders holds nothing but what ``_evaluate`` reads. Nothing is looked up."""
    try:
        return _is_read(_parse_sentence(sentence))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: a null byte
        return False


def _is_read(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value):
            return type(value) in (int, float)
        case ast.BinOp(left, op, right):
            return type(op) in _OPERATIONS and _is_read(left) and _is_read(right)
        case ast.UnaryOp(ast.Not(), operand):
            return _is_read(operand)
        case ast.Call(ast.Name("len"), [asked], []):
            return _is_key(asked)
        case ast.Call(ast.Name("count" | "places"), [asked, ast.Name()], []):
            return _is_key(asked)
        case ast.Call(ast.Name("every"), [step, begin, count], []):
            return all(map(_is_read, (step, begin, count)))
        case ast.Call(ast.Name("int"), [inner], []):
            return _is_read(inner)
    return _is_key(node)


def _is_key(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value):
            return _is_key(value)
        case ast.Subscript(value, ast.Constant(place)):
            return type(place) is int and _is_key(value)
    return isinstance(node, ast.Name)


def _look_up(config: Any, node: ast.expr) -> Any:
    """What stands in the config under a name, a dotted name, or at a place of a list; None where there is nothing."""
    if isinstance(node, ast.Name):
        return config.get(node.id)
    if isinstance(node, ast.Attribute):
        inner = _look_up(config, node.value)
        return inner.get(node.attr) if isinstance(inner, Mapping) else None
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        inner, place = _look_up(config, node.value), node.slice.value
        return inner[place] if isinstance(inner, list) and isinstance(place, int) and 0 <= place < len(inner) else None
    raise ValueError(f"a size sentence cannot hold {ast.unparse(node)}")


def _number(value: Any, text: str, config: Mapping[str, Any]) -> int | float:
    """A number from a config: not negative, not endless; 4096.0 counts as 4096."""
    if isinstance(value, int | float) and 0 <= value <= MAX_AXIS:
        return int(value) if value == int(value) else value
    raise _not_whole(value, text, config)


def _not_whole(value: Any, text: str, config: Mapping[str, Any]) -> MappingError:
    where = f"{quote(text)} in {config_name(config)}"
    return MappingError("MFC106", where, found=quote(str(value)), expected="a whole number, not negative", hint=hint_of_config(config))
