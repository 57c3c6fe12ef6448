"""The fixed text of an exported pair of files: what reads, applies and writes. ``<<NAME>>`` stands for what comes from the family."""

from __future__ import annotations

HEAD = '''"""<<TITLE>>

Written by `mfconv export <<KEY>> --to mindformers`; it needs numpy, torch, safetensors and mindspore, and nothing else. The table RULES
says what becomes what; each layout in it has one function below that does it. The whole model is loaded into memory at once, as
MindFormers' own converters do. <<MEMORY>>
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import mindspore
import numpy as np
import torch


class Move(NamedTuple):
    """Tensors that are read, tensors that are written, and how their axes stand; no layout: only the name changes."""

    sources: tuple
    targets: tuple
    layout: str = ""
    needed: bool = True  # whether every checkpoint has it
    dtype: str = ""  # a dtype that does not follow the one asked for
    copies: bool = False  # equal tensors on the Hugging Face side, one on the other


# the form of the model that this file was written for
FORM = <<FORM>>

# names read -> names written, and the layout of their axes
RULES = (
<<RULES>>
)

# heads that may be the embedding: (name read, name written, embedding, size that says so)
TIED = <<TIED>>

# names that are read and have no place on the other side: (name, why)
LEFT_OUT = <<LEFT_OUT>>

# every size: the expressions over config.json that may tell it, each as (first index of a name that counts, size)
SIZES = {
<<SIZES>>
}

# keywords that give a size where there is no config.json
KEYWORDS = <<KEYWORDS>>


<<FUNCTIONS>>


# layout -> the function that carries it out
LAYOUTS = {
<<LAYOUTS>>
}


# ---- sizes ----------------------------------------------------------------------------------------------------------------


def exactly(a, b):
    """A division without remainder."""
    if a % b:
        raise ValueError(f"{a} / {b} in config.json: expected a division without remainder")
    return a // b


def limits_of(name, config, at):
    """Where an axis begins to count, and its size; None where config.json does not tell it."""
    for alternative in SIZES.get(name, ()):
        try:
            first, last = alternative(config, at)
        except (KeyError, IndexError, TypeError):
            continue
        return int(first), int(last)
    told = [config[keyword] for keyword, axis in KEYWORDS.items() if axis == name and keyword in config]
    return (0, int(told[0])) if told else None


def size_of(name, config, at):
    """The size of an axis."""
    limits = limits_of(name, config, at)
    if limits is None:
        raise ValueError(f"no size for {name}: config.json is not beside the input, or lacks its keys (config=PATH names another one)")
    return limits[1]


def config_for(input_path, kwargs):
    """config.json beside the input, or the one that ``config=`` names; without either, the keywords are the config."""
    given = kwargs.get("config")
    beside = Path(input_path) if Path(input_path).is_dir() else Path(input_path).parent
    path = beside / "config.json" if given is None else Path(given)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
    elif given is not None:
        raise FileNotFoundError(f"no config.json at {path}")
    else:
        found = kwargs
    return {key: value for key, value in found.items() if value is not None}


def check_form(kwargs):
    """Raises ValueError where the caller asks for another form of the model than this file writes."""
    for name, value in FORM.items():
        asked = kwargs.get(name)
        if asked is not None and str(asked).lower() != str(value).lower():
            raise ValueError(f"{name}={asked}: this file was exported for {name}={value}; export it again with the other value")


# ---- applying the table ------------------------------------------------------------------------------------------------------


def placeholders_of(pattern):
    """The names in braces, once each."""
    return tuple(dict.fromkeys(re.findall(r"{(\\w+)}", pattern)))


def regular_expression_of(pattern):
    """A pattern of RULES as a regular expression for whole names; a placeholder is a number without leading zeros."""
    seen, text = set(), ""
    for part in re.split(r"({\\w+})", pattern):
        if not part.startswith("{"):
            text += re.escape(part)
        elif part in seen:
            text += f"(?P={part[1:-1]})"
        else:
            seen.add(part)
            text += f"(?P<{part[1:-1]}>0|[1-9][0-9]*)"
    return re.compile(text)


def check_zeros(array):
    """Raises ValueError where numbers would be lost: the other side has no place for them."""
    if np.any(array):
        raise ValueError("numbers that have no place on the other side are not all zero")


def loops_of(rule):
    """The placeholders that both sides of a rule share."""
    written = {p for pattern in rule.targets for p in placeholders_of(pattern)}
    return tuple(dict.fromkeys(p for pattern in rule.sources for p in placeholders_of(pattern) if p in written))


def found_instances(names):
    """For every rule and every value of its loops, the names that it reads: {(rule, loop values): {(place, own index): name}}."""
    readers = [(n, place, regular_expression_of(p), loops_of(rule)) for n, rule in enumerate(RULES) for place, p in enumerate(rule.sources)]
    ignored = [regular_expression_of(pattern) for pattern, _ in LEFT_OUT]
    instances, unknown = {}, []
    for name in names:
        hits = [(n, place, loops, m) for n, place, reader, loops in readers if (m := reader.fullmatch(name))]
        if len(hits) == 1:
            n, place, loops, match = hits[0]
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            own = tuple(value for key, value in numbers.items() if key not in loops)
            instances.setdefault((n, tuple(numbers[p] for p in loops)), {})[place, own] = name
        elif hits or not (any(reader.fullmatch(name) for reader in ignored)<<OR_RUN_STATE>>):
            unknown.append(name)
    if unknown:
        raise ValueError(f"{len(unknown)} names that no rule knows, such as {', '.join(unknown[:5])}")
    return instances


def check_complete(instances, config):
    """Raises ValueError where config.json promises tensors that are not there, or there are more than it promises."""
    for n, rule in enumerate(RULES):
        found = {loop for number, loop in instances if number == n}
        promised = set(promised_loops(loops_of(rule), config, {}))
        if promised and (found - promised or (rule.needed and promised - found)):
            odd = sorted(found ^ promised)[0]
            names = ", ".join(rule.sources)
            raise ValueError(f"{names} at {odd}: found {len(found)}, config.json promises {len(promised)}")


def promised_loops(loops, config, at):
    """Every value of the loops of a rule that config.json promises; nothing where it does not tell."""
    if not loops:
        yield tuple(at.values())
        return
    limits = limits_of(loops[0], config, at)
    for index in range(*limits) if limits else ():
        yield from promised_loops(loops[1:], config, {**at, loops[0]: index})


def stacked(tensors, parts, pattern, loops):
    """One source array: a tensor as it is, or the tensors of a placeholder of this side only, stacked along a first axis."""
    own = [p for p in placeholders_of(pattern) if p not in loops]
    if not own:
        return tensors[parts[()]][1]
    if sorted(parts) != [(index,) for index in range(len(parts))]:
        raise ValueError(f"{pattern}: {own[0]} is not counted without gaps from 0")
    return np.stack([tensors[parts[index,]][1] for index in range(len(parts))])


def with_copies(rule, found, tensors, config, at):
    """The tensors that a rule of copies writes: one of several that must be equal, or several of one."""
    names = list(found.values())
    dtype, array = tensors[names[0]]
    for name in names[1:]:
        if tensors[name][0] != dtype or tensors[name][1].tobytes() != array.tobytes():
            raise ValueError(f"{name} and {names[0]} must be equal, and are not")
    written = {}
    for pattern in rule.targets:
        own = [p for p in placeholders_of(pattern) if p not in at]
        for axis in own:
            size_of(axis, config, at)
        for values in promised_loops(own, config, at):
            written[pattern.format(**dict(zip([*at, *own], values)))] = (dtype, array)
    return written


def rearranged(rule, found, tensors, config, at):
    """The tensors that one instance of a rule writes: renamed, or put together by the function of its layout."""
    loops = loops_of(rule)
    parts = [{own: name for (place, own), name in found.items() if place == wanted} for wanted in range(len(rule.sources))]
    if not all(parts):
        lacking = [pattern for pattern, part in zip(rule.sources, parts) if not part]
        raise ValueError(f"{', '.join(lacking)} at {at}: not in the checkpoint")
    dtypes = {tensors[name][0] for name in found.values()}
    if len(dtypes) > 1:
        raise ValueError(f"{', '.join(found.values())}: dtypes that differ, {', '.join(sorted(dtypes))}")
    arrays = [stacked(tensors, part, pattern, loops) for part, pattern in zip(parts, rule.sources)]
    if rule.layout:
        arrays = LAYOUTS[rule.layout](lambda axis: size_of(axis, config, at), *arrays)
    dtype, written = dtypes.pop(), {}
    for pattern, array in zip(rule.targets, arrays):
        own = [p for p in placeholders_of(pattern) if p not in loops]
        pieces = [(at, array)] if not own else [({**at, own[0]: index}, piece) for index, piece in enumerate(array)]
        written.update({pattern.format(**numbers): (dtype, piece) for numbers, piece in pieces})
    return written


def applied(tensors, config):
    """The tensors of the other side, as {name: (dtype, array)}, and the dtypes that are fixed, as {name: dtype}."""
    instances = found_instances(tensors)
    check_complete(instances, config)
    written, fixed = {}, {}
    for (n, values), found in instances.items():
        rule = RULES[n]
        at = dict(zip(loops_of(rule), values))
        made = (with_copies if rule.copies else rearranged)(rule, found, tensors, config, at)
        written.update(made)
        fixed.update({name: rule.dtype for name in made if rule.dtype})
    return written, fixed


# ---- dtypes: the bits of bfloat16 are kept in int16 arrays, as numpy has no such numbers ---------------------------------------


def dtype_named(dtype):
    """The name of a dtype of mindspore, torch or numpy, or of a text."""
    text = str(dtype).lower().replace("torch.", "")
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(text, text)


def as_torch(dtype, array):
    """A torch tensor of the bits in an array."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def from_torch(tensor):
    """The dtype and the bits of a torch tensor."""
    tensor = tensor.detach().cpu().contiguous()
    name = dtype_named(tensor.dtype)
    return name, (tensor.view(torch.int16) if name == "bfloat16" else tensor).numpy()


def cast(dtype, array, wanted):
    """A tensor in another dtype; whole numbers and truth values stay as they are."""
    if dtype == wanted or not dtype.endswith(("float16", "float32", "float64")):
        return dtype, array
    return from_torch(as_torch(dtype, array).to(getattr(torch, wanted)))


def with_dtypes(written, fixed, dtype):
    """Every tensor in the dtype that was asked for; None: as it was."""
    if dtype is not None and dtype_named(dtype) not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype {dtype}: expected float16, bfloat16, float32 or float64")
    wanted = {name: fixed.get(name, dtype_named(dtype) if dtype is not None else tensor[0]) for name, tensor in written.items()}
    return {name: cast(*tensor, wanted[name]) for name, tensor in written.items()}

'''

