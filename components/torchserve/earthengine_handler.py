"""Answers Earth Engine in TorchServe, which Vertex AI's prebuilt PyTorch images run: the three formats over HTTP.

The archive carries this file by itself, so it imports what these images have and nothing else: Python 3.9, numpy,
torch and TorchServe. How the formats look is told, with sources, in components/earthengine/payloads.
"""

# The images' Python 3.9 knows no zip(strict=) and no match.
# ruff: noqa: B905

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ts.utils.util import PredictionException  # type: ignore[import-untyped]

# As components/torchserve/__init__.py writes it.
_DESCRIPTION = "earthengine.json"

# A request cannot spell out more values (TorchServe's max_request_size is 6.5 MB), only claim them: 64 MiB as float32.
_MAX_VALUES = 1 << 24
_MAX_RANK = 8

# tensorflow/core/framework/types.proto: the type's number, and the field of tensor.proto that holds single values.
_STRING, _STRING_FIELD = 7, 8
_TYPES = {
    1: ("<f4", 5),
    2: ("<f8", 6),
    3: ("<i4", 7),
    4: ("|u1", 7),
    5: ("<i2", 7),
    6: ("|i1", 7),
    9: ("<i8", 10),
    10: ("|b1", 11),
    17: ("<u2", 7),
    19: ("<f2", 13),
    22: ("<u4", 16),
    23: ("<u8", 17),
}
_NUMBERS = {np.dtype(dtype): number for number, (dtype, _) in _TYPES.items()}
# A TensorProto begins with the tag of its type (0x08) or of its shape (0x12), in base64:
_PROTO = re.compile("C[AB]|E[g-n]")
_WEB_SAFE = bytes.maketrans(b"-_", b"+/")
_WORDS = {"true": 1.0, "false": 0.0}


