"""TensorProto to and from numpy, as tensorflow/core/framework/tensor.proto describes it.

A proto comes from outside: its type, rank, size and number of bytes are checked before anything of
that size is made. Without TensorFlow, whose import takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
# Below, one copy more costs less than a call for each proto.
_FEW_BYTES = 4096

# The numpy type of an array of strings, each of them bytes.
STRING = np.dtype(object)

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
_ALLOWED = ", ".join(DataType.Name(number) for number in sorted((*_TYPES, DataType.DT_STRING)))


def parse(data: bytes, where: str) -> NDArray[Any]:
    """The array in the bytes of a TensorProto; `where` opens the text of the PayloadError (see `decode`)."""
    try:
        proto = TensorProto.FromString(data)
    except DecodeError:
        raise PayloadError(f"{where}: {len(data)} bytes that are no TensorProto; send one, serialized") from None
    return decode(proto, where)


def parse_all(protos: Sequence[bytes], where: Callable[[int], str]) -> NDArray[Any]:
    """The arrays in the bytes of TensorProtos that share one type and shape, as one `[N, ...]`.

    Most often all begin with the same bytes, with their content after them; then only the first
    is parsed, which matters where there are thousands of one pixel each.

    Args:
        protos: at least one.
        where: opens the text of the PayloadError about the proto of an index (see `decode`).
    """
    first = parse(protos[0], where(0))
    start = len(protos[0]) - first.nbytes
    header = protos[0][:start]
    if (
        first.nbytes
        and header == _header(first)
        and all(len(proto) == len(protos[0]) and proto.startswith(header) for proto in protos)
    ):
        return _contents(protos, start, first)
    arrays = [first]
    for n, proto in enumerate(protos[1:], 1):
        array = parse(proto, where(n))
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise PayloadError(
                f"{where(n)}: {_kind(array)} of shape {array.shape}; expected {_kind(first)} of shape {first.shape}, "
                f"as {where(0)} has"
            )
        if array.size * (n + 1) > MAX_VALUES:
            raise PayloadError(f"{where(n)}: more than {MAX_VALUES} values up to here; send fewer tiles")
        arrays.append(array)
    return np.stack(arrays)


def _contents(protos: Sequence[bytes], start: int, first: NDArray[Any]) -> NDArray[Any]:
    """What stands behind the same first bytes in protos of one length, each of the first one's type and shape."""
    if first.nbytes < _FEW_BYTES:
        rows = np.frombuffer(b"".join(protos), np.uint8).reshape(len(protos), len(protos[0]))
        content = np.ascontiguousarray(rows[:, start:])
    else:
        content = np.empty((len(protos), first.nbytes), np.uint8)
        for row, proto in zip(content, protos, strict=True):
            row[:] = np.frombuffer(proto, np.uint8, offset=start)
    numbers = content != 0 if first.dtype.kind == "b" else content.view(first.dtype)
    return numbers.reshape(len(protos), *first.shape)


def decode(proto: TensorProto, where: str) -> NDArray[Any]:
    """The array that a TensorProto holds, in the proto's own type and shape; strings as bytes, of type `STRING`.

    A read-only view of `tensor_content` where that is set. Of typed values the last is repeated to
    fill the shape, and none at all stands for zeros, as TensorFlow reads them (`Tensor::FromProto`).

    Raises:
        PayloadError: a type that is neither number nor string, an unknown or too large shape, values that do not
            fill the shape or do not fit the type; the text begins with `where`.
    """
    if proto.dtype == DataType.DT_STRING:
        return _strings(proto, where)
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
    if math.prod(max(size, 1) for size in sizes) > MAX_VALUES:
        raise PayloadError(f"{where}: the tensor's shape {sizes} has more than {MAX_VALUES} values; send smaller tiles")
    return sizes


def _strings(proto: TensorProto, where: str) -> NDArray[Any]:
    shape = _shape(proto, where)
    count = math.prod(shape)
    values = proto.string_val
    if proto.tensor_content or len(values) != count:
        raise PayloadError(f"{where}: string_val has {len(values)} values; shape {shape} takes {count}")
    array = np.empty(count, STRING)
    array[:] = values
    return array.reshape(shape)


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
    """The TensorProto of an array: numbers in tensor_content, strings (bytes, of type `STRING`) in string_val.

    Raises:
        PayloadError: the array's type is none that TensorProto has.
    """
    proto = TensorProto()
    put(array, proto)
    return proto


def put(array: NDArray[Any], proto: TensorProto) -> None:
    """Fill an empty TensorProto, such as one that lies in another message already (see `encode`)."""
    _describe(proto, array.dtype, array.shape)
    if array.dtype == STRING:
        proto.string_val.extend(array.flat)
    else:
        proto.tensor_content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def serialize_each(array: NDArray[Any]) -> list[bytes]:
    """The serialized TensorProto of each entry of an array `[N, ...]`."""
    if array.dtype == STRING or not array.size:
        return [encode(array[n, ...]).SerializeToString() for n in range(len(array))]
    header = _header(array[0, ...])
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [header + entry.tobytes() for entry in little]


def _header(array: NDArray[Any]) -> bytes:
    """What a serialized TensorProto begins with, before the bytes of its tensor_content."""
    proto = TensorProto()
    _describe(proto, array.dtype, array.shape)
    # The tag of field 4, length-delimited; its length as a varint.
    return proto.SerializeToString() + b"\x22" + _varint(array.nbytes)


def _varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _describe(proto: TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    number = DataType.DT_STRING if dtype == STRING else _NUMBERS.get(dtype.newbyteorder("<"))
    if number is None:
        raise PayloadError(f"an array of {dtype} cannot be a TensorProto; allowed: {_ALLOWED}; cast it")
    proto.dtype = number  # type: ignore[assignment]
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def _kind(array: NDArray[Any]) -> str:
    return "strings" if array.dtype == STRING else array.dtype.name


def encoded_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of the TensorProto that `encode` makes of an array of numbers; of strings, before their own bytes."""
    proto = TensorProto()
    _describe(proto, dtype, shape)
    content = 0 if dtype == STRING else math.prod(shape) * dtype.itemsize
    return proto.ByteSize() + (field_bytes(content) if content else 0)


def field_bytes(content: int) -> int:
    """Bytes of a protobuf field of this many bytes: its tag (numbers below 16), its length, itself."""
    return 1 + max(1, -(-content.bit_length() // 7)) + content
