"""Champion: the model that serves at an endpoint now, asked for the held-out data as Earth Engine would ask it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components import storage
from components.asking import ATTEMPTS, asking
from components.data import Labelled
from components.earthengine.contract import FILE_NAME, ModelContract, Output
from components.earthengine.errors import EvaluationError, PipelineError
from components.earthengine.payloads import Outputs, Tiles
from components.endpoint import find_endpoint
from components.evaluation import Evaluation, answered_class, evaluate
from components.golden import Golden
from components.replay import NobodyAnsweredError, replay
from components.traffic import read_endpoint, shares_at
from components.versions import version_of
from components.vertex import Vertex, explained

_WAY_OUT = (
    "roll back to a model that can, or deploy the challenger without a comparison: `pipeline.py submit` with the "
    "folder that the train step wrote"
)


@dataclass(frozen=True)
class Champion:
    """The deployed model with most of an endpoint's traffic.

    Attributes:
        endpoint: resource name.
        deployed_model: its id there.
        version: `M@V`.
        contract: of what is deployed.
    """

    endpoint: str
    deployed_model: str
    version: str
    contract: ModelContract


def find_champion(vertex: Vertex, endpoint: str) -> Champion | None:
    """The model that serves at the endpoint of an id or name; None if there is no such endpoint, or none serves.

    Raises:
        EvaluationError: its contract is not in its artifact folder, so nobody knows what it wants to be asked.
        VertexError: Vertex AI does not answer, or several endpoints have the name.
    """
    name = find_endpoint(vertex, endpoint)
    if name is None:
        return None
    found = read_endpoint(vertex, name)
    shares = shares_at(found)
    serving = [each for each in found.deployed_models if shares.get(each.id)]
    if not serving:
        return None
    # Of two with the same share the one that is there longer.
    champion = max(serving, key=lambda each: (shares[each.id], -each.create_time.timestamp()))
    with explained(f"look up {champion.model}"):
        model = vertex.models.get_model(name=f"{champion.model}@{champion.model_version_id}")
    version = version_of(champion)
    where = f"{model.artifact_uri}/{FILE_NAME}"
    try:
        text = storage.read_text(where) if model.artifact_uri else None
    except PipelineError as error:
        raise EvaluationError(f"{_cannot(version)}: {error}; {_WAY_OUT}") from error
    if text is None:
        raise EvaluationError(f"{_cannot(version)}: there is no {where}; {_WAY_OUT}")
    return Champion(name, champion.id, version, ModelContract.parse(text, where))


def evaluate_champion(vertex: Vertex, champion: Champion, contract: ModelContract, held_out: Labelled) -> Evaluation:
    """Send held-out data through the champion's endpoint, and hold its answers against the truth.

    Args:
        vertex: where.
        champion: that is asked, in its own contract's format and order of bands.
        contract: the challenger's, whose classes are those of the truth.
        held_out: tiles with the challenger's bands.

    Raises:
        EvaluationError: the champion wants bands that the data lack or gives no such output, or does not answer.
    """
    asked, output = champion.contract, contract.outputs[0]
    order = _order(champion, contract)
    theirs = next((each for each in asked.outputs if each.name == output.name), None)
    if theirs is None or bool(theirs.labels) != bool(output.labels) or not (theirs.labels or theirs.dimensions == 0):
        raise EvaluationError(
            f"{_cannot(champion.version)}: it has the outputs {', '.join(each.name for each in asked.outputs)}, "
            f"the challenger {output.name}, of {'classes' if output.labels else 'a number'}; {_WAY_OUT}"
        )
    points = held_out.tiles.shape[2:] == (1, 1)
    around = (0, 0) if points else contract.overlap
    if any(wants > has for wants, has in zip(asked.overlap, around, strict=True)) or (
        points and asked.model.multiple > 1
    ):
        raise EvaluationError(
            f"{_cannot(champion.version)}: it looks at the neighbours of a pixel (overlap {list(asked.overlap)}, "
            f"multiple {asked.model.multiple}), and the held-out {'points' if points else 'tiles'} have "
            f"{'none' if points else list(around)} around them; give patches and that overlap, or {_WAY_OUT}"
        )
    tiles = np.ascontiguousarray(held_out.tiles[:, order])
    golden = Golden(tiles, _stand_ins(asked, tiles), None)
    try:
        with asking(vertex, champion.endpoint, champion.deployed_model, asked) as ask:
            replayed = replay(asked, golden, ask, attempts=ATTEMPTS, at_least=0)
        answers = replayed.answers[0][output.name]
        return _judged(contract, held_out, theirs, answers, champion.version)
    except NobodyAnsweredError as error:
        raise EvaluationError(
            f"{_cannot(champion.version)}: it answered none of {ATTEMPTS} requests to {champion.endpoint}; {_WAY_OUT}"
        ) from error
    except PipelineError as error:
        raise EvaluationError(f"{_cannot(champion.version)}: {error}; {_WAY_OUT}") from error


def _cannot(version: str) -> str:
    return f"{version}, which serves now, cannot be held against the challenger"


def _order(champion: Champion, contract: ModelContract) -> list[int]:
    """The channel of the held-out tiles for each channel that the champion wants."""
    there = [band.name for band in contract.bands]
    asked = champion.contract
    lacking = [band.name for band in asked.bands if band.name not in there or band.shape]
    lacking += [part.name for part in asked.properties]
    if lacking:
        raise EvaluationError(
            f"{_cannot(champion.version)}: it wants {', '.join(lacking)}, the held-out data have {', '.join(there)}; "
            f"{_WAY_OUT}"
        )
    return [there.index(band.name) for band in asked.bands]


def _stand_ins(asked: ModelContract, tiles: Tiles) -> Outputs:
    """Answers of the champion's size, by which requests are packed; a third has as many digits as a number can."""
    count, _, height, width = tiles.shape
    third = {each.name: np.array(1 / 3, each.number) for each in asked.outputs}
    # One number in the memory, whatever the shape.
    return {
        each.name: np.broadcast_to(
            third[each.name], (count, height, width, *(len(each.labels) or 1,) * each.dimensions)
        )
        for each in asked.outputs
    }


def _judged(
    contract: ModelContract, held_out: Labelled, theirs: Output, answers: NDArray[np.generic], version: str
) -> Evaluation:
    """The champion's evaluation, its classes numbered as the challenger's are."""
    output = contract.outputs[0]
    shape = answers.shape[:3]
    if shape != held_out.truth.shape:
        raise EvaluationError(
            f"output {output.name} has the shape {list(shape)}, the held-out tiles are {list(held_out.truth.shape)}"
        )
    if not output.labels:
        if wrong := int((~np.isfinite(answers) & np.isfinite(held_out.truth)).sum()):
            raise EvaluationError(f"it answers no finite number at {wrong} of {held_out.truth.size} pixels")
        return evaluate(contract, held_out, {output.name: answers}, version)
    number = {label: place for place, label in enumerate(output.labels)}
    places = np.array([*(number.get(label, -1) for label in theirs.labels), -1])
    classes = places[answered_class(theirs, answers)]
    # Evaluated as an answer that says the class itself.
    numbered = output.model_copy(update={"dimensions": 0, "type": "int32"})
    return evaluate(contract.model_copy(update={"outputs": (numbered,)}), held_out, {output.name: classes}, version)
