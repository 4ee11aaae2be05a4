"""Trainable: which contracts the project's own network can be trained for, and whether data are such as they say."""

from __future__ import annotations

from collections.abc import Iterator

from components.data.labelled import Labelled
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError, DataError, PayloadError
from components.earthengine.payloads.batches import parts


def check_trainable(contract: ModelContract) -> None:
    """See that the project's own network can be what a contract says.

    It takes scalar bands alone and has one output: either of classes, a number for each of the labels, or of one
    number.

    Raises:
        ContractError: the contract has something else.
    """
    if faults := list(_faults(contract)):
        raise ContractError(
            f"{contract.name} cannot be trained here: {'; '.join(faults)}; the network that is trained here takes "
            "scalar bands and has one output, of classes (dimensions 1, with labels) or of one number (dimensions 0, "
            "without): train it with your own code and let the trigger or `submit` deploy it"
        )


def check_types(contract: ModelContract, data: Labelled) -> None:
    """See that Earth Engine can send such values as bands of the types that a contract declares.

    Raises:
        DataError: a value is none of its band's type, as where reflectances stand for counts that model.yaml scales.
    """
    for part in parts(contract):
        try:
            part.take(data.tiles)
        except PayloadError as error:
            raise DataError(
                f"{data.origin}: {error}; Earth Engine sends raw values, which factor and offset are for"
            ) from error


def _faults(contract: ModelContract) -> Iterator[str]:
    if contract.table:
        yield "it has no bands"
    if shaped := [band.name for band in contract.bands if band.shape]:
        yield f"array-valued bands ({', '.join(shaped)})"
    if contract.properties:
        yield f"properties ({', '.join(prop.name for prop in contract.properties)})"
    if contract.output_tile not in (None, contract.patch):
        yield f"answers of {contract.output_tile} pixels to patches of {contract.patch} (output_tile)"
    if len(contract.outputs) > 1:
        yield f"{len(contract.outputs)} outputs ({', '.join(output.name for output in contract.outputs)})"
    for output in contract.outputs:
        if (output.dimensions, bool(output.labels)) not in {(0, False), (1, True)}:
            yield f"output {output.name} of dimensions {output.dimensions} with{'' if output.labels else 'out'} labels"
        if twice := sorted({label for label in output.labels if output.labels.count(label) > 1}):
            yield f"output {output.name} has the label {twice[0]!r} twice"
        if any(band.name == output.name for band in contract.bands):
            yield f"{output.name} is a band and the output, so that no column can say what is true"
