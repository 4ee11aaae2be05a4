"""What is kept is kept as a whole: in the store and in memory."""

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers.vertex_local import messages
from containers.vertex_local.store import Collection, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path)) as opened:
        yield opened


@pytest.fixture
def endpoints(store: Store) -> Collection:
    """Two endpoints, a and b."""
    collection = Collection(store, "Endpoint", messages.Endpoint)
    for name in "ab":
        collection.put(name, named(name))
    return collection


def named(name: str, description: str = "") -> Any:
    return messages.Endpoint(name=name, description=description)


@contextlib.contextmanager
def no_file_may_grow_beyond(size: int) -> Iterator[None]:
    """Writes fail that would, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def change_all(endpoints: Collection) -> None:
    endpoints.delete("b")
    endpoints.put("a", named("a", "changed"))
    endpoints.put("c", named("c"))


def test_a_transaction_that_is_broken_off_has_changed_nothing(store: Store, endpoints: Collection) -> None:
    before = endpoints.all()

    def break_off() -> None:
        with store.transaction():
            with store.transaction():
                change_all(endpoints)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert endpoints.all() == before
    assert Collection(store, "Endpoint", messages.Endpoint).all() == before


def test_one_that_cannot_be_written_has_changed_nothing_and_the_next_one_is_kept(
    tmp_path: Path, store: Store, endpoints: Collection
) -> None:
    before = endpoints.all()
    log = tmp_path / "resources.sqlite-wal"
    with no_file_may_grow_beyond(log.stat().st_size):
        with pytest.raises(sqlite3.OperationalError), store.transaction():
            change_all(endpoints)
        assert endpoints.all() == before
        with pytest.raises(sqlite3.OperationalError):
            endpoints.put("a", named("a", "alone"))
        assert endpoints.all() == before
    with store.transaction():
        change_all(endpoints)
    store.close()
    with contextlib.closing(Store(tmp_path)) as again:
        kept = Collection(again, "Endpoint", messages.Endpoint).all()
    assert kept == [named("c"), named("a", "changed")]
