"""PredictionService: passes requests on to the model servers, bytes as they are."""

import asyncio
import json
import random
import re
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import simdjson
from google.api import httpbody_pb2
from google.protobuf import json_format

from .. import messages
from ..errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
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
_FIELDS = {field.json_name for field in messages.PredictRequest.DESCRIPTOR.fields} - {"endpoint"}
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Answer:
    """A model server's answer, with the headers that the service puts on it."""

    content: bytes
    content_type: str
    headers: dict[str, str]


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
        endpoint = self._endpoints.get(name)
        _check_fields(body)
        server = self._choose(endpoint, body)
        with server.request():
            content, _ = await self._ask(server, endpoint, body, content_type)
            _check_answer(content, server)
        fields = content.strip(_JSON_SPACE)[:-1].rstrip(_JSON_SPACE)
        return Answer(b"%b%b%b" % (fields, b"" if fields == b"{" else b",", server.answer_fields), _JSON, {})

    async def raw_predict_body(self, name: str, body: bytes, content_type: str = _JSON) -> Answer:
        """The model's answer as it is."""
        endpoint = self._endpoints.get(name)
        server = self._choose(endpoint, body)
        with server.request():
            content, answered_type = await self._ask(server, endpoint, body, content_type)
        headers = {
            "X-Vertex-AI-Endpoint-Id": server.endpoint_id,
            "X-Vertex-AI-Deployed-Model-Id": server.deployed_id,
        }
        return Answer(content, answered_type, headers)

    # The methods of PredictionService, for gRPC; over REST the bodies are passed on by those above.

    async def predict(self, request: Any) -> Any:
        """As ``predict_body``, of values in messages."""
        name = request.endpoint
        request.ClearField("endpoint")
        try:
            body = messages.render(request).encode()
        except json_format.SerializeToJsonError as fault:
            raise InvalidArgumentError(f"The instances for {name!r} have no form in JSON: {fault}") from fault
        answer = await self.predict_body(name, body)
        fields = json.loads(answer.content)
        # What else a model's server says has no place in the message.
        known = {field.json_name for field in messages.PredictResponse.DESCRIPTOR.fields} & fields.keys()
        try:
            return messages.from_fields(messages.PredictResponse, {key: fields[key] for key in known})
        except InvalidArgumentError as fault:
            raise InternalError(
                f"The deployed model {fields['deployedModelId']!r} of {name!r} answered no PredictResponse: {fault}"
            ) from fault

    async def raw_predict(self, request: Any) -> Any:
        """As ``raw_predict_body``."""
        body = request.http_body
        if not _CONTENT_TYPE.fullmatch(body.content_type):
            raise InvalidArgumentError(f"httpBody.contentType {body.content_type!r} is no media type")
        answer = await self.raw_predict_body(request.endpoint, body.data, body.content_type or _JSON)
        return httpbody_pb2.HttpBody(content_type=answer.content_type, data=answer.content)

    async def direct_raw_predict(self, request: Any) -> Any:
        """A unary call of the model's own gRPC server, request and response as bytes."""
        endpoint = self._endpoints.get(request.endpoint)
        if not request.method_name.startswith("/"):
            raise InvalidArgumentError(
                f"methodName {request.method_name!r} must read like /tensorflow.serving.PredictionService/Predict"
            )
        server = self._choose(endpoint, request.input)
        with server.request():
            output = await self._call(server, endpoint, request)
        return messages.DirectRawPredictResponse(output=output)

    async def _ask(self, server: ModelServer, endpoint: Any, body: bytes, content_type: str) -> tuple[bytes, str]:
        """What the server answers, and the type of that."""
        server.check_running()
        timeout_s = _timeout(endpoint)
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
            raise DeadlineExceededError(f"{server.title} did not answer within {timeout_s:g} s") from fault
        except aiohttp.ClientError as fault:
            server.check_running()
            raise UnavailableError(f"{server.title} broke off: {fault}") from fault
        if not 200 <= response.status < 300:
            text = content.decode(errors="replace")
            raise _error_of(response.status)(text or f"{server.title} answered HTTP {response.status} without a text")
        _check_size("response", content, endpoint)
        return content, response.headers.get("content-type", _JSON)

    async def _call(self, server: ModelServer, endpoint: Any, request: Any) -> bytes:
        server.check_running()
        if not server.channel:
            raise FailedPreconditionError(
                f"{server.title} was uploaded without containerSpec.grpcPorts, so that gRPC does not reach it"
            )
        try:
            call = server.channel.unary_unary(request.method_name, None, None)
            output: bytes = await call(request.input, timeout=_timeout(endpoint))
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error.code(), error.details() or f"{server.title}: {error.code().name}") from error
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # The channel was closed, as the server has ended.
            raise UnavailableError(f"{server.title} broke off") from fault
        _check_size("response", output, endpoint)
        return output

    def _choose(self, endpoint: Any, body: bytes) -> ModelServer:
        _check_size("request", body, endpoint)
        ids, shares = list(endpoint.traffic_split), list(endpoint.traffic_split.values())
        if not ids:
            raise FailedPreconditionError(f"Endpoint {endpoint.name!r} doesn't have traffic_split.")
        return self._fleet.get(endpoint.name, random.choices(ids, shares)[0])  # noqa: S311


def _check_fields(body: bytes) -> None:
    """Refuses what is no PredictRequest; the numbers in it are not looked at."""
    try:
        request = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError) as fault:  # RuntimeError: too deep
        raise InvalidArgumentError(f"Invalid JSON payload received. {fault}") from fault
    if not isinstance(request, simdjson.Object):
        raise InvalidArgumentError("Invalid JSON payload received. The body is to be a JSON object.")
    for name in set(request.keys()) - _FIELDS:
        raise InvalidArgumentError(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    if not isinstance(request.get("instances"), simdjson.Array):
        raise InvalidArgumentError("Invalid JSON payload received. instances is required, an array.")


def _check_answer(content: bytes, server: ModelServer) -> None:
    try:
        answer = simdjson.Parser().parse(content)
    except (ValueError, RuntimeError) as fault:
        raise InternalError(f"{server.title} answered no JSON: {fault}; it begins with {content[:200]!r}") from fault
    if not isinstance(answer, simdjson.Object):
        raise InternalError(f"{server.title} answered no JSON object but {content[:200]!r}")


def _check_size(what: str, body: bytes, endpoint: Any) -> None:
    limit = _DEDICATED_LIMIT if endpoint.dedicated_endpoint_enabled else _SHARED_LIMIT
    if len(body) > limit:
        raise FailedPreconditionError(f"The {what} size ({len(body)} bytes) exceeds {limit / 1e6:.3f}MB limit.")


def _timeout(endpoint: Any) -> float:
    return _DEDICATED_TIMEOUT_S if endpoint.dedicated_endpoint_enabled else _SHARED_TIMEOUT_S


def _error_of(code: int) -> type[ServiceError]:
    """The service's error for what a model's server answered."""
    by_code: dict[int, type[ServiceError]] = {
        404: NotFoundError,
        429: ResourceExhaustedError,
        503: UnavailableError,
        504: DeadlineExceededError,
    }
    return by_code.get(code, InvalidArgumentError if 400 <= code < 500 else InternalError)
