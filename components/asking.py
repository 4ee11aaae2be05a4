"""Asking: requests to one deployed model of an endpoint, whatever share of the traffic leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from google.protobuf.message import DecodeError

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError, VerificationError
from components.earthengine.payloads import codec, messages_pb2
from components.earthengine.payloads.predict_messages import GRPC_METHOD
from components.replay import Answer, Ask
from components.traffic import read_endpoint
from components.vertex import Vertex

# At a share of 1 percent the new model misses 2,000 requests once in 500 million times.
ATTEMPTS = 2000
# Answers of other models after which the traffic is looked at: another run may have taken all of it.
_LOOK_AGAIN = 100


@contextmanager
def asking(vertex: Vertex, endpoint: str, deployed_model: str, contract: ModelContract) -> Iterator[Ask]:
    """What sends a request by the route of the contract's format, and tells whether the deployed model answered.

    Raises:
        VerificationError: it has lost its traffic, or which model answers cannot be told.
    """
    grpc = codec(contract.payload_format).transport == "grpc"
    serving = _serving(vertex, endpoint) if grpc else []
    misses, unnamed = count(1), False

    def ask(body: bytes) -> Answer:
        nonlocal unnamed
        if grpc:
            answer = vertex.direct_raw_predict(endpoint, GRPC_METHOD, body)
            answered_by = _named_in(answer.body)
        else:
            answer = vertex.predict(endpoint, body)
            answered_by = answer.deployed_model
        if grpc and not answered_by:
            unnamed, answered_by = True, _only(serving, endpoint)
        if answered_by != deployed_model and next(misses) % _LOOK_AGAIN == 0:
            _check_traffic(vertex, endpoint, deployed_model)
        return Answer(answer.body, answer.seconds, answered_by == deployed_model)

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
