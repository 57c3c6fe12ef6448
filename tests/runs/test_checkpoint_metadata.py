"""`metadata.json` between this package and MindFormers' own code: each reads what the other wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.formats.checkpoint_metadata import Chunk, DeviceLayout, Parameter, StoredIn, metadata_bytes, read_key, read_metadata
from tests.runs.iterations import CUTS, Rank, cell_of, mindformers_checkpoint, originals, write_iteration
from tests.support import raw_of

pytestmark = pytest.mark.real_frameworks
WHOLE = originals()
NO_COMMAS = {n: a for n, a in WHOLE.items() if n in CUTS and "," not in n}  # MindFormers' parser of the keys breaks at commas


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_iteration(tmp_path_factory.mktemp("run"), 10, WHOLE)


def test_what_mindformers_wrote_is_written_alike(folder: Path) -> None:
    """Every member, in the same order of keys; MindFormers takes those of a layout by position."""
    written = json.loads((folder / "metadata.json").read_text())
    again = json.loads(metadata_bytes(read_metadata(folder / "metadata.json").parameters.values()))
    assert again == written
    layouts = [[*e["layout"]] for c in (again, written) for e in c["state_dict_metadata"].values() if e["layout"]]
    assert all(keys == layouts[0] for keys in layouts)


def test_mindformers_reads_ours_as_its_own(folder: Path, tmp_path: Path) -> None:
    ours = tmp_path / "metadata.json"
    ours.write_bytes(metadata_bytes(read_metadata(folder / "metadata.json").parameters.values()))
    with mindformers_checkpoint() as (_, metadata, _):
        theirs, read = metadata.load_metadata(str(folder / "metadata.json")), metadata.load_metadata(str(ours))
    assert read[1] == theirs[1]
    plain = [{n: [vars(t) | {"layout": t.layout and t.layout.to_dict()} for t in ts] for n, ts in m.items()} for m in (read[0], theirs[0])]
    assert plain[0] == plain[1]


def test_mindformers_merges_by_ours_what_it_saved(tmp_path: Path) -> None:
    """Its own loader, on one card, with our metadata in the place of its own: the whole tensors, bit for bit."""
    folder = write_iteration(tmp_path, 10, NO_COMMAS, optimizer=False)
    path = folder / "metadata.json"
    content = metadata_bytes(p for n, p in read_metadata(path).parameters.items() if n in NO_COMMAS)
    path.unlink()
    path.write_bytes(content)
    network = cell_of({n: np.zeros_like(a) for n, a in NO_COMMAS.items()})
    Rank.size = 1
    try:
        with mindformers_checkpoint() as (checkpoint, *_):
            checkpoint.load_checkpoint(str(folder), network)
    finally:
        Rank.size = 8
    assert {p.name: raw_of(p.asnumpy()) for p in network.get_parameters()} == {n: raw_of(a) for n, a in NO_COMMAS.items()}


def test_slices_are_numbered_over_the_parts_of_all_axes(folder: Path) -> None:
    """A tensor cut along the first axis by tp and along the second by dp: rank 1 (dp 0, tp 1) holds slice 2."""
    chunks = read_metadata(folder / "metadata.json").parameters["layers.0.w2.weight"].chunks
    assert {s.rank: c.offset for c in chunks for s in c.files} == {0: (0, 0), 1: (4, 0), 2: (0, 5), 3: (4, 5)}


@pytest.mark.parametrize("word", ["Float32", "mindspore.float32", "float32", "FLOAT32", "F32"])
def test_a_dtype_is_read_in_every_spelling(word: str, tmp_path: Path) -> None:
    assert read_metadata(written(tmp_path, properties={"dtype": word})).parameters["w"].dtype == "F32"


@pytest.mark.parametrize("word", [None, "None"])
def test_a_dtype_that_is_not_said_is_left_to_the_file(word: Any, tmp_path: Path) -> None:
    assert read_metadata(written(tmp_path, properties={"dtype": word})).parameters["w"].dtype is None


def written(tmp_path: Path, key: str = "('w', (0,))", **changes: Any) -> Path:
    entry = {"properties": {"dtype": "Float32"}, "global_shape": [4, 2], "chunk": [{"global_offset": [0], "local_shape": [4, 2]}]}
    storage = {key: [{"file_name": "a.safetensors", "storage_rank": 3, "rank_group": [3, 5]}]}
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"state_dict_metadata": {"w": entry | changes}, "storage_data": storage}))
    return path


@pytest.mark.parametrize("key", ["('w', (0,))", '("w",(0,))', "( 'w' , ( 0 , ) , )", "('\\x77', (0,))"])
def test_a_key_is_read_in_every_spelling_of_the_tuple(key: str, tmp_path: Path) -> None:
    (chunk,) = read_metadata(written(tmp_path, key)).parameters["w"].chunks
    assert chunk.files == (StoredIn("a.safetensors", 3, (3, 5)),)


@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=12), offset=st.lists(st.integers(0, 1 << 40), max_size=4))
def test_any_name_survives_in_a_key(name: str, offset: list[int]) -> None:
    assert read_key(str((name, tuple(offset)))) == (name, tuple(offset))


@pytest.mark.parametrize(
    "key", ["", "w", "('w')", "('w', 0)", "(f'{w}', (0,))", "(w, (0,))", "('w', (-1,))", "('w', (0,)) + x", "(" * 9000, "'" * 9000]
)
def test_a_key_that_is_no_such_tuple_is_refused(key: str, tmp_path: Path) -> None:
    assert read_key(key) is None
    with pytest.raises(InputError) as caught:
        read_metadata(written(tmp_path, key))
    assert caught.value.code == "MFC104"


@pytest.mark.parametrize("offset", [[0, 0], [0], []])
def test_a_whole_tensor_may_have_one_offset_for_all_axes(offset: list[int], tmp_path: Path) -> None:
    path = written(tmp_path, str(("w", tuple(offset))), chunk=[{"global_offset": offset, "local_shape": [4, 2]}])
    (chunk,) = read_metadata(path).parameters["w"].chunks
    assert (chunk.offset, chunk.shape, len(chunk.files)) == ((0, 0), (4, 2), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_shape": [4, -1]},
        {"global_shape": [4, 2.0]},
        {"global_shape": [1 << 60, 2]},
        {"global_shape": [1] * 33},
        {"global_shape": "42"},
        {"global_shape": [True, 2]},
        {"chunk": []},
        {"chunk": [{"global_offset": [0, 0, 0], "local_shape": [4, 2]}]},
        {"chunk": [{"global_offset": [0], "local_shape": [4]}]},
        {"properties": {"dtype": "Float31"}},
        {"layout": {"device_matrix": [2]}},
    ],
)
def test_numbers_and_words_that_make_no_sense_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'w'") as caught:
        read_metadata(written(tmp_path, **changes))
    assert caught.value.code == "MFC104"


@pytest.mark.parametrize(
    "change",
    [
        {"device_matrix": [2, 0]},
        {"device_matrix": [3]},
        {"tensor_map": [2, -1]},
        {"tensor_map": [0, 0]},
        {"tensor_map": [0]},
        {"rank_list": [0, "1"]},
        {"alias_name": [1]},
    ],
)
def test_a_layout_that_fits_no_devices_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    layout = {"device_matrix": [2], "tensor_map": [0, -1], "interleaved_parallel": False, "alias_name": ["tp"], "rank_list": [0, 1]}
    assert read_metadata(written(tmp_path, layout=layout)).parameters["w"].layout == DeviceLayout((2,), ((0,), ()), ("tp",), (0, 1))
    with pytest.raises(InputError) as caught:
        read_metadata(written(tmp_path, layout=layout | change))
    assert caught.value.code == "MFC104"


def test_files_for_a_slice_that_no_chunk_describes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(1,\)") as caught:
        read_metadata(written(tmp_path, "('w', (1,))"))
    assert caught.value.code == "MFC104"


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text('{"storage_data": {}, "state_dict_metadata": {"w": {}, "w": {}}}')
    with pytest.raises(InputError, match="'w' twice"):
        read_metadata(path)


HALVES = tuple(Chunk((n, 0), (2, 2), (StoredIn("a.safetensors", n // 2),)) for n in (0, 2))
CUT = Parameter("w", "F32", (4, 2), HALVES, DeviceLayout((2,), ((0,), ()), ("tp",), (0, 1)))


@pytest.mark.parametrize(
    "parameter",
    [
        replace(CUT, layout=None),
        replace(CUT, dtype="F8_E4M3"),
        replace(CUT, chunks=(replace(HALVES[0], offset=(1, 0)), HALVES[1])),
    ],
)
def test_what_mindformers_could_not_read_back_is_not_written(parameter: Parameter, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(metadata_bytes([CUT]))
    assert read_metadata(tmp_path / "metadata.json").parameters["w"].chunks[1].offset == (2, 0)
    with pytest.raises(OutputError) as caught:
        metadata_bytes([parameter])
    assert caught.value.code == "MFC405"
