"""Strategy files: what mindspore's own classes write is read, what we write they read, and anything else is refused, never a crash."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfconv_nb.core.errors import InputError
from mfconv_nb.formats.strategy_file import (
    JSON,
    PROTOBUF,
    StrategyLayout,
    is_strategy,
    looks_like,
    parse_strategy,
    read_strategies,
    strategy_files,
    write_strategy,
)
from tests.runs.made import Cut, numbered_tensors, strategy_by_mindspore, strategy_bytes, write_strategy_file
from tests.support import write_safetensors

CUTS = {
    "model.wq.weight": Cut((2, 4), (0, -1), shards=2),
    "model.w-2.weight": Cut((2, 2, 2), ((2, 0), -1), stages=(0, 1)),
    "scale": Cut((8,), ()),
}
LAYOUTS = {
    "model.wq.weight": StrategyLayout((2, 4), ((0, -1),), shard_step=4, shard_size=2),
    "model.w-2.weight": StrategyLayout((2, 2, 2), ((2, 0), (-1,))),
    "scale": StrategyLayout((8,), ((),)),
}


@pytest.mark.real_frameworks
@pytest.mark.parametrize("ending", ["ckpt", "json"])
@pytest.mark.parametrize("merged", [False, True])
def test_what_mindspores_classes_write(tmp_path: Path, ending: str, merged: bool) -> None:
    path = write_strategy_file(tmp_path / f"s.{ending}", CUTS, [0, 1] if merged else [0], merged=merged, with_mindspore=True)
    (found,) = read_strategies([path])
    assert (len(found.stages) > 1) is merged
    expected = {0: LAYOUTS, 1: {"model.w-2.weight": LAYOUTS["model.w-2.weight"]}} if merged else {0: LAYOUTS}
    assert found.stages == expected
    assert is_strategy(path)


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Any cut that the tests can make: matrices, maps of one or several dimensions an axis, shards, stages."""
    devices = tuple(draw(st.lists(st.integers(1, 300), min_size=1, max_size=4)))
    dims = draw(st.permutations(range(len(devices))))
    axes = draw(st.integers(0, 3))
    maps = tuple(dims[n] if n < len(dims) and draw(st.booleans()) else -1 for n in range(axes))
    if maps and draw(st.booleans()):
        maps = ((*dims,), *(-1 for _ in maps[1:]))
    cut = Cut(devices, maps)
    may_shard = draw(st.booleans()) and math.prod(devices) < 1000 and len(cut.group) > 1
    return Cut(devices, maps, shards=draw(st.integers(2, 400)) if may_shard else 1)


@pytest.mark.real_frameworks
@settings(max_examples=100, deadline=None)  # the first one imports mindspore
@given(
    layouts=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=200), cuts(), max_size=4),
    stages=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    current=st.integers(0, 300),
)
def test_the_writer_of_the_tests_makes_the_bytes_of_mindspores_classes(layouts: dict[str, Cut], stages: list[int], current: int) -> None:
    assert strategy_bytes(layouts, stages, current) == strategy_by_mindspore(layouts, stages, current)


@pytest.mark.real_frameworks
def test_what_we_write_is_read_by_mindspore(tmp_path: Path) -> None:
    from mindspore.parallel._parallel_serialization import _build_searched_strategy, _convert_to_list, _extract_pipeline_stage_num
    from mindspore.train import node_strategy_pb2

    names = {n: lay for n, lay in LAYOUTS.items() if "-" not in n}  # mindspore's reader breaks on such names
    for form, ending in ((PROTOBUF, "ckpt"), (JSON, "json")):
        path = tmp_path / f"s.{ending}"
        path.write_bytes(write_strategy({0: names, 1: {"model.wo.weight": StrategyLayout((2, 4), ((-1, 0),))}}, form))
        strategy = _build_searched_strategy(str(path))
        assert _extract_pipeline_stage_num(strategy) == 2
        read = _convert_to_list(strategy)
        assert read["model.wq.weight"] == [[2, 4], [0, -1], [], 0, 4, 2, [0]]
        assert read["model.wo.weight"] == [[2, 4], [-1, 0], [], 0, 0, 0, [1]]
    whole = node_strategy_pb2.ParallelStrategyMap()
    whole.ParseFromString(write_strategy({3: names}))
    assert whole.current_stage == 3
    assert whole.parallel_strategy_item[0].parallel_strategys.stage == 3
    assert whole.SerializeToString() == write_strategy({3: names})


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(lambda n: not n[:1].isdigit())
counts = st.integers(-(1 << 31), (1 << 31) - 1)


