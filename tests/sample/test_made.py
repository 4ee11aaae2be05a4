from __future__ import annotations

import numpy as np

from components.sample.made import made_sample
from tests.conftest import contract_of
from tests.sample.test_sample import table_of


def test_made_tiles_suit_the_contract() -> None:
    contract = contract_of(
        bands=[
            {"name": "red", "factor": 1e-4},
            {"name": "class", "type": "uint8"},
            {"name": "dem", "type": "int16", "factor": 0.01, "offset": -5},
            {"name": "flat", "factor": 0},
            {"name": "series", "shape": [3]},
        ],
        properties=[{"name": "year", "factor": 0.01, "offset": -20}, {"name": "on", "type": "boolean", "offset": 3}],
        tile=[4, 6],
        overlap=[1, 0],
    )
    sample = made_sample(contract)
    tiles = sample.tiles
    assert (sample.scene, sample.origin, sample.expected) == (None, "made from the contract", {})
    assert tiles.dtype == np.float32
    assert tiles.shape == (4, 9, 6, 6)
    assert np.isfinite(tiles).all()
    assert not tiles[-1].any()
    normalised = tiles[:-1, 0] * 1e-4
    assert 0 <= normalised.min() < 0.1
    assert 0.9 < normalised.max() <= 1
    for whole, kind in ((1, np.uint8), (2, np.int16)):
        np.testing.assert_array_equal(tiles[:, whole], tiles[:, whole].astype(kind))
    assert 500 <= tiles[:-1, 2].min() <= tiles[:-1, 2].max() <= 600
    assert (tiles[:, 7:] == tiles[:, 7:, :1, :1]).all()
    assert 2000 <= tiles[0, 7, 0, 0] <= 2100
    assert set(np.unique(tiles[:, 8])) <= {0, 1}
    np.testing.assert_array_equal(made_sample(contract).tiles, tiles)


def test_made_features_suit_a_table() -> None:
    tiles = made_sample(table_of()).tiles
    assert tiles.shape[1:] == (5, 1, 1)
    assert set(np.unique(tiles[:, 3])) == set(np.unique(tiles[:, 4])) == {0, 1}
    assert not tiles[-1].any()
