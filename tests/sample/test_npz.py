from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.sample.npz import outputs_in, read_arrays


def broken_files() -> dict[str, bytes]:
    return {"empty": b"", "text": b"not a zip", "cut": b"PK\x03\x04 cut off", "pickle": b"\x80\x04N."}


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    given: dict[str, Any] = {"red": [1, 2], "pickled": np.full(2, None), "output.a": [3]}
    np.savez(tmp_path / "a.npz", **given)
    arrays = read_arrays(tmp_path / "a.npz", lambda name: name != "pickled")
    assert {name: array.tolist() for name, array in arrays.items()} == {"red": [1, 2], "output.a": [3]}
    assert outputs_in(arrays).keys() == {"a"}
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "a.npz", lambda _: True)


@pytest.mark.parametrize("content", broken_files().values(), ids=broken_files().keys())
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(tmp_path / "a.npz", lambda _: True)


def test_what_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_arrays(tmp_path / "a.npz", lambda _: True)
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(tmp_path / "a.npz", lambda _: True)


def test_a_file_among_the_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", red=[1])
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("notes", "text")
    with pytest.raises(ValueError, match="notes is no array"):
        read_arrays(tmp_path / "a.npz", lambda _: True)
