"""Patches: labelled data in TFRecords, as Earth Engine exports images and tables.

A record is a tf.Example with a feature for each band, the values of its pixels row by row. Earth Engine makes a
float_list of every number, whatever the band's type (its guide "TFRecord and Earth Engine"); an int64_list is read
too, and class names in a bytes_list, as others write them. A masked pixel is the export's defaultValue, 0 where
none is given, in the bands and in the truth: export patches that are labelled whole, or a class for what is unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from components import storage
from components.data.labelled import Labelled
from components.data.tfrecord import read_records
from components.data.truth import Where, class_numbers, finite
from components.earthengine.contract import ModelContract, Output
from components.earthengine.errors import DataError
from components.earthengine.payloads.messages_pb2 import Example, Feature

TFRECORDS = (".tfrecord", ".tfrecord.gz")
_MIXER = "mixer.json"

_NUMBERS = ("float_list", "int64_list")


def read_patches(contract: ModelContract, uris: Sequence[str], name: str) -> Labelled:
    """The patches, or points, in the TFRecord files at some URIs.

    Their size is that which the export's mixer.json beside them says, else a square.

    Args:
        contract: of a model that can be trained (see `check_trainable`).
        uris: of the files.
        name: what all of them are called.

    Raises:
        DataError: a file is malformed, a record is no tf.Example of the contract's bands and output, sizes differ, or a
            value is not finite or no class.
        StorageError: a file cannot be read.
    """
    (output,) = contract.outputs
    names = [band.name for band in contract.bands]
    patches = list(_patches(contract, uris))
    if not patches:
        raise DataError(f"{name} holds no records; export patches or points that are labelled")
    height, width = patches[0].size
    if other := next((patch for patch in patches if patch.size != (height, width)), None):
        raise DataError(
            f"{other.place} is of {other.size[1]} x {other.size[0]} pixels, {patches[0].place} of {width} x {height}; "
            "patches must be of one size: export them with the same patchDimensions"
        )

    def where(names: Sequence[str]) -> Where:
        """Of values `[N, names, height, width]`."""

        def of_value(index: int) -> str:
            n, name, row, column = map(int, np.unravel_index(index, (len(patches), len(names), height, width)))
            at = f", row {row}, column {column}" if height * width > 1 else ""
            return f"{patches[n].place}: {names[name]}{at}"

        return of_value

    tiles = np.stack([patch.bands for patch in patches]).reshape(-1, len(names), height, width)
    values = np.stack([patch.truth for patch in patches]).reshape(-1, height, width)
    of_truth = where([output.name])
    truth = class_numbers(output, values, of_truth) if output.labels else finite(values, of_truth)
    what = "points" if height * width == 1 else f"patches of {width} x {height} pixels"
    return Labelled(finite(tiles, where(names)), truth, f"{name}, {len(tiles)} {what}")


@dataclass(frozen=True)
class _Patch:
    """Values as the record has them, one after the other: of each band `[C, pixels]`, and what is true `[pixels]`."""

    place: str
    size: tuple[int, int]
    bands: NDArray[np.float32]
    truth: NDArray[Any]


def _patches(contract: ModelContract, uris: Sequence[str]) -> Iterator[_Patch]:
    (output,) = contract.outputs
    names = [band.name for band in contract.bands]
    said = _said_sizes(uris)
    for uri in uris:
        with storage.local_file(uri) as path:
            for number, record in enumerate(read_records(path, uri)):
                place = f"{uri}: record {number}"
                *bands, truth = _rows(record, place, names, output)
                size = _size(said[uri], len(truth), place)
                yield _Patch(place, size, np.stack(bands).astype(np.float32, copy=False), truth)


def _rows(record: bytes, place: str, bands: list[str], output: Output) -> Iterator[NDArray[Any]]:
    """The values of each band, then what is true, all of one length."""
    names = (*bands, output.name)
    try:
        features = Example.FromString(record).features.feature
    except DecodeError:
        raise DataError(f"{place} is no tf.Example; export it from Earth Engine, or write one for each patch") from None
    if missing := [name for name in names if name not in features]:
        has = ", ".join(sorted(features)[:30]) or "none"
        raise DataError(
            f"{place} has no feature {missing[0]}; it has {has}, and needs one for each band and one for what is true "
            f"there: {', '.join(names)}"
        )
    pixels = 0
    for name in names:
        allowed = (*_NUMBERS, "bytes_list") if output.labels and name == output.name else _NUMBERS
        values = _values(features[name], allowed, f"{place}: {name}")
        pixels = pixels or len(values)
        if len(values) != pixels:
            raise DataError(
                f"{place}: {name} has {len(values)} values, {bands[0]} has {pixels}; each must have one a pixel: "
                "export the bands and what is true there as one image"
            )
        yield values


def _values(feature: Feature, allowed: tuple[str, ...], place: str) -> NDArray[Any]:
    """The values of a feature, one after the other."""
    kind = feature.WhichOneof("kind")
    if kind not in allowed:
        raise DataError(f"{place} is {kind or 'an empty feature'}; allowed: {', '.join(allowed)}")
    values = getattr(feature, kind).value
    if not values:
        raise DataError(f"{place} is an empty {kind}; it must have a value for each pixel")
    if kind == "float_list":
        # Packed floats are an array but for what comes before: a hundred times as fast as one Python float each.
        packed = feature.float_list.SerializeToString()
        return np.frombuffer(packed, "<f4", offset=len(packed) - 4 * len(values))
    if kind == "int64_list":
        return np.array(values, np.int64)
    return np.array([text.decode("utf-8", "backslashreplace") for text in values], object)


def _said_sizes(uris: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Height and width of the patches in each file, as the mixer.json of its export says; 0 where there is none.

    Earth Engine writes shards NAME-00000.tfrecord.gz and a NAMEmixer.json beside them.
    """
    one_a_folder = {uri.rpartition("/")[0]: uri for uri in uris}.values()
    mixers = [mixer for uri in one_a_folder for mixer in storage.find_beside(uri, _MIXER)]
    of_file = {uri: [mixer for mixer in mixers if uri.startswith(mixer.removesuffix(_MIXER))] for uri in uris}
    # The longest name: of an export A and another AB, both fit what AB wrote.
    nearest = {uri: max(fit, key=len) for uri, fit in of_file.items() if fit}
    said = {mixer: _patch_dimensions(mixer) for mixer in set(nearest.values())}
    return {uri: said[nearest[uri]] if uri in nearest else (0, 0) for uri in uris}


