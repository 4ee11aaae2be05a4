from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.answers import answer, unmasked
from components.earthengine.errors import ModelError
from components.golden import Golden, tiles_for
from components.source import SourceModel
from tests.conftest import WriteModel, contract_of


class Ratio(nn.Module):
    """Divides by the sum of its channels: NaN where all are 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] / x.sum(1, keepdim=True)


class PatchRatio(nn.Module):
    """One such number for each patch."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0] / x[:, 1].amin((1, 2))


def answered(directory: Path) -> Golden:
    source = SourceModel(directory)
    return answer(source, tiles_for(source.contract, directory))


def saved(model: nn.Module) -> Any:
    return lambda path: torch.jit.script(model).save(str(path))


def save_scene(directory: Path, red: Any, green: Any) -> None:
    np.savez(directory / "sample.npz", red=red, green=green)


def test_masked_pixels_are_those_of_0s_in_all_bands() -> None:
    contract = contract_of(properties=[{"name": "year"}])
    tiles = np.zeros((2, 3, 1, 2), np.float32)
    tiles[0, 1, 0, 1], tiles[:, 2] = -1, 2020
    assert unmasked(contract, tiles).tolist() == [[[False, True]], [[False, False]]]
    table = contract_of(bands=None, tile=None, scale=None, properties=[{"name": "a"}, {"name": "b"}])
    assert unmasked(table, tiles[:, 1:, :, :1]).tolist() == [[[True]], [[True]]]
    assert unmasked(table, np.zeros((1, 2, 1, 1), np.float32)).tolist() == [[[False]]]


def test_nan_at_masked_pixels_is_allowed(write_model: WriteModel) -> None:
    directory = write_model(saved(Ratio()))
    golden = answered(directory)  # made tiles, of which one is 0s
    assert golden.scene is None
    np.testing.assert_array_equal(np.isnan(golden.outputs["total"]), ~golden.tiles.any(axis=1))
    save_scene(directory, np.eye(20), np.zeros((20, 20)))
    golden = answered(directory)
    assert golden.scene == (20, 20)
    assert np.isnan(golden.outputs["total"]).sum() == golden.outputs["total"].size - 20


@pytest.mark.parametrize(("red", "said"), [(0, "nan"), (3, "inf")])
def test_nan_and_infinity_elsewhere_are_refused(write_model: WriteModel, red: float, said: str) -> None:
    directory = write_model(saved(Ratio()), bands=[{"name": "red", "offset": -5}, {"name": "green"}])
    reds, greens = np.full((20, 20), 9.0), np.ones((20, 20))
    save_scene(directory, reds, greens)
    answered(directory)
    reds[17, 18], greens[17, 18] = (5, 0) if not red else (5 + red, -red)
    reds[19, 19], greens[19, 19] = 5, 0
    save_scene(directory, reds, greens)
    # The second row of tiles of 16 x 16, of which the model normalises masked pixels to -5.
    with pytest.raises(
        ModelError,
        match=rf"output total of the model is NaN or infinite at 2 of 1024 values where pixels are not masked, "
        rf"first in tile 3 at row 1, column 2: {said}; training diverged, or .*: mend the model",
    ):
        answered(directory)


def test_every_value_of_a_pixel_counts(write_model: WriteModel) -> None:
    model = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        model.bias[2] = torch.inf  # type: ignore[index]
    directory = write_model(saved(model), outputs=[{"name": "classes", "dimensions": 1}])
    with pytest.raises(ModelError, match=r"output classes .* at 768 of 3072 values .* tile 0 at row 0, column 0: inf"):
        answered(directory)


def test_one_answer_a_tile_counts_where_no_pixel_is_masked(write_model: WriteModel) -> None:
    directory = write_model(saved(PatchRatio()), output_tile=[1, 1])
    red, green = np.ones((16, 32)), np.ones((16, 32))
    red[0, 16] = green[0, 16] = 0  # masked, and 0 / 0
    save_scene(directory, red, green)
    assert np.isnan(answered(directory).outputs["total"][1, 0, 0])
    red[0, 16] = 1  # not masked, and 1 / 0
    save_scene(directory, red, green)
    with pytest.raises(ModelError, match=r"at 1 of 2 values .*, first in tile 1 at row 0, column 0: inf"):
        answered(directory)


def test_nan_of_a_table(write_model: WriteModel) -> None:
    changes = {"bands": None, "tile": None, "scale": None, "properties": [{"name": "area"}, {"name": "height"}]}
    directory = write_model(saved(Ratio()), **changes)
    np.savez(directory / "sample.npz", area=[0, 1.0, 2], height=[0, 1.0, -2])
    with pytest.raises(ModelError, match="at 1 of 3 values where features are not masked, first in feature 2: inf"):
        answered(directory)
    np.savez(directory / "sample.npz", area=[0, 1.0, 2], height=[0, 1.0, 2])
    assert np.isnan(answered(directory).outputs["total"]).sum() == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"red": 515.39}, r"band red: value 515.39\d* cannot be sent as uint16; give values of the type"),
        ({"wet": 2}, "property wet: value 2.0 cannot be sent as bool; give values of the type"),
    ],
)
def test_values_that_their_type_cannot_carry_are_refused(
    write_model: WriteModel, changes: dict[str, float], said: str
) -> None:
    keys = {"bands": [{"name": "red", "type": "uint16"}], "properties": [{"name": "wet", "type": "boolean"}]}
    directory = write_model(saved(nn.Conv2d(2, 1, 1)), **keys, outputs=[{"name": "total", "dimensions": 1}])
    arrays: dict[str, Any] = {"red": np.full((16, 16), 515.0), "wet": 1}
    np.savez(directory / "sample.npz", allow_pickle=False, **arrays)
    answered(directory)
    arrays |= {name: np.full(np.shape(arrays[name]), value) for name, value in changes.items()}
    np.savez(directory / "sample.npz", allow_pickle=False, **arrays)
    with pytest.raises(
        ModelError, match=rf"the sample \(sample.npz, 16 x 16 pixels, 1 tiles\) cannot be sent .*{said}"
    ):
        answered(directory)


def test_a_sample_that_is_masked_throughout_is_refused(write_model: WriteModel) -> None:
    directory = write_model(saved(nn.Conv2d(2, 1, 1)), outputs=[{"name": "total", "dimensions": 1}])
    save_scene(directory, np.full((16, 16), np.nan), np.zeros((16, 16)))
    with pytest.raises(ModelError, match=r"the sample \(sample.npz, .*\) holds nothing but 0, .*: take another sample"):
        answered(directory)
