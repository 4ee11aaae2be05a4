"""The filter expressions of list methods (https://google.aip.dev/160): ``state="ACTIVE" AND NOT labels.env:*``."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from google.protobuf import timestamp_pb2

from .. import messages
from ..errors import InvalidArgumentError

Matches = Callable[[Any], bool]
"""Whether a resource is wanted."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<comparator>!=|<=|>=|=|<|>|:)
    | (?P<bracket>[()])
    | (?P<minus>-)(?=[A-Za-z(])
    | (?P<word>\d+-\d+-\d+T[^\s()"'=<>!]*|[^\s()"'=<>!:]+)
    )""",
    re.VERBOSE,
)
_ORDERED = frozenset({"=", "!=", "<", ">", "<=", ">="})
_WITH_WILDCARDS = "= != :"
_DEEPEST = 50


@dataclass(frozen=True)
class Field:
    """What may be compared in a filter.

    Attributes:
        read: the field's value in a resource, None where it has none.
        comparators: those that the service documents for this field.
    """

    read: Callable[[Any], str | timestamp_pb2.Timestamp | None]
    comparators: frozenset[str]


def text(read: Callable[[Any], str | None], comparators: str = "= !=") -> Field:
    """A field of text; with ``:`` among its comparators, ``*`` stands for anything."""
    return Field(read, frozenset(comparators.split()))


def time(name: str, comparators: frozenset[str] = _ORDERED) -> Field:
    """A field of time, compared with RFC 3339 texts."""
    return Field(lambda resource: getattr(resource, name) if resource.HasField(name) else None, comparators)


def parse(expression: str, fields: Mapping[str, Field]) -> Matches:
    """The meaning of a filter; an empty one wants everything.

    Args:
        expression: of comparisons, NOT or -, AND (or nothing between two), OR, which binds closer than AND, brackets.
        fields: by their snake_case names; ``labels.KEY`` is always known, and camelCase means the same.

    Raises:
        InvalidArgumentError: no such field, comparator or value, or no such syntax.
    """
    return _Parser(expression, fields).parse()


class _Parser:
    def __init__(self, expression: str, fields: Mapping[str, Field]) -> None:
        self._expression = expression
        self._fields = fields
        self._tokens = self._split()
        self._depth = 0

    def parse(self) -> Matches:
        if not self._tokens:
            return lambda _: True
        matches = self._all()
        if self._tokens:
            raise self._fault(f"{self._tokens[0][1]!r} is not expected there")
        return matches

    def _split(self) -> deque[tuple[str, str]]:
        """Kinds and texts of the tokens, in order."""
        tokens: deque[tuple[str, str]] = deque()
        position, length = 0, len(self._expression.rstrip())
        while position < length:
            found = _TOKEN.match(self._expression, position)
            if not found:
                raise self._fault(f"{self._expression[position:].strip()[:20]!r} cannot be read")
            kind = str(found.lastgroup)
            tokens.append((kind, found[kind]))
            position = found.end()
        return tokens

    def _all(self) -> Matches:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._fault(f"more than {_DEEPEST} levels of brackets")
        parts = [self._any()]
        while self._tokens and self._tokens[0][1] != ")":
            self._take_word("AND")
            parts.append(self._any())
        self._depth -= 1
        return lambda resource: all(part(resource) for part in parts)

    def _any(self) -> Matches:
        parts = [self._one()]
        while self._take_word("OR"):
            parts.append(self._one())
        return lambda resource: any(part(resource) for part in parts)

    def _one(self) -> Matches:
        if self._take_word("NOT") or self._take("minus"):
            inner = self._one_or_brackets()
            return lambda resource: not inner(resource)
        return self._one_or_brackets()

    def _one_or_brackets(self) -> Matches:
        if self._tokens and self._tokens[0] == ("bracket", "("):
            self._take("bracket")
            inner = self._all()
            if self._take("bracket") != ")":
                raise self._fault("a bracket is not closed")
            return inner
        return self._comparison()

    def _comparison(self) -> Matches:
        name = self._take("word") or ""
        quoted = name.endswith(".") and self._take("text")
        key = name + _unquoted(quoted) if quoted else name
        comparator = self._take("comparator")
        value = self._take("text") or self._take("word")
        if not name or not comparator or value is None:
            raise self._fault("a comparison reads FIELD=VALUE")
        field = self._field(key, comparator)
        if value == "*" and comparator == ":":
            return lambda resource: field.read(resource) is not None
        return _compare(field, comparator, _unquoted(value), self._fault)

    def _field(self, name: str, comparator: str) -> Field:
        field = _label_field(name) or self._fields.get(messages.snake_case(name))
        if not field:
            known = ", ".join([*sorted(self._fields), "labels.KEY"])
            raise self._fault(f"{name!r} is no field that can be filtered by; these are: {known}")
        if comparator not in field.comparators:
            allowed = " ".join(sorted(field.comparators))
            raise self._fault(f"{name!r} cannot be compared by {comparator}; it can by {allowed}")
        return field

    def _take(self, kind: str) -> str | None:
        if self._tokens and self._tokens[0][0] == kind:
            return self._tokens.popleft()[1]
        return None

    def _take_word(self, word: str) -> bool:
        if self._tokens and self._tokens[0] == ("word", word):
            self._tokens.popleft()
            return True
        return False

    def _fault(self, why: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"Invalid filter {self._expression!r}: {why}")


def _label_field(name: str) -> Field | None:
    if name == "labels":
        # labels:KEY asks whether there is such a label.
        return text(lambda resource: " ".join(_labels(resource)) or None, ":")
    label = name.removeprefix("labels.")
    return text(lambda resource: _labels(resource).get(label), _WITH_WILDCARDS) if label != name else None


def _labels(resource: Any) -> Mapping[str, str]:
    """Those of a resource; some kinds, such as schedules, have none."""
    return getattr(resource, "labels", {})


def _compare(field: Field, comparator: str, wanted: str, fault: Callable[[str], InvalidArgumentError]) -> Matches:
    moment: timestamp_pb2.Timestamp | None = None
    if "<" in field.comparators:
        moment = timestamp_pb2.Timestamp()
        try:
            moment.FromJsonString(wanted)
        except ValueError:
            raise fault(f"{wanted!r} is no time such as 2026-01-31T12:00:00Z") from None

    def matches(resource: Any) -> bool:
        value = field.read(resource)
        if value is None:
            return comparator == "!="
        if moment is not None:
            return _ordered(comparator, _nanoseconds(value), _nanoseconds(moment))
        if comparator == ":":
            return any(fnmatchcase(word, _glob(wanted)) for word in (value, *str(value).split()))
        return (value == wanted) == (comparator == "=")

    return matches


def _ordered(comparator: str, value: int, wanted: int) -> bool:
    return {
        "=": value == wanted,
        "!=": value != wanted,
        "<": value < wanted,
        ">": value > wanted,
        "<=": value <= wanted,
        ">=": value >= wanted,
    }[comparator]


def _nanoseconds(moment: Any) -> int:
    return int(moment.seconds) * 10**9 + int(moment.nanos)


def _glob(wanted: str) -> str:
    """``*`` alone stands for anything."""
    return re.sub(r"[?\[]", lambda special: f"[{special[0]}]", wanted)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] in {'"', "'"} else value
