from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec
from tests.earthengine.payloads.conftest import PLAIN, TABLE, outputs_of, tiles_of

RAW = codec("RAW_JSON")
IMAGE = PLAIN.replace("ND_ARRAYS", "RAW_JSON")
ARRAYS = ModelContract.parse(IMAGE.replace("{name: red}", "{name: red, shape: [3]}"))
# Its patch is 8 x 5 by one reading of the overlap, 6 x 4 by the other, and 4 x 3 without any.
WIDE = ModelContract.parse(IMAGE.replace("tile: [4, 4]", "tile: [4, 3]\noverlap: [2, 1]"))
RED, GREEN = [[1.5, 2, 3], [4, 5, 6]], [[7, 8, 9], [-1, 0, 1e-3]]
FEATURE: dict[str, Any] = {"area": "1.5", "monthly": ["1", "2", "3"], "irrigated": True, "soil": "loam"}


def body(*instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def texts(value: Any) -> Any:
    """Numbers in nested lists as the strings that Earth Engine documents."""
    return [texts(inner) for inner in value] if isinstance(value, list) else str(value)


def every_second(value: Any) -> Any:
    """Every second number as a string."""
    return [[str(v) if n % 2 else v for n, v in enumerate(row)] for row in value]


def test_a_request_looks_as_documented() -> None:
    tiles = tiles_of(ARRAYS, 2, 2, 3)
    tiles[1, 3, 1, 2] = 12.345
    first, second = json.loads(RAW.encode_request(ARRAYS, tiles))["instances"]
    assert list(first) == ["red", "green"]
    assert second["green"][1][2] == "12.345"
    assert np.array(second["green"]).shape == (2, 3)
    assert np.array(second["red"]).shape == (2, 3, 3)
    assert [float(text) for text in first["red"][1][2]] == tiles[0, :3, 1, 2].tolist()


def test_a_feature_holds_numbers_as_strings_and_other_values_plain(table: ModelContract) -> None:
    tiles = np.array([1.5, 1, 2, 3, 0, 2], np.float32).reshape(1, 6, 1, 1)
    assert json.loads(RAW.encode_request(table, tiles))["instances"] == [
        {"area": "1.5", "monthly": ["1.0", "2.0", "3.0"], "irrigated": False, "soil": "sand, gravel"}
    ]


@pytest.mark.parametrize("written", [lambda value: value, texts, every_second], ids=["numbers", "strings", "both"])
@pytest.mark.parametrize(
    "dump",
    [
        {},
        {"separators": (",", ":")},
        {"indent": 1},
        {"separators": (" , ", " : ")},
        {"sort_keys": True},
    ],
    ids=str,
)
def test_numbers_and_strings_are_read_in_any_spacing_and_order(
    plain: ModelContract, written: Callable[[Any], Any], dump: dict[str, Any]
) -> None:
    instance = {"red": written(RED), "green": written(GREEN)}
    sent = json.dumps({"instances": [instance, instance], "parameters": {}}, **dump)
    expected = np.array([[RED, GREEN]] * 2, np.float32)
    np.testing.assert_array_equal(RAW.decode_request(plain, sent.encode()), expected)


@pytest.mark.parametrize("written", [lambda value: value, texts], ids=["numbers", "strings"])
@pytest.mark.parametrize("size", [(2, 3), (7, 9)], ids=["small", "large"])
def test_a_trailing_axis_of_one_makes_no_difference(
    plain: ModelContract, written: Callable[[Any], Any], size: tuple[int, int]
) -> None:
    tiles = tiles_of(plain, 2, *size)
    sent = body(*({"red": written(red[..., None].tolist()), "green": written(green.tolist())} for red, green in tiles))
    np.testing.assert_array_equal(RAW.decode_request(plain, sent), tiles)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (4, 6), (3, 4), (3, 3), (7, 7), (1, 1)])
@pytest.mark.parametrize("written", [lambda value: value, texts], ids=["numbers", "strings"])
def test_a_plain_list_is_the_patch_the_tile_or_a_square(height: int, width: int, written: Callable[[Any], Any]) -> None:
    tiles = tiles_of(WIDE, 2, height, width)
    sent = body(*({"red": written(red.ravel().tolist()), "green": written(green.tolist())} for red, green in tiles))
    np.testing.assert_array_equal(RAW.decode_request(WIDE, sent), tiles)


