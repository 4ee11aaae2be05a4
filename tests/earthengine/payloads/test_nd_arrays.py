from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec
from tests.earthengine.payloads.conftest import PLAIN, outputs_of, tiles_of

ND = codec("ND_ARRAYS")
GOOD = [[[1.5, 2]], [[3, 4]]]
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=20,
)


def test_a_request_is_what_tolist_gives(plain: ModelContract) -> None:
    tiles = tiles_of(plain, 2, 3, 4)
    assert json.loads(ND.encode_request(plain, tiles)) == {"instances": tiles.tolist()}


def test_an_answer_is_what_tolist_gives(plain: ModelContract) -> None:
    outputs = outputs_of(plain, 2, 3, 4)
    answer = json.loads(ND.encode_response(plain, outputs))
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), outputs["crop"])


def test_vectors_are_channels_last() -> None:
    contract = ModelContract.parse(PLAIN.replace("dimensions: 0", "dimensions: 1"))
    crop = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    answer = ND.encode_response(contract, {"crop": crop})
    assert json.loads(answer)["predictions"][0] == crop[0].tolist()
    np.testing.assert_array_equal(ND.decode_response(contract, answer)["crop"], crop)


def test_whole_numbers_become_float32(plain: ModelContract) -> None:
    tiles = ND.decode_request(plain, b'{"instances": [[[[1, 2]], [[3, 4]]]], "parameters": null}')
    assert tiles.dtype == np.float32
    assert tiles.tolist() == [[[[1, 2]], [[3, 4]]]]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([[[1, 2]], [[3]]], "instance 1 has rows of different lengths; expected .2, height, width."),
        ([[[1, 2]]], r"instance 1 has shape \[1, 1, 2\] but instance 0 has \[2, 1, 2\]"),
        ([[1, 2], [3, 4]], r"instance 1 has shape \[2, 2\]; expected \[2, height, width\]"),
        ([], r"instance 1 has shape \[0\]"),
        ([[[1, "2"]], [[3, 4]]], "instance 1 holds something that is not a number"),
        ([[[1, None]], [[3, 4]]], "instance 1 holds something that is not a number"),
        ([[[1, 1e300]], [[3, 4]]], "instance 1 holds .* a number too large for float32|instance 1, band red: inf"),
        ([[[1, True]], [["x", 4]]], "instance 1 holds something that is not a number"),
        ({"red": 1}, "instance 1 holds something that is not a number"),
        (7, r"instance 1 has shape \[\]"),
    ],
)
def test_a_bad_instance_is_named(plain: ModelContract, second: object, said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        ND.decode_request(plain, json.dumps({"instances": [GOOD, second]}).encode())


def test_other_channels_are_refused(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match=r"instance 0 has shape \[1, 1, 2\]; expected \[2, height, width\]"):
        ND.decode_request(plain, b'{"instances": [[[[1, 2]]]]}')


@given(instances=st.lists(NESTED, max_size=3), good=st.booleans())
def test_any_json_is_decoded_or_refused(instances: list[object], good: bool) -> None:
    body = json.dumps({"instances": [GOOD, *instances] if good else instances}).encode()
    contract = ModelContract.parse(PLAIN)
    try:
        tiles = ND.decode_request(contract, body)
    except PayloadError:
        return
    assert tiles.shape[1] == 2
    assert np.isfinite(tiles).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_json_has_no_word_for_such_a_number(plain: ModelContract, value: float) -> None:
    crop = np.zeros((2, 2, 2), np.float32)
    crop[1, 0, 1] = value
    with pytest.raises(PayloadError, match=rf"prediction 1 has {value} at \[0, 1\]"):
        ND.encode_response(plain, {"crop": crop})


def test_one_output_only(rich: ModelContract) -> None:
    with pytest.raises(PayloadError, match="carries 1 output, not 3"):
        ND.encode_response(rich, outputs_of(rich, 1, 2, 2))
    with pytest.raises(PayloadError, match="carries 1 output, not 3"):
        ND.decode_response(rich, b'{"predictions": [[[1]]]}')
