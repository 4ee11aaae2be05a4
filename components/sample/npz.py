"""Arrays by name in `.npz` files, which golden tiles and samples are."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from components.earthengine.untrusted import zips

Arrays = dict[str, NDArray[Any]]

# Before the name of an output, which could be a band's too.
OUTPUT = "output."

_ENDING = ".npy"
# By the version of the header; of the third, which only field names need, nothing is read.
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """The arrays of a file whose names are wanted.

    Raises:
        ValueError: the file is not there, is no such file, claims more than it holds, or holds what only a pickle can.
    """
    try:
        with zips.opened(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(_ENDING) and wanted(entry.filename.removesuffix(_ENDING)):
                    _check_size(archive, entry)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file if wanted(name)}
    except Exception as error:  # what zipfile, zlib and numpy's parser raise: BadZipFile, EOFError, TypeError, ...
        raise ValueError(str(error) or type(error).__name__) from error
    if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{other[0]} is no array")
    return arrays


def outputs_in(arrays: Arrays) -> Arrays:
    """The arrays of outputs, by the output's name."""
    return {name.removeprefix(OUTPUT): array for name, array in arrays.items() if name.startswith(OUTPUT)}


def _check_size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Hold the shape of an array against its bytes: numpy makes room for what the shape says before it reads."""
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{entry.filename} is of version {version} of numpy's format; write plain arrays")
        shape, _, dtype = _HEADERS[version](file)
        held = entry.file_size - file.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{entry.filename} claims {dtype} of shape {list(shape)}, which {held:,} bytes are not")
