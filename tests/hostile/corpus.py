"""The corpus: files made to attack who reads them, each by a function named for what it attacks.

Each gets an empty folder to write to, and the path of a file that must never exist: it is made by whatever runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Write = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Hostile:
    """A function that writes a hostile file, and what its refusal must say."""

    write: Write
    said: str


# By the reader that the file is for, then by name.
CORPUS: dict[str, dict[str, Hostile]] = {}


def hostile(reader: str, said: str) -> Callable[[Write], Write]:
    """Put a function into the corpus of a reader."""

    def add(write: Write) -> Write:
        CORPUS.setdefault(reader, {})[write.__name__] = Hostile(write, said)
        return write

    return add
