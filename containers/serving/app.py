"""The HTTP side: a health route and a predict route."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from components.earthengine.errors import ModelError, PayloadError
from components.earthengine.payloads import Codec, codec
from containers.serving.service import Service

_log = logging.getLogger("serving")
_FIRST_INSTANCE = re.compile(rb'"instances"\s*:\s*\[\s*(.)')


def create(service: Service, health_routes: Iterable[str], predict_routes: Iterable[str]) -> Starlette:
    """The application that answers on these routes."""

    async def health(_: Request) -> Response:
        if service.ready:
            return JSONResponse({"status": "ready"})
        return _error(503, "the model is still being loaded")

    async def predict(request: Request) -> Response:
        if not service.ready:
            return _error(503, "the model is still being loaded; try again when the health route answers 200")
        try:
            body = await request.body()
            answer = await run_in_threadpool(service.answer, codec_of(body), body)
        except PayloadError as error:
            return _error(400, str(error))
        except ModelError as error:
            _log.error("%s", error, exc_info=error.__cause__)
            return _error(500, str(error))
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(answer, media_type="application/json")

    return Starlette(
        routes=[
            *(Route(path, health, methods=["GET"]) for path in dict.fromkeys(health_routes)),
            *(Route(path, predict, methods=["POST"]) for path in dict.fromkeys(predict_routes)),
        ],
        exception_handlers={HTTPException: _refused},
    )


def codec_of(body: bytes) -> Codec:
    """The codec of a request, told from its first instance: a list has no names, an object has.

    The contract names a format too, but a rehearsal may send others, and the answer is in the
    style of the request.
    """
    found = _FIRST_INSTANCE.search(body)
    return codec("ND_ARRAYS" if found and found[1] == b"[" else "SERIALIZED_TF_TENSORS")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as registered
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)
