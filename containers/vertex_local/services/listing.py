"""Filter, order and pages of the list methods."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf import field_mask_pb2

from .. import messages
from ..errors import InvalidArgumentError
from .filters import Field, parse

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
_TOKEN = re.compile(r"from ([0-9]{1,9})")
_ORDER = re.compile(r"(?P<field>[A-Za-z_]+)(?:\s+(?P<direction>asc|desc))?")


def page(
    resources: Sequence[Any],
    request: Any,
    fields: Mapping[str, Field],
    order_fields: Sequence[str],
    order_value: Callable[[Any, str], Any] = getattr,
) -> tuple[list[Any], str]:
    """The page that a list request asks for, and the token of the next one ("" at the end).

    Args:
        resources: all of them, in the order in which they are listed where none is asked for.
        request: with ``filter``, ``order_by``, ``page_size``, ``page_token`` and ``read_mask``, as far as it has them.
        fields: what ``filter`` may compare.
        order_fields: what ``order_by`` may name.
        order_value: what a resource has for such a field, a text or a timestamp.

    Raises:
        InvalidArgumentError: a filter or an order that the service does not know, or a token that it did not give.
    """
    matches = parse(request.filter, fields)
    found = [resource for resource in resources if matches(resource)]
    _sort(found, getattr(request, "order_by", ""), order_fields, order_value)
    if request.page_size < 0:
        raise InvalidArgumentError(f"pageSize {request.page_size} must not be negative")
    start = _offset(request.page_token)
    end = start + (min(request.page_size, _LARGEST_PAGE) or _DEFAULT_PAGE)
    mask = getattr(request, "read_mask", None)
    return [_masked(resource, mask) for resource in found[start:end]], _token(end) if end < len(found) else ""


def _sort(resources: list[Any], order_by: str, fields: Sequence[str], value_of: Callable[[Any, str], Any]) -> None:
    # From the last key to the first: sorting keeps the order of what is equal.
    for part in reversed(order_by.split(",") if order_by.strip() else []):
        order = _ORDER.fullmatch(part.strip())
        name = messages.snake_case(order["field"]) if order else ""
        if not order or name not in fields:
            raise InvalidArgumentError(
                f"Invalid orderBy {order_by!r}: {', '.join(fields)}, each alone or with asc or desc, joined by commas"
            )
        resources.sort(key=lambda resource: _sort_key(value_of(resource, name)), reverse=order["direction"] == "desc")


def _sort_key(value: Any) -> Any:
    return value if isinstance(value, str) else (value.seconds, value.nanos)


def _masked(resource: Any, mask: Any) -> Any:
    if not mask or not mask.paths:
        return resource
    if not mask.IsValidForDescriptor(resource.DESCRIPTOR):
        raise InvalidArgumentError(f"readMask {','.join(mask.paths)!r} names no fields of {resource.DESCRIPTOR.name}")
    seen = type(resource)()
    field_mask_pb2.FieldMask(paths=mask.paths).MergeMessage(resource, seen)
    return seen


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"from {offset}".encode()).decode()


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        given = _TOKEN.fullmatch(base64.urlsafe_b64decode(token).decode())
    except ValueError:
        given = None
    if not given or token != _token(offset := int(given[1])):
        raise InvalidArgumentError(f"pageToken {token!r} is not one that this list gave")
    return offset
