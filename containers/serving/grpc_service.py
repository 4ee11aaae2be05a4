"""The gRPC side: tensorflow.serving.PredictionService/Predict and gRPC's own health check."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would log is raised too

import grpc

from components.earthengine.errors import ModelError, PayloadError
from components.earthengine.payloads import codec, messages_pb2
from containers.serving.service import Service

_log = logging.getLogger("serving")

# A dedicated endpoint carries 10 MB; gRPC's default is 4 MiB.
MAX_MESSAGE_BYTES = 16 << 20

# grpc.health.v1.HealthCheckResponse with status SERVING and NOT_SERVING: Vertex AI checks health on this port
# too (aiplatform_v1/types/model.py, grpc_ports).
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"


def start(service: Service, host: str, port: int) -> tuple[grpc.Server, int]:
    """A server that is listening, and its port (chosen by the system where `port` is 0).

    Raises:
        OSError: the port is taken.
    """
    signature = _signature(os.environ.get("AIP_DEPLOYED_MODEL_ID", ""))

    def predict(request: bytes, context: grpc.ServicerContext) -> bytes:
        if not service.ready:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the model is still being loaded; try again later")
        try:
            return service.answer(codec("GRPC_TF_TENSORS"), request) + signature
        except PayloadError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ModelError as error:
            _log.error("%s", error, exc_info=error.__cause__)
            context.abort(grpc.StatusCode.INTERNAL, str(error))

    def check(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return _SERVING if service.ready else _NOT_SERVING

    server = grpc.server(
        ThreadPoolExecutor(8, "grpc"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),  # or a second server would silently share the port
        ],
    )
    # Bytes in, bytes out: the codec reads the messages, and any number of formats share one method.
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {"Predict": grpc.unary_unary_rpc_method_handler(predict)},
            ),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
            ),
        )
    )
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(str(error)) from None
    server.start()
    return server, bound


def _signature(deployed_model: str) -> bytes:
    """What says, at the end of an answer, which deployed model gave it: Vertex AI itself does not over gRPC.

    Serialized messages merge when one is put after the other.
    """
    if not deployed_model:
        return b""
    spec = messages_pb2.ModelSpec(version_label=deployed_model)
    return messages_pb2.PredictResponse(model_spec=spec).SerializeToString()
