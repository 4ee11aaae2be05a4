from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spyndex

from components.data import read_data
from components.earthengine.errors import DataError
from tests.data.contracts import LABELS, of_a_number, of_classes

BANDS = [{"name": "B8", "factor": 0.0001}, {"name": "B2", "factor": 0.0000275, "offset": -0.2}]


def test_reflectances_as_the_contract_has_them_raw() -> None:
    contract = of_classes(bands=BANDS)
    data = read_data(contract, "samples")
    assert data.tiles.shape == (120, 2, 1, 1)
    assert data.truth.shape == (120, 1, 1)
    assert data.tiles.dtype == np.float32
    assert data.truth.dtype == np.int64
    table = spyndex.datasets.open("spectral")
    assert [LABELS[int(number)] for number in data.truth.ravel()] == table["class"].tolist()
    seen = data.tiles[:, :, 0, 0] * np.array(contract.factors) + np.array(contract.offsets)
    np.testing.assert_allclose(seen, table[["SR_B5", "SR_B2"]], 1e-5)
    assert data.origin == "spyndex's 120 samples of Landsat 8"


def test_only_the_classes_of_the_contract_in_its_order() -> None:
    outputs = [{"name": "cover", "dimensions": 1, "labels": ["Water", "Urban"]}]
    data = read_data(of_classes(bands=BANDS, outputs=outputs), "samples")
    table = spyndex.datasets.open("spectral")
    assert np.bincount(data.truth.ravel()).tolist() == [(table["class"] == name).sum() for name in ("Water", "Urban")]
    # Water is dark in the infrared.
    infrared = data.tiles[:, 0, 0, 0]
    assert infrared[data.truth.ravel() == 0].mean() < infrared[data.truth.ravel() == 1].mean() / 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            r"samples are of the bands B2, B3, B4, B8 and the labels Urban, Vegetation, Water; small has the bands red",
        ),
        (
            {"bands": BANDS, "outputs": [{"name": "cover", "dimensions": 1, "labels": ["Water", "Ice"]}]},
            "labels Water, Ice",
        ),
        (
            {"bands": [{"name": "B2"}, {"name": "B8", "factor": 0}]},
            "samples have no raw value for B8, whose factor is 0",
        ),
    ],
)
def test_what_the_samples_are_not(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_data(of_classes(**changes), "samples")
    with pytest.raises(DataError, match=r"and the labels \(none\): give a table or TFRecords"):
        read_data(of_a_number(bands=BANDS), "samples")
