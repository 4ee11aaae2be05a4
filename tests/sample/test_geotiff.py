from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.transform import Affine

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.golden import tiles_for
from tests.conftest import contract_of

BANDS = np.arange(1, 61, dtype=np.float32).reshape(2, 5, 6)


def write(
    path: Path,
    bands: Any = BANDS,
    names: Sequence[str | None] = ("green", "red"),
    tags: dict[str, Any] | None = None,
    mask: Any = None,
    **profile: Any,
) -> Path:
    """Write a GeoTIFF; the contract's bands are red and green, so that the file's order is the other one."""
    count, height, width = bands.shape
    given = {"driver": "GTiff", "dtype": bands.dtype, "transform": Affine(1e-4, 0, 11, 0, -1e-4, 48)} | profile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", count=count, height=height, width=width, **given) as file:
            if "photometric" not in profile:
                file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)
            file.write(bands)
            for index, name in enumerate(names, 1):
                if name:
                    file.set_band_description(index, name)
            file.update_tags(**(tags or {}))
            if mask is not None:
                file.write_mask(mask)
    return path


def image_in(directory: Path, **changes: Any) -> Any:
    """The image `[C, height, width]` that the only tile shows."""
    contract: ModelContract = contract_of(**({"tile": [6, 5]} | changes))
    return tiles_for(contract, directory).tiles[0]


@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "zstd", "webp"])
@pytest.mark.parametrize("name", ["scene.tif", "a [scene].TIFF"])
def test_bands_are_found_by_their_descriptions(tmp_path: Path, name: str, compress: str) -> None:
    bands = BANDS
    if compress == "webp":
        bands = np.concatenate([BANDS, BANDS[:1]]).astype(np.uint8)
    options = {"interleave": "pixel", "webp_lossless": True} if compress == "webp" else {"interleave": "band"}
    write(tmp_path / name, bands, compress=compress, **options)
    sample = tiles_for(contract_of(tile=[6, 5]), tmp_path)
    np.testing.assert_array_equal(sample.tiles[0], BANDS[::-1], strict=True)
    assert (sample.scene, sample.origin, sample.expected) == ((6, 5), f"{name}, 6 x 5 pixels, 1 tiles", {})