def _patch_dimensions(mixer: str) -> tuple[int, int]:
    """Height and width in a mixer.json; its patchDimensions have the width first (INFERRED from Google's notebooks)."""
    try:
        width, height = json.loads(storage.read_text(mixer) or "")["patchDimensions"]
        if not (type(width) is type(height) is int and width > 0 and height > 0):
            raise ValueError(f"patchDimensions are {width!r} and {height!r}")
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise DataError(
            f"{mixer} does not say a patch's size ({type(error).__name__}: {error}); it must hold patchDimensions, as "
            "[256, 256]: export it again, or remove it where the patches are square"
        ) from error
    return height, width


def _size(patch: tuple[int, int], pixels: int, place: str) -> tuple[int, int]:
    """Height and width of so many pixels: the patch, with a margin that is the same in both.

    The margin is the export's kernelSize, which patchDimensions do not count (INFERRED). Around no patch it is a
    square.
    """
    height, width = patch
    margin = (math.isqrt((height - width) ** 2 + 4 * pixels) - height - width) // 2
    if margin < 0 or (height + margin) * (width + margin) != pixels:
        said = f"its {_MIXER} says {width} x {height}" if height else f"there is no {_MIXER} beside it"
        raise DataError(
            f"{place} has {pixels} pixels a band, which is no square, and {said}; copy the export's {_MIXER} there "
            f"(NAME{_MIXER} for NAME-00000.tfrecord.gz), or export square patches"
        )
    return height + margin, width + margin
