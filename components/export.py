"""Export: the trained model, wrapped to take raw bands of any height and width, with golden tiles beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components import frameworks, golden, parity
from components.answers import answer
from components.digest import FILE_NAME as DIGEST_NAME
from components.digest import source_digest
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ContractError, ModelError
from components.earthengine.payloads import Outputs, Tiles
from components.frameworks import ONNX_NAME
from components.golden import Golden
from components.source import SourceModel, prepare
from components.whole import whole_folder

log = logging.getLogger(__name__)

# Tiles in the batch that is tried besides those of the golden tiles, and the one that a model is traced with.
_SEVERAL = 3


def export_model(directory: Path, destination: Path, *, allow_pickle: bool = False) -> ModelContract:
    """Export the model in a directory to a new folder.

    The folder gets the exported model (PyTorch: model.pt, TorchScript; TensorFlow: a SavedModel), model.onnx
    where the model converts to it, model.yaml, golden.npz, golden.sha256 and source.sha256. The exported model
    is loaded again and must answer the golden tiles, a tile of an odd size and a batch of another size as the
    source model does; a model.onnx that does not is left out.

    Args:
        directory: holds model.yaml and the trained model.
        destination: the folder to make; not there if an error is raised.
        allow_pickle: whether the directory's own code may run (see `SourceModel`).

    Raises:
        ContractError: model.yaml is missing, wrong, or contradicts the model or the answers that its sample expects.
        ModelError: the model cannot be loaded or exported, its answers are not numbers, or the sample cannot be read.
        DiskError: the disk is full, or may not be written.
    """
    with whole_folder(destination) as aside:
        contract, trials = _export_source(directory, aside, allow_pickle)
        if fault := _fault(contract, frameworks.of(contract).load_exported, aside, trials):
            raise ModelError(
                f"the exported model {fault}; if the model is traced, make it scriptable; if it is merely imprecise, "
                "raise tolerance in model.yaml"
            )
        if (aside / ONNX_NAME).exists():
            _keep_onnx_if_it_agrees(contract, aside, trials)
        trials[0].save(aside)
        (aside / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        (aside / DIGEST_NAME).write_text(source_digest(directory, contract), encoding="ascii")
    return contract


def _export_source(directory: Path, destination: Path, allow_pickle: bool) -> tuple[ModelContract, list[Golden]]:
    """Export the source model; returns its answers to the golden tiles, then to others that it takes.

    The source model is let go on return, so that it and the exported one never lie in memory together.
    """
    source = SourceModel(directory, allow_pickle=allow_pickle)
    contract = source.contract
    given = answer(source, golden.tiles_for(contract, directory))
    tiles = given.tiles
    several = _answered(source, np.repeat(tiles[:1], _SEVERAL, axis=0))
    if several is None:
        log.warning("the model refuses a batch of %d tiles; Earth Engine may send several at once", _SEVERAL)
    odd = None
    if not contract.table:
        height, width = tiles.shape[2:]
        odd = _answered(source, np.ascontiguousarray(tiles[:1, :, : -(-height // 2) + 1, : max(width - 1, 1)]))
        if odd is None:
            log.warning("the model takes patches of %d x %d pixels only; Earth Engine must send these", width, height)
    source.framework.export(source.model, contract, destination, prepare(contract, tiles[:1]))
    return contract, [given, *(trial for trial in (odd, several) if trial)]


def _answered(source: SourceModel, tiles: Tiles) -> Golden | None:
    """The source model's answers to tiles, if it takes them."""
    try:
        return Golden(tiles, source.predict(tiles), None)
    except ContractError:
        return None


def _keep_onnx_if_it_agrees(contract: ModelContract, folder: Path, trials: list[Golden]) -> None:
    from components.frameworks import onnx

    if fault := _fault(contract, onnx.load_exported, folder, trials):
        onnx.drop(contract, folder, f"converted to ONNX it {fault}")


def _fault(
    contract: ModelContract, load: Callable[[Path], Callable[[Tiles], Outputs]], folder: Path, trials: list[Golden]
) -> str | None:
    """Load what was exported and hold its answers against the source model's; what is wrong, if anything."""
    try:
        exported = load(folder)
    except Exception as error:
        return f"cannot be loaded: {frameworks.first_line(error)}"
    for trial in trials:
        try:
            answers = [exported(batch) for batch in golden.batches(trial.tiles)]
        except Exception as error:
            size = f"{trial.tiles.shape[3]} x {trial.tiles.shape[2]}"
            return f"fails on tiles of {size} pixels: {frameworks.first_line(error)}"
        if fault := parity.compare(contract, trial.outputs, golden.joined(answers)).fault:
            return f"does not answer as the source model does: {fault}"
    return None
