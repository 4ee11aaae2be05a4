from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.tiles import Grid
from components.golden import tiles_for
from components.sample import SAMPLE_NAME, Sample, sample_file
from tests.conftest import contract_of
from tests.sample.test_npz import broken_files


def sample_in(directory: Path, contract: ModelContract | None = None) -> Sample:
    return tiles_for(contract or sample_contract(), directory)


def sample_contract(**changes: Any) -> ModelContract:
    bands = [{"name": "red"}, {"name": "series", "shape": [2]}]
    return contract_of(**({"bands": bands, "properties": [{"name": "year"}], "tile": [4, 4]} | changes))


def save_sample(directory: Path, **changes: Any) -> None:
    arrays: dict[str, Any] = {
        "red": np.arange(30).reshape(5, 6),
        "series": np.arange(60).reshape(5, 6, 2),
        "year": 2020,
    } | changes
    np.savez(directory / SAMPLE_NAME, **{name: value for name, value in arrays.items() if value is not None})


def test_sample_is_cut_into_tiles(tmp_path: Path) -> None:
    save_sample(tmp_path)
    sample = sample_in(tmp_path)
    tiles = sample.tiles
    assert (sample.scene, sample.origin, sample.expected) == ((6, 5), "sample.npz, 6 x 5 pixels, 4 tiles", {})
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


def test_a_sample_of_a_table_is_one_feature_after_the_other(tmp_path: Path) -> None:
    monthly = np.array([[3, 4], [5, 6], [7, 8]])
    wet = [True, False, True]
    np.savez(tmp_path / "sample.npz", area=[1.0, 2, 9], monthly=monthly, wet=wet, soil=["loam", "clay", "loam"])
    sample = sample_in(tmp_path, table_of())
    assert (sample.scene, sample.origin) == (None, "sample.npz, 3 features")
    assert sample.tiles[..., 0, 0].tolist() == [[1, 3, 4, 1, 1], [2, 5, 6, 0, 0], [9, 7, 8, 1, 1]]
    np.savez(tmp_path / "sample.npz", area=[1.0], monthly=monthly[:1], wet=[True], soil=["sand"])
    with pytest.raises(ModelError, match="soil has sand, not only clay, loam"):
        sample_in(tmp_path, table_of())


