from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.vertex import storage_client

Upload = Callable[[Path], None]


@pytest.fixture
def upload(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Upload:
    """Cloud Storage on this machine: a function that uploads a folder to the bucket gs://models, emptied before."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    bucket = storage_client().bucket("models")
    bucket.delete_blobs(list(bucket.list_blobs()))

    def of(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.blob(path.relative_to(folder).as_posix()).upload_from_filename(path)

    return of
