"""Cron lines: what the local Vertex AI takes is taken, whatever else is refused with the line and what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cron import Cron
from components.earthengine.errors import ScheduleError
from containers.vertex_local.errors import InvalidArgumentError
from containers.vertex_local.services import cron as local

VALUES = st.one_of(st.integers(0, 61).map(str), st.sampled_from(["*", "MON", "fri", "JUL", "L", "5L", "MON#1", "?"]))
FIELDS = st.one_of(
    VALUES,
    st.builds("{}-{}".format, VALUES, VALUES),
    st.builds("{}/{}".format, VALUES, st.integers(0, 70)),
    st.lists(VALUES, min_size=1, max_size=3).map(",".join),
)
ZONES = st.sampled_from(["", "TZ=Europe/Paris ", "CRON_TZ=Asia/Kolkata ", "TZ=UTC ", "TZ=Europe ", "TZ=.. ", "TZ= "])
LINES = st.builds("{}{}".format, ZONES, st.lists(FIELDS, min_size=4, max_size=6).map(" ".join))
NOISE = st.one_of(st.text(), st.text("0123456789*/,-LWJANTZ=# \n", max_size=30))


def refused_by(parse: object, error: type[Exception], line: str) -> bool:
    try:
        parse(line)  # type: ignore[operator]
    except error:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "line", "zone"),
    [
        ("0 3 * * 1", "0 3 * * 1", "UTC"),
        ("TZ=Europe/Paris 0 3 * * 1", "TZ=Europe/Paris 0 3 * * 1", "Europe/Paris"),
        (
            " CRON_TZ=America/New_York\t*/15  9-17 * JUL MON-FRI\n",
            "CRON_TZ=America/New_York */15 9-17 * JUL MON-FRI",
            "",
        ),
        ("0 0 29 2 *", "0 0 29 2 *", "UTC"),
    ],
)
def test_a_line_is_read_with_its_zone(text: str, line: str, zone: str) -> None:
    cron = Cron.parse(text)
    assert cron.line == line
    assert cron.zone.key == (zone or "America/New_York")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "has 0 fields"),
        ("@daily", "has 1 field;"),
        ("0 0 3 * * 1", "has 6 fields"),
        ("61 * * * *", "has a bad minute"),
        ("0 0 L * *", "has a field 'L'"),
        ("0 0 * * MON#1", "has a field 'MON#1'"),
        ("0 0 30 2 *", "has a bad day-of-month"),
        ("1" * 5000 + " 0 * * *", "cannot be read"),
    ],
)
def test_what_is_no_line_is_refused_with_what_is_allowed(line: str, why: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        Cron.parse(line)
    assert str(caught.value).startswith(f"cron {line!r} {why}")
    assert "'TZ=Europe/Paris 0 3 * * 1'" in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "help_"),
    [
        ("Europe/Pris", "is Europe/Paris meant?"),
        ("europe/paris", "is Europe/Paris meant?"),
        ("../../etc/passwd", "names such as Europe/Paris"),
        ("", "names such as Europe/Paris"),
        ("localtime", "names such as Europe/Paris"),
        ("Factory", ""),
    ],
)
def test_an_unknown_zone_is_refused(zone: str, help_: str) -> None:
    with pytest.raises(ScheduleError, match="is not in the IANA data base") as caught:
        Cron.parse(f"TZ={zone} 0 3 * * 1")
    assert repr(zone) in str(caught.value)
    assert help_ in str(caught.value)


@given(LINES)
def test_a_line_is_taken_where_the_local_vertex_ai_takes_it(line: str) -> None:
    assert refused_by(Cron.parse, ScheduleError, line) == refused_by(local.Cron.parse, InvalidArgumentError, line)


@given(NOISE)
def test_any_text_is_a_line_that_the_local_vertex_ai_takes_or_is_refused(text: str) -> None:
    try:
        cron = Cron.parse(text)
    except ScheduleError:
        return
    assert local.Cron.parse(cron.line).zone == cron.zone
