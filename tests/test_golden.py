from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import golden
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads import Outputs
from components.golden import Golden
from tests.conftest import contract_of


@pytest.mark.parametrize("scene", [None, (5, 7)])
def test_saved_is_loaded(tmp_path: Path, scene: tuple[int, int] | None) -> None:
    tiles = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    outputs: Outputs = {"a": np.ones((1, 2, 2), np.uint8), "b_c": np.zeros((1, 2, 2, 3), np.float64)}
    Golden(tiles, outputs, scene).save(tmp_path)
    again = Golden.load(tmp_path)
    assert again.scene == scene
    assert list(again.outputs) == ["a", "b_c"]
    np.testing.assert_array_equal(again.tiles, tiles)
    for name, array in outputs.items():
        np.testing.assert_array_equal(again.outputs[name], array, strict=True)


def broken_files() -> dict[str, bytes]:
    return {"empty": b"", "text": b"not a zip", "cut": b"PK\x03\x04 cut off", "pickle": b"\x80\x04N."}


@pytest.mark.parametrize("content", broken_files().values(), ids=broken_files().keys())
def test_broken_golden_tiles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / golden.FILE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"golden.npz holds no golden tiles .*; export the model again"):
        Golden.load(tmp_path)


def test_missing_golden_tiles(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no golden tiles"):
        Golden.load(tmp_path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / golden.FILE_NAME)
    with pytest.raises(ModelError, match="holds no golden tiles"):
        Golden.load(tmp_path)


def test_made_tiles_suit_the_contract(tmp_path: Path) -> None:
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
    tiles, scene = golden.tiles_for(contract, tmp_path)
    assert scene is None
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
    np.testing.assert_array_equal(golden.tiles_for(contract, tmp_path)[0], tiles)


def sample_contract() -> Any:
    return contract_of(
        bands=[{"name": "red"}, {"name": "series", "shape": [2]}], properties=[{"name": "year"}], tile=[4, 4]
    )


def save_sample(directory: Path, **changes: Any) -> None:
    arrays: dict[str, Any] = {
        "red": np.arange(30).reshape(5, 6),
        "series": np.arange(60).reshape(5, 6, 2),
        "year": 2020,
    } | changes
    np.savez(directory / golden.SAMPLE_NAME, **{name: value for name, value in arrays.items() if value is not None})


def test_sample_is_cut_into_tiles(tmp_path: Path) -> None:
    save_sample(tmp_path)
    tiles, scene = golden.tiles_for(sample_contract(), tmp_path)
    assert scene == (6, 5)
    assert tiles.dtype == np.float32
    assert tiles.shape == (4, 4, 4, 4)
    assert tiles[0, :, 1, 2].tolist() == [8, 16, 17, 2020]
    assert tiles[1, :, 0, 0].tolist() == [4, 8, 9, 2020]
    assert not tiles[3, :, 1:].any()


def table_of(**changes: Any) -> ModelContract:
    properties = [
        {"name": "area", "factor": 0.5},
        {"name": "monthly", "shape": [2]},
        {"name": "wet", "type": "boolean"},
        {"name": "soil", "type": "string", "values": ["clay", "loam"]},
    ]
    return contract_of(**({"bands": None, "tile": None, "scale": None, "properties": properties} | changes))


def test_made_features_suit_a_table(tmp_path: Path) -> None:
    tiles, scene = golden.tiles_for(table_of(), tmp_path)
    assert scene is None
    assert tiles.shape[1:] == (5, 1, 1)
    assert set(np.unique(tiles[:, 3])) == set(np.unique(tiles[:, 4])) == {0, 1}
    assert not tiles[-1].any()


def test_a_sample_of_a_table_is_one_feature_after_the_other(tmp_path: Path) -> None:
    monthly = np.array([[3, 4], [5, 6], [7, 8]])
    wet = [True, False, True]
    np.savez(tmp_path / "sample.npz", area=[1.0, 2, 9], monthly=monthly, wet=wet, soil=["loam", "clay", "loam"])
    tiles, scene = golden.tiles_for(table_of(), tmp_path)
    assert scene is None
    assert tiles[..., 0, 0].tolist() == [[1, 3, 4, 1, 1], [2, 5, 6, 0, 0], [9, 7, 8, 1, 1]]
    np.savez(tmp_path / "sample.npz", area=[1.0], monthly=monthly[:1], wet=[True], soil=["sand"])
    with pytest.raises(ModelError, match="soil has sand, not only clay, loam"):
        golden.tiles_for(table_of(), tmp_path)


def test_a_samples_properties_are_the_same_in_every_pixel(tmp_path: Path) -> None:
    contract = contract_of(properties=table_of().model_dump()["properties"])
    plane = np.ones((20, 20))
    np.savez(tmp_path / "sample.npz", red=plane, green=plane, area=3, monthly=[4, 5], wet=True, soil="loam")
    tiles, _ = golden.tiles_for(contract, tmp_path)
    assert tiles.shape == (4, 7, 16, 16)
    assert tiles[0, 2:, 3, 3].tolist() == [3, 4, 5, 1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"red": None, "year": None},
            "sample.npz lacks red, year; it needs an array for each of red, series, year: add",
        ),
        ({"series": np.zeros((5, 6))}, r"series has shape \[5, 6\], not \[5, 6, 2\]; write it again"),
        ({"series": np.zeros((4, 6, 2))}, r"series has shape \[4, 6, 2\], not \[5, 6, 2\]"),
        ({"red": np.zeros(5)}, "series has shape|red has shape"),
        ({"red": np.full((5, 6), "a")}, "cannot be used as sample: could not convert"),
        ({"red": np.full((5, 6), None)}, "cannot be used as sample: Object arrays cannot be loaded"),
        ({"year": np.zeros(3)}, "cannot be used as sample"),
    ],
)
def test_bad_sample(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save_sample(tmp_path, **changes)
    with pytest.raises(ModelError, match=said):
        golden.tiles_for(sample_contract(), tmp_path)


@pytest.mark.parametrize("content", broken_files().values(), ids=broken_files().keys())
def test_broken_sample(tmp_path: Path, content: bytes) -> None:
    (tmp_path / golden.SAMPLE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be used as sample: .*; write it again with numpy.savez"):
        golden.tiles_for(sample_contract(), tmp_path)
