"""Serialized TensorProtos, one an instance: their base64, and many of them read at once."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import base64_tensors, batches, tensors
from components.earthengine.payloads.messages_pb2 import TensorProto
from tests.earthengine.payloads.conftest import tiles_of

TYPES = ["f2", "f4", ">f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
BATCHES = st.sampled_from(TYPES).flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=1, max_dims=5, max_side=4)))


def proto(shape: tuple[int, ...], dtype: str = "DT_FLOAT", **fields: Any) -> bytes:
    made = TensorProto(**{"dtype": dtype, **fields})
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made.SerializeToString()


def where(n: int) -> str:
    return f"tile {n}"


def same(array: NDArray[Any], other: NDArray[Any]) -> bool:
    return array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()


@given(data=st.binary(max_size=100))
def test_base64_comes_back_in_every_writing(data: bytes) -> None:
    encoded = base64_tensors.encode(data)
    assert encoded == base64.urlsafe_b64encode(data).rstrip(b"=")
    standard = base64.b64encode(data)
    for text in (encoded, base64.urlsafe_b64encode(data), standard, standard.rstrip(b"=")):
        assert base64_tensors.decode(text) == data


@pytest.mark.parametrize("text", ["a", "abcde", "ab d", "ab\nd", "ab=d", "=abc", "ab.d", "ébcd", "é", "a===", "\0abc"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"{len(text.encode())} characters, is not base64"):
        base64_tensors.decode(text.encode())


@given(text=st.text(max_size=30) | st.text("AZaz09-_+/=", max_size=30))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        decoded = base64_tensors.decode(text.encode())
    except ValueError:
        return
    # Bits beyond the last whole byte do not count.
    assert base64_tensors.encode(decoded).decode()[:-1] == text.replace("+", "-").replace("/", "_").rstrip("=")[:-1]


@given(array=BATCHES)
def test_each_entry_is_serialized_as_if_alone(array: NDArray[Any]) -> None:
    assert tensors.serialize_each(array) == [tensors.encode(entry).SerializeToString() for entry in array]


@given(array=BATCHES)
def test_all_are_parsed_as_each_alone(array: NDArray[Any]) -> None:
    protos = [tensors.encode(entry).SerializeToString() for entry in array]
    found = tensors.parse_all(protos, where)
    assert same(found, np.stack([tensors.parse(each, "") for each in protos]))
    assert same(found, array.astype(array.dtype.newbyteorder("=")))


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
    rows=st.lists(st.lists(st.floats(-9, 9, width=32), max_size=4), min_size=1, max_size=4),
    packed=st.booleans(),
)
def test_typed_values_among_contents_are_read(shape: tuple[int, ...], rows: list[list[float]], packed: bool) -> None:
    count = int(np.prod(shape))
    protos = [
        proto(shape, float_val=row[:count])
        if packed and n % 2
        else proto(shape, tensor_content=np.resize(np.array(row or [0], "<f4"), count).tobytes())
        for n, row in enumerate(rows)
    ]
    assert same(tensors.parse_all(protos, where), np.stack([tensors.parse(each, "") for each in protos]))


def test_thousands_of_one_pixel_are_read() -> None:
    values = np.arange(5000, dtype=np.float32).reshape(-1, 1, 1, 1)
    protos = tensors.serialize_each(values)
    assert same(tensors.parse_all(protos, where), values)
    protos[4321] = proto((1, 1, 1), float_val=[-7])
    found = tensors.parse_all(protos, where)
    assert found[4320:4323].ravel().tolist() == [4320, -7, 4322]


@pytest.mark.parametrize("content", [b"\x00\x01\x02\xff"])
def test_any_byte_but_zero_is_true(content: bytes) -> None:
    flags = proto((4,), "DT_BOOL", tensor_content=content)
    found = tensors.parse_all([flags, flags], where)
    assert found.view(np.uint8).tolist() == [[0, 1, 1, 1]] * 2


GOOD = proto((2, 1), tensor_content=b"12345678")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD[:-1], "^tile 2: .* no TensorProto"),
        (GOOD + b"\x00", "^tile 2: .* no TensorProto"),
        (proto((2, 1), tensor_content=b"1234"), "^tile 2: tensor_content has 4 bytes"),
        (
            proto((1, 2), tensor_content=b"12345678"),
            r"^tile 2: float32 of shape \(1, 2\); expected .* shape \(2, 1\), as tile 0",
        ),
        (
            proto((2,), tensor_content=b"12345678"),
            r"^tile 2: float32 of shape \(2,\); expected float32 of shape \(2, 1\)",
        ),
        (proto((2, 1), "DT_INT32", tensor_content=b"12345678"), "^tile 2: int32 of shape .*; expected float32"),
        (proto((2, 1), "DT_STRING", string_val=[b"a", b"b"]), "^tile 2: strings of shape .*; expected float32"),
        (b"", "^tile 2: the tensor's type is DT_INVALID"),
    ],
    ids=range(8),
)
def test_the_one_at_fault_is_named(bad: bytes, said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        tensors.parse_all([GOOD, GOOD, bad, GOOD], where)


def test_lengths_that_lie_under_one_header_are_refused() -> None:
    lying = GOOD.replace(b"\x22\x08", b"\x22\x07")
    assert lying != GOOD
    for protos in ([lying] * 3, [GOOD, lying, GOOD], [lying, GOOD]):
        with pytest.raises(PayloadError, match=r"^tile [01]: "):
            tensors.parse_all(protos, where)


def test_fields_in_another_order_are_read() -> None:
    shape_first = TensorProto.FromString(GOOD)
    shape_first.ClearField("dtype")
    reordered = shape_first.SerializeToString() + b"\x08\x01"
    for protos in ([reordered] * 2, [GOOD, reordered], [reordered, GOOD]):
        assert same(tensors.parse_all(protos, where), np.stack([tensors.parse(GOOD, "")] * 2))


def test_strings_are_serialized_and_parsed() -> None:
    words = np.array([b"clay", b"", "öst".encode()], tensors.STRING)
    found = tensors.parse_all(tensors.serialize_each(words), where)
    assert found.dtype == tensors.STRING
    assert found.tolist() == words.tolist()


@pytest.mark.parametrize("contract", ["plain", "rich", "table"])
def test_a_batch_comes_back(contract: str, request: pytest.FixtureRequest) -> None:
    found: ModelContract = request.getfixturevalue(contract)
    tiles = tiles_of(found, 3, 2, 5)
    protos = base64_tensors.of_tiles(found, tiles)
    assert {len(each) for each in protos.values()} == {3}
    np.testing.assert_array_equal(base64_tensors.tiles_of(found, protos), tiles)
    for part in batches.parts(found):
        longest = max(len(each) for each in protos[part.name])
        taken = base64_tensors.proto_bytes(part, *tiles.shape[2:])
        assert longest <= taken if part.values else longest == taken
