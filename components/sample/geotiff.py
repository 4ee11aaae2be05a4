"""A scene in a GeoTIFF, as Earth Engine exports images: bands by their descriptions, masks, tags."""

from __future__ import annotations

import json
import warnings
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, Property
from components.earthengine.errors import ModelError
from components.earthengine.untrusted.files import regular
from components.sample.middle import middle
from components.sample.npz import Arrays

# Of one block, which is decoded whole, in all bands where they are interleaved: as much as GDAL keeps of them by
# default on a machine of 5 GB (GDAL_CACHEMAX). Earth Engine exports blocks of 256 x 256 pixels.
_LARGEST_BLOCK = 256 << 20
# What GDAL opens by itself beside a GeoTIFF, by whatever driver suits: a VRT there would lead to other files and URLs.
_BESIDE = (".msk", ".ovr")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_geotiff(contract: ModelContract, path: Path) -> Arrays:
    """The middle of the scene: an array `[height, width]` a band, masked pixels 0, and the properties.

    A property is the file's tag of its name.

    Raises:
        ModelError: the file cannot be read, or lacks a band or a property; or the contract has what no
            GeoTIFF holds.
    """
    if contract.table:
        raise ModelError(f"{path} is an image, {contract.name} takes a table of features: write a sample.npz instead")
    if shaped := [band.name for band in contract.bands if band.shape]:
        raise ModelError(f"{path} cannot hold {', '.join(shaped)}, which is array-valued: write a sample.npz instead")
    try:
        import rasterio
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError as error:
        raise ModelError(
            f"{path} cannot be read without rasterio ({error}): install model-to-earth-engine[export]"
        ) from error
    try:
        _check_beside(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # No other driver: some follow what a file says to other files.
            with rasterio.open(path.absolute(), driver="GTiff") as file:
                indexes = _indexes(contract, path, file.descriptions)
                _check_blocks(file)
                properties = _properties(contract, path, file.tags())
                rows, columns = middle(contract, path, file.height, file.width)
                window = ((rows.start, rows.stop), (columns.start, columns.stop))
                image = file.read(indexes, window=window, masked=True).filled(0)
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as GeoTIFF: {error.__cause__ or error}; export the image again"
        ) from error
    return {band.name: plane for band, plane in zip(contract.bands, image, strict=True)} | properties


def _check_beside(path: Path) -> None:
    """Raise ValueError unless all that GDAL opens beside a GeoTIFF is TIFF too."""
    for found in [path, *path.parent.glob(f"{escape(path.name)}.*")]:
        if found == path or found.suffix.lower() in _BESIDE:
            regular(found)
            with found.open("rb") as file:
                if file.read(4) not in _TIFF:
                    raise ValueError(f"{found.name} is no TIFF")


def _check_blocks(file: Any) -> None:
    """Raise ValueError where decoding one block takes more memory than is sensible."""
    together = file.count if file.interleaving is not None and file.interleaving.value == "PIXEL" else 1
    for (height, width), dtype in zip(file.block_shapes, file.dtypes, strict=True):
        if (size := height * width * np.dtype(dtype).itemsize * together) > _LARGEST_BLOCK:
            raise ValueError(
                f"one of its blocks takes {size:,} bytes; at most {_LARGEST_BLOCK:,} are decoded: write it in tiles "
                "(rasterio: tiled=True)"
            )


def _indexes(contract: ModelContract, path: Path, descriptions: tuple[str | None, ...]) -> list[int]:
    """The file's number of each band of the contract, from 1."""
    names = [band.name for band in contract.bands]
    if missing := [name for name in names if name not in descriptions]:
        has = ", ".join(f"{index} {name or 'without a name'}" for index, name in enumerate(descriptions, 1))
        raise ModelError(
            f"{path} has the bands {has}; {', '.join(missing)} is not among them, needed are {', '.join(names)}: "
            "name each band by its description, as Earth Engine's exports do "
            f'(rasterio: file.set_band_description(1, "{names[0]}"))'
        )
    return [descriptions.index(name) + 1 for name in names]


def _properties(contract: ModelContract, path: Path, tags: dict[str, str]) -> Arrays:
    if missing := [prop.name for prop in contract.properties if prop.name not in tags]:
        raise ModelError(
            f"{path} has the tags {', '.join(sorted(tags)) or 'none'}; the properties {', '.join(missing)} are not "
            f'among them: add each as a tag (rasterio: file.update_tags({missing[0]}="...")), or write a sample.npz'
        )
    return {prop.name: _property(path, prop, tags[prop.name]) for prop in contract.properties}


def _property(path: Path, prop: Property, text: str) -> NDArray[Any]:
    """A property of a tag: a number, true or false, a list of numbers, or a string as it is."""
    if prop.values:
        return np.array(text)
    try:
        return np.array(json.loads(text.lower()))
    except (ValueError, RecursionError) as error:
        what = f"a list of shape {list(prop.shape)}, as [1, 2]" if prop.shape else f"a {prop.type}"
        raise ModelError(f"{path} has the tag {prop.name} = {text[:100]!r}; it must be {what}: correct it") from error
