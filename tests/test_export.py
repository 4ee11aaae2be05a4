from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import parity
from components.digest import source_digest
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ContractError, ModelError
from components.export import export_model
from components.frameworks import pytorch
from components.golden import Golden, golden_hash
from tests.conftest import WriteModel, assert_close

FILES = ["golden.npz", "golden.sha256", "model.onnx", "model.pt", "model.yaml", "source.sha256"]


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1).reshape(-1, 16, 16)


def save(path: Path) -> None:
    torch.jit.script(Net()).save(str(path))


def test_folder_holds_model_contract_golden_tiles_and_digest(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(save, tile=[8, 4])
    contract = export_model(directory, tmp_path / "a" / "exported")
    folder = tmp_path / "a" / "exported"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert ModelContract.read(folder) == contract == ModelContract.read(directory)
    golden = Golden.load(folder)
    assert golden.scene is None
    assert golden.tiles.shape == (4, 2, 4, 8)
    assert_close(golden.outputs["total"], golden.tiles.sum(1))
    assert golden_hash(folder) == (folder / "golden.sha256").read_text()
    assert (folder / "source.sha256").read_text() == source_digest(directory, contract)


def test_golden_tiles_are_the_sample(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(save)
    np.savez(directory / "sample.npz", red=np.ones((20, 30)), green=np.ones((20, 30)))
    export_model(directory, tmp_path / "exported")
    golden = Golden.load(tmp_path / "exported")
    assert golden.scene == (30, 20)
    assert len(golden.tiles) == 4


def test_a_model_that_does_not_answer_as_expected_is_not_exported(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(save)
    plane = np.ones((20, 30))
    arrays: dict[str, Any] = {"red": plane, "green": plane, "output.total": 3 * plane}
    np.savez(directory / "sample.npz", **arrays)
    with pytest.raises(ContractError, match=r"output total agrees with output.total .* at 0.0% of 600 values"):
        export_model(directory, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    arrays["output.total"] = 2 * plane
    np.savez(directory / "sample.npz", **arrays)
    export_model(directory, tmp_path / "exported")


class Diverged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) * torch.nan


def test_a_model_that_answers_nan_is_not_exported(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(lambda path: torch.jit.script(Diverged()).save(str(path)))
    with pytest.raises(ModelError, match=r"output total of the model is NaN or infinite at 768 of 1024 values"):
        export_model(directory, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_model_of_one_size_is_exported_with_a_warning(
    write_model: WriteModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export_model(write_model(lambda path: torch.jit.script(FixedSize()).save(str(path))), tmp_path / "exported")
    assert "takes patches of 16 x 16 pixels only" in caplog.text
    caplog.clear()
    export_model(write_model(save, tile=[1, 1]), tmp_path / "again")
    assert not caplog.text


class HoldsItsWidth(nn.Module):
    """TorchScript cannot compile it, and a trace of it keeps the width of the example."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x.sum(1) * np.float32(x.shape[3]).item()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_second_size_is_checked_too(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(lambda path: torch.save(HoldsItsWidth(), path))
    with pytest.raises(
        ModelError, match=r"does not answer as the source model does: .*; if the model is traced, make it"
    ):
        export_model(directory, tmp_path / "exported", allow_pickle=True)
    assert not (tmp_path / "exported").exists()


def test_wrong_export_leaves_no_folder(
    write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "compare", lambda *_: parity.Parity(1.0, "output total differs"))
    with pytest.raises(
        ModelError, match=r"output total differs; if the model is traced, make it scriptable; .* tolerance"
    ):
        export_model(write_model(save), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_export_that_breaks_off_leaves_no_folder(
    write_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(model: object, contract: object, destination: Path, example: object) -> None:
        destination.mkdir(exist_ok=True)
        (destination / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pytorch, "export", breaks)
    with pytest.raises(KeyboardInterrupt):
        export_model(write_model(save), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outputs": [{"name": n, "dimensions": 0} for n in "ab"]}, r"declares 2 outputs \(a, b\), the model gives 1"),
        ({"outputs": [{"name": "a", "dimensions": 1}]}, "output a .*declare dimensions: 0"),
        ({"output_tile": [4, 4]}, "expects answers of 4 x 4 pixels"),
        ({"model": {"file": "net.pt", "layout": "channels_last"}}, "has shape .*correct tile, overlap, model.layout"),
    ],
)
def test_contract_that_disagrees_with_the_model(
    write_model: WriteModel, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        export_model(write_model(save, **changes), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_labels_that_disagree_with_the_model(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(
        lambda path: torch.jit.script(nn.Conv2d(2, 3, 1)).save(str(path)),
        outputs=[{"name": "a", "dimensions": 1, "labels": ["x", "y"]}],
    )
    with pytest.raises(
        ContractError, match=r"3 values a pixel, model.yaml gives 2 labels \(x, y\); give one label a va"
    ):
        export_model(directory, tmp_path / "exported")


def test_no_contract(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=FILE_NAME):
        export_model(tmp_path, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_source_is_left_as_it_was(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(save)

    def digests() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}

    before = digests()
    export_model(directory, tmp_path / "exported")
    assert digests() == before
