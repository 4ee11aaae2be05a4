"""Verify: golden tiles through an endpoint, packed as Earth Engine packs them, against the source model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from google.protobuf.message import DecodeError

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError, PipelineError, VerificationError, VertexError
from components.earthengine.payloads import codec, messages_pb2
from components.earthengine.payloads.predict_messages import GRPC_METHOD
from components.golden import Golden
from components.pictures import save_pictures
from components.record import Deployment, Record
from components.replay import Answer, Ask, NobodyAnsweredError, Replay, percentile_ms, replay, tile_bytes
from components.traffic import read_endpoint
from components.verification import Check, Verification, checks_of, figures_of, latency_check, pictures_of
from components.versions import VERIFIED, VERIFIED_BY, label_version
from components.vertex import Vertex

log = logging.getLogger(__name__)

# At a share of 1 percent the new model misses 2,000 requests once in 500 million times.
_ATTEMPTS = 2000
# Answers of other models after which the traffic is looked at: another run may have taken all of it.
_LOOK_AGAIN = 100


def verify_run(
    vertex: Vertex, record: Record, archive: Path, pictures: Path, *, max_latency_seconds: float
) -> Verification:
    """Verify what a run has deployed, at its trial endpoint or where it serves already, with every golden tile.

    Args:
        vertex: where.
        record: where the run's deployment is written down, and this verification.
        archive: folder with model.yaml and golden.npz.
        pictures: folder to make pictures in, where the golden tiles are of a scene.
        max_latency_seconds: what the 99th percentile of the requests may take.

    Raises:
        VerificationError: a check did not pass, or the model could not be judged; the record says so too, and of a
            model that was judged the version's label.
        VertexError: it passed and the version cannot be labelled.
    """
    deployment = record.deployment()
    if deployment is None:
        raise VerificationError(f"{record.folder} holds no deployment; nothing can be verified")
    endpoint, share = (deployment.trial, 100) if deployment.trial else (deployment.endpoint, deployment.share_before)
    contract, golden = ModelContract.read(archive), Golden.load(archive)
    record.keep_contract(contract)
    verification, replayed = verify_endpoint(
        vertex, endpoint, deployment.deployed_model, share, contract, golden, max_latency_seconds
    )
    pictures.mkdir(parents=True, exist_ok=True)
    if replayed and golden.scene and not verification.fault:
        save_pictures(contract, golden.tiles, replayed.answers[0], golden.scene, pictures)
    keep(vertex, record, deployment, verification)
    return verification


def keep(vertex: Vertex, record: Record, deployment: Deployment, verification: Verification) -> None:
    """Write a verification down, in the run's record and, where it says something of the model, on the version.

    Raises:
        VerificationError: it did not pass.
        VertexError: it passed and the version cannot be labelled.
    """
    record.add(verification)
    if verification.conclusive:
        verdict = "failed" if verification.fault else "passed"
        labels = {VERIFIED: f"{verdict}-{verification.moment}", VERIFIED_BY: deployment.run}
        try:
            label_version(vertex, deployment.model, labels)
        except VertexError:
            if not verification.fault:
                raise
            log.exception("version %s is not labelled", deployment.model)
    if verification.fault:
        raise VerificationError(
            f"deployed model {verification.deployed_model} ({deployment.model.rsplit('/', 1)[-1]}) is not released: "
            f"{verification.fault}"
        )


def verify_endpoint(
    vertex: Vertex,
    endpoint: str,
    deployed_model: str,
    share: int,
    contract: ModelContract,
    golden: Golden,
    max_latency_seconds: float,
    *,
    at_most: int | None = None,
) -> tuple[Verification, Replay | None]:
    """Send golden tiles through an endpoint and compare what the deployed model answers.

    Args:
        vertex: where.
        endpoint: resource name.
        deployed_model: whose answers count; requests that traffic leads elsewhere are sent again.
        share: percent of the endpoint's traffic that it has.
        contract: the model's contract.
        golden: the tiles, and what the source model answers.
        max_latency_seconds: what the 99th percentile of the requests may take.
        at_most: requests' worth of tiles that are sent, without pictures; all if not given.

    Returns:
        What was found, and what was answered; None where there is no answer that can be read.
    """
    in_request, in_answer = tile_bytes(contract, golden)
    found = Verification(
        endpoint, deployed_model, share, (), output_multiplier=max(1.0, math.ceil(10 * in_answer / in_request) / 10)
    )
    try:
        with _asking(vertex, endpoint, deployed_model, contract) as ask:
            replayed = replay(contract, golden, ask, attempts=_ATTEMPTS, at_most=at_most)
    except NobodyAnsweredError:
        text = f"deployed model {deployed_model} answered none of {_ATTEMPTS} requests to {endpoint}; see its traffic"
        return replace(found, checks=(Check("answers", False, text),), conclusive=False), None
    except PipelineError as error:
        disturbed = isinstance(error, (VerificationError, VertexError))
        return replace(found, checks=(Check("answers", False, str(error)),), conclusive=not disturbed), None
    return replace(
        found,
        checks=(*checks_of(contract, replayed), latency_check(replayed, max_latency_seconds)),
        tiles=len(replayed.sent),
        requests=len(replayed.exchanges),
        elsewhere=sum(one.elsewhere for one in replayed.exchanges),
        p50_ms=percentile_ms(replayed, 50),
        p99_ms=percentile_ms(replayed, 99),
        largest_request=max(one.request_bytes for one in replayed.exchanges),
        largest_answer=max(one.answer_bytes for one in replayed.exchanges),
        outputs=figures_of(contract, replayed),
        pictures={} if at_most else pictures_of(contract, replayed, golden.scene),
    ), replayed


@contextmanager
def _asking(vertex: Vertex, endpoint: str, deployed_model: str, contract: ModelContract) -> Iterator[Ask]:
    """What sends a request by the route of the contract's format, and tells whether the deployed model answered.

    Raises:
        VerificationError: it has lost its traffic, or which model answers cannot be told.
    """
    grpc = codec(contract.payload_format).transport == "grpc"
    serving = _serving(vertex, endpoint) if grpc else []
    misses, unnamed = count(1), False

    def ask(body: bytes) -> Answer:
        nonlocal unnamed
        begin = time.perf_counter()
        if grpc:
            answer, answered_by = vertex.direct_raw_predict(endpoint, GRPC_METHOD, body), ""
        else:
            answer, answered_by = vertex.predict(endpoint, body)
        seconds = time.perf_counter() - begin
        if grpc and not (answered_by := _named_in(answer)):
            unnamed, answered_by = True, _only(serving, endpoint)
        if answered_by != deployed_model and next(misses) % _LOOK_AGAIN == 0:
            _check_traffic(vertex, endpoint, deployed_model)
        return Answer(answer, seconds, answered_by == deployed_model)

    yield ask
    if unnamed and (now := _serving(vertex, endpoint)) != serving:
        raise VerificationError(
            f"the traffic of {endpoint} went to {_list(serving)} and goes to {_list(now)} now: another run or a person "
            "changed it meanwhile, and the server's gRPC answers do not say which model gave them; run again"
        )


def _check_traffic(vertex: Vertex, endpoint: str, deployed_model: str) -> None:
    split = dict(read_endpoint(vertex, endpoint).traffic_split)
    if not split.get(deployed_model):
        raise VerificationError(
            f"deployed model {deployed_model} has no traffic of {endpoint} any more ({split or 'none has any'}): "
            "another run or a person gave it to others meanwhile; run again if this model is to serve"
        )


def _named_in(answer: bytes) -> str:
    """The deployed model that a gRPC answer says it is of: Vertex AI does not say, our server does in the answer."""
    try:
        label: str = messages_pb2.PredictResponse.FromString(answer).model_spec.version_label
    except DecodeError as error:
        raise PayloadError(f"the answer is no PredictResponse: {error}; use another serving image") from error
    return label


def _serving(vertex: Vertex, endpoint: str) -> list[str]:
    """The deployed models that have traffic."""
    return sorted(model for model, share in dict(read_endpoint(vertex, endpoint).traffic_split).items() if share)


def _only(serving: list[str], endpoint: str) -> str:
    """The one deployed model that has traffic, which gave whatever is answered."""
    if len(serving) == 1:
        return serving[0]
    raise VerificationError(
        f"{endpoint} splits its traffic over {_list(serving)}, and the server's gRPC answers do not say which gave "
        "them; use our serving image, or canary_percent 100"
        if serving
        else f"no deployed model has traffic of {endpoint}; run again if this model is to serve"
    )


def _list(models: list[str]) -> str:
    return ", ".join(models) or "none"
