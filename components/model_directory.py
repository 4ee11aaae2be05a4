"""The directory of a trained model, brought from where its user keeps it."""

from __future__ import annotations

import re
from pathlib import Path

from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ModelError
from components.storage import fetch

# TensorFlow's name for a part of a SavedModel's weights (tensor_bundle/naming.cc).
_SHARD = re.compile(r"variables\.data-\d{5}-of-(\d{5})")


def fetch_model(uri: str, folder: Path) -> Path:
    """The directory of a trained model at a URI, with all that its model.yaml names, on this machine.

    Args:
        uri: `gs://bucket/prefix` or a path.
        folder: where to download to.

    Raises:
        StorageError: the bucket or the directory does not exist, cannot be read, or changes meanwhile.
        ContractError: it has no valid model.yaml.
        ModelError: it lacks a file that is named there, or a part of a SavedModel.
        DiskError: the disk is full, or may not be written.
    """
    directory = fetch(uri, folder)
    if missing := _missing(directory, ModelContract.read(directory)):
        raise ModelError(
            f"{uri} holds {FILE_NAME} but not {missing}, which belongs to what that names; its upload is under way or "
            "was broken off: complete it, and run again"
        )
    return directory


def _missing(directory: Path, contract: ModelContract) -> str | None:
    """The name of a file that the directory lacks, if it does."""
    source = contract.model
    names = [source.file, *([source.code.partition(":")[0]] if source.code else [])]
    if (directory / source.file).is_dir():
        names += [f"{source.file}/{name}" for name in ("saved_model.pb", *_variables(directory / source.file))]
    return next((name for name in names if not (directory / name).exists()), None)


def _variables(saved_model: Path) -> list[str]:
    """The files of a SavedModel's weights, by those that are there; none of a SavedModel without weights."""
    there = [path.name for path in (saved_model / "variables").glob("variables.*")]
    counts = {int(found[1]) for name in there if (found := _SHARD.fullmatch(name))}
    shards = [f"variables.data-{shard:05}-of-{count:05}" for count in counts or {1} for shard in range(count)]
    return [f"variables/{name}" for name in ("variables.index", *shards)] if there else []
