"""Export: the trained model, wrapped to take raw bands of any height and width, with golden tiles beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from components import frameworks, golden, parity
from components.digest import FILE_NAME as DIGEST_NAME
from components.digest import source_digest
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ContractError, ModelError
from components.golden import Golden
from components.source import SourceModel, prepare
from components.whole import whole_folder

log = logging.getLogger(__name__)


def export_model(directory: Path, destination: Path, *, allow_pickle: bool = False) -> ModelContract:
    """Export the model in a directory to a new folder.

    The folder gets the exported model (PyTorch: model.pt, TorchScript; TensorFlow: a SavedModel),
    model.yaml, golden.npz and source.sha256. The exported model is loaded again and must answer the
    golden tiles, and a tile of an odd size, as the source model does.

    Args:
        directory: holds model.yaml and the trained model.
        destination: the folder to make; not there if an error is raised.
        allow_pickle: whether a whole pickled module may be loaded.

    Raises:
        ContractError: model.yaml is missing, wrong, or contradicts the model.
        ModelError: the model cannot be loaded or exported.
    """
    with whole_folder(destination):
        contract, given, odd = _export_source(directory, destination, allow_pickle)
        _compare(contract, destination, [given, odd] if odd else [given])
        given.save(destination)
        (destination / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        (destination / DIGEST_NAME).write_text(source_digest(directory, contract), encoding="ascii")
    return contract


def _export_source(
    directory: Path, destination: Path, allow_pickle: bool
) -> tuple[ModelContract, Golden, Golden | None]:
    """Export the source model; returns its answers to the golden tiles, and to one of an odd size if it takes that.

    The source model is let go on return, so that it and the exported one never lie in memory together.
    """
    source = SourceModel(directory, allow_pickle=allow_pickle)
    contract = source.contract
    tiles, scene = golden.tiles_for(contract, directory)
    given = Golden(tiles, golden.joined([source.predict(batch) for batch in golden.batches(tiles)]), scene)
    odd_tile = np.ascontiguousarray(tiles[:1, :, : -(-tiles.shape[2] // 2) + 1, : max(tiles.shape[3] - 1, 1)])
    try:
        odd = Golden(odd_tile, source.predict(odd_tile), None)
    except ContractError:
        odd = None
        log.warning("the model takes patches of %d x %d pixels only; Earth Engine must send these", *contract.patch)
    source.framework.export(source.model, contract, destination, prepare(contract, tiles[:1]))
    return contract, given, odd


def _compare(contract: ModelContract, folder: Path, trials: list[Golden]) -> None:
    """Load the exported model and hold its answers against the source model's.

    Raises:
        ModelError: it fails, or answers otherwise.
    """
    mend = "if the model is traced, make it scriptable; if it is merely imprecise, raise tolerance in model.yaml"
    try:
        exported = frameworks.of(contract).load_exported(folder)
    except Exception as error:
        raise ModelError(f"the exported model cannot be loaded: {frameworks.first_line(error)}; {mend}") from error
    for trial in trials:
        try:
            answers = [exported(batch) for batch in golden.batches(trial.tiles)]
        except Exception as error:
            size = f"{trial.tiles.shape[3]} x {trial.tiles.shape[2]}"
            reason = frameworks.first_line(error)
            raise ModelError(f"the exported model fails on tiles of {size} pixels: {reason}; {mend}") from error
        if fault := parity.compare(contract, trial.outputs, golden.joined(answers)).fault:
            raise ModelError(f"the exported model does not answer as the source model does: {fault}; {mend}")
