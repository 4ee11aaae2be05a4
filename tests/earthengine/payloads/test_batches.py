from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import CODECS, Codec, Outputs, Tiles, batches, codec, tensors
from tests.earthengine.payloads.conftest import PLAIN, TABLE, outputs_of, tiles_of

# Its patch is 8 x 5 by one reading of the overlap, 6 x 4 by the other, and 4 x 3 without any.
WIDE = ModelContract.parse(PLAIN.replace("tile: [4, 4]", "tile: [4, 3]\noverlap: [2, 1]"))
ONE_OUTPUT = ModelContract.parse(TABLE.replace("- {name: chances, dimensions: 1}\n", ""))
OF_TABLES = [each for each in CODECS.values() if each.format != "ND_ARRAYS"]
BY_FORMAT = pytest.mark.parametrize("each", CODECS.values(), ids=lambda each: each.format)


def numbers_of(contract: ModelContract, **changes: Any) -> Any:
    """The arrays of a batch under each part's name, as a request holds them, with some changed."""
    tiles = tiles_of(contract, 2, 2, 3)
    return {part.name: part.take(tiles) for part in batches.parts(contract)} | changes


def gathered(contract: ModelContract, arrays: dict[str, Any]) -> Tiles:
    return batches.gathered(contract, lambda part: arrays[part.name])


def words(*strings: str) -> Any:
    array = np.empty(len(strings), tensors.STRING)
    array[:] = [string.encode() for string in strings]
    return array


def test_parts_fill_the_channels_in_order(rich: ModelContract) -> None:
    parts = batches.parts(rich)
    assert [(part.name, part.first, part.channels) for part in parts] == [
        ("red", 0, 1),
        ("series", 1, 3),
        ("patch", 4, 4),
        ("quality", 8, 1),
        ("height", 9, 1),
        ("year", 10, 1),
        ("winter", 11, 1),
        ("region", 12, 1),
    ]
    assert [str(part) for part in parts[-4:]] == ["band height", "property year", "property winter", "property region"]


def test_a_string_is_its_place_in_the_values_both_ways(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 3, 2, 2)
    tiles[:, 12] = np.arange(3).reshape(3, 1, 1)
    region = batches.parts(rich)[-1]
    sent = region.take(tiles)
    assert sent.tolist() == [b"north", b"sud", "öst".encode()]
    again = np.zeros_like(tiles)
    for array in (sent, sent[:, None]):
        region.fill(again, array)
        np.testing.assert_array_equal(again[:, 12], tiles[:, 12])
        again[:] = 0


@pytest.mark.parametrize("place", [-1.0, 3.0, 0.5, np.nan])
def test_a_place_that_no_string_has_is_not_sent(rich: ModelContract, place: float) -> None:
    tiles = tiles_of(rich, 2, 2, 2)
    tiles[1, 12] = place
    with pytest.raises(PayloadError, match=rf"instance 1, property region: value {place} .* 0 to 2"):
        batches.parts(rich)[-1].take(tiles)


