"""PredictionService: passes requests on to the model servers, bytes as they are."""

import random
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from . import messages
from .endpoints import Endpoints
from .errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    from_grpc,
)
from .serving import Fleet, ModelServer

# Limits of public endpoints: earth-engine-contract, section 4.3; the unit is 10^6 bytes.
_SHARED_LIMIT, _DEDICATED_LIMIT = 1_500_000, 10_000_000
_SHARED_TIMEOUT_S, _DEDICATED_TIMEOUT_S = 60.0, 3600.0
_JSON_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class RawAnswer:
    """A model server's answer with the headers that the service puts on it."""

    content: bytes
    content_type: str
    headers: dict[str, str]


class Predictions:
    """Requests to endpoints."""

    def __init__(self, endpoints: Endpoints, fleet: Fleet, client: httpx.AsyncClient) -> None:
        self._endpoints = endpoints
        self._fleet = fleet
        self._client = client

    async def predict(self, name: str, body: bytes) -> bytes:
        """The model's JSON answer, with the fields that say which model gave it.

        Raises:
            InvalidArgumentError: the server refused the request.
            FailedPreconditionError: the request is too large, or no model has traffic.
            InternalError: the server failed, or answered something other than a JSON object.
        """
        server, answer = await self._post(name, body, "application/json")
        content = answer.content.rstrip(_JSON_SPACE)
        if not (content.startswith(b"{") and content.endswith(b"}")):
            raise InternalError(
                f"The deployed model {server.deployed_id!r} answered no JSON object but {content[:200]!r}"
            )
        fields = content[:-1].rstrip(_JSON_SPACE)
        return b"%b%b%b" % (fields, b"" if fields == b"{" else b",", server.answer_fields)

    async def raw_predict(self, name: str, body: bytes, content_type: str) -> RawAnswer:
        """The model's answer as it is."""
        server, answer = await self._post(name, body, content_type)
        headers = {
            "X-Vertex-AI-Endpoint-Id": server.endpoint_id,
            "X-Vertex-AI-Deployed-Model-Id": server.deployed_id,
        }
        return RawAnswer(answer.content, answer.headers.get("content-type", "application/json"), headers)

    async def direct_raw_predict(self, name: str, request: Any) -> Any:
        """A unary call of the model's own gRPC server, request and response as bytes."""
        endpoint = self._endpoints.get(name)
        server = self._choose(endpoint)
        if not request.method_name.startswith("/"):
            raise InvalidArgumentError(
                f"methodName {request.method_name!r} must read like /tensorflow.serving.PredictionService/Predict"
            )
        if not server.channel:
            raise FailedPreconditionError(
                f"The model of the deployed model {server.deployed_id!r} was uploaded without"
                " containerSpec.grpcPorts, so that gRPC does not reach it"
            )
        call = server.channel.unary_unary(request.method_name, None, None)
        try:
            output = await call(request.input, timeout=_timeout(endpoint))
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error.code(), error.details() or "") from error
        return messages.DirectRawPredictResponse(output=output)

    async def _post(self, name: str, body: bytes, content_type: str) -> tuple[ModelServer, httpx.Response]:
        endpoint = self._endpoints.get(name)
        _check_size("request", body, endpoint)
        server = self._choose(endpoint)
        try:
            answer = await self._client.post(
                server.predict_url,
                content=body,
                headers={"content-type": content_type, "accept-encoding": "identity"},
                timeout=_timeout(endpoint),
            )
        except httpx.TimeoutException as fault:
            raise DeadlineExceededError(
                f"The deployed model {server.deployed_id!r} did not answer within {_timeout(endpoint):.0f} s"
            ) from fault
        except httpx.TransportError as fault:
            server.check_running()
            raise UnavailableError(
                f"The server of the deployed model {server.deployed_id!r} broke off: {fault!r}"
            ) from fault
        if not answer.is_success:
            raise _error_of(answer)
        _check_size("response", answer.content, endpoint)
        return server, answer

    def _choose(self, endpoint: Any) -> ModelServer:
        ids, shares = list(endpoint.traffic_split), list(endpoint.traffic_split.values())
        if not ids:
            raise FailedPreconditionError(f"Endpoint {endpoint.name!r} doesn't have traffic_split.")
        return self._fleet.get(endpoint.name, random.choices(ids, shares)[0])  # noqa: S311


def _check_size(what: str, body: bytes, endpoint: Any) -> None:
    limit = _DEDICATED_LIMIT if endpoint.dedicated_endpoint_enabled else _SHARED_LIMIT
    if len(body) > limit:
        raise FailedPreconditionError(f"The {what} size ({len(body)} bytes) exceeds {limit / 1e6:.3f}MB limit.")


def _timeout(endpoint: Any) -> float:
    return _DEDICATED_TIMEOUT_S if endpoint.dedicated_endpoint_enabled else _SHARED_TIMEOUT_S


def _error_of(answer: httpx.Response) -> ServiceError:
    by_code: dict[int, type[ServiceError]] = {400: InvalidArgumentError, 404: NotFoundError, 503: UnavailableError}
    error = by_code.get(answer.status_code, InvalidArgumentError if answer.is_client_error else InternalError)
    return error(answer.text or f"The model server answered HTTP {answer.status_code} without a text")
