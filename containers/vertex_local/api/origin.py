"""Keeps pages of other sites away: a browser sends their requests too, and a pipeline is a program."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import PermissionDeniedError
from .rest import error_answer


class SameOrigin:
    """Refuses requests that a page of another origin makes; clients that are no browsers name no origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            # A sandboxed page, such as a report that a step has written, has the origin "null".
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = error_answer(PermissionDeniedError(f"Requests of pages of {origin!r} are not answered"))
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