def test_a_plain_list_of_no_tile_is_refused() -> None:
    with pytest.raises(
        PayloadError, match=r"instance 0, band red: 15 values without a shape .* expected 40, 5 rows of 8"
    ):
        RAW.decode_request(WIDE, body({"red": [1] * 15, "green": [1] * 15}))


def test_a_plain_list_of_an_array_band_goes_pixel_by_pixel() -> None:
    tiles = tiles_of(ARRAYS, 2, 4, 4)
    flat = [{"red": np.moveaxis(tile[:3], 0, 2).ravel().tolist(), "green": tile[3].tolist()} for tile in tiles]
    np.testing.assert_array_equal(RAW.decode_request(ARRAYS, body(*flat)), tiles)
    flat[0]["red"].append(1)
    flat[1]["red"].append(1)
    with pytest.raises(PayloadError, match="instance 0, band red: 49 values; expected 3 a pixel"):
        RAW.decode_request(ARRAYS, body(*flat))


@pytest.mark.parametrize("value", [7, "7", [7], ["7"], [[7]], [["7"]], [[["7"]]]])
def test_a_band_of_one_pixel_is_read_however_deep(plain: ModelContract, value: Any) -> None:
    tiles = RAW.decode_request(plain, body({"red": value, "green": value}, {"red": value, "green": value}))
    np.testing.assert_array_equal(tiles, np.full((2, 2, 1, 1), 7))


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({}, [1.5, 1, 2, 3, 1, 1]),
        ({"area": 1.5, "monthly": [1, 2, 3], "irrigated": "true"}, [1.5, 1, 2, 3, 1, 1]),
        ({"irrigated": "false", "soil": "clay"}, [1.5, 1, 2, 3, 0, 0]),
        ({"irrigated": False, "soil": "sand, gravel"}, [1.5, 1, 2, 3, 0, 2]),
        ({"irrigated": 1, "monthly": ["1", 2, "3e0"]}, [1.5, 1, 2, 3, 1, 1]),
        ({"area": "-1.5E+2"}, [-150, 1, 2, 3, 1, 1]),
    ],
)
def test_a_feature_is_read(table: ModelContract, changes: dict[str, Any], values: list[float]) -> None:
    tiles = RAW.decode_request(table, body(FEATURE, {**FEATURE, **changes}))
    assert tiles.shape == (2, 6, 1, 1)
    assert tiles[0].ravel().tolist() == [1.5, 1, 2, 3, 1, 1]
    assert tiles[1].ravel().tolist() == values


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "word", ["öst", "雪", "🌲 forest", 'a "quoted" one', "back\\slash", "", "[1", '","', "true", "7"]
)
def test_strings_are_any_text(word: str, ascii_only: bool) -> None:
    contract = ModelContract.parse(TABLE.replace('"sand, gravel"', json.dumps(word, ensure_ascii=False)))
    tiles = tiles_of(contract, 1, 1, 1)
    tiles[0, 5] = 2
    assert json.loads(RAW.encode_request(contract, tiles))["instances"][0]["soil"] == word
    sent = json.dumps({"instances": [{**FEATURE, "soil": word}]}, ensure_ascii=ascii_only).encode()
    assert RAW.decode_request(contract, sent)[0, 5, 0, 0] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"area": None}, "instance 1, property area holds something that is not a number; expected a number"),
        ({"area": ""}, "instance 1, property area holds something that is not a number"),
        ({"area": "nan"}, "instance 1, property area holds NaN"),
        ({"area": "-Infinity"}, "instance 1, property area holds NaN, an infinity"),
        ({"area": "1e39"}, "instance 1, property area holds .* a number too large for float32"),
        ({"area": [["1"]]}, r"instance 1, property area has shape \[1, 1\]"),
        ({"area": {}}, "instance 1, property area holds something that is not a number"),
        ({"monthly": ["1", "2"]}, r"instance 1, property monthly has shape \[2\] but instance 0, .* has \[3\]"),
        ({"monthly": ["1", ["2"], "3"]}, "instance 1, property monthly has rows of different lengths"),
        ({"monthly": "123"}, r"instance 1, property monthly has shape \[\]"),
        ({"irrigated": "yes"}, "instance 1, property irrigated holds something that is not a number"),
        ({"irrigated": None}, "instance 1, property irrigated holds something that is not a number"),
        ({"soil": "Clay"}, "instance 1, property soil: 'Clay'; expected one of clay, loam, sand, gravel"),
        ({"soil": 1}, "instance 1, property soil: a number; expected a string, one of clay"),
        ({"soil": None}, "instance 1, property soil: null; expected a string"),
        ({"slope": "1"}, "instance 1: 'slope' is unknown; expected the bands and properties area, monthly"),
    ],
    ids=str,
)
def test_a_bad_feature_is_named(table: ModelContract, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        RAW.decode_request(table, body(FEATURE, {**FEATURE, **changes}))


@pytest.mark.parametrize("instance", [7, "7", [1, 2], None])
def test_an_instance_without_names_is_refused(table: ModelContract, instance: Any) -> None:
    with pytest.raises(PayloadError, match=r"instance 1 is .*; expected an object of area, monthly, irrigated, soil"):
        RAW.decode_request(table, body(FEATURE, instance))


def test_an_answer_has_names_and_plain_numbers(table: ModelContract) -> None:
    outputs = outputs_of(table, 2, 1, 1)
    predictions = json.loads(RAW.encode_response(table, outputs))["predictions"]
    assert [list(each) for each in predictions] == [["crop", "chances"]] * 2
    assert [np.float32(each["crop"]) for each in predictions] == outputs["crop"].ravel().tolist()
    np.testing.assert_array_equal(
        np.array([each["chances"] for each in predictions], np.float32), outputs["chances"][:, 0, 0]
    )


def test_an_image_answer_is_channels_last(rich: ModelContract) -> None:
    prediction = json.loads(RAW.encode_response(rich, outputs_of(rich, 1, 3, 4)))["predictions"][0]
    assert {name: np.array(value).shape for name, value in prediction.items()} == {
        "crop": (3, 4),
        "chances": (3, 4, 5),
        "covariance": (3, 4, 5, 2),
    }


@pytest.mark.parametrize("written", [lambda value: value, texts], ids=["numbers", "strings"])
def test_the_only_output_may_come_without_its_name(plain: ModelContract, written: Callable[[Any], Any]) -> None:
    for prediction in (written(RED), {"crop": written(RED)}, {"crop": [[[v] for v in row] for row in written(RED)]}):
        decoded = RAW.decode_response(plain, json.dumps({"predictions": [prediction] * 2}).encode())
        np.testing.assert_array_equal(decoded["crop"], np.array([RED] * 2, np.float32))


def test_an_answer_of_a_table_is_read_as_automl_writes_it(table: ModelContract) -> None:
    decoded = RAW.decode_response(table, b'{"predictions": [{"crop": "2", "chances": ["0.25", 0.75]}]}')
    assert decoded["crop"].tolist() == [[[2]]]
    assert decoded["chances"].tolist() == [[[[0.25, 0.75]]]]


@pytest.mark.parametrize(
    ("predictions", "said"),
    [
        ([{"crop": 1}], "prediction 0: chances is missing"),
        ([{"crop": 1, "chances": [1], "odd": 1}], "prediction 0: 'odd' is unknown"),
        ([7], "prediction 0 is a number; expected an object of crop, chances"),
        ([{"crop": "a", "chances": [1]}], "prediction 0, output crop holds something that is not a number"),
        (
            [{"crop": 1, "chances": [1]}, {"crop": 1, "chances": [1, 2]}],
            r"prediction 1, output chances has shape \[2\]",
        ),
        ([{"crop": [1, 2], "chances": [1]}], "output crop: shape"),
        ([{"crop": [[1, 2], [3, 4]], "chances": [1]}], "output crop: shape"),
    ],
)
def test_a_bad_answer_is_explained(table: ModelContract, predictions: list[Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        RAW.decode_response(table, json.dumps({"predictions": predictions}).encode())


def test_json_has_no_word_for_such_a_number(table: ModelContract) -> None:
    outputs = outputs_of(table, 2, 1, 1)
    outputs["chances"][1, 0, 0, 3] = np.nan
    with pytest.raises(PayloadError, match=r"output chances, prediction 1 has nan at \[3\]"):
        RAW.encode_response(table, outputs)
    tiles = tiles_of(table, 2, 1, 1)
    tiles[1, 2] = np.inf
    with pytest.raises(PayloadError, match=r"property monthly, instance 1 has inf at \[1\]"):
        RAW.encode_request(table, tiles)
