"""The JSON around the HTTP formats: `{"instances": [...]}` and `{"predictions": [...]}`.

Vertex AI's "Custom container requirements for inference"; keys beside these, such as `parameters`
and `deployedModelId`, are passed over.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

from components.earthengine.errors import PayloadError

Key = Literal["instances", "predictions"]


def items(body: bytes, key: Key) -> list[Any]:
    """The list under `key`, at least one item long.

    Raises:
        PayloadError: the body is not JSON, has no such key, or no list with an item there.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f'the body is not JSON ({error}); send {{"{key}": [...]}}') from None
    if not isinstance(document, dict) or key not in document:
        raise PayloadError(f'the body has no key "{key}"; send {{"{key}": [...]}}')
    found = document[key]
    if not isinstance(found, list) or not found:
        raise PayloadError(f'"{key}" holds {kind(found)}; expected a list with one item a tile, at least one')
    return found


def body(key: Key, content: Any) -> bytes:
    """The body with this content, lists or numpy arrays of numbers, under `key`."""
    return orjson.dumps({key: content}, option=orjson.OPT_SERIALIZE_NUMPY)


def kind(value: Any) -> str:
    """What a JSON value is, for an error's text."""
    if isinstance(value, bool) or value is None:
        return str(orjson.dumps(value), "ascii")
    if value == []:
        return "an empty list"
    return {int: "a number", float: "a number", str: "a string", list: "a list"}.get(type(value), "an object")
