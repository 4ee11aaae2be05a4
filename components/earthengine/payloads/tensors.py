"""TensorProto to and from numpy, as tensorflow/core/framework/tensor.proto describes it.

A proto comes from outside: its type, rank, size and number of bytes are checked before anything of
that size is made. Without TensorFlow, whose import takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from components.earthengine.errors import PayloadError
from components.earthengine.payloads.messages_pb2 import DataType, TensorProto

# A dedicated endpoint carries 10 MB (Vertex AI, "Choose an endpoint type"), so a request cannot spell out
# more values; a proto that repeats one may claim any number, and this ends that: 64 MiB as float32.
MAX_VALUES = 1 << 24
MAX_RANK = 8

# Numbers in tensor_content are little-endian; the field is where the same numbers stand otherwise.
_TYPES: Mapping[int, tuple[np.dtype[Any], str]] = {
    DataType.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    DataType.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    DataType.DT_HALF: (np.dtype("<f2"), "half_val"),
    DataType.DT_INT8: (np.dtype("i1"), "int_val"),
    DataType.DT_UINT8: (np.dtype("u1"), "int_val"),
    DataType.DT_INT16: (np.dtype("<i2"), "int_val"),
    DataType.DT_UINT16: (np.dtype("<u2"), "int_val"),
    DataType.DT_INT32: (np.dtype("<i4"), "int_val"),
    DataType.DT_UINT32: (np.dtype("<u4"), "uint32_val"),
    DataType.DT_INT64: (np.dtype("<i8"), "int64_val"),
    DataType.DT_UINT64: (np.dtype("<u8"), "uint64_val"),
    DataType.DT_BOOL: (np.dtype("?"), "bool_val"),
}
_NUMBERS = {dtype: number for number, (dtype, _) in _TYPES.items()}
_ALLOWED = ", ".join(DataType.Name(number) for number in sorted(_TYPES))


def parse(data: bytes, where: str) -> NDArray[Any]:
    """The array in the bytes of a TensorProto; `where` opens the text of the PayloadError (see `decode`)."""
    try:
        proto = TensorProto.FromString(data)
    except DecodeError:
        raise PayloadError(f"{where}: {len(data)} bytes that are no TensorProto; send one, serialized") from None
    return decode(proto, where)


def decode(proto: TensorProto, where: str) -> NDArray[Any]:
    """The array that a TensorProto holds, in the proto's own type and shape.

    A read-only view of `tensor_content` where that is set. Of typed values the last is repeated to
    fill the shape, and none at all stands for zeros, as TensorFlow reads them (`Tensor::FromProto`).

    Raises:
        PayloadError: a type that is no number, an unknown or too large shape, values that do not
            fill the shape or do not fit the type; the text begins with `where`.
    """
    if proto.dtype not in _TYPES:
        name = DataType.Name(proto.dtype) if proto.dtype in DataType.values() else f"number {proto.dtype}"
        raise PayloadError(f"{where}: the tensor's type is {name}; allowed: {_ALLOWED}")
    dtype, field = _TYPES[proto.dtype]
    shape = _shape(proto, where)
    count = math.prod(shape)
    content = proto.tensor_content
    if content:
        if len(content) != count * dtype.itemsize:
            raise PayloadError(
                f"{where}: tensor_content has {len(content)} bytes; "
                f"shape {shape} of {DataType.Name(proto.dtype)} takes {count * dtype.itemsize}"
            )
        if dtype.kind == "b":
            flags: NDArray[np.bool_] = np.frombuffer(content, np.uint8) != 0
            return flags.reshape(shape)
        return np.frombuffer(content, dtype).reshape(shape)
    return _typed_values(getattr(proto, field), dtype, field, shape, where)


def _shape(proto: TensorProto, where: str) -> tuple[int, ...]:
    shape = proto.tensor_shape
    if shape.unknown_rank or len(shape.dim) > MAX_RANK:
        rank = "an unknown rank" if shape.unknown_rank else f"{len(shape.dim)} dimensions"
        raise PayloadError(f"{where}: the tensor has {rank}; give each dimension's size, at most {MAX_RANK} of them")
    sizes = tuple(dim.size for dim in shape.dim)
    if any(size < 0 for size in sizes):
        raise PayloadError(f"{where}: the tensor's shape is {sizes}; each size must be 0 or more")
    if math.prod(sizes) > MAX_VALUES:
        raise PayloadError(f"{where}: the tensor's shape {sizes} has more than {MAX_VALUES} values; send smaller tiles")
    return sizes


def _typed_values(values: Any, dtype: np.dtype[Any], field: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    count = math.prod(shape)
    if len(values) > count:
        raise PayloadError(f"{where}: {field} has {len(values)} values; shape {shape} takes {count}")
    if not values:
        return np.broadcast_to(np.zeros((), dtype), shape)
    if field in ("int_val", "half_val"):
        wide = np.fromiter(values, np.int64, len(values))
        held = np.dtype("<u2") if field == "half_val" else dtype
        limits = np.iinfo(held)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise PayloadError(
                f"{where}: {field} goes from {wide.min()} to {wide.max()}; "
                f"{held.name} takes {limits.min} to {limits.max}"
            )
        array = wide.astype(held).view(dtype)
    else:
        array = np.fromiter(values, dtype, len(values))
    if len(array) == 1:
        return np.broadcast_to(array[0], shape)
    return np.pad(array, (0, count - len(array)), mode="edge").reshape(shape)


def encode(array: NDArray[Any]) -> TensorProto:
    """The TensorProto of an array of numbers, in tensor_content.

    Raises:
        PayloadError: the array's type is none that TensorProto has.
    """
    proto = empty(array.dtype, array.shape)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    proto.tensor_content = little.tobytes()
    return proto


def empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorProto:
    """The TensorProto of this type and shape, its content yet to be set (see `encode`)."""
    number = _NUMBERS.get(dtype.newbyteorder("<"))
    if number is None:
        raise PayloadError(f"an array of {dtype} cannot be a TensorProto; allowed: {_ALLOWED}; cast it")
    proto = TensorProto(dtype=number)  # type: ignore[arg-type]
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def encoded_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """How many bytes the TensorProto that `encode` makes of such an array takes when serialized."""
    content = math.prod(shape) * dtype.itemsize
    return empty(dtype, shape).ByteSize() + field_bytes(content) if content else empty(dtype, shape).ByteSize()


def field_bytes(content: int) -> int:
    """Bytes of a protobuf field of this many bytes: its tag (numbers below 16), its length, itself."""
    return 1 + max(1, -(-content.bit_length() // 7)) + content