def test_a_samples_properties_are_the_same_in_every_pixel(tmp_path: Path) -> None:
    contract = contract_of(properties=table_of().model_dump()["properties"])
    plane = np.ones((20, 20))
    np.savez(tmp_path / "sample.npz", red=plane, green=plane, area=3, monthly=[4, 5], wet=True, soil="loam")
    tiles = sample_in(tmp_path, contract).tiles
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
        ({"red": np.full((5, 6), "a")}, "cannot be used as sample: red holds <U1, not numbers; write it again"),
        ({"red": np.full((5, 6), None)}, "cannot be used as sample: Object arrays cannot be loaded"),
        ({"red": np.full((5, 6), 1j)}, "red holds complex128, not numbers"),
        ({"red": np.full((5, 6), 1e39)}, "red holds inf as float32, not finite numbers alone; write it again"),
        ({"red": np.zeros((0, 6))}, r"red has shape \[0, 6\], which holds no pixels"),
        ({"red": np.zeros(())}, r"red has shape \[\], which holds no pixels"),
        ({"year": np.nan}, "year holds nan as float32, not finite numbers alone"),
        ({"year": np.zeros(3)}, "cannot be used as sample"),
        ({"output.totl": np.zeros((5, 6))}, "output.totl is no output of model.yaml, which has total; write it again"),
        ({"output.total": np.zeros((6, 5))}, r"output.total has shape \[6, 5\], not \[5, 6\]; write it again"),
        ({"output.total": np.zeros((5, 6, 1))}, r"output.total has shape \[5, 6, 1\], not \[5, 6\]"),
        ({"output.total": np.full((5, 6), "a")}, "output.total holds <U1, not numbers"),
    ],
)
def test_bad_sample(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save_sample(tmp_path, **changes)
    with pytest.raises(ModelError, match=said):
        sample_in(tmp_path)


@pytest.mark.parametrize("content", broken_files().values(), ids=broken_files().keys())
def test_broken_sample(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SAMPLE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be used as sample: .*; write it again with numpy.savez"):
        sample_in(tmp_path)


def test_nan_in_a_band_is_a_masked_pixel(tmp_path: Path) -> None:
    red, series = np.ones((5, 6)), np.ones((5, 6, 2), np.float16)
    red[1, 2] = series[3, 3, 1] = np.nan
    save_sample(tmp_path, red=red, series=series)
    tiles = sample_in(tmp_path).tiles
    assert tiles[0, :, 1, 2].tolist() == [0, 1, 1, 2020]
    assert tiles[0, :, 3, 3].tolist() == [1, 1, 0, 2020]
    assert np.isnan(red[1, 2])


def test_nan_in_a_table_is_refused(tmp_path: Path) -> None:
    contract = table_of(properties=[{"name": "area"}])
    np.savez(tmp_path / "sample.npz", area=[1.0, np.nan])
    with pytest.raises(ModelError, match="area holds nan as float32, not finite numbers alone"):
        sample_in(tmp_path, contract)


def test_no_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", area=np.zeros(0))
    with pytest.raises(ModelError, match=r"area has shape \[0\], which holds no pixels"):
        sample_in(tmp_path, table_of(properties=[{"name": "area"}]))


def test_expected_answers(tmp_path: Path) -> None:
    contract = sample_contract(outputs=[{"name": "total", "dimensions": 0}, {"name": "classes", "dimensions": 1}])
    total, classes = np.arange(30, dtype=np.uint8).reshape(5, 6), np.random.default_rng(0).random((5, 6, 3))
    save_sample(tmp_path, **{"output.total": total, "output.classes": classes, "unknown": [1]})
    expected = sample_in(tmp_path, contract).expected
    assert expected.keys() == {"total", "classes"}
    np.testing.assert_array_equal(expected["total"], total, strict=True)
    np.testing.assert_array_equal(expected["classes"], classes, strict=True)


def test_expected_answers_of_a_table(tmp_path: Path) -> None:
    contract = table_of(properties=[{"name": "area"}], outputs=[{"name": "v", "dimensions": 1}])
    arrays: dict[str, Any] = {"area": np.ones(3), "output.v": np.ones((3, 2))}
    np.savez(tmp_path / "sample.npz", **arrays)
    assert sample_in(tmp_path, contract).expected["v"].tolist() == [[1, 1]] * 3
    arrays["output.v"] = np.ones(3)
    np.savez(tmp_path / "sample.npz", **arrays)
    with pytest.raises(ModelError, match=r"output.v has shape \[3\], not \[3, D\]"):
        sample_in(tmp_path, contract)


def test_answers_of_another_size_than_the_tile_cannot_be_expected(tmp_path: Path) -> None:
    save_sample(tmp_path, **{"output.total": np.zeros((5, 6))})
    with pytest.raises(ModelError, match=r"output.total cannot be held against .* \(output_tile\); leave it out"):
        sample_in(tmp_path, sample_contract(output_tile=[2, 2]))
    assert sample_in(tmp_path, sample_contract(output_tile=[4, 4])).expected


def test_of_a_large_scene_the_middle_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contract = contract_of(bands=[{"name": "red"}], tile=[256, 256])
    red = np.arange(1100 * 900, dtype=np.float32).reshape(1100, 900)
    arrays: dict[str, Any] = {"red": red, "output.total": 2 * red}
    np.savez(tmp_path / "sample.npz", **arrays)
    with caplog.at_level(logging.WARNING):
        sample = sample_in(tmp_path, contract)
    assert sample.scene == (900, 1024)
    assert "has 900 x 1100 pixels; only the middle 900 x 1024 are used, from row 38 and column 0" in caplog.text
    np.testing.assert_array_equal(sample.tiles[0, 0], red[38:294, :256])
    np.testing.assert_array_equal(sample.expected["total"], 2 * red[38:1062])
    caplog.clear()
    np.savez(tmp_path / "sample.npz", red=red[:1024])
    with caplog.at_level(logging.WARNING):
        assert sample_in(tmp_path, contract).scene == (900, 1024)
    assert not caplog.text


def test_which_file_is_the_sample(tmp_path: Path) -> None:
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "notes.tiff.txt").touch()
    assert sample_file(tmp_path) is None
    (tmp_path / "b.TIF").touch()
    assert sample_file(tmp_path) == tmp_path / "b.TIF"
    (tmp_path / "a.tiff").touch()
    with pytest.raises(ModelError, match=r"several GeoTIFFs \(a.tiff, b.TIF\), one is the sample: keep one, or write"):
        sample_file(tmp_path)
    (tmp_path / SAMPLE_NAME).touch()
    assert sample_file(tmp_path) == tmp_path / SAMPLE_NAME


sides = st.lists(st.integers(0, 6), max_size=4)
dtypes = st.sampled_from(["f2", "f4", "f8", "i2", "u1", "?", "U1", "c8", "M8[s]"])
any_array = arrays_of.arrays(dtypes, st.one_of(st.sampled_from([(5, 6), (5, 6, 2), ()]), sides.map(tuple)))
red_array = arrays_of.arrays(st.sampled_from(["f4", "f8", "i2", "u1"]), (5, 6))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(red=st.one_of(red_array, any_array), year=st.one_of(st.integers(-9, 9), any_array), extra=any_array)
def test_any_arrays_make_a_sample_or_an_error(tmp_path: Path, red: Any, year: Any, extra: Any) -> None:
    save_sample(tmp_path, red=red, year=year, **{"output.total": extra})
    try:
        with np.errstate(over="ignore"):
            sample = sample_in(tmp_path)
    except ModelError:
        return
    assert sample.scene == (6, 5)
    image = Grid.over(sample_contract(), 6, 5).stitch(sample.tiles.transpose(0, 2, 3, 1))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(image[..., 0], np.nan_to_num(red.astype(np.float32)))
    assert (image[..., 3] == np.float32(year)).all()
    np.testing.assert_array_equal(sample.expected["total"], extra, strict=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_bytes_make_a_sample_or_an_error(tmp_path: Path, place: float, byte: int, cut: bool) -> None:
    save_sample(tmp_path)
    content = bytearray((tmp_path / SAMPLE_NAME).read_bytes())
    at = int(place * len(content))
    content[at] = byte
    (tmp_path / SAMPLE_NAME).write_bytes(content[:at] if cut else content)
    with suppress(ModelError):
        assert sample_in(tmp_path).tiles.shape == (4, 4, 4, 4)
