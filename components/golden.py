"""Golden tiles: inputs and the source model's own answers, carried with a model to where it serves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError, PipelineError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, Outputs, Tiles
from components.earthengine.tiles import pack
from components.earthengine.untrusted.files import regular
from components.sample import Sample, read_sample, sample_file
from components.sample.made import made_sample
from components.sample.npz import OUTPUT, Arrays, outputs_in, read_arrays

FILE_NAME = "golden.npz"
HASH_NAME = "golden.sha256"


@dataclass(frozen=True)
class Golden:
    """Raw tiles `[N, C, H, W]`, the source model's answers, and the scene that they were cut from.

    `scene` is (width, height) where the tiles are the contract's grid over a sample image, else None.
    """

    tiles: Tiles
    outputs: Outputs
    scene: tuple[int, int] | None

    def save(self, folder: Path) -> None:
        """Write to a folder as golden.npz, the same bytes for the same arrays, and golden.sha256."""
        arrays: Arrays = {f"{OUTPUT}{name}": array for name, array in self.outputs.items()}
        arrays |= {"tiles": self.tiles, "scene": np.array(self.scene or (0, 0))}
        # An array in Fortran's order would be written in that order.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        np.savez(folder / FILE_NAME, allow_pickle=False, **arrays)
        (folder / HASH_NAME).write_text(_sha256(folder / FILE_NAME), encoding="ascii")

    @classmethod
    def load(cls, folder: Path) -> Golden:
        """Read from a folder.

        Raises:
            ModelError: there are no golden tiles, they are not those that were written, or they cannot be read.
        """
        golden_hash(folder)
        path = folder / FILE_NAME
        try:
            arrays = read_arrays(path, lambda _: True)
            width, height = (int(size) for size in arrays["scene"])
            return cls(arrays["tiles"], outputs_in(arrays), (width, height) if width else None)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{path} holds no golden tiles ({error}); export the model again") from error


def golden_hash(folder: Path) -> str:
    """The SHA-256 of a folder's golden.npz in hex, which is what its golden.sha256 says.

    Raises:
        ModelError: either file is missing, or golden.npz is another than golden.sha256 says.
    """
    path = folder / FILE_NAME
    try:
        regular(path)
        found = _sha256(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} holds no golden tiles ({error}); export the model again") from error
    try:
        written = (folder / HASH_NAME).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / HASH_NAME} cannot be read ({error}); export the model again") from error
    if found != written:
        raise ModelError(
            f"{path} has the SHA-256 {found}, {HASH_NAME} says {written[:64] or 'nothing'}: the golden tiles are not "
            "those that were exported; export the model again"
        )
    return found


def batches(tiles: Tiles) -> list[Tiles]:
    """Tiles in batches of about a request's size, which is what a model that serves is given at once."""
    return [tiles[part] for part in pack(len(tiles), min(tiles[0].nbytes, MAX_PAYLOAD_BYTES))]


def joined(answers: list[Outputs], error_type: type[PipelineError] = ModelError) -> Outputs:
    """The answers to batches as those to all tiles.

    Raises:
        PipelineError: of this type, where an output has one shape in an answer and another in the next.
    """
    for name, first in answers[0].items():
        for answer in answers:
            if answer[name].shape[1:] != first.shape[1:]:
                raise error_type(
                    f"output {name} has the shape {list(first.shape[1:])} in one answer and "
                    f"{list(answer[name].shape[1:])} in another, to tiles of one size; make the model answer all alike"
                )
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def tiles_for(contract: ModelContract, directory: Path) -> Sample:
    """Raw tiles to try a model with, of the scene beside it where there is one, else made.

    The scene is in `sample.npz`: an array `[height, width]` a scalar band, `[height, width, ...]` an
    array-valued one, a number or a string a property, under their names; for a table `[N]` or `[N, ...]` a
    property; under `output.NAME` what the training code answered for all of it, if known. Or it is in
    the one GeoTIFF there is.

    Raises:
        ModelError: the scene lacks a band, its bands differ in size, or there are several GeoTIFFs.
    """
    path = sample_file(directory)
    return read_sample(contract, path) if path else made_sample(contract)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
