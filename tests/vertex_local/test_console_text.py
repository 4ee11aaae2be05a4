import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from containers.vertex_local.console import text


@pytest.mark.parametrize(
    ("elapsed_s", "shown"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m 00 s"),
        (123, "2 m 03 s"),
        (3720, "1 h 02 m"),
        (273600, "3 d 04 h"),
    ],
)
def test_durations_have_two_units_at_most(elapsed_s: float | None, shown: str) -> None:
    assert text.duration(elapsed_s) == shown


@pytest.mark.parametrize(
    ("passed_s", "shown"),
    [
        (2, "just now"),
        (190, "3 min ago"),
        (7300, "2 h ago"),
        (3 * 86400, "3 d ago"),
        (-30, "in less than a minute"),
        (-310, "in 5 min"),
    ],
)
def test_times_are_told_from_now_with_utc_beside(passed_s: int, shown: str) -> None:
    shown_time = text.ago(Timestamp(seconds=int(time.time()) - passed_s))
    assert f">{shown}</time>" in shown_time
    assert 'title="20' in shown_time
    assert ' UTC"' in shown_time


def test_a_time_that_is_not_set_is_a_dash() -> None:
    assert text.ago(Timestamp()) == "–"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_600, "1.0 MB"), (12_300_000, "12 MB")]
)
def test_sizes_have_two_digits(count: int, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("content", "shown"),
    [("a b", "a b"), (3.0, "3"), (0.12345678, "0.123457"), (True, "true"), (["ä", 1.5], '["ä", 1.5]'), (None, "null")],
)
def test_values_are_written_as_their_authors_would(content: Any, shown: str) -> None:
    assert text.value(content) == shown


def test_logs_lose_their_colours() -> None:
    assert text.plain("\x1b[1;32mdone\x1b[0m") == "done"