RUN_STATE = '''
def is_run_state(name):
    """Whether a tensor belongs to a training run and is no weight."""
    in_a_layer = ".layers." in f".{name}" and name.endswith(<<IN_LAYERS>>)
    return in_a_layer or name.startswith(<<RUN_STATE>>) or name in <<COUNTERS>>
'''

FORWARD = '''
# ---- files ------------------------------------------------------------------------------------------------------------------


def read_huggingface(input_path):
    """Every tensor of a folder, of an index or of a single file, as {name: (dtype, array)}."""
    tensors = {}
    for path in files_in(Path(input_path)):
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="pt") as file:
                found = {name: from_torch(file.get_tensor(name)) for name in file.keys()}
        else:
            loaded = torch.load(str(path), map_location="cpu", weights_only=True)
            found = {name: from_torch(tensor) for name, tensor in loaded.items()}
        twice = tensors.keys() & found.keys()
        if twice:
            raise ValueError(f"{sorted(twice)[0]} is in two files")
        tensors.update(found)
    return tensors


def files_in(path):
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


def with_tied(tensors, written, config):
    """The output head too, where the Hugging Face side leaves it out because it is the embedding."""
    for head, target, embedding, flag in TIED:
        if head not in tensors and size_of(flag, config, {}):
            written[target] = tensors[embedding]
        elif head not in tensors:
            raise ValueError(f"{head} is not in the checkpoint, and config.json does not say that it is {embedding}")
    return written


def mindspore_tensor(dtype, array):
    """A mindspore tensor of these bits."""
    if dtype != "bfloat16":
        return mindspore.Tensor(np.array(array, order="C"))
    shape = tuple(array.shape)
    return mindspore.Tensor(mindspore.Tensor.convert_bytes_to_tensor(array.tobytes(), shape, mindspore.bfloat16))


def convert_pt_to_ms(input_path, output_path, dtype=None, **kwargs):
    """Convert Hugging Face weights to one MindFormers .ckpt. Loads the whole model into memory.

    Args:
        input_path: a folder with safetensors (with or without an index) or .bin files, or one such file; config.json beside it.
        output_path: the .ckpt to write.
        dtype: what the weights are cast to; None: as they are.
        kwargs: ``config``, another config.json; without any config.json, its keys.
    """
    check_form(kwargs)
    config = config_for(input_path, kwargs)
    tensors = read_huggingface(input_path)
    written, fixed = applied(tensors, config)
    written = with_dtypes(with_tied(tensors, written, config), fixed, dtype)
    parameters = [{"name": name, "data": mindspore_tensor(*tensor)} for name, tensor in written.items()]
    Path(output_path).parent.mkdir(parents=True, exist_ok=True)
    mindspore.save_checkpoint(parameters, str(output_path))
    print(f"{len(tensors)} tensors read, {len(written)} written to {output_path}")
    return True
'''

