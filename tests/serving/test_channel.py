"""Messages with arrays from one process to another, here from one end to the other."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, boolean_dtypes, floating_dtypes, integer_dtypes
from numpy.typing import NDArray

from containers.serving.channel import Channel, pair

KINDS = floating_dtypes(endianness="<") | integer_dtypes(endianness="<") | boolean_dtypes()
ARRAYS = st.dictionaries(st.text(max_size=5), arrays(KINDS, array_shapes(max_dims=5, max_side=4)), max_size=4)
TEXTS = st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=3)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    first, second = pair()
    with closing(first), closing(second):
        yield first, second


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TEXTS, ARRAYS, TEXTS, ARRAYS)
def test_what_is_sent_arrives(
    ends: tuple[Channel, Channel],
    asked: dict[str, str],
    given_arrays: dict[str, NDArray[Any]],
    answered: dict[str, str],
    answer_arrays: dict[str, NDArray[Any]],
) -> None:
    first, second = ends
    first.send(asked, given_arrays)
    received = second.receive()
    second.send(answered, answer_arrays)
    for message, (got, got_arrays), expected in (
        (asked, received, given_arrays),
        (answered, first.receive(), answer_arrays),
    ):
        assert got == message
        assert list(got_arrays) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(got_arrays[name], array, strict=True)


def test_any_size_after_any_other(ends: tuple[Channel, Channel]) -> None:
    first, second = ends
    for number, megabytes in enumerate((1, 40, 1, 80, 33, 2)):
        sent = np.full((megabytes, 1 << 20), number, np.uint8)
        first.send({}, {"a": sent.T, "b": sent[:1]})
        _, received = second.receive()
        np.testing.assert_array_equal(received["a"], sent.T, strict=True)
        np.testing.assert_array_equal(received["b"], sent[:1], strict=True)


def test_an_end_that_is_gone_is_noticed() -> None:
    first, second = pair()
    with closing(first):
        second.close()
        with pytest.raises(EOFError):
            first.receive()
        with pytest.raises(OSError, match="Broken pipe"):
            first.send({})


@pytest.mark.parametrize("what", ["memfd_create", "dup"])
def test_a_pair_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    makes = getattr(os, what)
    made: list[tuple[Any, ...]] = []

    def once(*given: Any) -> Any:
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(given)
        return makes(*given)

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, what, once)
    with pytest.raises(OSError, match="Too many"):
        pair()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_message_that_was_not_taken_is_told_from_one_without_an_answer() -> None:
    first, second = pair()
    with closing(first):
        first.send({})
        second.close()
        with pytest.raises(ConnectionResetError):
            first.receive()