# TorchServe takes the only class of this file for the handler.
class EarthEngineHandler:
    """A model whose `forward(tiles)` takes `[N, C, H, W]` float32 and returns outputs by name, channels last."""

    def initialize(self, context: Any) -> None:
        """Load the model, onto the GPU that TorchServe gives this worker if it does."""
        folder = Path(context.system_properties["model_dir"])
        gpu = context.system_properties.get("gpu_id")
        cuda = gpu is not None and torch.cuda.is_available()
        self.device = torch.device(f"cuda:{gpu}" if cuda else "cpu")
        self.described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        script = folder / context.manifest["model"]["serializedFile"]
        self.model = torch.jit.freeze(torch.jit.load(str(script), map_location=self.device).eval())

    def handle(self, data: list[Any], context: Any) -> list[Any]:  # noqa: ARG002
        """Answers to instances, as many, which is what the JSON envelope of Google's images gives and wants.

        Without an envelope: a body `{"predictions": [...]}` to each `{"body": {"instances": [...]}}`.
        """
        if data and all(map(_is_request, data)):
            return [json.dumps({"predictions": self.answers(row["body"]["instances"])}) for row in data]
        return self.answers(data)

    def answers(self, instances: Any) -> list[Any]:
        """An answer to each instance, in the style of the first.

        Raises:
            PredictionException: 400 where the instances are at fault, 500 where the model is.
        """
        try:
            if not isinstance(instances, list) or not instances:
                raise ValueError('"instances" must be a list with one item a tile, at least one')
            style = _style(self.described, instances[0])
            tiles = _tiles(self.described, instances, style)
        except ValueError as error:
            raise PredictionException(str(error), 400) from error
        try:
            return _encoded(self.described, self._outputs(tiles), style)
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[-1][:500]
            text = f"the model failed on tiles of shape {tiles.shape}: {type(error).__name__}: {line}"
            raise PredictionException(text, 500) from error

    def _outputs(self, tiles: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            outputs = self.model(torch.from_numpy(tiles).to(self.device))
        return {output["name"]: outputs[output["name"]].cpu().numpy() for output in self.described["outputs"]}


def _is_request(row: Any) -> bool:
    body = row.get("body") if isinstance(row, dict) else None
    return isinstance(body, dict) and "instances" in body


def _style(described: dict[str, Any], instance: Any) -> str:
    """The payload format of an instance; where a string may mean either, the contract's own."""
    if isinstance(instance, list):
        return "ND_ARRAYS"
    first = described["parts"][0]
    value = instance.get(first["name"]) if isinstance(instance, dict) else None
    if isinstance(value, (bytes, bytearray)):  # what the JSON envelope makes of {"b64": ...}
        return "SERIALIZED_TF_TENSORS"
    if not isinstance(value, str) or value in first["values"] or value in _WORDS:
        return "RAW_JSON"
    try:
        float(value)
    except ValueError:
        plain = described["payload_format"] == "RAW_JSON" and not _PROTO.match(value)
        return "RAW_JSON" if plain else "SERIALIZED_TF_TENSORS"
    return "RAW_JSON"


def _tiles(described: dict[str, Any], instances: list[Any], style: str) -> NDArray[np.float32]:
    """The batch `[N, C, H, W]` in instances: the parts in order, each flattened to its channels."""
    if style == "ND_ARRAYS":
        return _of_lists(described, instances)
    parts = described["parts"]
    names = [part["name"] for part in parts]
    channels = sum(part["channels"] for part in parts)
    read = _of_proto if style == "SERIALIZED_TF_TENSORS" else _of_json
    tiles = None
    for n, instance in enumerate(instances):
        _check_names(instance, names, f"instance {n}")
        channel = 0
        for part in parts:
            where = f"instance {n}, {_called(part)}"
            array = read(described, part, instance[part["name"]], where)
            if tiles is None:
                size = array.shape[:2] if part["kind"] == "band" else (1, 1)
                tiles = _room((len(instances), channels, *size), where)
            tiles[n, channel : channel + part["channels"]] = _placed(part, array, tiles.shape[2:], where)
            channel += part["channels"]
    assert tiles is not None  # noqa: S101  there is an instance and a part
    return tiles


def _of_lists(described: dict[str, Any], instances: list[Any]) -> NDArray[np.float32]:
    names = [_called(part) for part in described["parts"] for _ in range(part["channels"])]
    tiles: list[NDArray[np.float32]] = []
    for n, instance in enumerate(instances):
        array = _numbers(instance, f"instance {n}", strings=False)
        shape = list(array.shape)
        if described["table"] and array.ndim == 1:
            array = array.reshape(-1, 1, 1)
        wanted = tiles[0].shape if tiles else (len(names), *array.shape[1:])
        if array.ndim != 3 or 0 in array.shape or array.shape != wanted:
            pixels = "" if described["table"] else ", height, width"
            raise ValueError(
                f"instance {n} has shape {shape}; expected [{len(names)}{pixels}]: "
                f"{', '.join(names[:20])}, all instances of one size"
            )
        tiles.append(_finite(array, f"instance {n}", names))
    return np.stack(tiles)


def _room(shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    if math.prod(shape) > _MAX_VALUES or 0 in shape or len(shape) != 4:
        raise ValueError(
            f"{where}: tiles of shape {shape}; expected (N, channels, height, width), none of them 0 and at most "
            f"{_MAX_VALUES} values"
        )
    return np.empty(shape, np.float32)


def _called(part: dict[str, Any]) -> str:
    return f"{part['kind']} {part['name']}"


def _check_names(instance: Any, names: list[str], where: str) -> None:
    if not isinstance(instance, dict):
        raise ValueError(f"{where} is no object; expected one of {', '.join(names)}")
    faults = [f"{name} is missing" for name in names if name not in instance]
    faults += [f"{name[:100]!r} is unknown" for name in instance if name not in names]
    if faults:
        raise ValueError(f"{where}: {', '.join(faults[:3])}; expected {', '.join(names)}, as model.yaml says")


def _placed(part: dict[str, Any], array: NDArray[Any], size: tuple[int, ...], where: str) -> NDArray[Any]:
    """A part of one tile as its channels `[channels, height, width]`."""
    pixels = size if part["kind"] == "band" else ()
    shape, channels = tuple(part["shape"]), part["channels"]
    # Earth Engine's documents leave open: a band without the trailing 1, a property with one, a matrix as a vector.
    if array.shape not in ((*pixels, *shape), (*pixels, *(shape or (1,))), (*pixels, channels)):
        raise ValueError(
            f"{where}: shape {array.shape}; expected {(*pixels, *(shape or (1,)))}"
            + (", one size for all bands and tiles of a request" if pixels else "")
        )
    flat = _finite(array.reshape(*pixels, channels), where)
    return np.moveaxis(flat, 2, 0) if pixels else flat.reshape(channels, 1, 1)


def _finite(array: NDArray[Any], where: str, names: list[str] | None = None) -> NDArray[np.float32]:
    """The array as float32, refused where it holds NaN or an infinity; `names` are of its first axis."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all():
        index = [int(i) for i in np.argwhere(~np.isfinite(narrow))[0]]
        named = f", {names[index[0]]}" if names else ""
        raise ValueError(f"{where}{named}: {narrow[tuple(index)]} at {index}; expected finite float32 numbers")
    return narrow


def _place(part: dict[str, Any], value: Any, where: str) -> NDArray[np.float32]:
    """What the model sees of a string: its place among the property's values."""
    if value not in part["values"]:
        raise ValueError(f"{where}: {str(value)[:50]!r}; expected one of {', '.join(part['values'])}")
    return np.array(part["values"].index(value), np.float32)


def _of_json(described: dict[str, Any], part: dict[str, Any], value: Any, where: str) -> NDArray[Any]:
    """A part as plain JSON: a number, also as a string; nested lists; a band also as one list, row by row."""
    if part["values"]:
        return _place(part, value, where)
    array = _numbers(_WORDS.get(value, value) if isinstance(value, str) else value, where, strings=True)
    if part["kind"] == "property" or array.ndim > 1:
        return array
    pixels = array.size // part["channels"]
    width, height = described["patch"]
    if pixels != width * height:
        width = height = math.isqrt(pixels)
    if width * height * part["channels"] != array.size:
        raise ValueError(f"{where}: {array.size} values without rows are neither a patch of model.yaml nor a square")
    return array.reshape(height, width, part["channels"])


def _numbers(value: Any, where: str, *, strings: bool) -> NDArray[Any]:
    try:
        array = np.array(value)
        if strings and array.dtype.kind == "U":
            array = array.astype(np.float64)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where}: rows of different lengths, or something that is no number")
    return array


def _of_proto(described: dict[str, Any], part: dict[str, Any], value: Any, where: str) -> NDArray[Any]:  # noqa: ARG001
    """A part as a TensorProto in base64, of either alphabet."""
    if isinstance(value, str):
        try:
            plain = value.encode("ascii").translate(_WEB_SAFE).rstrip(b"=")
            value = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise ValueError(
                f"{where}: {value[:20]!r}, {len(value)} characters, is not base64; send a TensorProto so, web-safe"
            ) from None
    if not isinstance(value, (bytes, bytearray)):
        raise ValueError(f"{where}: no string; expected a TensorProto in base64")
    try:
        array = read_tensor(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not part["values"]:
        if array.dtype == object:
            raise ValueError(f"{where}: strings; expected numbers")
        return array
    if array.dtype != object or array.size != 1:
        raise ValueError(f"{where}: {array.dtype} of shape {array.shape}; expected one string")
    return _place(part, array.item().decode("utf-8", "replace"), where)


def read_tensor(data: bytes | bytearray) -> NDArray[Any]:
    """The array in a serialized TensorProto; strings as bytes in an array of objects.

    Follows tensorflow/core/framework/tensor.proto: of single values the last is repeated, none stand for zeros.

    Raises:
        ValueError: it is none, its type is not known, or it does not hold what its shape says.
    """
    number, dims, content = 0, [], b""
    chunks: dict[int, list[Any]] = {}
    for field, value in _fields(memoryview(data)):
        if (field, type(value)) == (1, int):
            number = value
        elif (field, type(value)) == (2, memoryview):
            dims += _dims(value)
        elif (field, type(value)) == (4, memoryview):
            content = value
        else:
            chunks.setdefault(field, []).append(value)
    shape = _checked_shape(dims)
    if number == _STRING:
        strings = [bytes(value) for value in chunks.get(_STRING_FIELD, []) if isinstance(value, memoryview)]
        if len(content) or len(strings) != math.prod(shape):
            raise ValueError(f"{len(strings)} strings; shape {shape} takes {math.prod(shape)}")
        held = np.empty(len(strings), object)
        held[:] = strings
        return held.reshape(shape)
    if number not in _TYPES:
        raise ValueError(f"the tensor's type is number {number}; allowed: {', '.join(map(str, _TYPES))}")
    name, field = _TYPES[number]
    if len(content):
        if len(content) != math.prod(shape) * np.dtype(name).itemsize:
            raise ValueError(f"tensor_content has {len(content)} bytes; shape {shape} of {name} takes another number")
        flags = np.frombuffer(content, "|u1" if name == "|b1" else name).reshape(shape)
        return flags != 0 if name == "|b1" else flags
    values = _single_values(chunks.get(field, []), np.dtype(name))
    if len(values) > math.prod(shape):
        raise ValueError(f"{len(values)} values; shape {shape} takes {math.prod(shape)}")
    if len(values) < 2:
        return np.broadcast_to(values[0] if len(values) else np.zeros((), name), shape)
    return np.pad(values, (0, math.prod(shape) - len(values)), mode="edge").reshape(shape)


def _dims(shape: memoryview) -> list[int]:
    """The sizes in a TensorShapeProto."""
    dims = []
    for field, value in _fields(shape):
        if (field, type(value)) == (2, memoryview):
            sizes = [size for inner, size in _fields(value) if (inner, type(size)) == (1, int)]
            dims.append(sizes[-1] if sizes else 0)
        elif field == 3 and value:
            raise ValueError("the tensor's rank is unknown")
    return dims


def _checked_shape(dims: list[int]) -> tuple[int, ...]:
    # A negative size reads as one of 2^63 or more.
    if len(dims) > _MAX_RANK or math.prod(dims) > _MAX_VALUES or max(dims, default=0) >= 1 << 63:
        raise ValueError(f"the tensor's shape is {tuple(dims)}; at most {_MAX_RANK} sizes and {_MAX_VALUES} values")
    return tuple(dims)


def _single_values(chunks: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a field `*_val`, packed or one by one."""
    if dtype.kind == "f" and dtype.itemsize > 2:
        packed = b"".join(chunk for chunk in chunks if isinstance(chunk, memoryview))
        if len(packed) % dtype.itemsize:
            raise ValueError(f"{len(packed)} bytes are no whole number of {dtype.name}")
        return np.frombuffer(packed, dtype)
    whole = [number for chunk in chunks for number in ([chunk] if isinstance(chunk, int) else _varints(chunk))]
    unsigned = np.array(whole, np.uint64)
    if dtype.kind == "b":
        return np.not_equal(unsigned, 0)
    if dtype.itemsize == 8:
        return unsigned.view(dtype)
    if dtype == np.uint32:
        return unsigned.astype(np.uint32)
    # int_val and half_val are int32.
    narrow = unsigned.view(np.int64).astype(np.int32)
    held = np.dtype("<u2") if dtype.kind == "f" else dtype
    if (narrow.astype(held) != narrow).any():
        raise ValueError(f"a value is beyond {held.name}")
    return narrow.astype(held).view(dtype)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and an int or, of any other wire type, its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if key & 7 not in (1, 2, 5) or not key >> 3:
            raise ValueError(f"{len(message)} bytes that are no TensorProto")
        length, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        if at + length > len(message):
            raise ValueError(f"{len(message)} bytes of a TensorProto that goes on")
        yield key >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where the next thing begins."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & (1 << 64) - 1, at + place + 1
    raise ValueError(f"{len(message)} bytes of a TensorProto that goes on")


def write_tensor(array: NDArray[Any]) -> bytes:
    """The serialized TensorProto of an array of numbers."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    dims = b"".join(_field(2, b"\x08" + _as_varint(size)) for size in array.shape)
    return b"\x08" + _as_varint(_NUMBERS[little.dtype]) + _field(2, dims) + _field(4, little.tobytes())


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    low = [value >> 7 * place & 0x7F for place in range(max(1, -(-value.bit_length() // 7)))]
    return bytes([byte | 0x80 for byte in low[:-1]] + low[-1:])


def _encoded(described: dict[str, Any], outputs: dict[str, NDArray[Any]], style: str) -> list[Any]:
    """The answers to N tiles, in the style that they came in."""
    if described["table"]:
        outputs = {name: array[:, 0, 0] for name, array in outputs.items()}
    if style == "SERIALIZED_TF_TENSORS":
        columns = [_serialized(described, name, array) for name, array in outputs.items()]
    else:
        columns = [_listed(name, array) for name, array in outputs.items()]
    # A bare answer where the wire has no names, or where TensorFlow Serving, whose way it is, would drop the only one.
    if len(columns) == 1 and style != "RAW_JSON":
        return columns[0]
    if style == "ND_ARRAYS":
        raise ValueError(f"ND_ARRAYS carries one output, not {', '.join(outputs)}")
    return [dict(zip(outputs, row)) for row in zip(*columns)]


def _serialized(described: dict[str, Any], name: str, array: NDArray[Any]) -> list[Any]:
    (rank,) = (output["dimensions"] for output in described["outputs"] if output["name"] == name)
    if rank == 0 and not described["table"]:
        array = array[..., np.newaxis]  # as Earth Engine's documents show a number a pixel
    return [base64.urlsafe_b64encode(write_tensor(each)).rstrip(b"=").decode("ascii") for each in array]


def _listed(name: str, array: NDArray[Any]) -> list[Any]:
    if not np.isfinite(array).all():
        raise ValueError(f"output {name} holds NaN or an infinity, which JSON cannot carry")
    answers: list[Any] = array.tolist()
    return answers
