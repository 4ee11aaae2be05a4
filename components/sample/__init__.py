"""Samples: raw inputs to try a model with, of the scene beside it or made from the contract."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import FILE_NAME, ModelContract, Output
from components.earthengine.errors import ModelError
from components.earthengine.payloads import Outputs, Tiles
from components.earthengine.payloads.batches import Part, parts
from components.earthengine.tiles import Grid
from components.earthengine.untrusted.files import stays_inside
from components.sample.middle import middle
from components.sample.npz import OUTPUT, Arrays, outputs_in, read_arrays

SAMPLE_NAME = "sample.npz"

_GEOTIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """Inputs to try a model with, and what is known of the answers.

    Attributes:
        tiles: raw, `[N, C, H, W]`.
        origin: where they come from.
        scene: width and height of the scene that the tiles are the contract's grid over, if they are.
        expected: what the training code answered, by output: `[height, width, ...]`, of a table `[N, ...]`.
    """

    tiles: Tiles
    origin: str
    scene: tuple[int, int] | None = None
    expected: Outputs = field(default_factory=dict)


def sample_file(directory: Path) -> Path | None:
    """The file beside a model that holds its sample: sample.npz, else the one GeoTIFF, if any.

    Raises:
        ModelError: there are several GeoTIFFs, or what lies there is a link that leads out of the directory.
    """
    if os.path.lexists(directory / SAMPLE_NAME):
        return _inside(directory, directory / SAMPLE_NAME)
    found = sorted(path for path in directory.glob("*") if path.suffix.lower() in _GEOTIFF and path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(
            f"{directory} holds several GeoTIFFs ({names}), one is the sample: keep one, or write a {SAMPLE_NAME}, "
            "which goes before them"
        )
    return _inside(directory, found[0]) if found else None


def _inside(directory: Path, path: Path) -> Path:
    """The sample's file, if it and what lies beside it under its name are files of the directory."""
    try:
        for each in [path, *directory.glob(f"{escape(path.name)}.*")]:
            stays_inside(directory, each)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not read as sample: {error}; put the file itself there, or remove it") from None
    return path


def sample_files(directory: Path) -> list[Path]:
    """The sample's file, and what GDAL reads beside a GeoTIFF: scene.tif.msk, scene.tif.aux.xml."""
    path = sample_file(directory)
    return list(directory.glob(f"{escape(path.name)}*")) if path else []


def read_sample(contract: ModelContract, path: Path) -> Sample:
    """The sample in a sample.npz or a GeoTIFF; of a large scene the middle.

    Raises:
        ModelError: the file cannot be read, lacks what the contract sends, or holds it in another shape.
    """
    if path.suffix.lower() in _GEOTIFF:
        from components.sample.geotiff import read_geotiff

        arrays, mend = read_geotiff(contract, path), "write the file again"
    else:
        arrays, mend = _read_npz(contract, path), "write it again with numpy.savez"
    try:
        image, expected = _scene(contract, path, arrays)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be used as sample: {error}; {mend}") from error
    if contract.table:
        tiles = np.ascontiguousarray(np.moveaxis(image, 2, 0)[..., np.newaxis])
        return Sample(tiles, f"{path.name}, {len(tiles)} features", None, expected)
    grid = Grid.over(contract, image.shape[2], image.shape[1])
    tiles = grid.cut(image)
    origin = f"{path.name}, {grid.width} x {grid.height} pixels, {len(tiles)} tiles"
    return Sample(tiles, origin, (grid.width, grid.height), expected)


def _read_npz(contract: ModelContract, path: Path) -> Arrays:
    names = [part.name for part in contract.sent]
    try:
        arrays = read_arrays(path, lambda name: name in names or name.startswith(OUTPUT))
    except ValueError as error:
        raise ModelError(f"{path} cannot be used as sample: {error}; write it again with numpy.savez") from error
    if missing := [name for name in names if name not in arrays]:
        raise ModelError(
            f"{path} lacks {', '.join(missing)}; it needs an array for each of {', '.join(names)}: "
            "add what is missing, or remove the file"
        )
    return arrays


def _scene(contract: ModelContract, path: Path, arrays: Arrays) -> tuple[NDArray[np.float32], Outputs]:
    """The image `[C, height, width]` of arrays, of a table `[C, 1, N]`, and the answers expected to it."""
    first = arrays[contract.sent[0].name]
    size = (1, *first.shape[:1]) if contract.table else first.shape[:2]
    if len(size) < 2 or 0 in size:
        raise ValueError(f"{contract.sent[0].name} has shape {list(first.shape)}, which holds no pixels")
    image = np.concatenate([_planes(part, arrays[part.name], size, contract.table) for part in parts(contract)])
    expected = _expected(contract, outputs_in(arrays), size)
    if contract.table:
        return image, expected
    window = middle(contract, path, *size)
    return image[:, *window], {name: array[window] for name, array in expected.items()}


def _planes(part: Part, array: NDArray[Any], size: tuple[int, ...], table: bool) -> NDArray[np.float32]:
    """The channels `[n, *size]` of a part of a sample; NaN in a band is a masked pixel, 0."""
    if part.values:
        unknown = sorted({str(value) for value in array.flat} - set(part.values))
        if unknown:
            raise ValueError(f"{part.name} has {', '.join(unknown[:3])}, not only {', '.join(part.values)}")
        array = np.array([part.values.index(str(value)) for value in array.flat]).reshape(array.shape)
    along = size[1:] if table else size if part.has_pixels else ()
    if array.shape != (*along, *part.shape):
        raise ValueError(f"{part.name} has shape {list(array.shape)}, not {[*along, *part.shape]}")
    planes = np.moveaxis(_numbers(part, array).reshape(*along, part.channels), -1, 0)
    if table:
        return planes[:, np.newaxis]
    return np.broadcast_to(planes if part.has_pixels else planes[:, np.newaxis, np.newaxis], (part.channels, *size))


def _numbers(part: Part, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{part.name} holds {array.dtype}, not numbers")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if part.has_pixels:
        numbers[np.isnan(numbers)] = 0
    if not np.isfinite(numbers).all():
        raise ValueError(f"{part.name} holds {numbers[~np.isfinite(numbers)][0]} as float32, not finite numbers alone")
    return numbers


def _expected(contract: ModelContract, arrays: Arrays, size: tuple[int, ...]) -> Outputs:
    """The answers expected to a scene or a table of this size."""
    outputs = {output.name: output for output in contract.outputs}
    if unknown := sorted(set(arrays) - set(outputs)):
        raise ValueError(f"{OUTPUT}{unknown[0]} is no output of {FILE_NAME}, which has {', '.join(outputs)}")
    if arrays and contract.output_tile not in (None, contract.patch):
        raise ValueError(
            f"{', '.join(OUTPUT + name for name in arrays)} cannot be held against answers of "
            f"{contract.output_tile} pixels a tile (output_tile); leave it out"
        )
    along = size[1:] if contract.table else size
    return {name: _checked(outputs[name], array, along) for name, array in arrays.items()}


def _checked(output: Output, array: NDArray[Any], along: tuple[int, ...]) -> NDArray[Any]:
    """An expected answer as it is, if it is numbers of the right rank and size."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{OUTPUT}{output.name} holds {array.dtype}, not numbers")
    if array.ndim != len(along) + output.dimensions or array.shape[: len(along)] != along:
        wanted = ", ".join([*map(str, along), *"DE"[: output.dimensions]])
        raise ValueError(f"{OUTPUT}{output.name} has shape {list(array.shape)}, not [{wanted}]")
    return array
