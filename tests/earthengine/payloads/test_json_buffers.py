"""The fast way of reading JSON against the slow one: nothing, or exactly the same."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.earthengine.errors import PayloadError
from components.earthengine.payloads import json_bodies, json_buffers, json_numbers

# Long enough a list for the fast way to pay.
MANY = 400
GOOD = json.dumps({"instances": [{"red": [[1.5] * MANY], "green": [[2] * MANY]}] * 2}).encode()

NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1e39, 1e39)
    | st.integers(-(1 << 70), 1 << 70)
    | st.integers(-3, 3)
    | st.just(-0.0)
)
# As programs write them and as only people do; each is JSON.
LITERALS = st.sampled_from(
    ["-0", "0", "1e5", "1E+5", "1e-400", "12e-1", "-0.0", "0.1", "1e38", "123456789012345678901"]
)
SPACING: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" , ", " : ")}]


def slowly(body: bytes) -> NDArray[np.float32] | None:
    try:
        items = json_bodies.items(body, "instances")
        return json_numbers.stacked(items, str, range(9), "numbers", strings=False)
    except PayloadError:
        return None


def slow_bands(body: bytes, names: list[str]) -> dict[str, NDArray[np.float32]] | None:
    try:
        instances = json_bodies.items(body, "instances")
        if any(not isinstance(instance, dict) or set(instance) != set(names) for instance in instances):
            return None
        return {
            name: json_numbers.stacked([each[name] for each in instances], str, range(9), "numbers", strings=True)
            for name in names
        }
    except PayloadError:
        return None


def assert_same(fast: NDArray[np.float32], slow: NDArray[np.float32] | None) -> None:
    assert slow is not None
    assert fast.dtype == slow.dtype == np.float32
    assert fast.shape == slow.shape
    assert fast.tobytes() == slow.tobytes()  # bit by bit, since -0 == 0


def texts(value: Any) -> Any:
    return [texts(inner) for inner in value] if isinstance(value, list) else str(value)


def nested(draw: st.DrawFn, shape: list[int], leaf: st.SearchStrategy[Any]) -> Any:
    return [nested(draw, shape[1:], leaf) for _ in range(shape[0])] if shape else draw(leaf)


@st.composite
def regular(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    return nested(draw, shape, NUMBERS)


ANYTHING = st.recursive(
    NUMBERS | st.none() | st.booleans() | st.sampled_from(["", "1", "1,2", "e", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "1", "e"]), inner, max_size=2),
    max_leaves=12,
)


@given(value=regular() | ANYTHING, spacing=st.sampled_from(SPACING))
@example(value=[[1, 2], [3], [4, 5, 6]], spacing={})
@example(value=[[1e39, 1.0]], spacing={})
def test_any_tiles_are_read_alike_or_left_to_the_slow_way(value: Any, spacing: dict[str, Any]) -> None:
    body = json.dumps({"instances": value}, **spacing).encode()
    fast = json_buffers.tiles(body, "instances")
    if fast is not None:
        assert_same(fast, slowly(body))


@given(rows=st.lists(st.lists(LITERALS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_numbers_are_read_alike_however_they_are_written(rows: list[list[str]]) -> None:
    body = b'{"instances":[%b]}' % ",".join(f"[{','.join(row)}]" for row in rows).encode()
    fast = json_buffers.tiles(body, "instances")
    if fast is not None:
        assert_same(fast, slowly(body))


@given(shape=st.lists(st.integers(1, 3), min_size=1, max_size=5), spacing=st.sampled_from(SPACING))
def test_regular_lists_take_the_fast_way(shape: list[int], spacing: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    body = json.dumps({"instances": values.tolist()}, **spacing).encode()
    fast = json_buffers.tiles(body, "instances")
    assert fast is not None
    assert_same(fast, slowly(body))


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3], [4, 5, 6]],
        [[1, 2], [3, 4], 5, 6],
        [[[1, 2]], [[3], [4]]],
        [[1, 2], [[3, 4]]],
        [[1, 2], []],
        [],
        [[]],
        [[1, None]],
        [[1, True]],
        [[1, "2"]],
        [["1,2", 3]],
        [{"a": 1}],
        "abc",
        7,
        {"0": [1]},
    ],
    ids=str,
)
def test_what_is_irregular_is_left_to_the_slow_way(value: Any) -> None:
    assert json_buffers.tiles(json.dumps({"instances": value}).encode(), "instances") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[[1, 2]]",
        b"null",
        b'"instances"',
        b'{"instance": [[1, 2]]}',
        b'{"instances1": [[1, 2]]}',
        b'{"instances": [[1, 2]]',
        b'{"instances": [[1, 2]]}}',
        b'{"instances": [[01, 2]]}',
        b'{"instances": [[1., 2]]}',
        b'{"instances": [[1e, 2]]}',
        b'{"instances": [[+1, 2]]}',
        b'{"instances": [[1 2, 3]]}',
        b'{"instances": [[1,, 2]]}',
        b'{"instances": [[1, 2],]}',
        b'{"instances": [[NaN, 2]]}',
        b'{"instances": [[1, 2]], "instances": [[3, 4]]}',
        b'{"instances": [[1, 2]], "parameters": {}}',
        b'{"parameters": [[1, 2]], "instances": [[3, 4]]}',
        b'{"a": {"instances": [[1, 2]]}}',
    ],
)
def test_another_body_is_left_to_the_slow_way(body: bytes) -> None:
    assert json_buffers.tiles(body, "instances") is None
    assert json_buffers.bands(body, ["red"]) is None
    assert json_buffers.bands(GOOD, ["red", "green"]) is not None, "the parser is no longer usable"


ONES = ",".join(["1"] * MANY)


@pytest.mark.parametrize(
    "values",
    [
        (f"[{ONES}", f"{ONES}]", f"[{ONES}],[{ONES}]"),
        (f"[{ONES}],[{ONES}]", f"[{ONES}", f"{ONES}]"),
        (f"[[{ONES}]", f"[{ONES}]]", f"[{ONES}],[{ONES}]"),
        (f"[{ONES}],[[{ONES}]", f"[{ONES}]]", f"[[{ONES}]]"),
        (f"[{ONES}],[9],[[{ONES}]", f"[{ONES}]", f"[{ONES}]]"),
        (f"[{ONES}],[{ONES}]", f"[[{ONES}]", f"[{ONES}]]"),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_values_that_are_json_only_together_are_left_to_the_slow_way(values: tuple[str, ...], quoted: bool) -> None:
    one, other, third = (value.replace("1", '"1"') if quoted else value for value in values)
    body = f'{{"instances": [{{"a": {one}, "b": {other}, "c": {third}}}]}}'.encode()
    json.loads(f"[{one}, {other}, {third}]")
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert json_buffers.bands(body, ["a", "b", "c"]) is None


def test_predictions_are_read_by_their_own_key() -> None:
    body = b'{"predictions": [[1, 2]]}'
    assert json_buffers.tiles(body, "instances") is None
    found = json_buffers.tiles(body, "predictions")
    assert found is not None
    assert found.tolist() == [[1, 2]]


def test_a_number_too_large_for_float32_is_left_to_the_slow_way() -> None:
    assert json_buffers.tiles(b'{"instances": [[1e39, 1]]}', "instances") is None


@pytest.mark.parametrize("written", [lambda value: value, texts], ids=["numbers", "strings"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",", ": ")])
def test_bands_of_regular_lists_take_the_fast_way(written: Callable[[Any], Any], separators: tuple[str, str]) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "b1": random.normal(size=(3, 5, 40)),
        "b2": random.normal(size=(3, 5, 8, 4)),
        "e": random.normal(size=(3, 99)),
    }
    instances = [{name: written(array[n].tolist()) for name, array in arrays.items()} for n in range(3)]
    body = json.dumps({"instances": instances}, separators=separators).encode()
    found, slow = json_buffers.bands(body, list(arrays)), slow_bands(body, list(arrays))
    assert found is not None
    assert slow is not None
    assert set(found) == set(arrays)
    for name, array in found.items():
        assert_same(array, slow[name])


def test_bands_in_another_order_are_not_mixed_up() -> None:
    one, two = [1] * MANY, [2] * MANY
    found = json_buffers.bands(
        json.dumps({"instances": [{"b1": one, "b2": two}, {"b2": two, "b1": one}]}).encode(), ["b2", "b1"]
    )
    if found is not None:
        assert (found["b1"] == 1).all()
        assert (found["b2"] == 2).all()


CELLS = st.sampled_from(
    ["1", "2.5", "-0.0", "1e5", '"1"', '"2.5"', '"1,2"', '"[1"', '"2]"', '"1e"', '""', '"nan"', '"1\\""', '" 1"']
)
NAMES = st.sampled_from([["b1", "b2"]] * 5 + [["b2", "b1"], ["b1", "b1"], ["b1", "b3"], ["b1"], ["b1", "b2", "b2"]])


@st.composite
def bodies_of_bands(draw: st.DrawFn) -> bytes:
    """A row for each of two bands, most often good, with what may be wrong in a place or two."""
    plain, separator = draw(st.sampled_from(['"1"', "1"])), draw(st.sampled_from([",", ", "]))
    instances = []
    for names in draw(st.lists(NAMES, min_size=1, max_size=2)):
        rows = []
        for name in names:
            cells = [plain] * MANY
            for cell in draw(st.lists(CELLS, max_size=2)):
                cells[draw(st.sampled_from([0, 7, MANY - 1]))] = cell
            rows.append(f'"{name}":[{separator.join(cells)}]')
        instances.append("{" + ",".join(rows) + "}")
    return f'{{"instances":[{",".join(instances)}]}}'.encode()


@given(body=bodies_of_bands())
def test_any_bands_are_read_alike_or_left_to_the_slow_way(body: bytes) -> None:
    fast = json_buffers.bands(body, ["b1", "b2"])
    if fast is not None:
        slow = slow_bands(body, ["b1", "b2"])
        assert slow is not None
        for name, array in fast.items():
            assert_same(array, slow[name])


def in_strings(*cells: str) -> bytes:
    """A request whose only band is a list of strings of numbers, these first."""
    row = ",".join([*(json.dumps(cell) for cell in cells), *['"7"'] * MANY])
    return b'{"instances":[{"red":[%b]}]}' % row.encode()


@pytest.mark.parametrize(
    "cells",
    [("1,2",), ("[1]",), ("1e",), ("",), ("nan",), ('1"',), ('","',), ("1 2",), ("0x1",), ("1]", "[2"), ("true",)],
)
def test_strings_that_are_no_number_are_left_to_the_slow_way(cells: tuple[str, ...]) -> None:
    assert json_buffers.bands(in_strings("1"), ["red"]) is not None
    assert json_buffers.bands(in_strings(*cells), ["red"]) is None


@pytest.mark.parametrize(
    "red",
    [
        '["[' + '","'.join(["7"] * MANY) + ']"]',  # strings "[7" and "7]"
        '["["' + '","'.join(["7"] * MANY) + '"]"]',  # no JSON
        "[" + '"7\n",' * MANY + '"7"]',  # no JSON: a line's end in a string
        '["7",' + '"7""8",' * MANY + '"7"]',
        '["7",' + '"7"8,' * MANY + '"7"]',
    ],
)
def test_quotes_in_the_wrong_places_are_left_to_the_slow_way(red: str) -> None:
    body = f'{{"instances":[{{"red":{red}}}]}}'.encode()
    assert slow_bands(body, ["red"]) is None
    assert json_buffers.bands(body, ["red"]) is None


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ('{"red":%s,"green":%s,"blue":%s}', ["red", "green"]),
        ('{"red":%s,"red":%s}', ["red", "green"]),
        ('{"red":%s}', ["red", "green"]),
        ('{"red1":%s,"green":%s}', ["red", "green"]),
        ('{"rd":%s,"green":%s}', ["red", "green"]),
        ('{"red":%s,"green":[%s]}', ["red", "green"]),
        ('{"red":%s,"green":%s}', ["red", "green", "blue"]),
        ('{"red":%s,"green":%s}', ["red"]),
    ],
)
def test_other_names_or_shapes_are_left_to_the_slow_way(second: str, names: list[str]) -> None:
    row = str([1] * MANY)
    first = f'{{"red":{row},"green":{row}}}'
    body = f'{{"instances":[{first},{second.replace("%s", row)}]}}'.encode()
    assert json_buffers.bands(body, names) is None


def ones(length: int, depth: int) -> str:
    """A list whose first item is such a list again: few numbers, where all items alike would be length ** depth."""
    inner = "1" if depth == 1 else ones(length, depth - 1)
    return f"[{','.join([inner, *['1'] * (length - 1)])}]"


@pytest.mark.parametrize(
    "body",
    [
        f'{{"instances":{ones(100, 4)}}}',
        f'{{"instances":[{{"red":{ones(100, 4)}}}]}}',
        f'{{"instances":[{{"red":{ones(100_000, 1)}}}' + ',{"red":1}' * 400 + "]}",
    ],
    ids=["tiles", "bands", "instances"],
)
def test_a_small_body_cannot_ask_for_much_memory(body: str) -> None:
    sent = body.encode()
    tracemalloc.start()
    try:
        assert json_buffers.tiles(sent, "instances") is None
        assert json_buffers.bands(sent, ["red"]) is None
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_threads_do_not_disturb_each_other() -> None:
    def read(n: int) -> bool:
        expected = np.full((2, 3, 128), n, np.float32)
        body = json.dumps({"instances": expected.tolist()}).encode()
        bands = json.dumps({"instances": [{"red": row} for row in expected.tolist()]}).encode()
        for _ in range(5):
            assert json_buffers.tiles(b"[", "instances") is None
            found, named = json_buffers.tiles(body, "instances"), json_buffers.bands(bands, ["red"])
            if found is None or named is None or (found != n).any() or (named["red"] != n).any():
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))


def test_an_array_outlives_the_next_document() -> None:
    first = json_buffers.tiles(b'{"instances": [[1, 2]]}', "instances")
    json_buffers.tiles(b'{"instances": [[3, 4]]}', "instances")
    assert first is not None
    assert first.tolist() == [[1, 2]]
