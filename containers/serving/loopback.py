"""A server that only this machine reaches is not for pages of other sites, which browsers of this machine show.

In a container it listens to all, and Vertex AI, not this, keeps away who is not allowed to ask.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.serving.app import App, Message, Receive, Send


def is_loopback(host: str) -> bool:
    """Whether what listens at a host is reached from this machine alone."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


# An address of IPv6 in brackets, or another name without a colon; then a port or none.
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]*)?|([^\[\]:]+)(?::[0-9]*)?")


class OwnMachine:
    """Refuses requests that a page of another site makes, before the application sees them."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's interface."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := _refusal(headers.get(b"host", ""), headers.get(b"origin")):
            status, text = refusal
            body = json.dumps({"error": text}).encode()
            kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            head = [*kind, (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)


def _refusal(host: str, origin: str | None) -> tuple[int, str] | None:
    """Why a request is refused, with the status; None where it is not.

    A name may be one that another site has given this machine's address; an address is not.
    """
    found = _HOST.fullmatch(host)
    name = (found[1] or found[2]) if found else ""
    if not _is_address(name) and name.lower() != "localhost":
        return 421, f"this is not {host[:200]!r}; ask for localhost or an address"
    if origin is not None:
        return 403, f"requests of pages of {origin[:200]!r} are not answered"
    return None


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(name))
    return False
