"""The program of an exported converter: read all tensors, apply the table of rules, write all tensors.

`program_text.py` copies what a converter needs of this module into it, and puts the tables of a family in place of the empty ones.
Therefore this module imports nothing of the package, and its annotations stay within Python 3.9 and numpy 1.22. Only tests import it.
"""

# ruff: noqa: B905 (zip(strict=...) needs Python 3.10)
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import mindspore
import numpy as np
import torch
from safetensors import safe_open

Array = np.ndarray[Any, Any]
Tensors = dict[str, tuple[str, Array]]  # name -> its dtype, and its numbers; bfloat16 as int16 of the same bits: numpy lacks bfloat16
Indices = dict[str, int]  # what the placeholders in a name stand for: {"layer": 3}
Found = dict[tuple[int, tuple[int, ...]], str]  # (place among the sources of a rule, index that only this side has) -> name
Instances = dict[tuple[int, tuple[int, ...]], Found]  # (number of a rule, values of its loops) -> what it reads


class Move(NamedTuple):
    """Tensors that are read, tensors that are written, and how their axes stand. Without a layout only the name changes."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    layout: str = ""
    needed: bool = True  # every checkpoint has it
    dtype: str = ""  # a fixed dtype, whatever the caller asks for
    copies: bool = False  # equal tensors on the Hugging Face side, one tensor on the other


# the form of the model that this file was written for
FORM: dict[str, Any] = {}

# names read -> names written, and the layout of their axes
RULES: tuple[Move, ...] = ()

# heads that may be the embedding: (name read, name written, embedding, size that says so)
TIED: tuple[tuple[str, str, str, str], ...] = ()

# names that are read and have no place on the other side: (name, why)
LEFT_OUT: tuple[tuple[str, str], ...] = ()

# names of a training run's state, which is no weight: how they begin, how they end inside a layer, and whole names
RUN_STATE: tuple[tuple[str, ...], ...] = ((), (), ())

# every size: the expressions over config.json that may give it, each as (first index of a placeholder, size)
SIZES: dict[str, tuple[Any, ...]] = {}

# keywords that give a size where there is no config.json
KEYWORDS: dict[str, str] = {}

# layout -> the function that carries it out
LAYOUTS: dict[str, Any] = {}


# ---- sizes ----------------------------------------------------------------------------------------------------------------


def divide(a: int, b: int) -> int:
    """A division without remainder."""
    if a % b:
        raise ValueError(f"{a} / {b} in config.json: expected a division without remainder")
    return a // b


def limits_of(name: str, config: dict[str, Any], at: Indices) -> tuple[int, ...]:
    """Where an axis begins to count, and its size; empty where config.json does not give it."""
    for alternative in SIZES.get(name, ()):
        try:
            first, last = alternative(config, at)
        except (KeyError, IndexError, TypeError):
            continue
        return int(first), int(last)
    given = [config[keyword] for keyword, axis in KEYWORDS.items() if axis == name and keyword in config]
    return (0, int(given[0])) if given else ()


def size_of(name: str, config: dict[str, Any], at: Indices) -> int:
    """The size of an axis."""
    limits = limits_of(name, config, at)
    if not limits:
        raise ValueError(f"no size for {name}: config.json is not beside the input, or lacks its keys (config=PATH names another one)")
    return limits[1]


def read_config(input_path: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """config.json beside the input, or the one that ``config=`` names; without either, the keywords are the config."""
    given, beside = kwargs.get("config"), Path(input_path)
    path = (beside if beside.is_dir() else beside.parent) if given is None else Path(given)
    if given is None or path.is_dir():
        path = path / "config.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
    elif given is not None:
        raise FileNotFoundError(f"no config.json at {path}")
    else:
        found = kwargs
    return {key: value for key, value in found.items() if value is not None}


def check_form(kwargs: dict[str, Any]) -> None:
    """Raises ValueError where the caller asks for another form of the model than this file writes."""
    for name, value in FORM.items():
        asked = kwargs.get(name)
        if asked is not None and str(asked).lower() != str(value).lower():
            raise ValueError(f"{name}={asked}: this file was exported for {name}={value}; export it again with the other value")


# ---- rules ------------------------------------------------------------------------------------------------------------------


def placeholders_of(pattern: str) -> list[str]:
    """The names in braces, once each."""
    return list(dict.fromkeys(re.findall(r"{(\w+)}", pattern)))


def loops_of(rule: Move) -> list[str]:
    """The placeholders that both sides of a rule share."""
    source, target = (placeholders_of(" ".join(side)) for side in (rule.sources, rule.targets))
    return [p for p in source if p in target]


def regular_expression_of(pattern: str) -> Any:
    """A pattern of RULES as a regular expression for whole names. A placeholder is a number without leading zeros."""
    text = re.escape(pattern)
    for word in placeholders_of(pattern):
        text = text.replace(rf"\{{{word}\}}", f"(?P<{word}>0|[1-9][0-9]*)", 1).replace(rf"\{{{word}\}}", f"(?P={word})")
    return re.compile(text)


def check_zeros(array: Array) -> None:
    """Raises ValueError where numbers would be lost: the other side has no place for them."""
    if np.any(array):
        raise ValueError("numbers that have no place on the other side are not all zero")


def is_run_state(name: str) -> bool:
    """Whether a tensor belongs to a training run and is no weight."""
    beginnings, endings, whole = RUN_STATE
    return name.startswith(beginnings) or name in whole or (".layers." in f".{name}" and name.endswith(endings))


def find_instances(names: Tensors) -> Instances:
    """For every rule and every value of its loops the names that it reads."""
    readers = [(n, place, regular_expression_of(p), loops_of(rule)) for n, rule in enumerate(RULES) for place, p in enumerate(rule.sources)]
    ignored = [regular_expression_of(pattern) for pattern, _ in LEFT_OUT]
    instances: Instances = {}
    unknown = []
    for name in names:
        hits = [(n, place, loops, match) for n, place, reader, loops in readers if (match := reader.fullmatch(name))]
        if len(hits) == 1:
            n, place, loops, match = hits[0]
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            own = tuple(value for key, value in numbers.items() if key not in loops)
            instances.setdefault((n, tuple(numbers[p] for p in loops)), {})[place, own] = name
        elif hits or not (any(reader.fullmatch(name) for reader in ignored) or is_run_state(name)):
            unknown.append(name)
    if unknown:
        raise ValueError(f"{len(unknown)} names that no rule knows, such as {', '.join(unknown[:5])}")
    return instances


def promised_indices(loops: list[str], config: dict[str, Any], at: Indices) -> list[Indices]:
    """``at`` with every value of some more placeholders that config.json promises; nothing where it does not say."""
    if not loops:
        return [at]
    found = [{**at, loops[0]: index} for index in range(*limits_of(loops[0], config, at) or (0,))]
    return [deeper for each in found for deeper in promised_indices(loops[1:], config, each)]


def check_complete(instances: Instances, config: dict[str, Any]) -> None:
    """Raises ValueError where config.json promises tensors that are not there, or there are more than it promises."""
    for n, rule in enumerate(RULES):
        found = {loop for number, loop in instances if number == n}
        promised = {tuple(at.values()) for at in promised_indices(loops_of(rule), config, {})}
        if promised and (found - promised or (rule.needed and promised - found)):
            odd = sorted(found ^ promised)[0]
            names = ", ".join(rule.sources)
            raise ValueError(f"{names} at {odd}: found {len(found)}, config.json promises {len(promised)}")


def stack_parts(pattern: str, parts: dict[tuple[int, ...], Array]) -> Array:
    """The tensors that one source pattern reads as one array: those of a placeholder of this side only are stacked along a first axis."""
    if () in parts:
        return parts[()]
    if sorted(parts) != [(index,) for index in range(len(parts))]:
        raise ValueError(f"{pattern}: the indices {sorted(parts)[:5]} do not count from 0 without gaps")
    return np.stack([parts[index,] for index in range(len(parts))])


def copy_tensors(rule: Move, found: Found, tensors: Tensors, config: dict[str, Any], at: Indices) -> Tensors:
    """What a rule of copies writes: one of several tensors that must be equal, or several of one."""
    first, *others = found.values()
    dtype, array = tensors[first]
    for name in others:
        if tensors[name][0] != dtype or tensors[name][1].tobytes() != array.tobytes():
            raise ValueError(f"{name} and {first} must be equal, and are not")
    written = {}
    for pattern in rule.targets:
        own = [p for p in placeholders_of(pattern) if p not in at]
        for axis in own:
            size_of(axis, config, at)  # raises where it is not known
        written.update({pattern.format(**indices): (dtype, array) for indices in promised_indices(own, config, at)})
    return written


def rearrange_tensors(rule: Move, found: Found, tensors: Tensors, config: dict[str, Any], at: Indices) -> Tensors:
    """What one instance of a rule writes: its tensors renamed, or put together by the function of its layout."""
    parts: list[dict[tuple[int, ...], Array]] = [{} for _ in rule.sources]
    for (place, own_index), name in found.items():
        parts[place][own_index] = tensors[name][1]
    if not all(parts):
        lacking = [pattern for pattern, part in zip(rule.sources, parts) if not part]
        raise ValueError(f"{', '.join(lacking)} at {at}: not in the checkpoint")
    dtypes = sorted({tensors[name][0] for name in found.values()})
    if len(dtypes) > 1:
        raise ValueError(f"{', '.join(found.values())}: dtypes that differ, {', '.join(dtypes)}")
    arrays = [stack_parts(pattern, part) for pattern, part in zip(rule.sources, parts)]
    if rule.layout:
        arrays = LAYOUTS[rule.layout](lambda axis: size_of(axis, config, at), *arrays)
    written = {}
    for pattern, array in zip(rule.targets, arrays):
        own = [p for p in placeholders_of(pattern) if p not in at]
        pieces = [({**at, own[0]: index}, piece) for index, piece in enumerate(array)] if own else [(at, array)]
        written.update({pattern.format(**indices): (dtypes[0], piece) for indices, piece in pieces})
    return written


def apply_rules(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, str]]:
    """The tensors of the other side, and the dtypes that are fixed, as {name: dtype}."""
    instances = find_instances(tensors)
    check_complete(instances, config)
    written: Tensors = {}
    fixed: dict[str, str] = {}
    for (n, values), found in instances.items():
        rule = RULES[n]
        make = copy_tensors if rule.copies else rearrange_tensors
        made = make(rule, found, tensors, config, dict(zip(loops_of(rule), values)))
        written.update(made)
        fixed.update({name: rule.dtype for name in made if rule.dtype})
    return written, fixed


def add_tied(tensors: Tensors, written: Tensors, config: dict[str, Any]) -> None:
    """Write the output head too, where the Hugging Face side leaves it out because it is the embedding."""
    for head, target, embedding, flag in TIED:
        if head not in tensors and size_of(flag, config, {}):
            written[target] = tensors[embedding]
        elif head not in tensors:
            raise ValueError(f"{head} is not in the checkpoint, and config.json does not say that it is {embedding}")


def remove_tied(tensors: Tensors, written: Tensors, config: dict[str, Any]) -> None:
    """Leave out the output head where config.json says that it is the embedding: a network need not hold it, else the two must be equal."""
    for head, target, embedding, flag in TIED:
        is_tied = limits_of(flag, config, {}) and size_of(flag, config, {})
        if head not in tensors and not is_tied:
            raise ValueError(f"{head} is not in the checkpoint, and config.json does not say that it is {embedding}")
        if head in tensors and is_tied:
            if tensors[head][1].tobytes() != written[embedding][1].tobytes():
                raise ValueError(f"config.json says that {head} is the embedding, and their numbers differ")
            del written[target]


# ---- dtypes -----------------------------------------------------------------------------------------------------------------


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of mindspore, torch or numpy, or of a text."""
    text = str(dtype).lower().replace("torch.", "")
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(text, text)


