"""Small disks: a tmpfs that is full after so many bytes, or that cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = 4096


@dataclass(frozen=True)
class Disk:
    """A mounted tmpfs.

    Attributes:
        path: where it is mounted.
    """

    path: Path

    def resize(self, size: int) -> None:
        """Give it so many bytes, rounded up to a page."""
        self._remount(f"size={size}")

    def close(self) -> None:
        """Make it a file system that can only be read."""
        self._remount("ro")

    @property
    def used(self) -> int:
        """Bytes of files."""
        said = subprocess.run(
            ["df", "--block-size=1", "--output=used", self.path], capture_output=True, text=True, check=True
        )
        return int(said.stdout.split()[-1])

    def _remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True, capture_output=True)


@contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """A tmpfs of 64 MiB at a path, for the block; the test is skipped where this user may mount nothing."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        # What a failed test still holds open there must not keep the others.
        subprocess.run(["umount", "--lazy", path], check=True)
