from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.earthengine.errors import PayloadError
from components.earthengine.payloads import tensors
from components.earthengine.payloads.messages_pb2 import TensorProto

TYPES = ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]


def proto(dtype: str, shape: tuple[int, ...], **fields: Any) -> TensorProto:
    made = TensorProto(**{"dtype": dtype, **fields})
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


@given(array=st.sampled_from(TYPES).flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=5))))
def test_an_array_comes_back(array: np.ndarray[Any, np.dtype[Any]]) -> None:
    encoded = tensors.encode(array)
    decoded = tensors.decode(encoded, "it")
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    assert len(encoded.SerializeToString()) == tensors.encoded_bytes(array.dtype, array.shape)


def test_content_is_not_copied() -> None:
    decoded = tensors.decode(tensors.encode(np.arange(6, dtype=np.float32)), "it")
    assert not decoded.flags.owndata
    assert not decoded.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        ("DT_FLOAT", "float_val", [1.5, 2, 3, 4], [[1.5, 2], [3, 4]]),
        ("DT_FLOAT", "float_val", [1.5], [[1.5, 1.5], [1.5, 1.5]]),
        ("DT_FLOAT", "float_val", [1, 2], [[1, 2], [2, 2]]),
        ("DT_FLOAT", "float_val", [], [[0, 0], [0, 0]]),
        ("DT_DOUBLE", "double_val", [7], [[7, 7], [7, 7]]),
        ("DT_UINT8", "int_val", [0, 255, 3], [[0, 255], [3, 3]]),
        ("DT_INT8", "int_val", [-128], [[-128, -128], [-128, -128]]),
        ("DT_UINT16", "int_val", [65535], [[65535, 65535], [65535, 65535]]),
        ("DT_INT64", "int64_val", [1 << 40], [[1 << 40] * 2] * 2),
        ("DT_UINT64", "uint64_val", [1 << 63], [[1 << 63] * 2] * 2),
        ("DT_UINT32", "uint32_val", [1 << 31], [[1 << 31] * 2] * 2),
        ("DT_BOOL", "bool_val", [True, False], [[True, False], [False, False]]),
        ("DT_HALF", "half_val", [0x3C00, 0xC000], [[1, -2], [-2, -2]]),
        ("DT_BOOL", "tensor_content", b"\0\1\2\xff", [[False, True], [True, True]]),
    ],
)
def test_typed_values(dtype: str, field: str, values: Any, expected: list[Any]) -> None:
    decoded = tensors.decode(proto(dtype, (2, 2), **{field: values}), "it")
    assert decoded.tolist() == expected


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (proto("DT_FLOAT", (2,), tensor_content=b"12345"), r"5 bytes; shape \(2,\) of DT_FLOAT takes 8"),
        (proto("DT_FLOAT", (0,), tensor_content=b"1234"), "takes 0"),
        (proto("DT_FLOAT", (2,), float_val=[1, 2, 3]), r"float_val has 3 values; shape \(2,\) takes 2"),
        (proto("DT_UINT8", (1,), int_val=[256]), "int_val goes from 256 to 256; uint8 takes 0 to 255"),
        (proto("DT_HALF", (1,), half_val=[-1]), "uint16 takes 0 to 65535"),
        (proto("DT_FLOAT", (-1,), float_val=[1]), "each size must be 0 or more"),
        (proto("DT_FLOAT", (1 << 40, 1 << 40), float_val=[1]), "more than 16777216 values"),
        (proto("DT_FLOAT", (1,) * 9, float_val=[1]), "has 9 dimensions"),
        (proto("DT_STRING", (3,), string_val=[b"a", b"b"]), r"string_val has 2 values; shape \(3,\) takes 3"),
        (proto("DT_STRING", (1,), tensor_content=b"abc"), "string_val has 0 values"),
        (TensorProto.FromString(b"\x08\x08"), "type is number 8; allowed: DT_FLOAT, .*DT_STRING"),
        (proto("DT_INVALID", ()), "type is DT_INVALID"),
        (TensorProto.FromString(b"\x08\x63"), "type is number 99"),
        (TensorProto(dtype="DT_FLOAT", tensor_shape={"unknown_rank": True}), "unknown rank"),
    ],
)
def test_a_bad_proto_is_explained(bad: TensorProto, said: str) -> None:
    with pytest.raises(PayloadError, match=f"^band 3: .*{said}"):
        tensors.decode(bad, "band 3")


@given(data=st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        array = tensors.parse(data, "it")
    except PayloadError:
        return
    assert array.dtype.kind in "fiub"


def test_an_array_of_text_is_no_tensor() -> None:
    with pytest.raises(PayloadError, match="an array of <U1 cannot be a TensorProto"):
        tensors.encode(np.array(["a"]))
