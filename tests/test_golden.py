from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from components import golden
from components.earthengine.errors import ModelError, PayloadError
from components.earthengine.payloads import Outputs
from components.golden import Golden, golden_hash
from tests.sample.test_npz import broken_files

TILES = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)


def outputs() -> Outputs:
    return {"a": np.ones((1, 2, 2), np.uint8), "b_c": np.arange(12, dtype=np.float64).reshape(1, 2, 2, 3)}


@pytest.mark.parametrize("scene", [None, (5, 7)])
def test_saved_is_loaded(tmp_path: Path, scene: tuple[int, int] | None) -> None:
    Golden(TILES, outputs(), scene).save(tmp_path)
    again = Golden.load(tmp_path)
    assert again.scene == scene
    assert list(again.outputs) == ["a", "b_c"]
    np.testing.assert_array_equal(again.tiles, TILES)
    for name, array in outputs().items():
        np.testing.assert_array_equal(again.outputs[name], array, strict=True)


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    Golden(TILES, outputs(), None).save(tmp_path)
    assert golden_hash(tmp_path) == hashlib.sha256((tmp_path / "golden.npz").read_bytes()).hexdigest()
    assert golden_hash(tmp_path) == (tmp_path / "golden.sha256").read_text()


def test_the_same_arrays_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Golden(TILES, outputs(), (2, 2)).save(tmp_path)
    first = golden_hash(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    turned: Outputs = {name: np.asfortranarray(array) for name, array in outputs().items()}
    Golden(np.asfortranarray(TILES), turned, (2, 2)).save(tmp_path)
    assert golden_hash(tmp_path) == first
    Golden(TILES + 1, outputs(), (2, 2)).save(tmp_path)
    assert golden_hash(tmp_path) != first


def test_golden_tiles_that_were_changed_are_refused(tmp_path: Path) -> None:
    Golden(TILES, outputs(), None).save(tmp_path)
    written = (tmp_path / golden.HASH_NAME).read_text()
    Golden(TILES + 1, outputs(), None).save(tmp_path)
    (tmp_path / golden.HASH_NAME).write_text(written)
    for read in (Golden.load, golden_hash):
        with pytest.raises(ModelError, match=rf"golden.npz has the SHA-256 .* says {written}: .*; export the model ag"):
            read(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"], ids=["missing", "empty", "binary"])
def test_golden_tiles_without_a_hash_are_refused(tmp_path: Path, content: bytes | None) -> None:
    Golden(TILES, outputs(), None).save(tmp_path)
    (tmp_path / golden.HASH_NAME).unlink()
    if content is not None:
        (tmp_path / golden.HASH_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"golden.sha256 .*; export the model again"):
        Golden.load(tmp_path)


@pytest.mark.parametrize("content", broken_files().values(), ids=broken_files().keys())
def test_broken_golden_tiles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / golden.FILE_NAME).write_bytes(content)
    (tmp_path / golden.HASH_NAME).write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match=r"golden.npz holds no golden tiles .*; export the model again"):
        Golden.load(tmp_path)


def test_missing_golden_tiles(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no golden tiles"):
        Golden.load(tmp_path)
    np.savez(tmp_path / golden.FILE_NAME, tiles=TILES)
    (tmp_path / golden.HASH_NAME).write_text(hashlib.sha256((tmp_path / golden.FILE_NAME).read_bytes()).hexdigest())
    with pytest.raises(ModelError, match="holds no golden tiles"):
        Golden.load(tmp_path)


def test_answers_of_several_shapes_are_refused_as_what_they_are() -> None:
    answers: list[Outputs] = [{"a": np.ones((2, 3, 3))}, {"a": np.ones((1, 3, 3))}]
    assert golden.joined(answers)["a"].shape == (3, 3, 3)
    answers.append({"a": np.ones((1, 3, 4))})
    for error_type in (ModelError, PayloadError):
        with pytest.raises(error_type, match=r"output a has the shape \[3, 3\] in one answer and \[3, 4\] in another"):
            golden.joined(answers, error_type)
