from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local.errors import InvalidArgumentError
from containers.vertex_local.services.cron import Cron

MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("line", "after", "due"),
    [
        ("0 3 * * 1", "2026-01-01T00:00Z", "2026-01-05T03:00Z"),
        ("TZ=Europe/Paris 0 3 * * 1", "2026-01-01T00:00Z", "2026-01-05T02:00Z"),
        ("CRON_TZ=America/New_York */15 9-17 * JUL MON-FRI", "2026-01-01T00:00Z", "2026-07-01T13:00Z"),
        ("0 0 29 2 *", "2026-01-01T00:00Z", "2028-02-29T00:00Z"),
        # Clocks go from 2:00 to 3:00, and from 3:00 to 2:00.
        ("TZ=Europe/Paris 30 2 * * *", "2026-03-28T12:00Z", "2026-03-29T01:00Z"),
        ("TZ=Europe/Paris 30 2 * * *", "2026-10-24T12:00Z", "2026-10-25T00:30Z"),
        ("TZ=Europe/Paris 30 2 * * *", "2026-10-25T00:30Z", "2026-10-26T01:30Z"),
    ],
)
def test_a_line_says_when_a_run_is_due(line: str, after: str, due: str) -> None:
    assert Cron.parse(line).next_after(datetime.fromisoformat(after)) == datetime.fromisoformat(due)


@given(MOMENTS, st.integers(0, 59), st.integers(0, 23))
def test_the_first_minute_that_fits_is_due(after: datetime, minute: int, hour: int) -> None:
    due = Cron.parse(f"{minute} {hour} * * *").next_after(after)
    today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
    assert due == (today if today > after else today + timedelta(days=1))


@pytest.mark.parametrize(
    "line",
    [
        *("", "@daily", "* * * *", "* * * * * *", "61 * * * *", "*/0 * * * *", "0 0 30 2 *"),
        *("TZ=Europe/Nowhere * * * * *", "TZ=.. * * * * *", "TZ=/etc/localtime * * * * *"),
        *("0 0 L * *", "0 0 * * 5L", "0 0 * * MON#1"),
    ],
)
def test_what_is_no_cron_line_is_refused(line: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Cron.parse(line)
    assert repr(line) in str(caught.value)


@given(st.one_of(st.text(), st.text("0123456789*/,-LWJANTZ=# \n", max_size=30)), MOMENTS)
def test_any_text_is_a_cron_line_or_refused(line: str, after: datetime) -> None:
    try:
        cron = Cron.parse(line)
    except InvalidArgumentError:
        return
    assert cron.next_after(after) > after


def test_a_time_after_the_calendar_s_end_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="never due after 9999"):
        Cron.parse("0 0 1 1 *").next_after(datetime(9999, 12, 31, tzinfo=UTC))