def as_torch(dtype: str, array: Array) -> Any:
    """A torch tensor of the bits in an array."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def from_torch(tensor: Any) -> tuple[str, Array]:
    """The dtype and the bits of a torch tensor."""
    tensor = tensor.detach().cpu().contiguous()
    name = dtype_name(tensor.dtype)
    return name, (tensor.view(torch.int16) if name == "bfloat16" else tensor).numpy()


def cast_tensors(tensors: Tensors, fixed: dict[str, str], dtype: Any) -> Tensors:
    """Every tensor of floating-point numbers in the dtype that was asked for (None: as it is), or in its fixed one."""
    floats = ("float16", "bfloat16", "float32", "float64")
    if dtype is not None and dtype_name(dtype) not in floats:
        raise ValueError(f"dtype {dtype}: expected float16, bfloat16, float32 or float64")
    cast = {}
    for name, (old, array) in tensors.items():
        new = fixed.get(name, old if dtype is None else dtype_name(dtype))
        is_kept = new == old or old not in floats
        cast[name] = (old, array) if is_kept else from_torch(as_torch(old, array).to(getattr(torch, new)))
    return cast


# ---- files ------------------------------------------------------------------------------------------------------------------


def files_in(path: Path) -> list[Path]:
    """The weight files of a folder: those that its index names, else all of one kind; or the one file that was given."""
    if path.is_file() and path.suffix != ".json":
        return [path]
    indexes = [path] if path.is_file() else [path / name for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json")]
    for index in indexes:
        if index.is_file():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [index.parent / name for name in dict.fromkeys(names)]
    for ending in (".safetensors", ".bin"):
        found = sorted(file for file in path.glob(f"*{ending}") if file.name != "training_args.bin")
        if found:
            return found
    raise FileNotFoundError(f"no .safetensors or .bin file in {path}")


def read_huggingface(input_path: Any) -> Tensors:
    """Every tensor of a folder, of an index or of a single file."""
    tensors: Tensors = {}
    for path in files_in(Path(input_path)):
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                names = file.keys()
                found = {name: from_torch(file.get_tensor(name)) for name in names}
        else:
            loaded = torch.load(str(path), map_location="cpu", weights_only=True)
            found = {name: from_torch(tensor) for name, tensor in loaded.items()}
        twice = tensors.keys() & found.keys()
        if twice:
            raise ValueError(f"{sorted(twice)[0]} is in two files")
        tensors.update(found)
    return tensors


def read_mindspore(input_path: Any) -> Tensors:
    """Every tensor of a .ckpt or .safetensors file that MindSpore reads."""
    file_format = "safetensors" if str(input_path).endswith(".safetensors") else "ckpt"
    tensors: Tensors = {}
    for name, parameter in mindspore.load_checkpoint(str(input_path), format=file_format).items():
        dtype = dtype_name(parameter.dtype)
        kind = np.int16 if dtype == "bfloat16" else np.dtype(dtype)
        tensors[name] = dtype, np.frombuffer(parameter.get_bytes(), kind).reshape(parameter.shape)
    return tensors


def as_mindspore(dtype: str, array: Array) -> Any:
    """A mindspore tensor of these bits."""
    if dtype != "bfloat16":
        return mindspore.Tensor(np.array(array, order="C"))
    shape = tuple(array.shape)
    return mindspore.Tensor(mindspore.Tensor.convert_bytes_to_tensor(array.tobytes(), shape, mindspore.bfloat16))


def convert_pt_to_ms(input_path: Any, output_path: Any, dtype: Any = None, **kwargs: Any) -> bool:
    """Convert Hugging Face weights to one MindFormers .ckpt. Loads the whole model into memory.

    Args:
        input_path: a folder with safetensors (with or without an index) or .bin files, or one such file; config.json beside it.
        output_path: the .ckpt to write.
        dtype: what the weights are cast to; None: as they are.
        kwargs: ``config``, another config.json; without any config.json, its keys.
    """
    check_form(kwargs)
    config = read_config(input_path, kwargs)
    tensors = read_huggingface(input_path)
    written, fixed = apply_rules(tensors, config)
    add_tied(tensors, written, config)
    cast = cast_tensors(written, fixed, dtype)
    Path(output_path).parent.mkdir(parents=True, exist_ok=True)
    mindspore.save_checkpoint([{"name": name, "data": as_mindspore(*tensor)} for name, tensor in cast.items()], str(output_path))
    print(f"{len(tensors)} tensors read, {len(cast)} written to {output_path}")
    return True


def convert_ms_to_pt(input_path: Any, output_path: Any, dtype: Any = None, **kwargs: Any) -> bool:
    """Convert one MindFormers checkpoint file to a Hugging Face .bin. Loads the whole model into memory.

    Args:
        input_path: a .ckpt (or .safetensors written by MindSpore); config.json beside it.
        output_path: the .bin to write.
        dtype: what the weights are cast to; None: as they are.
        kwargs: ``config``, another config.json; without any config.json, its keys.
    """
    check_form(kwargs)
    config = read_config(input_path, kwargs)
    tensors = read_mindspore(input_path)
    written, fixed = apply_rules(tensors, config)
    remove_tied(tensors, written, config)
    cast = cast_tensors(written, fixed, dtype)
    Path(output_path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: as_torch(*tensor) for name, tensor in cast.items()}, str(output_path))
    print(f"{len(tensors)} tensors read, {len(cast)} written to {output_path}")
    return True
