"""A service on loopback whose every error repeats credentials, and these credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.conftest import answering

_BODY = "Planted" + "5ecret" * 8
# Texts with a credential in them, which is known by the word that it is made of.
PLANTED = (
    f"Authorization: Bearer {_BODY}01",
    f"{{'authorization': 'Bearer {_BODY}02'}}",
    f"ya29.{_BODY}03",
    f"https://storage.googleapis.com/b/o?X-Goog-Credential=a%40b&X-Goog-Signature={_BODY}04",
    f"/b/o?GoogleAccessId=a@b&Expires=1&Signature={_BODY}05",
    f"/upload/storage/v1/b/x/o?uploadType=resumable&upload_id={_BODY}06",
    f"https://user:{_BODY}07@host/path",
    f"AIzaSy{_BODY}08",
    f'{{"private_key": "-----BEGIN PRIVATE KEY-----\\n{_BODY}09\\n-----END PRIVATE KEY-----\\n"}}',
    f"eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.{_BODY}10",
    f"map[Authorization:[Bearer {_BODY}12] Accept:[x]]",
    f"https://host/o?x\\u003d1\\u0026X-Goog-Signature\\u003d{_BODY}13",
    f'{{"accessToken": "{_BODY}14"}}',
    f"DB_PASSWORD={_BODY}15",
    f"https://host/?url=https%253A%252F%252Fx%253Fupload_id%253D{_BODY}16",
    f"https://user:p@{_BODY}17@host https://{_BODY}18@host",
    f'password: "two {_BODY}19"',
    f"X-Goog-Api-Key: {_BODY}20",
    f"Set-Cookie: SID={_BODY}21",
)
SIGNED_URL = f"https://storage.googleapis.com/b/model?X-Goog-Credential=a%40b&X-Goog-Signature={_BODY}11"


def leaks(text: str) -> list[str]:
    """What of the credentials is in a text, each with what stands around it."""
    marks = [at for at in range(len(text)) if text.startswith("5ecret5ecret", at)]
    return [text[max(0, at - 60) : at + 40] for at in marks[:5]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    code = 403

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        error = {"code": self.code, "message": " and ".join(PLANTED), "status": "PERMISSION_DENIED"}
        body = json.dumps({"error": error}).encode()
        self.send_response_only(self.code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


@contextmanager
def leaky() -> Iterator[dict[str, str]]:
    """The service, for the block; gives the variables that lead both of Google Cloud's clients to it."""
    with answering(_Handler) as port:
        yield {"VERTEX_EMULATOR_HOST": f"127.0.0.1:{port}", "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
