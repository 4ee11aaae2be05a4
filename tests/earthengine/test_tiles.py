from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, codec
from components.earthengine.tiles import Grid, check_payload, pack
from tests.conftest import contract_of

sides = st.integers(1, 7)
overlaps = st.integers(0, 4)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.tuples(sides, sides), st.tuples(overlaps, overlaps))
def test_stitching_undoes_cutting(width: int, height: int, tile: tuple[int, int], overlap: tuple[int, int]) -> None:
    image = np.arange(1, 2 * width * height + 1, dtype=np.float32).reshape(2, height, width)
    grid = Grid(width, height, tile, overlap)
    tiles = grid.cut(image)
    assert tiles.dtype == np.float32
    assert tiles.shape == (len(grid.origins), 2, tile[1] + 2 * overlap[1], tile[0] + 2 * overlap[0])
    assert len(grid.origins) == -(-width // tile[0]) * -(-height // tile[1])
    np.testing.assert_array_equal(grid.stitch(tiles.transpose(0, 2, 3, 1)), image.transpose(1, 2, 0))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.tuples(sides, sides), st.tuples(overlaps, overlaps))
def test_each_pixel_of_a_tile_is_the_image_or_0(
    width: int, height: int, tile: tuple[int, int], overlap: tuple[int, int]
) -> None:
    image = np.arange(1, width * height + 1, dtype=np.float32).reshape(1, height, width)
    grid = Grid(width, height, tile, overlap)
    for patch, (left, top) in zip(grid.cut(image), grid.origins, strict=True):
        for (row, column), value in np.ndenumerate(patch[0]):
            y, x = top - overlap[1] + row, left - overlap[0] + column
            inside = 0 <= y < height and 0 <= x < width
            assert value == (image[0, y, x] if inside else 0)


def test_overlap_is_on_each_edge() -> None:
    contract = contract_of(tile=[2, 3], overlap=[1, 2])
    tiles = Grid.over(contract, 4, 3).cut(np.ones((1, 3, 4), np.float32))
    assert tiles.shape == (2, 1, 7, 4)
    assert tiles.shape[2:] == contract.patch[::-1]
    assert tiles[0, 0, 2].tolist() == [0, 1, 1, 1]
    assert tiles[1, 0, 2].tolist() == [1, 1, 1, 0]
    assert tiles[0, 0, :, 1].tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_stitching_keeps_type_and_further_axes() -> None:
    answers = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 2, 2, 5)
    image = Grid(3, 2, (2, 2), (0, 0)).stitch(answers)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.concatenate([answers[0], answers[1][:, :1]], axis=1))


def test_too_few_answers_are_not_stitched() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        Grid(4, 4, (2, 2), (0, 0)).stitch(np.zeros((3, 2, 2), np.float32))


@given(st.integers(0, 200), st.integers(1, 500), st.integers(1, 5000))
def test_packs_stay_under_the_limit_in_order(count: int, instance_bytes: int, limit: int) -> None:
    if instance_bytes > limit:
        with pytest.raises(ContractError, match="declare a smaller tile"):
            list(pack(count, instance_bytes, limit))
        return
    slices = list(pack(count, instance_bytes, limit))
    assert [i for part in slices for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in slices]
    assert all(size > 0 and size * instance_bytes <= limit for size in sizes)
    assert all((size + 1) * instance_bytes > limit for size in sizes[:-1])


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "ND_ARRAYS", "GRPC_TF_TENSORS"])
@pytest.mark.parametrize("overlap", [(0, 0), (8, 16)])
def test_largest_tile_that_fits_is_named(payload_format: str, overlap: tuple[int, int]) -> None:
    def contract(side: int) -> ModelContract:
        return contract_of(
            payload_format=payload_format,
            tile=[side, side],
            overlap=list(overlap),
            bands=[{"name": f"b{i}"} for i in range(6)],
        )

    with pytest.raises(ContractError) as caught:
        check_payload(contract(1024))
    found = re.search(r"largest square tile that fits is (\d+) x \1: declare tile \[\1, \1\]", str(caught.value))
    assert found is not None
    assert f"of {MAX_PAYLOAD_BYTES:,} bytes in {payload_format}" in str(caught.value)
    largest = int(found[1])
    assert check_payload(contract(largest)).endswith(f"; the largest square tile is {largest} x {largest}")
    with pytest.raises(ContractError):
        check_payload(contract(largest + 1))
    if payload_format == "ND_ARRAYS":
        return  # what Earth Engine reckons, not what this codec writes
    # What the codec really writes for it is within the limit.
    width, height = contract(largest).patch
    tile = np.full((1, 6, height, width), -1 / 3, np.float32)
    assert len(codec(contract(largest).payload_format).encode_request(contract(largest), tile)) <= MAX_PAYLOAD_BYTES


def test_no_tile_fits() -> None:
    contract = contract_of(overlap=[1000, 1000], tile=[1, 1])
    with pytest.raises(ContractError, match=r"with overlap \[1000, 1000\] no tile fits: declare less overlap or fewer"):
        check_payload(contract)
