import re
import string
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local import messages
from containers.vertex_local.errors import InvalidArgumentError
from containers.vertex_local.services import filters

FIELDS = {
    "display_name": filters.text(lambda model: model.display_name, "= != :"),
    "create_time": filters.time("create_time"),
}


def model(display_name: str = "", seconds: int | None = None, **labels: str) -> Any:
    made = messages.Model(display_name=display_name, labels=labels)
    if seconds is not None:
        made.create_time.seconds = seconds
    return made


@dataclass(frozen=True)
class Text:
    """A comparison of the name or of a label."""

    name: str
    comparator: str
    value: str
    written_name: str
    written_value: str

    def __str__(self) -> str:
        return f"{self.written_name}{self.comparator}{self.written_value}"

    def holds(self, resource: Any) -> bool:
        label = self.name.removeprefix("labels.")
        present = not self.name.startswith("labels.") or label in resource.labels
        actual = resource.labels[label] if self.name.startswith("labels.") and present else resource.display_name
        if (self.comparator == ":" and self.value == "*") or not present:
            return present != (self.comparator == "!=")
        if self.comparator == ":":
            pattern = ".*".join(re.escape(part) for part in self.value.split("*"))
            return any(re.fullmatch(pattern, text, re.DOTALL) for text in [actual, *actual.split()])
        return bool(actual == self.value) == (self.comparator == "=")


@dataclass(frozen=True)
class Time:
    comparator: str
    seconds: int
    offset_h: int

    def __str__(self) -> str:
        local = timestamp_pb2.Timestamp(seconds=self.seconds + 3600 * self.offset_h).ToJsonString().rstrip("Z")
        zone = f"{'-' if self.offset_h < 0 else '+'}{abs(self.offset_h):02}:00" if self.offset_h else "Z"
        return f'create_time {self.comparator} "{local}{zone}"'

    def holds(self, resource: Any) -> bool:
        if not resource.HasField("create_time"):
            return self.comparator == "!="
        a, b = int(resource.create_time.seconds), self.seconds
        return {"=": a == b, "!=": a != b, "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[self.comparator]


@dataclass(frozen=True)
class Not:
    inner: Any
    written: str

    def __str__(self) -> str:
        return f"{self.written}{bracketed(self.inner)}"

    def holds(self, resource: Any) -> bool:
        return not self.inner.holds(resource)


@dataclass(frozen=True)
class Or:
    parts: list[Any]

    def __str__(self) -> str:
        return " OR ".join(str(part) if isinstance(part, Not) else bracketed(part) for part in self.parts)

    def holds(self, resource: Any) -> bool:
        return any(part.holds(resource) for part in self.parts)


@dataclass(frozen=True)
class And:
    parts: list[Any]
    written: str

    def __str__(self) -> str:
        # OR binds closer than AND (AIP-160), so that it needs no brackets here.
        return self.written.join(f"({part})" if isinstance(part, And) else str(part) for part in self.parts)

    def holds(self, resource: Any) -> bool:
        return all(part.holds(resource) for part in self.parts)


def bracketed(tree: Any) -> str:
    return str(tree) if isinstance(tree, Text | Time) else f"( {tree} )"


@st.composite
def texts(draw: st.DrawFn) -> Text:
    written_name = draw(st.sampled_from(["display_name", "displayName", "labels.a", 'labels."b"']))
    name = {"displayName": "display_name", 'labels."b"': "labels.b"}.get(written_name, written_name)
    value = draw(st.text("aB1* \"'\\é-", max_size=4))
    if re.fullmatch(r"[a-zB1*é]+", value) and draw(st.booleans()):
        written = value
    else:
        quote = draw(st.sampled_from("\"'"))
        written = quote + re.sub(r"[\\\"']", lambda special: "\\" + special[0], value) + quote
    comparator = draw(st.sampled_from(["=", "!=", ":"]))
    return Text(name, comparator, value, written_name, written)


times = st.builds(Time, st.sampled_from(["=", "!=", "<", ">", "<=", ">="]), st.integers(0, 3), st.integers(-2, 2))
trees = st.recursive(
    texts() | times,
    lambda inner: (
        st.builds(Not, inner, st.sampled_from(["NOT ", "-"]))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3))
        | st.builds(And, st.lists(inner, min_size=2, max_size=3), st.sampled_from([" AND ", " "]))
    ),
    max_leaves=8,
)
values = st.text("aB1 *é", max_size=4)
models = st.builds(
    lambda name, seconds, labels: model(name, seconds, **labels),
    values,
    st.none() | st.integers(0, 3),
    st.dictionaries(st.sampled_from("ab"), values),
)


