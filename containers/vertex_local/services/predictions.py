"""PredictionService: passes requests on to the model servers, bytes as they are."""

import json
import random
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import simdjson
from google.api import httpbody_pb2

from .. import messages
from ..errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    from_grpc,
)
from ..servers.fleet import Fleet
from ..servers.server import ModelServer
from .endpoints import Endpoints

# Limits of public endpoints: earth-engine-contract, section 4.3; the unit is 10^6 bytes.
_SHARED_LIMIT, _DEDICATED_LIMIT = 1_500_000, 10_000_000
_SHARED_TIMEOUT_S, _DEDICATED_TIMEOUT_S = 60.0, 3600.0
_JSON_SPACE = b" \t\r\n"
_JSON = "application/json"
_FIELDS = {"instances", "parameters"}


@dataclass(frozen=True)
class Answer:
    """A model server's answer, with the headers that the service puts on it."""

    content: bytes
    content_type: str
    headers: dict[str, str]


@dataclass(frozen=True)
class _Reply:
    content: bytes
    content_type: str


class Predictions:
    """Requests to endpoints."""

    def __init__(self, endpoints: Endpoints, fleet: Fleet, client: aiohttp.ClientSession) -> None:
        self._endpoints = endpoints
        self._fleet = fleet
        self._client = client

    async def predict_body(self, name: str, body: bytes, content_type: str = _JSON) -> Answer:
        """The model's JSON answer, with the fields that say which model gave it.

        Raises:
            InvalidArgumentError: the request is no PredictRequest, or the server refused it.
            FailedPreconditionError: the request is too large, or no model has traffic.
            InternalError: the server failed, or answered something other than a JSON object.
        """
        _check_fields(body)
        server, reply = await self._post(name, body, content_type)
        content = reply.content.rstrip(_JSON_SPACE)
        if not (content.startswith(b"{") and content.endswith(b"}")):
            raise InternalError(
                f"The deployed model {server.deployed_id!r} answered no JSON object but {content[:200]!r}"
            )
        fields = content[:-1].rstrip(_JSON_SPACE)
        return Answer(b"%b%b%b" % (fields, b"" if fields == b"{" else b",", server.answer_fields), _JSON, {})

    async def raw_predict_body(self, name: str, body: bytes, content_type: str = _JSON) -> Answer:
        """The model's answer as it is."""
        server, reply = await self._post(name, body, content_type)
        headers = {
            "X-Vertex-AI-Endpoint-Id": server.endpoint_id,
            "X-Vertex-AI-Deployed-Model-Id": server.deployed_id,
        }
        return Answer(reply.content, reply.content_type, headers)

    # The methods of PredictionService, for gRPC; over REST the bodies are passed on by those above.

    async def predict(self, request: Any) -> Any:
        """As ``predict_body``, of values in messages."""
        name = request.endpoint
        request.ClearField("endpoint")
        answer = await self.predict_body(name, messages.render(request).encode())
        fields = json.loads(answer.content)
        # What else a model's server says has no place in the message.
        known = {field.json_name for field in messages.PredictResponse.DESCRIPTOR.fields} & fields.keys()
        return messages.from_fields(messages.PredictResponse, {name: fields[name] for name in known})

    async def raw_predict(self, request: Any) -> Any:
        """As ``raw_predict_body``."""
        body = request.http_body
        answer = await self.raw_predict_body(request.endpoint, body.data, body.content_type or _JSON)
        return httpbody_pb2.HttpBody(content_type=answer.content_type, data=answer.content)

    async def direct_raw_predict(self, request: Any) -> Any:
        """A unary call of the model's own gRPC server, request and response as bytes."""
        endpoint = self._endpoints.get(request.endpoint)
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
        server.requests += 1
        try:
            output = await call(request.input, timeout=_timeout(endpoint))
        except grpc.aio.AioRpcError as error:
            server.failures += 1
            raise from_grpc(error.code(), error.details() or "") from error
        return messages.DirectRawPredictResponse(output=output)

    async def _post(self, name: str, body: bytes, content_type: str) -> tuple[ModelServer, _Reply]:
        endpoint = self._endpoints.get(name)
        _check_size("request", body, endpoint)
        server = self._choose(endpoint)
        server.requests += 1
        try:
            reply = await self._ask(server, body, content_type, _timeout(endpoint))
        except ServiceError:
            server.failures += 1
            raise
        _check_size("response", reply.content, endpoint)
        return server, reply

    async def _ask(self, server: ModelServer, body: bytes, content_type: str, timeout_s: float) -> _Reply:
        try:
            async with self._client.post(
                server.predict_url,
                data=body,
                headers={"content-type": content_type, "accept-encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except TimeoutError as fault:
            raise DeadlineExceededError(
                f"The deployed model {server.deployed_id!r} did not answer within {timeout_s:.0f} s"
            ) from fault
        except aiohttp.ClientError as fault:
            server.check_running()
            raise UnavailableError(
                f"The server of the deployed model {server.deployed_id!r} broke off: {fault!r}"
            ) from fault
        if not 200 <= response.status < 300:
            raise _error_of(response.status, content)
        return _Reply(content, response.headers.get("content-type", _JSON))

    def _choose(self, endpoint: Any) -> ModelServer:
        ids, shares = list(endpoint.traffic_split), list(endpoint.traffic_split.values())
        if not ids:
            raise FailedPreconditionError(f"Endpoint {endpoint.name!r} doesn't have traffic_split.")
        return self._fleet.get(endpoint.name, random.choices(ids, shares)[0])  # noqa: S311


def _check_fields(body: bytes) -> None:
    """Refuses what is no PredictRequest; the numbers in it are not looked at."""
    try:
        request = simdjson.Parser().parse(body)
    except ValueError as fault:
        raise InvalidArgumentError(f"Invalid JSON payload received. {fault}") from fault
    if not isinstance(request, simdjson.Object):
        raise InvalidArgumentError("Invalid JSON payload received. The body is to be a JSON object.")
    for name in set(request.keys()) - _FIELDS:
        raise InvalidArgumentError(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')


def _check_size(what: str, body: bytes, endpoint: Any) -> None:
    limit = _DEDICATED_LIMIT if endpoint.dedicated_endpoint_enabled else _SHARED_LIMIT
    if len(body) > limit:
        raise FailedPreconditionError(f"The {what} size ({len(body)} bytes) exceeds {limit / 1e6:.3f}MB limit.")


def _timeout(endpoint: Any) -> float:
    return _DEDICATED_TIMEOUT_S if endpoint.dedicated_endpoint_enabled else _SHARED_TIMEOUT_S


def _error_of(code: int, content: bytes) -> ServiceError:
    by_code: dict[int, type[ServiceError]] = {400: InvalidArgumentError, 404: NotFoundError, 503: UnavailableError}
    error = by_code.get(code, InvalidArgumentError if 400 <= code < 500 else InternalError)
    return error(content.decode(errors="replace") or f"The model server answered HTTP {code} without a text")
