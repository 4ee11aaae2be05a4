"""HTTP requests as request messages, by the rules of google.api.http."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from containers.vertex_local import messages
from containers.vertex_local.errors import InvalidArgumentError

from .methods import HttpRule, Method

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
    return messages.from_fields(method.request, fields)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body or b"{}")
    except ValueError as fault:
        raise InvalidArgumentError(f"Invalid JSON payload received. {fault}") from fault
    if not isinstance(content, dict):
        raise InvalidArgumentError("Invalid JSON payload received. The body is to be a JSON object.")
    return content


def _place(fields: dict[str, Any], descriptor: Any, name: str, text: str) -> None:
    """Puts a query parameter where the message has it, as the type that JSON has for it."""
    path = []
    for part in name.split("."):
        found = descriptor and _field(descriptor, part)
        if not found:
            raise InvalidArgumentError(
                f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
                f" Field '{name}' could not be found in request message."
            )
        path.append(found.json_name)
        descriptor = found.message_type
    value: Any = text
    if found.type == found.TYPE_BOOL and text in {"true", "false"}:
        value = text == "true"
    if descriptor and descriptor.full_name == "google.protobuf.FieldMask":
        # Either spelling is taken; protobuf's own JSON has camelCase only.
        value = re.sub(r"_([a-z])", lambda letter: letter[1].upper(), text)
    if found.is_repeated:
        value = [*_get(fields, path), value]
    _put(fields, path, value)


def _field(descriptor: Any, name: str) -> Any:
    return next((field for field in descriptor.fields if name in {field.name, field.json_name}), None)


def _get(fields: Mapping[str, Any], path: list[str]) -> Any:
    for part in path[:-1]:
        fields = fields.get(part, {})
    return fields.get(path[-1], [])


def _put(fields: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = fields.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InvalidArgumentError(f"Invalid JSON payload received. '{part}' is to be an object, not {inner!r}")
        fields = inner
    fields[path[-1]] = value
