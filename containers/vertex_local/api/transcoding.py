"""HTTP requests as request messages, by the rules of google.api.http."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from .. import messages
from ..errors import InvalidArgumentError
from .methods import HttpRule, Method

# As the service's own JSON parser has it.
_DEEPEST = 100
# Parameters that every Google API takes (https://cloud.google.com/apis/docs/system-parameters).
_SYSTEM = re.compile(
    r"\$?(alt|callback|fields|key|prettyPrint|quotaUser|\.xgafv)|access_token|oauth_token|upload(Type|_protocol)"
)


def request_message(
    method: Method, rule: HttpRule, path_value: str, query: Iterable[tuple[str, str]], body: bytes
) -> Any:
    """The request of ``method`` that path, query and body make up.

    Args:
        method: whose request it is.
        rule: the rule by which the path was recognised.
        path_value: what the path says for the rule's field.
        query: names and values, in order.
        body: JSON, or nothing.

    Raises:
        InvalidArgumentError: not JSON, an unknown field or parameter, or a value of the wrong type.
    """
    fields: dict[str, Any] = {}
    content = _json_object(body)
    if rule.body == "*":
        fields = content
    elif rule.body:
        fields[rule.body] = content
    descriptor = method.request.DESCRIPTOR
    for name, text in query:
        if not _SYSTEM.fullmatch(name):
            _place(fields, descriptor, name, text)
    _put(fields, rule.field.split("."), path_value)
    _spell_masks(fields, descriptor)
    return messages.from_fields(method.request, fields)


def check_query(query: Iterable[tuple[str, str]]) -> None:
    """Refuses parameters that are none of the system's, for methods whose body is the whole request.

    Raises:
        InvalidArgumentError: there is one.
    """
    for name, _ in query:
        if not _SYSTEM.fullmatch(name):
            raise _unknown_parameter(name)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body or b"{}", parse_constant=_refuse, parse_float=_finite)
        _check_depth(content, _DEEPEST)
    except (ValueError, RecursionError) as fault:
        raise InvalidArgumentError(f"Invalid JSON payload received. {fault}") from fault
    if not isinstance(content, dict):
        raise InvalidArgumentError("Invalid JSON payload received. The body is to be a JSON object.")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"The number {text[:20]} is greater than any that a double holds")
    return number


def _check_depth(value: Any, levels: int) -> None:
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError(f"It has more than {_DEEPEST} levels of objects and arrays")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, levels - 1)


def _place(fields: dict[str, Any], descriptor: Any, name: str, text: str) -> None:
    """Puts a query parameter where the message has it, as the type that JSON has for it."""
    path = []
    for part in name.split("."):
        found = descriptor and _field(descriptor, part)
        if not found:
            raise _unknown_parameter(name)
        path.append(found.json_name)
        descriptor = found.message_type
    value: Any = text
    if found.type == found.TYPE_BOOL and text in {"true", "false"}:
        value = text == "true"
    if found.is_repeated:
        values = _inner(fields, path[:-1]).setdefault(path[-1], [])
        if not isinstance(values, list):
            raise InvalidArgumentError(f"Invalid JSON payload received. '{name}' is to be an array, not {values!r}")
        values.append(value)
    else:
        _put(fields, path, value)


def _spell_masks(fields: dict[str, Any], descriptor: Any) -> None:
    """Field masks in camelCase, which is all that protobuf's own JSON knows; the service takes either spelling."""
    for field in descriptor.fields:
        if field.message_type and field.message_type.full_name == "google.protobuf.FieldMask":
            for name in {field.name, field.json_name} & set(fields):
                if isinstance(fields[name], str):
                    fields[name] = re.sub(r"_([a-z])", lambda letter: letter[1].upper(), fields[name])


def _field(descriptor: Any, name: str) -> Any:
    return next((field for field in descriptor.fields if name in {field.name, field.json_name}), None)


def _put(fields: dict[str, Any], path: list[str], value: Any) -> None:
    _inner(fields, path[:-1])[path[-1]] = value


def _inner(fields: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """The object at a path, made where there is none."""
    for part in path:
        inner = fields.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InvalidArgumentError(f"Invalid JSON payload received. '{part}' is to be an object, not {inner!r}")
        fields = inner
    return fields


def _unknown_parameter(name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
        f" Field '{name}' could not be found in request message."
    )
