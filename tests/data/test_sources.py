"""Where data lie: files, folders and beginnings of names, on this machine and in Cloud Storage."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from components import storage
from components.data import read_data
from components.earthengine.errors import ContractError, DataError, StorageError
from tests.data.conftest import Upload
from tests.data.contracts import of_classes
from tests.data.earth_engine import write_mixer, write_patches
from tests.data.test_patches import made

TFRECORDS = (".tfrecord", ".tfrecord.gz")


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Two exports of patches in one folder, with two shards and one, and another export below it."""
    folder = tmp_path / "exports"
    for name, height, width in (("train-00000", 2, 8), ("train-00001", 2, 8), ("trial-00000", 8, 2)):
        write_patches(folder / f"{name}.tfrecord.gz", made(3, height, width, seed=len(name)), gzip=True)
    write_patches(folder / "more" / "a.tfrecord", made(3, 2, 8))
    write_mixer(folder / "trainmixer.json", 8, 2)
    write_mixer(folder / "trialmixer.json", 2, 8)
    write_mixer(folder / "more" / "amixer.json", 8, 2)
    (folder / "train-notes.txt").write_text("notes")
    (folder / "points.csv").write_text("red,green,cover\n1,2,Water\n")
    (folder / "points.csv.gz").write_text("another file, that begins alike")
    return tmp_path


def check_sources(root: str) -> None:
    """Read what `exports` has, wherever it lies."""
    shards = [f"{root}/exports/train-0000{n}.tfrecord.gz" for n in range(2)]
    assert storage.find_files(f"{root}/exports/train", TFRECORDS) == shards
    assert storage.find_files(f"{root}/exports/more/", TFRECORDS) == [f"{root}/exports/more/a.tfrecord"]
    everything = [f"{root}/exports/more/a.tfrecord", *shards, f"{root}/exports/trial-00000.tfrecord.gz"]
    assert storage.find_files(f"{root}/exports", TFRECORDS) == everything
    assert storage.find_files(f"{root}/exports/none", TFRECORDS) == []
    assert storage.find_files(f"{root}/exports/train/", TFRECORDS) == []
    mixers = [f"{root}/exports/trainmixer.json", f"{root}/exports/trialmixer.json"]
    assert storage.find_beside(shards[0], "mixer.json") == mixers

    train = read_data(of_classes(), f"{root}/exports/train-")
    assert train.tiles.shape == (6, 2, 2, 8)
    assert train.origin == f"{root}/exports/train-, 6 patches of 8 x 2 pixels"
    one = read_data(of_classes(), shards[1])
    assert one.tiles.shape == (3, 2, 2, 8)
    np.testing.assert_array_equal(one.tiles, train.tiles[3:])
    assert read_data(of_classes(), f"{root}/exports/trial-00000.tfrecord.gz").tiles.shape == (3, 2, 8, 2)
    assert read_data(of_classes(), f"{root}/exports/more").tiles.shape == (3, 2, 2, 8)
    with pytest.raises(DataError, match=rf"{root}/exports/trial-00000.tfrecord.gz: record 0 is of 2 x 8 pixels"):
        read_data(of_classes(), f"{root}/exports")
    points = read_data(of_classes(), f"{root}/exports/points.csv")
    assert (points.tiles.ravel().tolist(), points.truth.ravel().tolist()) == ([1, 2], [2])
    assert points.origin == "points.csv, 1 rows"
    for name in ("exports/none", "exports/train-notes.txt", "exports/points.xlsx"):
        said = (
            f"{root}/{name} is no data to train on: nothing in it, or that begins with it, ends in .tfrecord or "
            ".tfrecord.gz; give a table (.csv, .csv.gz, .parquet), a TFRecord file (.tfrecord, .tfrecord.gz) or a "
            "folder of these, or 'samples'"
        )
        with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
            read_data(of_classes(), f"{root}/{name}")


def test_on_this_machine(exports: Path) -> None:
    check_sources(str(exports))
    with pytest.raises(DataError, match=r"none\.tfrecord cannot be read: No such file"):
        read_data(of_classes(), str(exports / "none.tfrecord"))


def test_a_name_with_signs_of_a_pattern(tmp_path: Path) -> None:
    write_patches(tmp_path / "a[1]-00000.tfrecord", made(2, 4, 4))
    write_mixer(tmp_path / "a[1]mixer.json", 4, 4)
    write_patches(tmp_path / "a1-00000.tfrecord", made(3, 4, 4))
    assert len(read_data(of_classes(), str(tmp_path / "a[1]")).tiles) == 2


@pytest.mark.parametrize("uri", ["samples", "a.csv", "a.tfrecord", "a"])
def test_what_cannot_be_trained_is_told_before_the_data(uri: str) -> None:
    with pytest.raises(ContractError, match="small cannot be trained here: properties"):
        read_data(of_classes(properties=[{"name": "year"}]), uri)


@pytest.mark.slow
def test_in_cloud_storage(exports: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upload(exports)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    check_sources("gs://models")
    for root in ("gs://models", "gs://models/"):
        assert storage.find_files(root, (".txt",)) == ["gs://models/exports/train-notes.txt"]
    for name in ("none.tfrecord", "none.csv"):
        with pytest.raises(StorageError, match=rf"gs://models/{name} does not exist; correct the address"):
            read_data(of_classes(), f"gs://models/{name}")
    for name in ("none.tfrecord", "none.csv", "none"):
        with pytest.raises(StorageError, match=r"the bucket gs://no-such-bucket does not exist"):
            read_data(of_classes(), f"gs://no-such-bucket/{name}")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_a_folder_goes_before_what_begins_alike(exports: Path, upload: Upload) -> None:
    write_patches(exports / "exports" / "mo.tfrecord", made(1, 4, 4))
    write_patches(exports / "exports" / "more-of-another-size.tfrecord", made(1, 4, 4))
    upload(exports)
    for root in (str(exports), "gs://models"):
        assert read_data(of_classes(), f"{root}/exports/more").tiles.shape == (3, 2, 2, 8)
        assert read_data(of_classes(), f"{root}/exports/more-").tiles.shape == (1, 2, 4, 4)


def test_values_that_the_bands_cannot_carry(tmp_path: Path) -> None:
    table = tmp_path / "reflectances.csv"
    table.write_text("red,green,cover\n0.24,12,Water\n")
    counts = of_classes(bands=[{"name": "red", "type": "uint16", "factor": 1e-4}, {"name": "green", "type": "uint8"}])
    text = r"reflectances.csv, 1 rows: .*red.*0\.2\d* cannot be sent as uint16.*; Earth Engine sends raw values"
    with pytest.raises(DataError, match=text):
        read_data(counts, str(table))
    table.write_text("red,green,cover\n2400,12,Water\n")
    assert read_data(counts, str(table)).tiles.ravel().tolist() == [2400, 12]
    # The packaged samples are counted as a satellite counts.
    bands = [{"name": name, "type": "uint16", "factor": 1e-4} for name in ("B2", "B8")]
    tiles = read_data(of_classes(bands=bands), "samples").tiles
    assert (tiles == tiles.round()).all()
    assert tiles.max() > 1000
