from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.sample.middle import LARGEST, middle
from tests.conftest import contract_of

sizes = st.integers(1, 3000)
tiles = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(tiles, sizes, sizes)
def test_the_middle_is_at_most_256_tiles(tile: tuple[int, int], height: int, width: int) -> None:
    rows, columns = middle(contract_of(tile=list(tile)), Path("scene"), height, width)
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    assert 1 <= math.ceil(wide / tile[0]) * math.ceil(high / tile[1]) <= 256
    assert max(high, wide) <= LARGEST
    for used, size, first in ((high, height, rows.start), (wide, width, columns.start)):
        assert first == (size - used) // 2
        assert first + used <= size


@pytest.mark.parametrize(
    ("tile", "size", "used"),
    [
        ([1, 1], (1024, 1024), (16, 16)),
        ([1, 1], (3, 500), (3, 85)),
        ([32, 64], (900, 900), (900, 544)),
        ([64, 64], (1024, 1024), (1024, 1024)),
        ([16, 16], (16, 1024), (16, 1024)),
    ],
)
def test_no_less_than_256_tiles_are_taken_where_there_are_as_many(
    tile: list[int], size: tuple[int, int], used: tuple[int, int]
) -> None:
    window = middle(contract_of(tile=tile), Path("scene"), *size)
    assert tuple(part.stop - part.start for part in window) == used
