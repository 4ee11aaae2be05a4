"""What the emulator knows, kept over restarts: resources as JSON by kind and name, in SQLite.

What is written has reached the operating system when the call returns, so that it outlives the emulator, whatever ends
that. It need not outlive a loss of power: SQLite asks the disk at checkpoints only.
"""

import contextlib
import fcntl
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import messages
from .errors import NotFoundError, StartError

_log = logging.getLogger(__name__)

_FILE = "resources.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
  created INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
  UNIQUE (kind, name))
"""
_NUMBERS = "Numbers"


class Store:
    """The state directory, held by one emulator at a time."""

    def __init__(self, directory: Path) -> None:
        """Takes the directory.

        Raises:
            StartError: another emulator holds it, or it is no directory of an emulator's.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
        except OSError as fault:
            raise StartError(
                f"cannot keep state in {directory}: {fault}; give another --state, or be its owner"
                " (with compose: USER_ID and GROUP_ID)"
            ) from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            self._lock.close()
            raise StartError(
                f"another emulator is using the state directory {directory}: stop it, or give another --state"
            ) from fault
        self._written: set[Collection] = set()
        self._database = sqlite3.connect(directory / _FILE, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as fault:
            self.close()
            raise StartError(
                f"the state in {directory / _FILE} cannot be read: {fault}; move it away, or give another --state"
            ) from fault

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written within, with no await, is kept as a whole or not at all; so are the collections in memory."""
        if self._database.in_transaction:
            yield
            return
        self._database.execute("BEGIN")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite may have rolled back by itself, as when the disk is full
                self._database.execute("ROLLBACK")
            for collection in self._written:
                collection.load()
            raise
        finally:
            self._written.clear()

    def changed(self, collection: "Collection") -> None:
        """Has a collection loaded again if the transaction that goes on is not kept."""
        if self._database.in_transaction:
            self._written.add(collection)

    def rows(self, kind: str) -> Iterator[tuple[str, str]]:
        """Name and JSON of every resource of a kind, oldest first."""
        yield from self._database.execute("SELECT name, body FROM resources WHERE kind = ? ORDER BY created", (kind,))

    def write(self, kind: str, name: str, body: str) -> None:
        self._database.execute(
            "INSERT INTO resources (kind, name, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body",
            (kind, name, body),
        )

    def delete(self, kind: str, name: str) -> None:
        self._database.execute("DELETE FROM resources WHERE kind = ? AND name = ?", (kind, name))

    def next_number(self, name: str, above: int) -> int:
        """A number greater than ``above`` and than every one that was given for this name before."""
        given = self._database.execute(
            "SELECT body FROM resources WHERE kind = ? AND name = ?", (_NUMBERS, name)
        ).fetchone()
        number = max(above, int(given[0]) if given else 0) + 1
        self.write(_NUMBERS, name, str(number))
        return number

    def forget_number(self, name: str) -> None:
        """Numbers of this name begin with 1 again."""
        self.delete(_NUMBERS, name)

    def close(self) -> None:
        self._database.close()
        self._lock.close()


class Collection:
    """All resources of one kind, in memory and in the store; what it hands out are copies."""

    def __init__(self, store: Store, kind: str, message_class: Any) -> None:
        self._store = store
        self._kind = kind
        self._message_class = message_class
        self._messages: dict[str, Any] = {}
        self._unwritten: dict[str, Any] = {}
        self.load()

    def load(self) -> None:
        """Takes from the store what is in it."""
        rows = self._store.rows(self._kind)
        self._messages = {
            name: self._unwritten.get(name) or messages.parse(self._message_class, body.encode()) for name, body in rows
        }

    def __contains__(self, name: str) -> bool:
        return name in self._messages

    def get(self, name: str) -> Any:
        """The resource of that name.

        Raises:
            NotFoundError: there is none.
        """
        try:
            return messages.copy_of(self._messages[name])
        except KeyError:
            raise NotFoundError(f"The {self._kind} {name!r} does not exist.") from None

    def all(self, parent: str = "") -> list[Any]:
        """The resources under ``parent``, newest first as the service lists them."""
        return [
            messages.copy_of(message) for name, message in reversed(self._messages.items()) if name.startswith(parent)
        ]

    def put(self, name: str, message: Any) -> None:
        body = messages.render(message)  # first: what JSON cannot carry is not to be listed either
        self._store.write(self._kind, name, body)
        self._store.changed(self)
        self._messages[name] = messages.copy_of(message)
        self._unwritten.pop(name, None)

    def put_end(self, name: str, message: Any) -> None:
        """Puts how something that is there has ended; it is told even where the disk is full.

        What cannot be written is kept in memory alone; the next start finds it without its end, and gives it one.
        """
        try:
            self.put(name, message)
        except sqlite3.Error:
            _log.exception("the end of %s is not written", name)
            self._messages[name] = self._unwritten[name] = messages.copy_of(message)

    def delete(self, name: str) -> None:
        self._store.delete(self._kind, name)
        self._store.changed(self)
        del self._messages[name]
