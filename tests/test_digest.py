from __future__ import annotations

from pathlib import Path

import pytest

from components import digest
from components.digest import source_digest
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from tests.conftest import WriteModel, contract_of


def of(directory: Path, contract: ModelContract | None = None) -> str:
    return source_digest(directory, contract or ModelContract.read(directory))


@pytest.fixture
def directory(write_model: WriteModel) -> Path:
    directory = write_model(lambda path: path.write_bytes(b"weights"), model={"file": "net.pt", "code": "net.py:build"})
    (directory / "net.py").write_text("code")
    (directory / "sample.npz").write_bytes(b"sample")
    return directory


def test_digest_is_sha256_and_stable(directory: Path) -> None:
    assert of(directory) == of(directory)
    assert len(bytes.fromhex(of(directory))) == 32


@pytest.mark.parametrize("name", ["net.pt", "net.py", "sample.npz"])
def test_each_file_that_export_reads_counts(directory: Path, name: str) -> None:
    before = of(directory)
    (directory / name).write_bytes(b"other")
    changed = of(directory)
    (directory / name).unlink()
    assert len({before, changed, of(directory)}) == 3


@pytest.mark.parametrize("name", ["scene.tif", "scene.TIFF", "scene.tif.msk", "scene.tif.aux.xml"])
def test_the_geotiff_counts_where_it_is_the_sample(directory: Path, name: str) -> None:
    (directory / "sample.npz").unlink()
    if name != "scene.TIFF":
        (directory / "scene.tif").write_bytes(b"image")
    (directory / name).write_bytes(b"one")
    before = of(directory)
    (directory / name).write_bytes(b"other")
    assert of(directory) != before
    (directory / "sample.npz").write_bytes(b"sample")
    beside = of(directory)
    (directory / name).unlink()
    assert of(directory) == beside  # which goes before it


def test_several_geotiffs_have_no_digest(directory: Path) -> None:
    (directory / "sample.npz").unlink()
    for name in ("a.tif", "b.tif"):
        (directory / name).touch()
    with pytest.raises(ModelError, match="holds several GeoTIFFs"):
        of(directory)


def test_other_files_and_comments_do_not_count(directory: Path) -> None:
    before = of(directory)
    (directory / "notes.txt").write_text("x")
    path = directory / "model.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert of(directory) == before


def test_contract_counts(directory: Path) -> None:
    model = {"file": "net.pt", "code": "net.py:build"}
    assert of(directory, contract_of(model=model)) == of(directory)
    assert of(directory, contract_of(model=model, scale=20)) != of(directory)


def test_version_counts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(directory)
    monkeypatch.setattr(digest, "__version__", "99")
    assert of(directory) != before


def test_a_folder_counts_by_names_and_contents(write_model: WriteModel) -> None:
    directory = write_model(model={"file": "saved"}, framework="tensorflow")
    (directory / "saved" / "variables").mkdir(parents=True)
    (directory / "saved" / "a").write_bytes(b"1")
    (directory / "saved" / "variables" / "b").write_bytes(b"2")
    seen = {of(directory)}
    (directory / "saved" / "variables" / "b").write_bytes(b"3")
    seen.add(of(directory))
    (directory / "saved" / "variables" / "b").rename(directory / "saved" / "b")
    seen.add(of(directory))
    assert len(seen) == 3
