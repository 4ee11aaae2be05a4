"""Who may send events: told by the ID token that Eventarc and Pub/Sub sign their requests with.

What is in such a token is as Pub/Sub's page on authenticated push subscriptions says: signed with RS256 by Google's
OAuth 2.0 certificates, of the service account that the subscription is made with, for the service's URL. Where Cloud
Run asks IAM who calls, it hands a token on without its signature, so that the function cannot verify it once more; so
says its page on service-to-service authentication.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from google.auth import jwt
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from .errors import CallerError, UnavailableError
from .settings import Settings

_ISSUERS = {"accounts.google.com", "https://accounts.google.com"}
_CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"
_FETCH_SECONDS = 10
# They change every few days, the next one being published before it signs; one that is not known may be new.
_KEPT_SECONDS, _AGAIN_SECONDS = 3600, 60
# Between Google's clock and this one.
_SKEW_SECONDS = 10
# Tokens of service accounts have some 900 characters.
_LONGEST = 8192
_BEARER = re.compile(r"Bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+) *", re.IGNORECASE)

Certificates = Callable[[str], Mapping[str, str]]


class Callers:
    """Those whose events are read."""

    def __init__(self, settings: Settings, certificates: Certificates) -> None:
        """Takes the settings, and what gives certificates by key id, with that of one id among them if it is known."""
        self._settings = settings
        self._certificates = certificates

    def check(self, headers: Mapping[str, str]) -> None:
        """Make sure that a request is from who may send events.

        Args:
            headers: of the request.

        Raises:
            CallerError: it is not.
            UnavailableError: Google's certificates cannot be had.
        """
        if self._settings.callers == "public":
            return
        if self._settings.callers == "private":
            # Of the two, Cloud Run looks at this one alone where it is there.
            sent = headers.get("X-Serverless-Authorization") or headers.get("Authorization", "")
            claims = _unverified(sent)[2]
        else:
            claims = self._verified(headers.get("Authorization", ""))
        email = claims.get("email")
        if email != self._settings.invoker:
            raise CallerError(403, f"the token is of {email!r:.200}; INVOKER is {self._settings.invoker}")

    def _verified(self, sent: str) -> Mapping[str, Any]:
        token, header, _ = _unverified(sent)
        if header.get("alg") != "RS256" or not isinstance(header.get("kid"), str):
            raise CallerError(401, "the token is not signed as Google signs, with RS256 and the id of a key")
        try:
            certificates = self._certificates(header["kid"])
            claims: Mapping[str, Any] = jwt.decode(
                token, certificates, audience=self._settings.audience, clock_skew_in_seconds=_SKEW_SECONDS
            )
        except (ValueError, TypeError, GoogleAuthError) as error:
            raise CallerError(401, f"the token is not valid: {error!s:.300}") from error
        if claims.get("iss") not in _ISSUERS or claims.get("email_verified") is not True:
            raise CallerError(401, "the token is not of an account that Google has verified")
        return claims


def _unverified(sent: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """The token in an Authorization header, its header and its claims, by whomever they are."""
    found = _BEARER.fullmatch(sent) if len(sent) <= _LONGEST else None
    if not found:
        raise CallerError(401, "the request has no ID token: no header Authorization: Bearer TOKEN")
    try:
        return found[1], jwt.decode_header(found[1]), jwt.decode(found[1], verify=False)
    # Without the library's words, which are those of the token.
    except (ValueError, RecursionError):
        raise CallerError(401, "the request's token is no JSON Web Token") from None


class GoogleCertificates:
    """Those of Google's OAuth 2.0 service, fetched when they are needed and kept for an hour."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Mapping[str, str] = {}
        self._fetched = -float("inf")

    def __call__(self, key_id: str) -> Mapping[str, str]:
        """All that are valid, by their ids.

        Raises:
            UnavailableError: they cannot be had.
        """
        with self._lock:
            age = time.monotonic() - self._fetched
            if age > (_KEPT_SECONDS if key_id in self._found else _AGAIN_SECONDS):
                self._found = self._fetch()
                self._fetched = time.monotonic()
            return self._found

    def _fetch(self) -> Mapping[str, str]:
        try:
            answer = Request()(_CERTIFICATES, timeout=_FETCH_SECONDS)
            found = _certificates(answer.data) if answer.status == 200 else {}
        except (GoogleAuthError, ValueError) as error:
            raise UnavailableError(f"could not fetch Google's certificates: {error}") from error
        if not found:
            raise UnavailableError(f"could not fetch Google's certificates: {_CERTIFICATES} answers {answer.status}")
        return found


def _certificates(content: bytes) -> Mapping[str, str]:
    found = json.loads(content)
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ValueError("they are not given by their ids")
    return found
