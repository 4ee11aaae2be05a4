from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from components import land_cover, train
from components.check import check_model
from components.data import read_data, split
from components.earthengine.contract import Framework, ModelContract
from components.earthengine.errors import ContractError
from components.export import export_model
from components.land_cover import train_land_cover
from components.source import SourceModel


@pytest.mark.parametrize(("framework", "file"), [("pytorch", "model.pt"), ("tensorflow", "model.keras")])
def test_learns_the_classes_and_writes_all(tmp_path: Path, framework: Framework, file: str) -> None:
    accuracy = train_land_cover(tmp_path / "a", framework, seed=3)
    assert accuracy >= 0.9
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["metrics.json", file, "model.yaml", "sample.npz"]
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics == {"accuracy": accuracy, "held_out_samples": 36}
    contract = ModelContract.read(tmp_path / "a")
    assert (contract.framework, contract.model.file) == (framework, file)
    with np.load(tmp_path / "a" / "sample.npz") as sample:
        shapes = {band.name: (300, 300) for band in contract.bands} | {"output.landcover": (300, 300, 3)}
        assert {name: sample[name].shape for name in sample} == shapes
        # Digital numbers of Sentinel-2: the contract's factor gives reflectances.
        assert 0.01 < sample["B8"].mean() * contract.bands[3].factor < 0.6
    # The saved model is the one whose accuracy was told.
    _, held_out = split(read_data(contract, "samples"), 0.3)
    answers = SourceModel(tmp_path / "a").predict(held_out.tiles)["landcover"]
    assert np.mean(answers.argmax(-1) == held_out.truth) == accuracy
    np.testing.assert_allclose(answers.sum(-1), 1, 1e-5)

    assert train_land_cover(tmp_path / "b", framework, seed=3) == accuracy
    again = SourceModel(tmp_path / "b").predict(held_out.tiles)["landcover"]
    np.testing.assert_array_equal(again, answers)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_wrong_order_of_bands_comes_to_light(tmp_path: Path, framework: Framework) -> None:
    train_land_cover(tmp_path / "a", framework, seed=3)
    findings = {finding.what: finding for finding in check_model(tmp_path / "a", None, date(2026, 11, 21))}
    assert findings["golden"].text == "sample.npz, 300 x 300 pixels, 25 tiles"
    assert findings["model"].verdict == "passed"
    assert findings["model"].text.endswith("; landcover as expected")
    contract = ModelContract.read(tmp_path / "a")
    blue, green, red, infrared = contract.bands
    wrong = contract.model_copy(update={"bands": (red, green, blue, infrared)})
    (tmp_path / "a" / "model.yaml").write_text(wrong.dump())
    with pytest.raises(ContractError, match=r"they agree where (B2 and B4|B4 and B2) change places: correct the order"):
        export_model(tmp_path / "a", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(train, "_STEPS", 100)
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "a"), "--framework", "pytorch", "--seed", "5"])
    land_cover.main()
    assert capsys.readouterr().out.startswith(f"trained {tmp_path / 'a'}: ")
    assert (tmp_path / "a" / "model.pt").is_file()


def test_failed_training_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_STEPS", 1)

    def no_scene() -> None:
        raise OSError("no scene")

    monkeypatch.setattr(land_cover, "_scene", no_scene)
    with pytest.raises(OSError, match="no scene"):
        train_land_cover(tmp_path / "a", "pytorch")
    assert not (tmp_path / "a").exists()
