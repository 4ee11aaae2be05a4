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
from components.earthengine.payloads.codec import Outputs, Tiles
from components.source import SourceModel
from components.whole import whole_folder

log = logging.getLogger(__name__)


def export_model(directory: Path, destination: Path, *, allow_pickle: bool = False) -> ModelContract:
    """Export the model in a directory to a new folder.

    The folder gets the exported model (PyTorch: model.pt, TorchScript; TensorFlow: a SavedModel),
    model.yaml, golden.npz and source.sha256. The exported model is loaded again and must answer the golden tiles,
    and a tile of an odd size, as the source model does.

    Args:
        directory: holds model.yaml and the trained model.
        destination: the folder to make; not there, or only half there, if an error is raised.
        allow_pickle: whether a whole pickled module may be loaded.

    Raises:
        ContractError: model.yaml is missing, wrong, or contradicts the model.
        ModelError: the model cannot be loaded or exported.
    """
    with whole_folder(destination):
        batches, answers, scene = _run_source(directory, destination, allow_pickle)
        contract = ModelContract.read(directory)
        again = frameworks.of(contract).run_exported(destination, batches)
        for expected, answered in zip(answers, again, strict=True):
            if fault := parity.compare(contract, expected, answered).fault:
                raise ModelError(
                    f"the exported model does not answer as the source model does: {fault}; if the model is traced, "
                    "make it scriptable; if it is merely imprecise, raise tolerance in model.yaml"
                )
        golden.Golden(batches[0], answers[0], scene).save(destination)
        (destination / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        digest = source_digest(directory, contract)
        (destination / DIGEST_NAME).write_text(digest, encoding="ascii")
    return contract


def _run_source(
    directory: Path, destination: Path, allow_pickle: bool
) -> tuple[list[Tiles], list[Outputs], tuple[int, int] | None]:
    """Run the source model on the golden and the odd tiles, and export it.

    The source model is let go on return, so that it and the exported one never lie in memory together.
    """
    source = SourceModel(directory, allow_pickle=allow_pickle)
    contract = source.contract
    tiles, scene = golden.tiles_for(contract, directory)
    batches, answers = [tiles], [source.predict(tiles)]
    odd = np.ascontiguousarray(tiles[:1, :, : -(-tiles.shape[2] // 2) + 1, : max(tiles.shape[3] - 1, 1)])
    try:
        answers.append(source.predict(odd))
        batches.append(odd)
    except ContractError:
        log.warning("the model takes patches of %d x %d pixels only; Earth Engine must send these", *contract.patch)
    source.framework.export(source.model, contract, destination, tiles[:1])
    return batches, answers, scene
