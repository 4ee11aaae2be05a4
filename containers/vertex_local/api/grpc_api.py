"""The gRPC API: the same methods without TLS, for clients that call DirectRawPredict or prefer gRPC."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from ..errors import ServiceError, unforeseen
from ..projects import Projects
from .methods import Method, implemented

_log = logging.getLogger(__name__)
# It travels in a header, of which gRPC's clients take 8 KB with all others; a model's server may say more.
_LONGEST_MESSAGE = 4000
_NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]


def grpc_server(services: Mapping[str, object], projects: Projects) -> grpc.aio.Server:
    """A server, not yet started, that answers what these services implement."""
    handlers = {method.grpc_path: _handler(method, answer, projects) for method, answer in implemented(services)}
    return grpc.aio.server(handlers=[_Handlers(handlers)], options=_NO_LIMIT)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _handler(method: Method, answer: Callable[[Any], Any], projects: Projects) -> Any:
    async def behaviour(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            method.check_names(request)
            projects.number(request)
            result = answer(request)
            return await result if inspect.isawaitable(result) else result
        except ServiceError as error:
            await _abort(context, error)
        except Exception as fault:
            _log.exception("%s", method.grpc_path)
            await _abort(context, unforeseen(fault))

    serialize: Callable[[Any], bytes] = lambda message: message.SerializeToString()  # noqa: E731
    return grpc.unary_unary_rpc_method_handler(behaviour, method.request.FromString, serialize)


def _abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> Awaitable[Any]:
    return context.abort(error.status, error.message[:_LONGEST_MESSAGE])
