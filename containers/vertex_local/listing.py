"""Pages and filters of the list methods."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import InvalidArgumentError

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
_TERM = re.compile(r"""\s*(?P<field>[a-z_]+(?:\.[\w-]+)?)\s*=\s*(?P<value>"[^"]*"|'[^']*'|[\w./-]+)\s*""")


def page(
    resources: Sequence[Any], query: Mapping[str, str], fields: Sequence[str] = ("display_name",)
) -> tuple[list[Any], str]:
    """The page that a request asks for, and the token of the next one ("" at the end).

    Args:
        resources: all of them, in order.
        query: ``filter``, ``pageSize`` and ``pageToken`` of the request.
        fields: what ``filter`` may compare, besides ``labels.KEY``.

    Raises:
        InvalidArgumentError: a filter that this emulator does not read, or a token that it did not give.
    """
    matches = _filter(query.get("filter", ""), fields)
    found = [resource for resource in resources if matches(resource)]
    size, start = query.get("pageSize", "0"), query.get("pageToken") or "0"
    if not size.isdecimal() or not start.isdecimal():
        raise InvalidArgumentError(f"pageSize {size!r} or pageToken {start!r} is not one that this list gave")
    end = int(start) + (min(int(size), _LARGEST_PAGE) or _DEFAULT_PAGE)
    return found[int(start) : end], str(end) if end < len(found) else ""


def _filter(text: str, fields: Sequence[str]) -> Callable[[Any], bool]:
    terms: list[tuple[str, str]] = []
    for part in re.split(r"\bAND\b", text) if text.strip() else []:
        term = _TERM.fullmatch(part)
        if not term or not (term["field"] in fields or term["field"].startswith("labels.")):
            known = ", ".join([*(f'{field}="..."' for field in fields), 'labels.KEY="..."'])
            raise InvalidArgumentError(f"Invalid filter {text!r}: this emulator reads {known}, joined by AND")
        terms.append((term["field"], term["value"].strip("\"'")))

    def matches(resource: Any) -> bool:
        return all(_value(resource, field) == value for field, value in terms)

    return matches


def _value(resource: Any, field: str) -> str | None:
    if field.startswith("labels."):
        label: str | None = resource.labels.get(field.removeprefix("labels."))
        return label
    text: str = getattr(resource, field)
    return text
