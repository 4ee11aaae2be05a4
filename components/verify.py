"""Verify: golden tiles through the endpoint, packed as Earth Engine packs them, against the source model."""

from __future__ import annotations

import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from components import parity
from components.earthengine.contract import ModelContract
from components.earthengine.errors import VerificationError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, Codec, Outputs, Tiles, codec, messages_pb2
from components.earthengine.snippet import javascript_call, python_call
from components.earthengine.tiles import pack
from components.golden import Golden, joined
from components.pictures import save_pictures
from components.vertex import READ_AGAIN, Vertex, explained

_GRPC_METHOD = "/tensorflow.serving.PredictionService/Predict"
# Requests under way at once; what Earth Engine keeps under way is not published.
_PARALLEL = 4
# At a share of 1 percent the new model misses 2,000 requests once in 500 million times.
_ATTEMPTS = 2000


@dataclass(frozen=True)
class Verification:
    """What a deployed model answered.

    Attributes:
        largest_difference: from the source model's answers, absolute.
        requests: answered by the deployed model.
        milliseconds: the median request.
        largest_request: bytes of the largest request.
        largest_answer: bytes of the largest answer.
        picture: of the scene, where the golden tiles are of one.
    """

    largest_difference: float
    requests: int
    milliseconds: float
    largest_request: int
    largest_answer: int
    picture: Path | None

    def metrics(self) -> dict[str, float]:
        """What compares from run to run."""
        return {
            "largest_difference": self.largest_difference,
            "requests": self.requests,
            "milliseconds": self.milliseconds,
            "largest_request_bytes": self.largest_request,
            "largest_answer_bytes": self.largest_answer,
        }


@dataclass(frozen=True)
class _Exchange:
    outputs: Outputs
    seconds: float
    request_bytes: int
    answer_bytes: int


def verify_deployment(
    vertex: Vertex, endpoint: str, deployed_model: str, archive: Path, pictures: Path
) -> Verification:
    """Send the archive's golden tiles through an endpoint and compare what the deployed model answers.

    Args:
        vertex: where.
        endpoint: resource name.
        deployed_model: whose answers count; requests that traffic leads elsewhere are sent again.
        archive: folder with model.yaml and golden.npz.
        pictures: folder to make pictures in, where the golden tiles are of a scene.

    Raises:
        VerificationError: answers differ beyond the tolerance, exceed the payload limit, or never came.
        VertexError: the endpoint refuses a request.
        PayloadError: an answer is not in the contract's format.
    """
    contract = ModelContract.read(archive)
    golden = Golden.load(archive)
    exchanges = _exchange(vertex, endpoint, deployed_model, contract, golden)
    answers = joined([exchange.outputs for exchange in exchanges])
    result = parity.compare(contract, golden.outputs, answers)
    pictures.mkdir(parents=True, exist_ok=True)
    picture = None
    if golden.scene:
        picture = save_pictures(contract, golden.tiles, answers, golden.scene, pictures)
    if result.fault:
        raise VerificationError(f"deployed model {deployed_model} does not answer as the source model: {result.fault}")
    return Verification(
        largest_difference=result.largest,
        requests=len(exchanges),
        milliseconds=1000 * statistics.median(exchange.seconds for exchange in exchanges),
        largest_request=max(exchange.request_bytes for exchange in exchanges),
        largest_answer=max(exchange.answer_bytes for exchange in exchanges),
        picture=picture,
    )


def tile_bytes(contract: ModelContract, golden: Golden) -> tuple[int, int]:
    """Bytes that one tile takes in a request, and in an answer."""
    form = codec(contract.payload_format)
    one = {name: array[:1] for name, array in golden.outputs.items()}
    in_request = form.instance_bytes(contract, golden.tiles.shape[3], golden.tiles.shape[2])
    return in_request, len(form.encode_response(contract, one))


def write_call(archive: Path, endpoint: str, path: Path) -> None:
    """Write the Earth Engine call for an endpoint as Markdown, in Python and JavaScript."""
    contract = ModelContract.read(archive)
    in_request, in_answer = tile_bytes(contract, Golden.load(archive))
    multiplier = math.ceil(10 * in_answer / in_request) / 10
    path.write_text(
        f"# Call {contract.name} from Earth Engine\n\n"
        f"```python\n{python_call(contract, endpoint, multiplier)}```\n\n"
        f"```javascript\n{javascript_call(contract, endpoint, multiplier)}```\n",
        encoding="utf-8",
    )


def _exchange(
    vertex: Vertex, endpoint: str, deployed_model: str, contract: ModelContract, golden: Golden
) -> list[_Exchange]:
    """Send all tiles, as many to a request as fit the limits, and decode what the deployed model answers."""
    form = codec(contract.payload_format)
    tiles = golden.tiles
    largest = max(tile_bytes(contract, golden))
    batches = [tiles[batch] for batch in pack(len(tiles), largest)]

    def exchange(batch: Tiles) -> _Exchange:
        body = form.encode_request(contract, batch)
        answer, seconds = _ask(vertex, endpoint, deployed_model, form, body)
        for what, length in (("request", len(body)), ("answer", len(answer))):
            if length > MAX_PAYLOAD_BYTES:
                raise VerificationError(
                    f"the {what} for {len(batch)} tiles takes {length:,} bytes in {form.format}, "
                    f"a shared endpoint allows {MAX_PAYLOAD_BYTES:,}; declare a smaller tile in model.yaml"
                )
        return _Exchange(form.decode_response(contract, answer), seconds, len(body), len(answer))

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(exchange, batches))


def _ask(vertex: Vertex, endpoint: str, deployed_model: str, form: Codec, body: bytes) -> tuple[bytes, float]:
    """One request, sent again until the deployed model answers it: the answer and its seconds."""
    for _ in range(_ATTEMPTS):
        begin = time.perf_counter()
        if form.transport == "http":
            answer, answered_by = vertex.predict(endpoint, body)
        else:
            answer = vertex.direct_raw_predict(endpoint, _GRPC_METHOD, body)
            answered_by = _answered_by(answer, vertex, endpoint)
        if answered_by == deployed_model:
            return answer, time.perf_counter() - begin
    raise VerificationError(
        f"deployed model {deployed_model} answered none of {_ATTEMPTS} requests to {endpoint}; see its traffic split"
    )


def _answered_by(answer: bytes, vertex: Vertex, endpoint: str) -> str:
    """Which deployed model gave a gRPC answer.

    Vertex AI does not say. Our server does, in the answer itself; another's is told where only one
    model has traffic.
    """
    label: str = messages_pb2.PredictResponse.FromString(answer).model_spec.version_label
    if label:
        return label
    with explained(f"look up endpoint {endpoint}"):
        split: dict[str, int] = dict(vertex.endpoints.get_endpoint(name=endpoint, retry=READ_AGAIN).traffic_split)
    serving = [model for model, share in split.items() if share]
    if len(serving) != 1:
        raise VerificationError(
            f"{endpoint} splits its traffic over {', '.join(serving)}, and the server's gRPC answers do not say which "
            "gave them; use our serving image, or canary_percent 100"
        )
    return serving[0]
