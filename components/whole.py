"""Artifacts are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[None]:
    """Make a folder for the block to fill; remove it again if the block fails, unless it held something before."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = not any(folder.iterdir())
    try:
        yield
    except BaseException:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
        raise
