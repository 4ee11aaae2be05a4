from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.data import Labelled
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.source import SourceModel
from components.train import _AT_ONCE, _Pixels, train_model
from tests.conftest import contract_of

BANDS = [{"name": "red", "factor": 0.01, "offset": -1}, {"name": "green"}]
CLASSES = {"name": "kind", "dimensions": 1, "labels": ["dark", "bright"]}
NUMBER = {"name": "height", "dimensions": 0}


def labelled(count: int, *, classes: bool, seed: int = 0, side: int = 1) -> Labelled:
    """Red from 0 to 400 raw, green not to be heeded; bright where red is above 200, or as high as a tenth of it."""
    random = np.random.default_rng(seed)
    red = random.uniform(0, 400, (count, side, side))
    tiles = np.stack([red, np.zeros_like(red)], 1).astype(np.float32)
    truth: NDArray[np.int64] | NDArray[np.float32]
    truth = (red > 200).astype(np.int64) if classes else (red / 10).astype(np.float32)
    return Labelled(tiles, truth, "made")


def answers_of(folder: Path, contract: ModelContract, data: Labelled, tiles: NDArray[np.float32], seed: int = 0) -> Any:
    """What the model answers to raw tiles that is trained on data, run as its folder's contract says."""
    folder.mkdir()
    made = train_model(contract, data, folder, seed=seed)
    (folder / FILE_NAME).write_text(contract.model_copy(update={"model": made.source}).dump(), encoding="utf-8")
    return SourceModel(folder).predict(tiles)[contract.outputs[0].name]


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_learns_classes_from_points_and_patches(tmp_path: Path, framework: Framework) -> None:
    contract = contract_of(framework=framework, bands=BANDS, outputs=[CLASSES])
    fresh = labelled(300, classes=True, seed=9)
    answers = {}
    for name, data in (
        ("points", labelled(200, classes=True)),
        ("again", labelled(200, classes=True)),
        ("patches", labelled(12, classes=True, side=24)),
    ):
        answers[name] = answers_of(tmp_path / name, contract, data, fresh.tiles)
        assert (answers[name].argmax(-1) == fresh.truth).mean() > 0.97
        np.testing.assert_allclose(answers[name].sum(-1), 1, 1e-5)
    np.testing.assert_array_equal(answers["points"], answers["again"])
    other = answers_of(tmp_path / "seed", contract, labelled(200, classes=True), fresh.tiles, seed=1)
    assert (other != answers["points"]).any()


def test_many_pixels_are_learnt_from_in_batches(tmp_path: Path) -> None:
    data = labelled(20, classes=True, side=24)
    assert data.truth.size > 2 * _AT_ONCE
    contract = contract_of(bands=BANDS, outputs=[CLASSES])
    one, two = (answers_of(tmp_path / name, contract, data, data.tiles) for name in "ab")
    assert (one.argmax(-1) == data.truth).mean() > 0.97
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_learns_a_number(tmp_path: Path, framework: Framework) -> None:
    contract = contract_of(framework=framework, bands=BANDS, outputs=[NUMBER])
    fresh = labelled(100, classes=False, seed=9)
    answers = answers_of(tmp_path / "model", contract, labelled(300, classes=False), fresh.tiles)
    assert answers.shape == fresh.truth.shape
    assert np.sqrt(np.mean((answers - fresh.truth) ** 2)) < 1  # of a range of 40
    # The same network by the function that the training gives back: normalised bands, channels last.
    made = train_model(contract, labelled(300, classes=False), tmp_path, seed=0)
    bands = fresh.tiles.transpose(0, 2, 3, 1)[:, 0] * np.array([0.01, 1], np.float32) + np.array([-1, 0], np.float32)
    np.testing.assert_allclose(made.predict(bands)[..., 0], answers[:, 0], 1e-4, 1e-4)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_data_that_do_not_vary_make_finite_answers(tmp_path: Path, framework: Framework) -> None:
    contract = contract_of(framework=framework, bands=BANDS, outputs=[NUMBER])
    # Which float32 does not hold exactly, so that its deviation is not 0.
    tiles = np.full((100, 2, 1, 1), 0.037, np.float32)
    data = Labelled(tiles, np.full((100, 1, 1), 7, np.float32), "flat")
    np.testing.assert_allclose(answers_of(tmp_path / "near", contract, data, tiles + np.float32(1e-4)), 7, 0.01)
    np.testing.assert_allclose(answers_of(tmp_path / "model", contract, data, tiles), 7, 0.01)


def test_many_pixels_are_standardised_rightly() -> None:
    # Of several bands in several patches numpy adds pixel after pixel, which float32 loses count of.
    tiles = np.random.default_rng(0).uniform(0.2, 0.4, (20, 2, 1000, 1000)).astype(np.float32)
    pixels = _Pixels.of(contract_of(), Labelled(tiles, tiles[:, 0], "many"))
    np.testing.assert_allclose(pixels.mean, 0.3, atol=1e-4)
    np.testing.assert_allclose(pixels.spread, 0.2 / np.sqrt(12), 1e-3)
