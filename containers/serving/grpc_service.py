"""The gRPC side: tensorflow.serving.PredictionService and gRPC's own health service."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, NoReturn
from urllib.parse import unquote

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would log is raised too

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from components.earthengine.payloads import grpc_codec, messages_pb2
from containers.serving import log, model_metadata, outcomes
from containers.serving.exchange import Exchange
from containers.serving.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_WAITING
from containers.serving.service import Service

SERVICE = "tensorflow.serving.PredictionService"

# Calls that are taken in at once; gRPC refuses more by itself. Each has a thread, so that none waits for one: the line
# is Admission's, health checks never stand in it, and a caller that is slow to send holds up no other.
_CALLS = MAX_WAITING + 32
# A status' text travels in a header, percent-encoded, and clients take 8 KiB of headers (grpc.max_metadata_size).
_LONGEST_DETAILS = 2000
_PEER = re.compile(r"ipv[46]:\[?(.*?)\]?(?::\d+)?$")


class GrpcServer:
    """The server that listens; health says NOT_SERVING until `serving` is called.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        # Which deployed model gave an answer: Vertex AI itself does not say it over gRPC.
        self._deployed_model = os.environ.get("AIP_DEPLOYED_MODEL_ID", "")
        self._signature = _signature(self._deployed_model)
        self._server = grpc.server(
            ThreadPoolExecutor(_CALLS, "grpc"),
            options=[
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", MAX_RESPONSE_BYTES + len(self._signature)),
                ("grpc.so_reuseport", 0),  # or a second server would silently share the port
            ],
            maximum_concurrent_rpcs=_CALLS,
        )
        # Bytes in, bytes out: the codec reads the messages, and any number of formats share one method.
        handlers = {
            "Predict": grpc.unary_unary_rpc_method_handler(self._predict),
            "GetModelMetadata": grpc.unary_unary_rpc_method_handler(self._get_model_metadata),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        # Vertex AI checks health on this port too (aiplatform_v1/types/model.py, grpc_ports).
        self._health = _Health()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(str(error)) from None
        self._server.start()

    def serving(self) -> None:
        """Let the health service say that requests are welcome."""
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> Event:
        """Take no more calls, and finish those in flight; the event is set when that is done or the time is over."""
        self._health.end()
        return self._server.stop(grace_s)

    def _predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        exchange = _exchange("Predict", request, context)
        try:
            with self._service.admission.place(len(request)):
                answer = self._service.answer(exchange, grpc_codec, request, context.is_active)
        # Anything unforeseen must not take the server with it.
        except Exception as error:
            self._refuse(exchange, error, context)
        self._end(exchange, context)
        # Serialized messages merge when one is put after the other.
        return answer + self._signature

    def _get_model_metadata(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        exchange = _exchange("GetModelMetadata", request, context)
        try:
            answer = model_metadata.answer(self._service.contract, request, self._deployed_model)
            exchange.response_bytes = len(answer)
        except Exception as error:
            self._refuse(exchange, error, context)
        self._end(exchange, context)
        return answer

    def _end(self, exchange: Exchange, context: grpc.ServicerContext) -> None:
        """Tell of an answer when it is on its way, and need not wait for that; at once where the caller has gone."""

        def tell() -> None:
            self._service.end(exchange)

        if not context.add_callback(tell):
            tell()

    def _refuse(self, exchange: Exchange, error: Exception, context: grpc.ServicerContext) -> NoReturn:
        outcome = self._service.end(exchange, error)
        details = outcomes.text(error).encode()[:_LONGEST_DETAILS].decode(errors="ignore")
        context.abort(grpc.StatusCode[outcome.code], details)

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            self._health.set(name, status)


class _Health(health.HealthServicer):
    """gRPC's health service, whose watchers do not hold up a stop."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers: set[Callable[[health_pb2.HealthCheckResponse | None], None]] = set()

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802  gRPC's name
        """Tell of each change, until `end`."""
        self._watchers.add(send_response_callback)
        context.add_callback(lambda: self._watchers.discard(send_response_callback))
        return super().Watch(request, context, send_response_callback)

    def end(self) -> None:
        """Say NOT_SERVING from now on, and end what is watched."""
        self.enter_graceful_shutdown()
        for tell in list(self._watchers):
            tell(None)


def _exchange(method: str, request: bytes, context: grpc.ServicerContext) -> Exchange:
    headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    found = _PEER.match(unquote(context.peer()))
    peer = found[1] if found else ""
    return Exchange("grpc", "POST", f"/{SERVICE}/{method}", peer, log.trace_of(headers), len(request))


def _signature(deployed_model: str) -> bytes:
    """What says, at the end of an answer, which deployed model gave it."""
    if not deployed_model:
        return b""
    spec = messages_pb2.ModelSpec(version_label=deployed_model)
    return messages_pb2.PredictResponse(model_spec=spec).SerializeToString()