BACK = '''
# ---- files ------------------------------------------------------------------------------------------------------------------


def read_mindspore(input_path):
    """Every tensor of a .ckpt or .safetensors file that MindSpore reads, as {name: (dtype, array)}."""
    file_format = "safetensors" if str(input_path).endswith(".safetensors") else "ckpt"
    loaded = mindspore.load_checkpoint(str(input_path), format=file_format)
    return {name: from_mindspore(parameter) for name, parameter in loaded.items()}


def from_mindspore(parameter):
    """The dtype and the bits of a mindspore parameter."""
    name = dtype_named(parameter.dtype)
    kind = np.int16 if name == "bfloat16" else np.dtype(name)
    return name, np.frombuffer(parameter.get_bytes(), kind).reshape(parameter.shape)


def without_tied(tensors, written, config):
    """Without the output head where config.json says that it is the embedding; the two must be equal then."""
    for head, target, embedding, flag in TIED:
        if limits_of(flag, config, {}) and size_of(flag, config, {}):
            if tensors[head][1].tobytes() != written[embedding][1].tobytes():
                raise ValueError(f"config.json says that {head} is the embedding, and their numbers differ")
            del written[target]
    return written


def convert_ms_to_pt(input_path, output_path, dtype=None, **kwargs):
    """Convert one MindFormers checkpoint file to a Hugging Face .bin. Loads the whole model into memory.

    Args:
        input_path: a .ckpt (or .safetensors written by MindSpore); config.json beside it.
        output_path: the .bin to write.
        dtype: what the weights are cast to; None: as they are.
        kwargs: ``config``, another config.json; without any config.json, its keys.
    """
    check_form(kwargs)
    config = config_for(input_path, kwargs)
    tensors = read_mindspore(input_path)
    written, _ = applied(tensors, config)
    written = with_dtypes(without_tied(tensors, written, config), {}, dtype)
    Path(output_path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: as_torch(*tensor) for name, tensor in written.items()}, str(output_path))
    print(f"{len(tensors)} tensors read, {len(written)} written to {output_path}")
    return True
'''

README = """\
# <<KEY>>: a converter for MindFormers

`convert_weight.py` defines `convert_pt_to_ms`, `convert_reversed.py` defines `convert_ms_to_pt`. Put this folder where MindFormers can
import it, as `research/<<MODULE>>`, and add one line to each of the two tables in MindFormers' `convert_weight.py`:

```python
convert_map["<<NAME>>"] = "research.<<MODULE>>.convert_weight.convert_pt_to_ms"
reversed_convert_map["<<NAME>>"] = "research.<<MODULE>>.convert_reversed.convert_ms_to_pt"
```

The form: <<FORM>>. Both load the whole model into memory. Sizes are read from the `config.json` beside the input, else from the file
that the keyword `config` names, else from keywords named as in `config.json`. Nothing is remembered beside a converted checkpoint: what
is left out on the way there does not come back.
"""
