from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components import train
from components.challenger import train_challenger
from components.contest import _answers
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import ContractError, DataError, StorageError
from components.evaluation import evaluate
from components.held_out import load_held_out
from components.source import SourceModel
from tests.conftest import document
from tests.data.earth_engine import write_patches

LABELS = ["low", "high"]
KIND = {"name": "kind", "dimensions": 1, "labels": LABELS}

Trained = tuple[Path, Path]


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """A folder with a contract of the bands red and green, and the output kind of two classes."""
    return write_contract(tmp_path / "contract")


@pytest.fixture
def challenge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """A function that trains, for a moment only, and returns the folders of the model and of the held-out data."""
    monkeypatch.setattr(train, "_STEPS", 60)

    def run(contract_uri: Path | str, data: Path | str, held_out: Path | str = "", **changes: Any) -> Trained:
        folders = tmp_path / "model", tmp_path / "held-out"
        options: dict[str, Any] = {"framework": "pytorch", "held_out_share": 0.3, "seed": 0} | changes
        train_challenger(
            contract_uri=str(contract_uri),
            data_uri=str(data),
            held_out_uri=str(held_out),
            destination=folders[0],
            hold_out=folders[1],
            **options,
        )
        return folders

    return run


def write_contract(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    keys = document(**{"outputs": [KIND]} | changes)
    (folder / FILE_NAME).write_text(yaml.safe_dump(keys), encoding="utf-8")
    return folder


def bands(count: int, side: int) -> dict[str, Any]:
    """Patches of which half of the pixels are low, by their red."""
    red = np.random.default_rng(count).uniform(-1, 1, (count, side, side)).astype(np.float32)
    return {"red": red, "green": np.ones_like(red), "kind": (red > 0).astype(np.float32)}


def accuracy(folders: Trained) -> float:
    source, held_out = SourceModel(folders[0]), load_held_out(folders[1])
    return evaluate(source.contract, held_out, _answers(source, held_out), "").metrics["accuracy"]


def write_table(path: Path, rows: list[str], header: str = "red,green,kind") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = [f"{number / 50 - 1},0,{LABELS[number >= 50]}" for number in range(100)]


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_packaged_samples_and_scene(challenge: Callable[..., Trained], framework: Framework) -> None:
    folders = challenge("", "samples", framework=framework)
    assert len(load_held_out(folders[1]).tiles) == 36
    assert accuracy(folders) > 0.8
    with np.load(folders[0] / "sample.npz") as sample:
        assert set(sample) == {"B2", "B3", "B4", "B8", "output.landcover"}


@pytest.mark.parametrize("gzip", [False, True])
def test_patches_of_earth_engine(challenge: Callable[..., Trained], contract: Path, tmp_path: Path, gzip: bool) -> None:
    ending = ".gz" if gzip else ""
    for shard in range(2):
        path = tmp_path / "export" / f"patches-0000{shard}.tfrecord{ending}"
        write_patches(path, bands(6 + shard, 20), gzip=gzip)
    folders = challenge(contract, tmp_path / "export")
    assert accuracy(folders) > 0.9
    held_out = load_held_out(folders[1])
    # 4 of 13 patches of 20 x 20, in tiles of the contract's 16 x 16.
    assert held_out.tiles.shape == (4 * 4, 2, 16, 16)
    assert (held_out.truth >= 0).sum() == 4 * 400
    # A patch is the sample, so that reports have a picture.
    with np.load(folders[0] / "sample.npz") as sample:
        assert {name: sample[name].shape for name in sample} == {"red": (20, 20), "green": (20, 20)}


def test_a_table_and_one_apart_to_be_judged_by(
    challenge: Callable[..., Trained], contract: Path, tmp_path: Path
) -> None:
    train_on, judge = write_table(tmp_path / "t.csv", ROWS), write_table(tmp_path / "h.csv", ROWS[40:60])
    folders = challenge(contract, train_on, judge)
    assert load_held_out(folders[1]).tiles.shape == (20, 2, 1, 1)
    assert accuracy(folders) > 0.8
    assert not (folders[0] / "sample.npz").exists()
    found = ModelContract.read(folders[0])
    assert found == ModelContract.read(contract).model_copy(update={"model": found.model})
    assert found.model.file == "model.pt"


def test_same_data_same_model_whatever_their_order(
    challenge: Callable[..., Trained], contract: Path, tmp_path: Path
) -> None:
    def made(rows: list[str]) -> dict[str, bytes]:
        folders = challenge(contract, write_table(tmp_path / "t.csv", rows))
        held_out = load_held_out(folders[1])
        answers = _answers(SourceModel(folders[0]), held_out)["kind"]
        return {"held_out": held_out.tiles.tobytes(), "answers": answers.tobytes()}

    assert made(ROWS) == made(ROWS[::-1])


def test_the_sample_beside_the_contract_is_kept(
    challenge: Callable[..., Trained], contract: Path, tmp_path: Path
) -> None:
    scene: dict[str, Any] = {"red": np.ones((20, 20), np.float32), "green": np.ones((20, 20), np.float32)}
    np.savez(contract / "sample.npz", **scene, **dict[str, Any]({"output.kind": np.ones((20, 20, 2))}))
    model, _ = challenge(contract, write_table(tmp_path / "t.csv", ROWS))
    with np.load(model / "sample.npz") as sample:
        assert set(sample) == {"red", "green"}  # what an older model answered says nothing of this one
    (contract / "sample.npz").unlink()
    (model / "sample.npz").unlink()
    for name in ("scene.tif", "scene.tif.msk"):
        (contract / name).write_bytes(name.encode())
    model, _ = challenge(contract, tmp_path / "t.csv")
    assert (model / "scene.tif").read_bytes() == b"scene.tif"
    assert (model / "scene.tif.msk").read_bytes() == b"scene.tif.msk"


def refused(challenge: Callable[..., Trained], tmp_path: Path, match: str, *given: Any, **changes: Any) -> None:
    """See that it is refused with a text, and that nothing is left behind."""
    with pytest.raises((DataError, ContractError, StorageError), match=match):
        challenge(*given, **changes)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "held-out").exists()


