"""The trained model as it came, run the plain way: the yardstick of every export and deployment.

The contract's normalisation, cast, layout and padding are done here in numpy, apart from the
exported graph that does them again, so that the two check each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import frameworks
from components.earthengine.contract import FILE_NAME, ModelContract, Output
from components.earthengine.errors import ContractError
from components.earthengine.payloads.codec import Outputs, Tiles

Answer = NDArray[Any] | Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]]


class SourceModel:
    """A trained model in a directory, with its contract.

    Args:
        directory: holds model.yaml and what it names.
        allow_pickle: whether the directory's own code may run: a pickled module's, model.code.

    Raises:
        ContractError: there is no valid model.yaml.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, directory: Path, *, allow_pickle: bool = False) -> None:
        self.contract = ModelContract.read(directory)
        self.framework = frameworks.of(self.contract)
        self.model = self.framework.load(directory, self.contract, allow_pickle)

    def predict(self, tiles: Tiles) -> Outputs:
        """The model's answers to raw tiles `[N, C, height, width]`, as the contract declares them.

        Raises:
            ContractError: the model refuses such input, or what it answers is not what is declared.
        """
        contract = self.contract
        wanted = self.framework.channels(self.model, contract)
        if wanted not in (None, contract.channels):
            raise ContractError(self._refusal(tiles, f"it takes {wanted} channels"))
        try:
            answer = self.framework.answer(self.model, prepare(contract, tiles))
        except Exception as error:
            raise ContractError(self._refusal(tiles, _reason(error))) from error
        return finish(contract, answer, tiles.shape)

    def _refusal(self, tiles: Tiles, reason: str) -> str:
        sent = prepare(self.contract, tiles)
        names = [part.name for part in self.contract.sent]
        return (
            f"the model refuses what {FILE_NAME} declares: {self.contract.channels} channels ({', '.join(names)}), "
            f"{self.contract.layout}, {sent.dtype} of shape {list(sent.shape)}; it says: {reason}; "
            "correct bands, model.layout, model.type or model.multiple"
        )


def _reason(error: Exception) -> str:
    """The line that says what is wrong: TorchScript's last, Keras's last before the arguments of the call."""
    said = re.sub("\x1b\\[\\d*m", "", str(error)).split("Arguments received by")[0]
    return ([line.strip() for line in said.splitlines() if line.strip()] or [type(error).__name__])[-1]


def prepare(contract: ModelContract, tiles: Tiles) -> NDArray[Any]:
    """What the model wants to be given for raw tiles `[N, C, H, W]`.

    Normalised, reflected at the right and bottom edge up to the contract's multiple, in the
    contract's layout and type; of a table `[N, C]`.
    """
    channelwise = (1, -1, 1, 1)
    factors = np.array(contract.factors, np.float32).reshape(channelwise)
    offsets = np.array(contract.offsets, np.float32).reshape(channelwise)
    beyond = [(0, -size % contract.model.multiple) for size in tiles.shape[2:]]
    padded = np.pad(tiles * factors + offsets, [(0, 0), (0, 0), *beyond], mode="reflect")
    if contract.table:
        padded = padded[:, :, 0, 0]
    elif contract.layout == "channels_last":
        padded = padded.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(padded.astype(contract.model.type))


def finish(contract: ModelContract, answer: Answer, shape: tuple[int, ...]) -> Outputs:
    """A model's answer to tiles of a shape, named, channels last and cropped, as the contract declares it.

    Raises:
        ContractError: the answer is not what is declared.
    """
    arrays = _by_name(contract, answer)
    return {output.name: _finish_one(contract, output, arrays[output.name], shape) for output in contract.outputs}


def _by_name(contract: ModelContract, answer: Answer) -> dict[str, NDArray[Any]]:
    declared = [output.name for output in contract.outputs]
    if isinstance(answer, Mapping):
        if len(answer) == len(declared) == 1:
            return dict(zip(declared, answer.values(), strict=True))
        if missing := sorted(set(declared) - set(answer)):
            raise ContractError(
                f"{FILE_NAME} declares the outputs {', '.join(declared)}, the model gives {', '.join(answer)}; "
                f"{', '.join(missing)} is not among them: correct outputs"
            )
        return {name: answer[name] for name in declared}
    arrays = [answer] if isinstance(answer, np.ndarray) else list(answer)
    if len(arrays) != len(declared):
        raise ContractError(
            f"{FILE_NAME} declares {len(declared)} outputs ({', '.join(declared)}), the model gives {len(arrays)}; "
            "declare each output in the model's order"
        )
    return dict(zip(declared, arrays, strict=True))


def _finish_one(
    contract: ModelContract, output: Output, array: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    count, _, height, width = shape
    given, rank = array.shape, output.dimensions
    channels_first = contract.layout == "channels_first"
    if rank == 0 and array.ndim in (2, 4):
        axis = 1 if channels_first else -1
        if array.shape[axis] != 1:
            raise _wrong_rank(contract, output, given)
        array = array.squeeze(axis)
    if array.ndim == rank + 1:
        array = array[:, None, None]
    elif array.ndim != rank + 3:
        raise _wrong_rank(contract, output, given)
    elif rank and channels_first:
        array = np.moveaxis(array, (-2, -1), (1, 2))
    if contract.output_tile:
        width, height = contract.output_tile
    else:
        array = array[:, :height, :width]
    if array.shape[:3] != (count, height, width):
        raise ContractError(
            f"output {output.name} of the model has shape {list(given)} for {count} patches of {shape[3]} x {shape[2]} "
            f"pixels; {FILE_NAME} expects answers of {width} x {height} pixels: correct tile, overlap, model.layout "
            "or declare output_tile"
        )
    if rank == 1 and output.labels and array.shape[3] != len(output.labels):
        raise ContractError(
            f"output {output.name} of the model has {array.shape[3]} values a pixel, {FILE_NAME} gives "
            f"{len(output.labels)} labels ({', '.join(output.labels)}); give one label a value"
        )
    return array.astype(_held_by(output, array))


def _held_by(output: Output, array: NDArray[Any]) -> np.dtype[Any]:
    """The output's type, which must hold its values: frameworks differ in what they make of others."""
    dtype = np.dtype(output.number)
    if dtype.kind in "iu" and array.size:
        limits, low, high = np.iinfo(dtype), array.min(), array.max()
        if not (limits.min - 1 < low and high < limits.max + 1):
            raise ContractError(
                f"output {output.name} of the model has values from {low:g} to {high:g} (tiles of 0s, as masked pixels "
                f"are sent, included); {output.type} as {FILE_NAME} declares holds {limits.min} to {limits.max}: "
                "declare a type that holds them"
            )
    return dtype


def _wrong_rank(contract: ModelContract, output: Output, shape: tuple[int, ...]) -> ContractError:
    fits = {2: 1, 3: 0, 4: 1, 5: 2}.get(len(shape))
    mend = f"declare dimensions: {fits}" if fits is not None else "give it batch, height and width"
    return ContractError(
        f"output {output.name} of the model has shape {list(shape)} ({contract.layout}), which is not of "
        f"dimensions {output.dimensions} as {FILE_NAME} declares; {mend}"
    )
