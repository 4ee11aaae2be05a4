"""Google as who issues ID tokens: a key of the test's own, and its certificate where Google's are fetched.

The function fetches them as it does in the cloud. The variables that requests heeds in any program lead it, through a
proxy on this machine, to a server whose own certificate it is told to trust.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.auth import jwt
from google.auth.crypt import RSASigner

from tests.conftest import answering

AUDIENCE, INVOKER = "https://trigger-1.us-central1.run.app", "trigger@local.iam.gserviceaccount.com"
_HOST = "www.googleapis.com"


@dataclass(frozen=True)
class Key:
    """A private key with the certificate of its public half, both as PEM."""

    id: str
    private: bytes
    certificate: bytes

    @classmethod
    def made(cls, key_id: str) -> Key:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(_HOST)]), critical=False)
            .sign(private, hashes.SHA256())
        )
        return cls(
            key_id,
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate.public_bytes(Encoding.PEM),
        )

    def token(self, **changes: Any) -> str:
        """An ID token as Pub/Sub signs its pushes with, its claims changed or, where None, left out."""
        now = int(time.time())
        claims = {
            "aud": AUDIENCE,
            "azp": "113774264463038321964",
            "email": INVOKER,
            "email_verified": True,
            "exp": now + 3600,
            "iat": now,
            "iss": "https://accounts.google.com",
            "sub": "113774264463038321964",
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        encoded: bytes = jwt.encode(RSASigner.from_string(self.private, self.id), claims)
        return encoded.decode()


@dataclass
class Google:
    """The server of the certificates.

    Attributes:
        keys: whose certificates it gives.
        status: of its answers.
        fetched: how often they were asked for.
        variables: of the environment, that lead a program here.
    """

    keys: list[Key]
    status: int = 200
    fetched: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def google(folder: Path, *keys: Key) -> Iterator[Google]:
    """Google's certificates, for the block."""
    own = Key.made("tls")
    trusted, private = folder / "google.pem", folder / "google.key"
    trusted.write_bytes(own.certificate)
    private.write_bytes(own.private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            assert self.path == f"{_HOST}:443"
            self.send_response_only(200)
            self.end_headers()
            with suppress(OSError), context.wrap_socket(self.connection, server_side=True) as tunnel:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += tunnel.recv(4096)
                assert request.startswith(b"GET /oauth2/v1/certs HTTP/1.1\r\n")
                served.fetched += 1
                body = json.dumps({key.id: key.certificate.decode() for key in served.keys}).encode()
                head = f"HTTP/1.1 {served.status} -\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                tunnel.sendall(head.encode() + body)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

    with answering(Handler) as port:
        proxy = f"http://127.0.0.1:{port}"
        variables = {"HTTPS_PROXY": proxy, "https_proxy": proxy, "REQUESTS_CA_BUNDLE": str(trusted)}
        served = Google(list(keys), variables=variables | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
        yield served
