from __future__ import annotations

from pathlib import Path

import pytest

from components.whole import whole_folder


def test_folder_is_made_for_the_block(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with whole_folder(folder):
        (folder / "file").touch()
    assert (folder / "file").exists()


@pytest.mark.parametrize("made_before", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_block_leaves_no_folder(tmp_path: Path, made_before: bool, error: type[BaseException]) -> None:
    folder = tmp_path / "a"
    if made_before:
        folder.mkdir()

    def fill() -> None:
        with whole_folder(folder):
            (folder / "file").touch()
            raise error

    with pytest.raises(error):
        fill()
    assert not folder.exists()


def test_what_was_there_before_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ValueError, match="x"), whole_folder(tmp_path):
        raise ValueError("x")
    assert (tmp_path / "precious").exists()
