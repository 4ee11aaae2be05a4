"""Arrays by name in `.npz` files, which golden tiles and samples are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

# Before the name of an output, which could be a band's too.
OUTPUT = "output."


def read_arrays(path: Path, wanted: Callable[[str], bool]) -> Arrays:
    """The arrays of a file whose names are wanted.

    Raises:
        ValueError: the file is not there, is no such file, or holds what only a pickle can.
    """
    try:
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
