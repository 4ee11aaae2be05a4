"""Packaged samples: 120 labelled surface reflectances of Landsat 8, which spyndex carries."""

from __future__ import annotations

import numpy as np

from components.data.labelled import Labelled
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError

SAMPLES = "samples"

# Landsat 8's bands by the name of the Sentinel-2 band that sees the same colour.
BANDS = {"B2": "SR_B2", "B3": "SR_B3", "B4": "SR_B4", "B8": "SR_B5"}
CLASSES = ("Urban", "Vegetation", "Water")


def read_samples(contract: ModelContract) -> Labelled:
    """The packaged samples of the classes that the contract labels, as raw values: (reflectance - offset) / factor.

    Raises:
        DataError: the contract has a band or a label that no sample has, or a factor from which nothing returns.
    """
    import spyndex

    (output,) = contract.outputs
    bands = [band.name for band in contract.bands]
    if not set(bands) <= BANDS.keys() or not output.labels or not set(output.labels) <= set(CLASSES):
        raise DataError(
            f"{SAMPLES} are of the bands {', '.join(BANDS)} and the labels {', '.join(CLASSES)}; {contract.name} has "
            f"the bands {', '.join(bands)} and the labels {', '.join(output.labels) or '(none)'}: give a table or "
            "TFRecords of these"
        )
    if zero := [band.name for band in contract.bands if not band.factor]:
        raise DataError(f"{SAMPLES} have no raw value for {zero[0]}, whose factor is 0; correct it in model.yaml")
    table = spyndex.datasets.open("spectral")
    table = table[table["class"].isin(output.labels)]
    reflectances = table[[BANDS[band] for band in bands]].to_numpy(np.float64)
    raw = (reflectances - np.array(contract.offsets)) / np.array(contract.factors)
    # Counts of a satellite are whole numbers.
    whole = np.array([band.type not in {"float", "double"} for band in contract.bands])
    raw = np.where(whole, raw.round(), raw)
    truth = np.array([output.labels.index(label) for label in table["class"]], np.int64)
    return Labelled(
        raw.astype(np.float32)[:, :, np.newaxis, np.newaxis],
        truth[:, np.newaxis, np.newaxis],
        f"spyndex's {len(table)} samples of Landsat 8",
    )