@pytest.mark.parametrize("said", ["North", "", "west", "ö" * 1000])
def test_an_unknown_string_is_named(rich: ModelContract, said: str) -> None:
    arrays = numbers_of(rich, region=words("north", said))
    with pytest.raises(
        PayloadError, match=r"^instance 1, property region: .*; expected one of north, sud, öst"
    ) as error:
        gathered(rich, arrays)
    assert said[:10] in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"region": np.zeros(2)}, "^instance 0, property region: float64; expected a string, one of north, sud"),
        ({"year": words("2020", "2021")}, "^instance 0, property year: strings; expected numbers"),
        ({"year": np.zeros((2, 2))}, r"^instance 0, property year: shape \(2,\); expected \(\)"),
        ({"year": np.zeros(3)}, "^property year: 3 instances; expected 2, as many as the others have"),
        (
            {"series": np.zeros((2, 2, 3, 4))},
            r"^instance 0, band series: shape \(2, 3, 4\); expected \(2, 3, 3\), one size",
        ),
        (
            {"quality": np.zeros((2, 3, 2, 1))},
            r"^instance 0, band quality: shape \(3, 2, 1\); expected \(2, 3, 1\), one",
        ),
        ({"red": np.zeros((2, 6))}, r"^instance 0, band red: shape \(6,\); expected \(height, width, 1\)"),
    ],
    ids=str,
)
def test_arrays_of_other_shapes_are_refused(rich: ModelContract, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        gathered(rich, numbers_of(rich, **changes))


def test_missing_ones_and_flat_matrices_are_taken(rich: ModelContract) -> None:
    arrays = numbers_of(rich)
    expected = gathered(rich, arrays)
    np.testing.assert_array_equal(expected, tiles_of(rich, 2, 2, 3))
    changed = {
        "red": arrays["red"][..., 0],
        "patch": arrays["patch"].reshape(2, 2, 3, 4),
        "year": arrays["year"][:, None],
    }
    np.testing.assert_array_equal(gathered(rich, arrays | changed), expected)


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_a_property_of_a_shape_fills_its_channels(shape: tuple[int, ...]) -> None:
    contract = ModelContract.parse(TABLE.replace("shape: [3]", f"shape: {list(shape)}"))
    monthly = np.arange(2 * np.prod(shape), dtype=np.float64).reshape(2, *shape)
    for array in (monthly, monthly.reshape(2, -1)):
        tiles = gathered(contract, numbers_of(contract, monthly=array))
        assert tiles[:, 1:-2, 0, 0].tolist() == monthly.reshape(2, -1).tolist()
    assert batches.parts(contract)[1].take(tiles).shape == (2, *shape)


@BY_FORMAT
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(each: Codec, plain: ModelContract, value: float) -> None:
    tiles = tiles_of(plain, 3, 4, 4)
    if each.transport == "http" and each.format != "SERIALIZED_TF_TENSORS":  # JSON has no word for it
        tiles[2, 1, 3, 0] = 1e30
        body = each.encode_request(plain, tiles)
        body = re.sub(rb'"?1(\.0)?e\+?30"?', b"1e39", body)
        with pytest.raises(
            PayloadError, match=r"^instance 2(, band green: inf at row 3, column 0|.* too large for float32)"
        ):
            each.decode_request(plain, body)
        return
    tiles[2, 1, 3, 0] = value
    with pytest.raises(PayloadError, match=rf"^instance 2, band green: {value} at row 3, column 0; expected finite"):
        each.decode_request(plain, each.encode_request(plain, tiles))


@pytest.mark.parametrize(
    "each", [each for each in OF_TABLES if each.format != "RAW_JSON"], ids=lambda each: each.format
)
@pytest.mark.parametrize(("channel", "name"), [(0, "area"), (1, "monthly"), (3, "monthly")])
def test_a_property_that_is_not_finite_is_named(each: Codec, table: ModelContract, channel: int, name: str) -> None:
    tiles = tiles_of(table, 2, 1, 1)
    tiles[1, channel] = np.nan
    with pytest.raises(PayloadError, match=f"^instance 1, property {name}: nan; expected finite"):
        each.decode_request(table, each.encode_request(table, tiles))


def test_a_double_too_large_for_float32_is_named(rich: ModelContract) -> None:
    height = np.zeros((2, 2, 3, 1))
    height[1, 0, 2] = 1e300
    with pytest.raises(PayloadError, match=r"^instance 1, band height: inf at row 0, column 2"):
        gathered(rich, numbers_of(rich, height=height))


@pytest.mark.parametrize(
    ("pixels", "size"),
    [(40, (5, 8)), (24, (4, 6)), (12, (3, 4)), (9, (3, 3)), (1, (1, 1)), (1 << 40, (1 << 20, 1 << 20))],
)
def test_pixels_without_a_shape_are_the_patch_the_tile_or_a_square(pixels: int, size: tuple[int, int]) -> None:
    assert batches.size_of(WIDE, pixels, "it") == size


@pytest.mark.parametrize("pixels", [0, 2, 15, 41])
def test_other_numbers_of_pixels_are_no_tile(pixels: int) -> None:
    with pytest.raises(
        PayloadError, match=f"^it: {pixels} values without a shape are no tile; expected 40, 5 rows of 8"
    ):
        batches.size_of(WIDE, pixels, "it")


def test_more_values_than_a_request_can_mean_are_refused(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match=r"a batch of shape \(1, 2, 4096, 4096\) has more than 16777216 values"):
        batches.new_batch(plain, 1, (4096, 4096))
    assert batches.new_batch(plain, 1, (2048, 2048)).shape == (1, 2, 2048, 2048)


@pytest.mark.parametrize("trailing", [(), (1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("each", OF_TABLES, ids=lambda each: each.format)
def test_a_tables_answers_may_have_pixels_or_not(each: Codec, trailing: tuple[int, ...]) -> None:
    expected = each.encode_response(ONE_OUTPUT, {"crop": np.array([2.0, 3.0], np.float32)})
    answer = each.encode_response(ONE_OUTPUT, {"crop": np.array([2.0, 3.0], np.float32).reshape(2, *trailing)})
    assert answer == expected
    assert each.decode_response(ONE_OUTPUT, answer)["crop"].tolist() == [[[2]], [[3]]]


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 1, 4)])
def test_a_tables_vectors_may_have_pixels_or_not(table: ModelContract, shape: tuple[int, ...]) -> None:
    outputs: Outputs = {"crop": np.zeros(2), "chances": np.arange(8).reshape(shape)}
    assert batches.check_outputs(table, outputs, 2)["chances"].tolist() == np.arange(8).reshape(2, 1, 1, 4).tolist()
    sent = batches.sent_outputs(table, outputs)
    assert {name: array.shape for name, array in sent.items()} == {"crop": (2,), "chances": (2, 4)}
    assert sent["chances"].tolist() == np.arange(8).reshape(2, 4).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": (2, 5)}, "^output crop: shape"),
        ({"crop": (2, 1, 5)}, "^output crop: shape"),
        ({"crop": (2, 5, 5)}, "^output crop: shape"),
        ({"crop": ()}, "^output crop: shape"),
        ({"crop": (0,)}, "^output crop: shape"),
        ({"chances": (2,)}, "^output chances: shape"),
        ({"chances": (2, 4, 1)}, "^output chances: shape"),
        ({"chances": (2, 2, 2, 4)}, "^output chances: shape"),
        ({"chances": (3, 4)}, "^output chances: 3 answers; expected 2, one a tile"),
    ],
    ids=str,
)
@pytest.mark.parametrize("each", OF_TABLES, ids=lambda each: each.format)
def test_other_answers_of_a_table_are_refused(
    each: Codec, table: ModelContract, changes: dict[str, tuple[int, ...]], said: str
) -> None:
    shapes = {"crop": (2,), "chances": (2, 4)} | changes
    with pytest.raises(PayloadError, match=said):
        each.encode_response(table, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_answers_are_put_in_the_contracts_order(rich: ModelContract) -> None:
    outputs = outputs_of(rich, 2, 3, 4)
    reordered = dict(reversed(outputs.items()))
    assert list(batches.check_outputs(rich, reordered)) == ["crop", "chances", "covariance"]
    with pytest.raises(PayloadError, match=r"^output crop: 2 answers; expected 3, one a tile"):
        batches.check_outputs(rich, outputs, 3)
    assert batches.features(rich, outputs) is outputs
    assert batches.sent_outputs(rich, outputs)["crop"].shape == (2, 3, 4, 1)


@BY_FORMAT
def test_hundreds_of_pixels_of_hundreds_of_bands_come_back(each: Codec) -> None:
    # The batch that PRESTO's handler was tested with.
    names = ", ".join(f"{{name: b{n}}}" for n in range(206))
    contract = ModelContract.parse(PLAIN.replace("{name: red}, {name: green}", names).replace("[4, 4]", "[1, 1]"))
    tiles = np.random.default_rng(0).normal(size=(713, 206, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(each.decode_request(contract, each.encode_request(contract, tiles)), tiles)


def test_the_codec_of_a_format_is_found() -> None:
    assert {name: codec(name).format for name in CODECS} == {name: name for name in CODECS}
