"""A scene in a GeoTIFF, as Earth Engine exports images: bands by their descriptions, masks, tags."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, Property
from components.earthengine.errors import ModelError
from components.sample.middle import middle
from components.sample.npz import Arrays


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # No other driver: some follow what a file says to other files.
            with rasterio.open(path.absolute(), driver="GTiff") as file:
                indexes = _indexes(contract, path, file.descriptions)
                properties = _properties(contract, path, file.tags())
                rows, columns = middle(contract, path, file.height, file.width)
                window = ((rows.start, rows.stop), (columns.start, columns.stop))
                image = file.read(indexes, window=window, masked=True).filled(0)
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as GeoTIFF: {error.__cause__ or error}; export the image again"
        ) from error
    return {band.name: plane for band, plane in zip(contract.bands, image, strict=True)} | properties


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