def test_bad_data_leave_nothing_behind(challenge: Callable[..., Trained], contract: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ROWS)
    patches = tmp_path / "p.tfrecord.gz"
    write_patches(patches, bands(4, 20), gzip=True)
    patches.write_bytes(patches.read_bytes()[:-100])
    refused(challenge, tmp_path, r"p\.tfrecord\.gz: record \d+ .* cut off", contract, patches)
    without = write_table(tmp_path / "w.csv", ["1,2"] * 9, "red,green")
    refused(challenge, tmp_path, r"w\.csv.*kind.*red, green", contract, without)
    low = write_table(tmp_path / "l.csv", [row for row in ROWS if row.endswith("low")])
    refused(challenge, tmp_path, r"l\.csv.*no sample to train on says high", contract, low, table)
    refused(
        challenge,
        tmp_path,
        "is 'odd', which is no class",
        contract,
        table,
        write_table(tmp_path / "o.csv", ["1,1,odd"]),
    )
    refused(challenge, tmp_path, "has no rows", contract, table, write_table(tmp_path / "e.csv", []))
    refused(challenge, tmp_path, "leaves nothing to hold out", contract, table, held_out_share=0.001)
    refused(challenge, tmp_path, "share to hold out is 1", contract, table, held_out_share=1.0)
    refused(
        challenge, tmp_path, "of pytorch, this is the pipeline of tensorflow", contract, table, framework="tensorflow"
    )
    refused(challenge, tmp_path, "nowhere is not a folder", tmp_path / "nowhere", table)
    season = write_contract(tmp_path / "season", properties=[{"name": "season"}])
    refused(challenge, tmp_path, "cannot be trained here: properties", season, table)
