"""Challenger: a model trained anew for a contract, and the held-out data that it is judged by."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from components import storage
from components.data import Labelled, check_classes, check_trainable, read_data, split
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import ContractError
from components.held_out import save_held_out
from components.land_cover import land_cover_contract, save_scene
from components.sample import SAMPLE_NAME, sample_files
from components.sample.npz import OUTPUT, read_arrays
from components.train import train_model
from components.whole import whole_folder

# Pixels along a patch of which a picture says something.
_PICTURED = 16


def train_challenger(
    framework: Framework,
    contract_uri: str,
    data_uri: str,
    held_out_uri: str,
    held_out_share: float,
    seed: int,
    destination: Path,
    hold_out: Path,
) -> str:
    """Train a model and write it, with its contract and a sample scene, and apart from it what it is judged by.

    Args:
        framework: that the model is trained with.
        contract_uri: folder with the model.yaml to train for, and a sample scene if there is one; empty for the
            packaged land cover.
        data_uri: what to train on, see `read_data`.
        held_out_uri: what the model is judged by; empty for a share of the data.
        held_out_share: of the data, of points of each class, where they are split.
        seed: of the training.
        destination: folder for the model.
        hold_out: folder for the held-out data.

    Returns:
        What was done, in a sentence.

    Raises:
        ContractError: there is no contract, or it is of another framework or of no model that can be trained here.
        DataError: the data are missing, malformed, or not enough.
        ModelError: the sample beside the contract cannot be read.
        StorageError: a bucket does not exist or cannot be read.
        DiskError: the disk is full, or may not be written.
    """
    with TemporaryDirectory() as folder, whole_folder(destination) as aside, whole_folder(hold_out) as held:
        beside = storage.fetch(contract_uri, Path(folder)) if contract_uri else None
        contract = ModelContract.read(beside) if beside else land_cover_contract(framework)
        if contract.framework != framework:
            raise ContractError(
                f"{contract_uri}/{FILE_NAME} is of {contract.framework}, this is the pipeline of {framework}; "
                f"run retrain-{contract.framework}"
            )
        check_trainable(contract)
        data = read_data(contract, data_uri)
        train, held_out = (data, read_data(contract, held_out_uri)) if held_out_uri else split(data, held_out_share)
        check_classes(contract, train, held_out)
        trained = train_model(contract, train, aside, seed=seed)
        contract = contract.model_copy(update={"model": trained.source})
        (aside / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        if beside is None:
            save_scene(trained, aside)
        elif found := sample_files(beside):
            _copy_sample(found, aside)
        else:
            _save_patch(contract, held_out, aside)
        save_held_out(contract, held_out, held)
    origins = train.origin if held_out_uri else data.origin
    return f"trained {contract.name} on {train.truth.size} pixels of {origins}; held out: {held_out.truth.size} pixels"


def _copy_sample(found: list[Path], destination: Path) -> None:
    """Copy the files of a sample, without what another model answered to it."""
    for path in found:
        if path.name == SAMPLE_NAME:
            arrays = read_arrays(path, lambda name: not name.startswith(OUTPUT))
            np.savez(destination / SAMPLE_NAME, allow_pickle=False, **arrays)
        else:
            shutil.copy2(path, destination / path.name)


def _save_patch(contract: ModelContract, held_out: Labelled, destination: Path) -> None:
    """The first held-out patch as the sample; points make none."""
    if min(held_out.tiles.shape[2:]) < _PICTURED:
        return
    bands = {band.name: held_out.tiles[0, channel] for channel, band in enumerate(contract.bands)}
    np.savez(destination / SAMPLE_NAME, allow_pickle=False, **bands)
