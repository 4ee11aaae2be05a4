"""JSON bodies that hold nothing but regular nested lists of numbers, read without an object a number.

simdjson reads 200,000 numbers of a request in 5 ms, where orjson's floats and numpy's reading of nested lists take 27.
It gives an array's numbers without telling how they were nested, so the length of every list is looked at besides, and
of numbers in strings the text without its digits. Whatever is irregular in any way gives None: the codec then reads it
the slow way, which explains.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from components.earthengine.payloads.json_bodies import Key

# One parser, since each keeps memory of twelve times its largest document; parsing holds the GIL anyway.
_PARSER = simdjson.Parser()
_LOCK = threading.Lock()

# What simdjson raises for a document that is none, is of another kind, or has other things in its lists.
_IRREGULAR = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)

_OF_NUMBERS = b"0123456789.+-eE \t\r\n"
# Below, the work for each value costs more than it saves.
_SHORTEST_VALUE = 50

# What stands around the values of a body of instances.
_BEGIN = re.compile(rb'\s*\{\s*"instances')
_OPEN = re.compile(rb'\s*\[\s*\{\s*"[^"]*')
_SEPARATOR = re.compile(rb"\s*(?:\}\s*,\s*\{|,)\s*$")
_CLOSE = re.compile(rb"\}\s*\]\s*\}\s*")
_LONGEST_SEPARATOR = 50


def tiles(body: bytes, key: Key) -> NDArray[np.float32] | None:
    """The array of `{key: nested lists}`."""
    with _LOCK:
        try:
            document = _parsed(body)
            items = document[key]
            shape = _shape(items)
            numbers = _numbers(items, shape)
            if len(document) > 1 or not _regular(items, shape) or _count_lists(body) != _lists_in(shape):
                return None
        except _IRREGULAR:
            return None
    return numbers


def bands(body: bytes, names: Collection[str]) -> dict[str, NDArray[np.float32]] | None:
    """The arrays `[N, ...]` under each name of `{"instances": [{name: nested lists, ...}, ...]}`.

    The numbers may be written as strings, as Earth Engine's RAW_JSON writes them.
    """
    order, texts = _values(body)
    if not texts or set(order) != {name.encode() for name in names}:
        return None
    joined = b"[%b]" % b",".join(texts)
    plain = joined.translate(None, b'"')
    quoted = len(plain) < len(joined)
    count = len(texts) // len(order)
    with _LOCK:
        try:
            if quoted:
                _parsed(joined)  # with its quotes it must be JSON too
            document = _parsed(plain)
            shapes = [_shape(document[n]) for n in range(len(order))]
            if len(document) != len(texts) or not all(map(_whole, texts, shapes * count)):
                return None
            sizes = [math.prod(shape) for shape in shapes]
            numbers = _numbers(document, (count, sum(sizes)))
            if quoted:
                regular = _skeleton(joined) == b"[%b]" % b",".join([_lists(shape) for shape in shapes] * count)
            else:
                regular = all(map(_regular, document, shapes * count))
                regular &= _count_lists(joined) == 1 + count * sum(map(_lists_in, shapes))
            if not regular:
                return None
        except _IRREGULAR:
            return None
    columns = np.split(numbers, np.cumsum(sizes)[:-1], axis=1)
    return {
        name.decode(): column.reshape(count, *shape) for name, column, shape in zip(order, columns, shapes, strict=True)
    }


def _values(body: bytes) -> tuple[list[bytes], list[bytes]]:
    """The names in an instance, and the text of each value, one instance after the other; empty where irregular.

    Splits at the end of each name, whose beginning then ends the piece before, behind the value's text.
    """
    pieces = body.split(b'":')
    if len(pieces) < 3 or len(body) < _SHORTEST_VALUE * len(pieces) or not _BEGIN.fullmatch(pieces[0]):
        return [], []
    names, texts = [pieces[1].rpartition(b'"')[2]], []
    if not _OPEN.fullmatch(pieces[1]):
        return [], []
    for piece in pieces[2:-1]:
        end = piece.rfind(b'"')
        separator = _SEPARATOR.search(piece, max(end - _LONGEST_SEPARATOR, 0), end)
        if separator is None or (b"{" in separator[0]) != (piece[end + 1 :] == names[0]):
            return [], []
        names.append(piece[end + 1 :])
        texts.append(piece[: separator.start()].strip())
    end = pieces[-1].rfind(b"}", 0, pieces[-1].rfind(b"]"))
    if not _CLOSE.fullmatch(pieces[-1], max(end, 0)):
        return [], []
    texts.append(pieces[-1][:end].strip())
    order = names[: names.index(names[0], 1)] if names.count(names[0]) > 1 else names
    return (order, texts) if names == order * (len(names) // len(order)) else ([], [])


def _parsed(body: bytes) -> Any:
    return _PARSER.parse(body)


def _shape(value: Any) -> tuple[int, ...]:
    """The lengths of the first list of each level."""
    shape = []
    while isinstance(value, simdjson.Array):
        shape.append(len(value))
        value = value[0]
    return tuple(shape)


def _numbers(value: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """All numbers in nested lists; ValueError where they are not as many as the shape has, or too large."""
    wide = np.frombuffer(value.as_buffer(of_type="d"), np.float64).reshape(shape)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError("a number too large for float32")
    return narrow


def _whole(text: bytes, shape: tuple[int, ...]) -> bool:
    """Whether a value's text opens and closes its lists itself, and does not end in the middle of the next value."""
    return text.startswith(b"[" * len(shape)) and text.endswith(b"]" * len(shape))


def _regular(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a list and all lists in it, down to those of numbers, are as long as the shape says."""
    level = [value]
    for depth, size in enumerate(shape):
        if any(len(each) != size for each in level):
            return False
        if depth + 1 < len(shape):
            level = [inner for each in level for inner in each]
    return True


def _lists_in(shape: tuple[int, ...]) -> int:
    """How many lists there are in nested lists of this shape, themselves included."""
    return sum(math.prod(shape[:depth]) for depth in range(len(shape)))


def _count_lists(text: bytes) -> int:
    """How many lists begin in a text without strings."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")))


def _lists(shape: tuple[int, ...]) -> bytes:
    """Nested lists of this shape, of strings without their digits."""
    text = b"[%b]" % b",".join([b'""'] * shape[-1])
    for size in reversed(shape[:-1]):
        text = b"[%b]" % b",".join([text] * size)
    return text


def _skeleton(text: bytes) -> bytes:
    return text.translate(None, _OF_NUMBERS)