def test_a_sample_npz_goes_before_it(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif")
    np.savez(tmp_path / "sample.npz", red=np.ones((5, 6)), green=np.ones((5, 6)))
    assert (image_in(tmp_path) == 1).all()


@pytest.mark.parametrize(
    ("bands", "names", "said"),
    [
        (
            BANDS,
            ("green", None),
            "scene.tif has the bands 1 green, 2 without a name; red is not among them, needed are",
        ),
        (
            BANDS,
            ("B4", "B3"),
            r"bands 1 B4, 2 B3; red, green is not .*: name each .* file.set_band_description\(1, \"r",
        ),
        (BANDS[:1], ("red",), "has the bands 1 red; green is not among them, needed are red, green"),
    ],
)
def test_bands_that_are_missing(tmp_path: Path, bands: Any, names: tuple[str | None, ...], said: str) -> None:
    write(tmp_path / "scene.tif", bands, names)
    with pytest.raises(ModelError, match=said):
        image_in(tmp_path)


def masked() -> Any:
    """The image with a pixel masked at row 1, column 2."""
    expected = BANDS[::-1].copy()
    expected[:, 1, 2] = 0
    return expected


def test_nodata_and_nan_are_masked(tmp_path: Path) -> None:
    for nodata, hole in ((-9999.0, -9999.0), (None, np.nan), (np.nan, np.nan), (-9999.0, np.nan)):
        bands = BANDS.copy()
        bands[:, 1, 2] = hole
        write(tmp_path / "scene.tif", bands, nodata=nodata)
        np.testing.assert_array_equal(image_in(tmp_path), masked())


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask(tmp_path: Path, internal: bool) -> None:
    mask = np.ones((5, 6), bool)
    mask[1, 2] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        write(tmp_path / "scene.tif", mask=mask)
    assert (tmp_path / "scene.tif.msk").exists() is not internal
    np.testing.assert_array_equal(image_in(tmp_path), masked())


def test_an_alpha_band(tmp_path: Path) -> None:
    alpha = np.full((1, 5, 6), 255, np.float32)
    alpha[0, 1, 2] = 0
    bands = np.concatenate([BANDS, BANDS[:1], alpha]).astype(np.uint8)
    write(tmp_path / "scene.tif", bands, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(image_in(tmp_path), masked())


def test_a_file_without_a_place_on_earth_is_no_warning(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(image_in(tmp_path), BANDS[::-1])


def properties_of(*properties: dict[str, Any]) -> dict[str, Any]:
    return {"properties": list(properties)}


def test_properties_are_tags(tmp_path: Path) -> None:
    tags = {"year": 2020.5, "monthly": [3, 4], "wet": True, "soil": "loam"}
    write(tmp_path / "scene.tif", tags=tags)
    changes = properties_of(
        {"name": "year"},
        {"name": "monthly", "shape": [2]},
        {"name": "wet", "type": "boolean"},
        {"name": "soil", "type": "string", "values": ["clay", "loam"]},
    )
    image = image_in(tmp_path, **changes)
    assert image[2:, 3, 3].tolist() == [2020.5, 3, 4, 1, 1]


@pytest.mark.parametrize(
    ("prop", "tag", "said"),
    [
        ({"name": "year"}, None, r"has the tags none; the properties year are not .* file.update_tags\(year="),
        ({"name": "year"}, "late", "has the tag year = 'late'; it must be a number: correct it"),
        ({"name": "year"}, "[" * 5000, "has the tag year = .*; it must be a number: correct it"),
        ({"name": "year"}, "NaN", "has the tag year = 'NaN'; it must be a number"),
        ({"name": "year"}, "null", "cannot be used as sample: year holds object, not numbers"),
        ({"name": "year"}, "1e99", "cannot be used as sample: year holds inf as float32"),
        ({"name": "on", "type": "boolean"}, "yes", "has the tag on = 'yes'; it must be a boolean"),
        ({"name": "year", "shape": [2]}, "1 2", r"must be a list of shape \[2\], as \[1, 2\]: correct it"),
        ({"name": "year", "shape": [2]}, "[1, 2, 3]", r"year has shape \[3\], not \[2\]"),
        ({"name": "soil", "type": "string", "values": ["clay"]}, "Clay", "soil has Clay, not only clay"),
    ],
)
def test_bad_tags(tmp_path: Path, prop: dict[str, Any], tag: str | None, said: str) -> None:
    write(tmp_path / "scene.tif", tags={} if tag is None else {prop["name"]: tag})
    with pytest.raises(ModelError, match=rf"scene.tif .*{said}"):
        image_in(tmp_path, **properties_of(prop))


def test_what_no_geotiff_holds(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif")
    with pytest.raises(ModelError, match=r"cannot hold series, which is array-valued: write a sample.npz instead"):
        image_in(tmp_path, bands=[{"name": "red"}, {"name": "series", "shape": [2]}])
    with pytest.raises(ModelError, match=r"is an image, small takes a table of features: write a sample.npz instead"):
        image_in(tmp_path, bands=None, tile=None, scale=None, **properties_of({"name": "area"}))
    write(tmp_path / "scene.tif", BANDS.astype(np.complex64))
    with pytest.raises(ModelError, match=r"red holds complex64, not numbers"):
        image_in(tmp_path)


def test_of_a_large_scene_only_the_middle_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (2, 2048, 1100), np.uint8)
    path = write(tmp_path / "scene.tif", bands, blockysize=1, interleave="band", compress="deflate")
    with rasterio.open(path) as file:
        first_row = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", 1))
    content = bytearray(path.read_bytes())
    content[first_row : first_row + 100] = bytes(100)
    path.write_bytes(content)
    with rasterio.open(path) as file, pytest.raises(RasterioIOError):
        file.read(1)
    with caplog.at_level(logging.WARNING, "components"):
        sample = tiles_for(contract_of(tile=[1024, 1024]), tmp_path)
    assert sample.scene == (1024, 1024)
    assert caplog.text.count("has 1100 x 2048 pixels; only the middle 1024 x 1024 are used, from row 512 and col") == 1
    np.testing.assert_array_equal(sample.tiles[0], bands[::-1, 512:1536, 38:1062])


def test_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", blockysize=1, compress="deflate")
    with rasterio.open(path) as file:
        third_row = int(file.get_tag_item("BLOCK_OFFSET_0_2", "TIFF", 1))
    content = bytearray(path.read_bytes())
    content[third_row : third_row + 10] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"scene.tif cannot be read as GeoTIFF: .*; export the image again"):
        image_in(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\x00\x08\x00\x00\x00", b'<VRTDataset rasterXSize="1"/>'])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scene.tif").write_bytes(content)
    with pytest.raises(ModelError, match=r"scene.tif cannot be read as GeoTIFF: .*; export the image again"):
        image_in(tmp_path)


def test_other_images_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", BANDS.astype(np.uint8), driver="PNG", transform=None)
    with pytest.raises(ModelError, match=r"scene.tif cannot be read as GeoTIFF"):
        image_in(tmp_path)


def test_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "scene.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(
        ModelError, match=r"cannot be read without rasterio .*: install model-to-earth-engine\[export\]"
    ):
        image_in(tmp_path)


# rasterio's log of what GDAL says fails, and goes on, where that quotes bytes that are not UTF-8.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_bytes_make_an_image_or_an_error(tmp_path: Path, place: float, byte: int, cut: bool) -> None:
    (tmp_path / "scene.tif").unlink(missing_ok=True)
    content = bytearray(write(tmp_path / "scene.tif").read_bytes())
    at = int(place * len(content))
    content[at] = byte
    (tmp_path / "scene.tif").write_bytes(content[:at] if cut else content)
    with suppress(ModelError):
        assert image_in(tmp_path).shape[0] == 2
