"""Data: what a model is trained on, of a table, of Earth Engine's TFRecords, or the packaged samples.

The contract names the columns: one for each band, by its name, and one for the output, by its name, which holds
the truth: the class, as its label or its number, or where the output has no labels the number itself.
"""

from __future__ import annotations

from components import storage
from components.data.labelled import Labelled
from components.data.packaged import SAMPLES, read_samples
from components.data.patches import TFRECORDS, read_patches
from components.data.splitting import check_classes, check_share, split
from components.data.table import TABLES, read_table
from components.data.trainable import check_trainable, check_types
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError

__all__ = ["SAMPLES", "Labelled", "check_classes", "check_share", "check_trainable", "read_data", "split"]


def read_data(contract: ModelContract, uri: str) -> Labelled:
    """The labelled data at a URI.

    Args:
        contract: whose bands and output name the columns.
        uri: `samples`, the packaged ones; a table (.csv, .csv.gz, .parquet); TFRecords as Earth Engine exports them (a
            .tfrecord or .tfrecord.gz file, a folder of these, or what all their names begin with). The last two
            are paths or lie in `gs://`.

    Raises:
        ContractError: the contract is of a model that the project's network cannot be (see `check_trainable`).
        DataError: the data are not there, malformed, or not what the contract names, in numbers that it can carry.
        StorageError: the bucket does not exist or cannot be read.
    """
    check_trainable(contract)
    data = _read(contract, uri)
    check_types(contract, data)
    return data


def _read(contract: ModelContract, uri: str) -> Labelled:
    if uri == SAMPLES:
        return read_samples(contract)
    if uri.endswith(TABLES):
        with storage.local_file(uri) as path:
            return read_table(contract, path, uri)
    files = [uri] if uri.endswith(TFRECORDS) else storage.find_files(uri, TFRECORDS)
    if not files:
        raise DataError(
            f"{uri} is no data to train on: nothing in it, or that begins with it, ends in {' or '.join(TFRECORDS)}; "
            f"give a table ({', '.join(TABLES)}), a TFRecord file ({', '.join(TFRECORDS)}) or a folder of these, or "
            f"{SAMPLES!r}"
        )
    return read_patches(contract, files, uri)