@given(tree=trees, resources=st.lists(models, min_size=1, max_size=5))
def test_a_filter_means_what_its_tree_means(tree: Any, resources: list[Any]) -> None:
    matches = filters.parse(str(tree), FIELDS)
    assert [matches(resource) for resource in resources] == [tree.holds(resource) for resource in resources], str(tree)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("", "abcd"),
        ("  ", "abcd"),
        ('displayName="b"', "b"),
        ('labels."env"=prod', "ac"),
        ("labels:env", "abc"),
        ("labels:*", "abc"),
        ("labels.env:*", "abc"),
        ("labels.env:p*", "ac"),
        ("NOT labels.env:*", "d"),
        ("-labels.env=prod", "bd"),
        # OR closer than AND: only c.
        ("display_name=a OR display_name=c AND create_time>2026-01-02T00:00:00Z", "c"),
        ("(display_name=a) OR (display_name=c AND create_time>2026-01-02T00:00:00Z)", "ac"),
        ("create_time>=2026-01-02T00:00:00+00:00 create_time<2026-01-03T01:00:00+01:00", "b"),
        ("display_name:2026*", "d"),
        ('display_name:"*run*"', "d"),
        ("display_name:run", "d"),
    ],
)
def test_the_documented_forms(expression: str, wanted: str) -> None:
    day = 24 * 3600
    first = 1_767_225_600  # 2026-01-01T00:00:00Z
    resources = {
        "a": model("a", first, env="prod"),
        "b": model("b", first + day, env="test"),
        "c": model("c", first + 2 * day, env="prod"),
        "d": model("2026 run", first),
    }
    matches = filters.parse(expression, FIELDS)
    assert "".join(name for name, resource in resources.items() if matches(resource)) == wanted


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("colour=red", "'colour' is no field .* create_time, display_name, labels.KEY"),
        ("display_name>3", "by >; it can by != : ="),
        ("labels.a<3", "'labels.a' cannot be compared by <"),
        ("labels=a", "'labels' cannot be compared by =; it can by :"),
        ("create_time>yesterday", "'yesterday' is no time such as"),
        ("display_name", "FIELD=VALUE"),
        ("display_name=", "FIELD=VALUE"),
        ('"a"', "FIELD=VALUE"),
        ("display_name=a AND", "FIELD=VALUE"),
        ("display_name=a OR OR display_name=b", "FIELD=VALUE"),
        ("(display_name=a", "not closed"),
        ("display_name=a)", r"'\)' is not expected"),
        ('display_name="a', "cannot be read"),
        ("()", "FIELD=VALUE"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_reason(expression: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        filters.parse(expression, FIELDS)
    assert repr(expression) in caught.value.message


WORDS = ["display_name", "labels.a", "labels", "create_time", "=", "!=", "<", ":", "(", ")", "AND", "OR", "NOT", "-"]
pieces = st.lists(
    st.sampled_from([*WORDS, '"', "'", "\\", "*", " ", ".", "a", "2026-01-01T00:00:00Z"]) | st.text(max_size=3),
    max_size=12,
)


@given(expression=pieces.map("".join) | pieces.map(" ".join) | st.text(string.printable), resource=models)
def test_any_text_is_a_filter_or_an_invalid_argument(expression: str, resource: Any) -> None:
    try:
        matches = filters.parse(expression, FIELDS)
    except InvalidArgumentError:
        return
    assert matches(resource) in {True, False}


@given(moment=st.text() | st.from_regex(r"\d{1,5}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?(Z|[+-]\d\d:\d\d)?"))
def test_any_time_is_compared_or_an_invalid_argument(moment: str) -> None:
    quoted = re.sub(r"[\\\"]", lambda special: "\\" + special[0], moment)
    try:
        matches = filters.parse(f'create_time<"{quoted}"', FIELDS)
    except InvalidArgumentError:
        return
    assert matches(model("", 0)) in {True, False}


@pytest.mark.parametrize("opening", ["(", "NOT (", "-(", "display_name=a AND ("])
def test_nesting_has_an_end(opening: str) -> None:
    matches = filters.parse(f"{opening * 49}display_name=a{')' * 49}", FIELDS)
    assert matches(model("a")) == (opening.startswith(("(", "display")))
    for depth in (50, 10_000):
        with pytest.raises(InvalidArgumentError, match="50 levels"):
            filters.parse(f"{opening * depth}display_name=a{')' * depth}", FIELDS)


def test_length_has_none() -> None:
    matches = filters.parse(" ".join(["display_name=a"] * 10_000), FIELDS)
    assert matches(model("a"))
    assert not matches(model("b"))


def test_a_resource_without_labels_matches_no_label() -> None:
    schedule = messages.Schedule(display_name="nightly")
    assert not filters.parse("labels.env=prod", FIELDS)(schedule)
    assert not filters.parse("labels:env", FIELDS)(schedule)
