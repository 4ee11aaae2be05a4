"""Golden tiles: inputs and the source model's own answers, carried with a model to where it serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import Band, ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, Outputs, Tiles
from components.earthengine.payloads.batches import Part, parts
from components.earthengine.tiles import Grid, pack

FILE_NAME = "golden.npz"
SAMPLE_NAME = "sample.npz"

# Made tiles: enough for several requests, few enough that a step stays fast.
_MADE = 4
_MADE_FEATURES = 64


@dataclass(frozen=True)
class Golden:
    """Raw tiles `[N, C, H, W]`, the source model's answers, and the scene that they were cut from.

    `scene` is (width, height) where the tiles are the contract's grid over a sample image, else None.
    """

    tiles: Tiles
    outputs: Outputs
    scene: tuple[int, int] | None

    def save(self, folder: Path) -> None:
        """Write to a folder as golden.npz."""
        arrays: dict[str, NDArray[Any]] = {f"output.{name}": array for name, array in self.outputs.items()}
        arrays |= {"tiles": self.tiles, "scene": np.array(self.scene or (0, 0))}
        np.savez(folder / FILE_NAME, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Golden:
        """Read from a folder.

        Raises:
            ModelError: there are no golden tiles, or they cannot be read.
        """
        path = folder / FILE_NAME
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                scene = tuple(int(size) for size in file["scene"])
                outputs = {name.removeprefix("output."): file[name] for name in file if name.startswith("output.")}
                return cls(file["tiles"], outputs, (scene[0], scene[1]) if any(scene) else None)
        except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
            raise ModelError(f"{path} holds no golden tiles ({error}); export the model again") from error


def batches(tiles: Tiles) -> list[Tiles]:
    """Tiles in batches of about a request's size, which is what a model that serves is given at once."""
    return [tiles[part] for part in pack(len(tiles), min(tiles[0].nbytes, MAX_PAYLOAD_BYTES))]


def joined(answers: list[Outputs]) -> Outputs:
    """The answers to batches as those to all tiles."""
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def tiles_for(contract: ModelContract, directory: Path) -> tuple[Tiles, tuple[int, int] | None]:
    """Raw tiles to try a model with, and the (width, height) of the scene that they cover.

    Cut from `sample.npz` beside the model where there is one: an array `[height, width]` a scalar
    band, `[height, width, ...]` an array-valued one, a number or a string a property, under their names;
    for a table `[N]` or `[N, ...]` a property. Else made from the contract: noise that spreads the
    normalised values over 0 to 1, and one tile of 0s.

    Raises:
        ModelError: sample.npz lacks a band, or its bands differ in size.
    """
    path = directory / SAMPLE_NAME
    if not path.exists():
        return _made(contract), None
    image = _read(contract, path)
    if contract.table:
        return np.ascontiguousarray(np.moveaxis(image, 2, 0)[..., np.newaxis]), None
    grid = Grid.over(contract, image.shape[2], image.shape[1])
    return grid.cut(image), (grid.width, grid.height)


def _read(contract: ModelContract, path: Path) -> NDArray[np.float32]:
    """The image `[C, height, width]` of a sample.npz; of a table `[C, 1, N]`, each feature a pixel."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [part.name for part in contract.sent if part.name not in file]:
                raise ModelError(
                    f"{path} lacks {', '.join(missing)}; it needs an array for each of "
                    f"{', '.join(part.name for part in contract.sent)}: add what is missing, or remove the file"
                )
            first = file[contract.sent[0].name]
            size = (1, *first.shape[:1]) if contract.table else first.shape[:2]
            planes = [_planes(part, file[part.name], size, contract.table) for part in parts(contract)]
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise ModelError(f"{path} cannot be used as sample: {error}; write it again with numpy.savez") from error
    return np.concatenate(planes)


def _planes(part: Part, array: NDArray[Any], size: tuple[int, ...], table: bool) -> NDArray[np.float32]:
    """The channels `[n, *size]` of a part of a sample."""
    if part.values:
        unknown = sorted({str(value) for value in array.flat} - set(part.values))
        if unknown:
            raise ValueError(f"{part.name} has {', '.join(unknown[:3])}, not only {', '.join(part.values)}")
        array = np.array([part.values.index(str(value)) for value in array.flat]).reshape(array.shape)
    along = size[1:] if table else size if part.has_pixels else ()
    if array.shape != (*along, *part.shape):
        raise ValueError(f"{part.name} has shape {list(array.shape)}, not {[*along, *part.shape]}")
    planes = np.moveaxis(array.astype(np.float32).reshape(*along, part.channels), -1, 0)
    if table:
        return planes[:, np.newaxis]
    return np.broadcast_to(planes if part.has_pixels else planes[:, np.newaxis, np.newaxis], (part.channels, *size))


def _made(contract: ModelContract) -> Tiles:
    width, height = contract.patch
    count = _MADE_FEATURES if contract.table else _MADE
    noise = np.random.default_rng(0).random((count, contract.channels, height, width), np.float32)
    noise[-1] = 0
    tiles = np.empty_like(noise)
    for part, sent in zip(parts(contract), contract.sent, strict=True):
        channels = slice(part.first, part.first + part.channels)
        values = (noise[:, channels] - sent.offset) / (sent.factor or 1)
        values[-1] = 0
        if part.values:
            values = np.floor(noise[:, channels] * len(part.values))
        elif sent.type == "boolean":
            values = np.heaviside(values, 0)
        elif part.dtype.kind in "iu":
            limits = np.iinfo(part.dtype)
            values = values.round().clip(limits.min, limits.max)
        tiles[:, channels] = values if isinstance(sent, Band) else values[..., :1, :1]
    return tiles