@st.composite
def layouts(draw: st.DrawFn) -> StrategyLayout:
    devices = tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=4)))
    order = draw(st.permutations(range(len(devices))))
    used = tuple(order[: draw(st.integers(0, len(devices)))])
    maps = draw(st.sampled_from([((*used, -1),), tuple((k,) for k in used) if len(used) > 1 else ((),)]))
    split = tuple(draw(st.lists(st.integers(0, 1 << 40), max_size=3)))
    return StrategyLayout(devices, maps, split, (), draw(counts), draw(counts), draw(st.integers(-1, 64)))


@settings(max_examples=100)
@given(
    st.dictionaries(st.integers(0, 9), st.dictionaries(names, layouts(), min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from([PROTOBUF, JSON]),
)
def test_there_and_back(stages: dict[int, dict[str, StrategyLayout]], form: str) -> None:
    data = write_strategy(stages, form)
    assert looks_like(data[:64])
    assert parse_strategy(data, Path("s")).stages == dict(sorted(stages.items()))


def test_files_are_told_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "ckpt_strategy_rank_10.ckpt").write_bytes(write_strategy({0: LAYOUTS}))
    (tmp_path / "ckpt_strategy_rank_9.ckpt").write_bytes(write_strategy({0: LAYOUTS}, JSON))
    (tmp_path / "weights.ckpt").write_bytes(b"\x0a\x05\x0a\x01w\x12\x00")
    (tmp_path / "meta.json").write_text('{"last_ckpt_file": "a"}')
    for size in range(40):  # headers of many lengths: some begin with the byte that a strategy begins with
        write_safetensors(tmp_path / f"w{size}.safetensors", numbered_tensors({"w" * (size + 1): (2,)}))
    write_safetensors(tmp_path / "long.ckpt", numbered_tensors({"w" * n: (1,) for n in range(1, 60)}))
    assert [p.name for p in strategy_files(tmp_path)] == ["ckpt_strategy_rank_9.ckpt", "ckpt_strategy_rank_10.ckpt"]


HOSTILE = {
    "nothing": b"",
    "cut": write_strategy({0: LAYOUTS})[:-3],
    "a length that leaves": b"\x08\x00\x1a\xff\xff\xff\xff\x0fab",
    "an endless number": b"\x08" + b"\xff" * 40,
    "a wire type of old": b"\x08\x00\x1b\x1c",
    "a name twice": write_strategy({0: {"w": LAYOUTS["scale"]}}) * 2,
    "no name": b"\x08\x00\x1a\x02\x12\x00",
    "a name that is no text": b"\x08\x00\x1a\x05\x0a\x01\xff\x12\x00",
    "absurdly many devices": write_strategy({0: {"w": StrategyLayout((1 << 30, 1 << 30), ((0, -1),))}}),
    "a dimension that is not there": write_strategy({0: {"w": StrategyLayout((2, 4), ((2, -1),))}}),
    "a dimension that cuts twice": write_strategy({0: {"w": StrategyLayout((2, 4), ((1, 1),))}}),
    "no devices at all": write_strategy({0: {"w": StrategyLayout((0,), ((-1,),))}}),
    "deep JSON": b'{"parallel_layout_item":' + b"[" * 100_000,
    "JSON of another kind": b'{"weight_map": {}}',
    "JSON with texts for numbers": json.dumps({"parallel_layout_item": {"w": {"dev_matrix": ["8"], "tensor_map": [0]}}}).encode(),
    "JSON with a name twice": b'{"parallel_layout_item": {"w": {}, "w": {}}}',
    "JSON with truth for a number": json.dumps({"parallel_layout_item": {"w": {"dev_matrix": [True], "tensor_map": [0]}}}).encode(),
    "two stages, no names of stages": write_strategy({0: LAYOUTS}) + write_strategy({1: {"x": LAYOUTS["scale"]}}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    path = tmp_path / "s.ckpt"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(InputError) as caught:
        read_strategies([path])
    assert caught.value.code == "MFC114"
    assert "s.ckpt" in str(caught.value)
    assert len(str(caught.value)) < 2000


def outcome(content: bytes) -> str:
    try:
        found = parse_strategy(content, Path("s.ckpt"))
    except InputError as error:
        return error.code
    assert all(isinstance(lay, StrategyLayout) for layouts in found.stages.values() for lay in layouts.values())
    return "read"


@settings(max_examples=500)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from([PROTOBUF, JSON]))
    content = bytearray(write_strategy({0: LAYOUTS, 1: {"w": LAYOUTS["scale"]}}, form))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    assert outcome(bytes(content)) in ("MFC114", "read")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(content: bytes) -> None:
    looks_like(content[:64])
    for data in (content, b"\x08\x00" + content, b"{" + content):
        assert outcome(data) in ("MFC114", "read")
