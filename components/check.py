"""Check: a model directory against its contract and the platform, before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from components import golden, images
from components.answers import answer
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError, PipelineError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES
from components.earthengine.tiles import check_payload
from components.replay import tile_bytes
from components.sample import Sample
from components.sample.made import made_sample
from components.source import SourceModel


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    verdict: Literal["passed", "warning", "failed"]
    text: str


def check_model(directory: Path, image: str | None, today: date, *, allow_pickle: bool = False) -> Iterator[Finding]:
    """Check a trained model in a directory, one finding after the other as they come.

    The model is loaded and run on its sample, or where that cannot be read on made tiles, and what it
    answers is held against what model.yaml declares and the sample expects. Without an image ours is meant.
    """
    try:
        contract = ModelContract.read(directory)
    except ContractError as error:
        yield Finding("contract", "failed", str(error))
        return
    yield Finding(
        "contract",
        "passed",
        f"{contract.name}: {contract.channels} channels, {len(contract.outputs)} outputs",
    )
    try:
        yield Finding("payload", "passed", check_payload(contract))
    except PipelineError as error:
        yield Finding("payload", "failed", str(error))
    image = image or f"REPOSITORY/serving-{contract.framework}"
    try:
        warnings = images.check(contract, image, today)
        yield Finding("image", "passed", f"{image} serves {contract.framework} and {contract.payload_format}")
        yield from (Finding("image", "warning", warning) for warning in warnings)
    except PipelineError as error:
        yield Finding("image", "failed", str(error))
    try:
        sample = golden.tiles_for(contract, directory)
        yield Finding("golden", "passed", sample.origin)
    except PipelineError as error:
        sample = made_sample(contract)
        yield Finding("golden", "failed", str(error))
    try:
        yield Finding("model", "passed", _run(directory, sample, allow_pickle))
    except PipelineError as error:
        yield Finding("model", "failed", str(error))


def check_platform(contract: ModelContract, image: str, today: date) -> list[str]:
    """Check that the platform can carry what a contract declares: its tile, its format, the image.

    Returns:
        Warnings.

    Raises:
        ContractError, ImageError: it cannot.
    """
    check_payload(contract)
    return images.check(contract, image, today)


def _run(directory: Path, sample: Sample, allow_pickle: bool) -> str:
    source = SourceModel(directory, allow_pickle=allow_pickle)
    contract = source.contract
    given = answer(source, sample)
    answered = ", ".join(f"{name} {list(array.shape[1:])}" for name, array in given.outputs.items())
    _, size = tile_bytes(contract, given)
    if size > MAX_PAYLOAD_BYTES:
        raise ContractError(
            f"the answer to one tile takes {size:,} bytes in {contract.payload_format}, a shared endpoint allows "
            f"{MAX_PAYLOAD_BYTES:,}; declare a smaller tile in model.yaml"
        )
    sent = "a feature" if contract.table else f"a patch of {contract.patch[0]} x {contract.patch[1]} pixels"
    expected = f"; {', '.join(sample.expected)} as expected" if sample.expected else ""
    return f"answers {sent} as declared: {answered}{expected}"
