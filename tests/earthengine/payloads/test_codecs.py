from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import CODECS, MAX_PAYLOAD_BYTES, Codec, codec
from tests.earthengine.payloads.conftest import PLAIN, RICH, TABLE, outputs_of, tiles_of

CASES = [
    pytest.param(each, contract, id=f"{each.format}-{contract.name}")
    for each in CODECS.values()
    for contract in (ModelContract.parse(PLAIN), ModelContract.parse(RICH), ModelContract.parse(TABLE))
    if contract.name == "plain" or each.format != "ND_ARRAYS"
]
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize(("each", "contract"), CASES)
@given(size=SIZES, seed=st.integers(0, 1 << 30))
def test_a_request_comes_back(each: Codec, contract: ModelContract, size: tuple[int, int, int], seed: int) -> None:
    n, height, width = size
    if each.format == "GRPC_TF_EXAMPLES":  # which leaves the shape out
        width = height
    tiles = tiles_of(contract, n, height, width, seed)
    body = each.encode_request(contract, tiles)
    decoded = each.decode_request(contract, body)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, tiles)


@pytest.mark.parametrize(("each", "contract"), CASES)
@given(size=SIZES)
def test_an_answer_comes_back(each: Codec, contract: ModelContract, size: tuple[int, int, int]) -> None:
    outputs = outputs_of(contract, *size)
    decoded = each.decode_response(contract, each.encode_response(contract, outputs))
    assert list(decoded) == [output.name for output in contract.outputs]
    for name, array in outputs.items():
        np.testing.assert_array_equal(decoded[name], array)
        assert decoded[name].dtype == np.float32


@pytest.mark.parametrize(("each", "contract"), CASES)
def test_a_trailing_one_of_dimensions_0_makes_no_difference(each: Codec, contract: ModelContract) -> None:
    outputs = outputs_of(contract, 2, 3, 4)
    expected = each.encode_response(contract, outputs)
    outputs["crop"] = outputs["crop"][..., None]
    assert each.encode_response(contract, outputs) == expected


@pytest.mark.parametrize(("each", "contract"), CASES)
@given(body=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_any_bytes_are_decoded_or_refused(each: Codec, contract: ModelContract, body: bytes) -> None:
    for decode in (each.decode_request, each.decode_response):
        with pytest.raises(PayloadError):
            decode(contract, body)


@pytest.mark.parametrize(("each", "contract"), CASES)
@given(data=st.data())
def test_a_damaged_body_is_decoded_or_refused(each: Codec, contract: ModelContract, data: st.DataObject) -> None:
    bodies = (
        (each.decode_request, each.encode_request(contract, tiles_of(contract, 2, 2, 3))),
        (each.decode_response, each.encode_response(contract, outputs_of(contract, 2, 2, 3))),
    )
    decode, body = data.draw(st.sampled_from(bodies))
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(PayloadError):
        decode(contract, damaged)


@pytest.mark.parametrize(("each", "contract"), CASES)
@pytest.mark.parametrize(("n", "width", "height"), [(1, 1, 1), (3, 7, 5), (1, 64, 64), (2, 130, 33)])
def test_instance_bytes_hold_the_request(each: Codec, contract: ModelContract, n: int, width: int, height: int) -> None:
    tiles = tiles_of(contract, n, height, width)
    said = each.instance_bytes(contract, width, height)
    body = len(each.encode_request(contract, tiles))
    if each.format == "ND_ARRAYS":  # Earth Engine's own reckoning, whatever the numbers
        assert said == 10 * contract.channels * width * height
        return
    if each.format == "RAW_JSON":  # likewise, with quotes and brackets
        assert body <= n * said
        return
    assert body <= n * said
    if n == 1:
        assert said - body < 20 + 6 * contract.channels


@pytest.mark.parametrize(("each", "contract"), CASES)
def test_tiles_of_another_shape_are_not_sent(each: Codec, contract: ModelContract) -> None:
    channels = contract.channels
    size = "1, 1" if contract.table else "height, width"
    for shape in ((1, channels + 1, 1, 1), (channels, 2, 2), (0, channels, 1, 1)):
        with pytest.raises(PayloadError, match=rf"expected \(N, {channels}, {size}\)"):
            each.encode_request(contract, np.zeros(shape, np.float32))


@pytest.mark.parametrize(("each", "contract"), CASES)
def test_outputs_that_the_contract_does_not_have_are_not_sent(each: Codec, contract: ModelContract) -> None:
    outputs = outputs_of(contract, 1, 2, 2)
    with pytest.raises(PayloadError, match="'cloud' is unknown; expected the outputs crop"):
        each.encode_response(contract, {**outputs, "cloud": outputs["crop"]})
    with pytest.raises(PayloadError, match=r"output crop: shape \(1, 2, 2, 2\); expected \(N, (1, 1|height, width)\)"):
        each.encode_response(contract, {**outputs, "crop": np.zeros((1, 2, 2, 2), np.float32)})
    with pytest.raises(PayloadError, match="crop is missing"):
        each.encode_response(contract, {})


def test_a_value_that_the_bands_type_cannot_carry_is_not_sent(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 3, 3)
    tiles[1, 8, 0, 2] = 300
    for each in CODECS.values():
        if each.format != "ND_ARRAYS":
            with pytest.raises(PayloadError, match=r"instance 1, band quality: value 300.0 cannot be sent as uint8"):
                each.encode_request(rich, tiles)


@pytest.mark.parametrize(("side", "bands", "documented"), [(64, 3, 66_000), (128, 6, 524_000), (192, 6, 1_180_000)])
def test_sizes_agree_with_the_table_in_the_reference(side: int, bands: int, documented: int) -> None:
    named = ", ".join(f"{{name: b{n}}}" for n in range(bands))
    contract = ModelContract.parse(PLAIN.replace("{name: red}, {name: green}", named))
    size = codec("SERIALIZED_TF_TENSORS").instance_bytes(contract, side, side)
    assert size == pytest.approx(documented, rel=0.01)
    assert MAX_PAYLOAD_BYTES == 1_500_000
