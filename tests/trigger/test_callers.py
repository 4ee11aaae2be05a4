"""Who may send events: the real function before requests that are signed, not signed, and signed for something else."""

import base64
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from containers.trigger.callers import Callers
from containers.trigger.errors import CallerError
from containers.trigger.events import FINALIZED
from containers.trigger.settings import Settings
from tests.vertex_local.conftest import Emulator

from .conftest import deployments, pointed_at, upload
from .function import Function, environment, finalized, running
from .issuer import AUDIENCE, INVOKER, Google, Key, google

KEY, STRANGERS = Key.made("key-1"), Key.made("key-1")
SIGNED = {"CALLERS": "signed", "INVOKER": INVOKER, "AUDIENCE": AUDIENCE}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    with google(tmp_path_factory.mktemp("google"), KEY) as served:
        yield served


@pytest.fixture(scope="module")
def signed(emulator: Emulator, issuer: Google, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """The function as it is where nothing says who may call it: all may reach it."""
    log = tmp_path_factory.mktemp("signed") / "log"
    settings = environment(**SIGNED, **issuer.variables, **pointed_at(emulator))
    del settings["CALLERS"]
    with running(log, settings) as started:
        yield started


def event(generation: int, folder: str) -> tuple[dict[str, str], str]:
    headers = {"ce-id": uuid.uuid4().hex, "ce-type": FINALIZED, "ce-source": "//storage", "ce-specversion": "1.0"}
    headers |= {"ce-time": datetime.now(UTC).isoformat(), "Content-Type": "application/json"}
    return headers, json.dumps(finalized("models", f"{folder}/model.yaml", generation))


def send(function: Function, generation: int, folder: str, **authorization: str) -> tuple[int, dict[str, str]]:
    """Send an event with further headers; returns the status and the one line that the log has of it."""
    headers, body = event(generation, folder)
    before = len(function.lines())
    status = function.post(headers | {name.replace("_", "-"): text for name, text in authorization.items()}, body)
    [line] = function.lines()[before:]
    return status, line


def unsigned(**header: Any) -> str:
    """A token that says what a right one says, with another header and no signature."""
    _, claims, _ = KEY.token().split(".")
    return f"{base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip('=')}.{claims}."


def resigned(token: str, **changes: Any) -> str:
    """A right token whose claims were changed afterwards."""
    header, claims, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "==")) | changes
    return f"{header}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip('=')}.{signature}"


HOUR = 3600
REFUSED = {
    "no token": ("", 401, "the request has no ID token"),
    "no scheme": (KEY.token(), 401, "the request has no ID token"),
    "another scheme": (f"Basic {KEY.token()}", 401, "the request has no ID token"),
    "garbage": ("Bearer garbage", 401, "the request has no ID token"),
    "two": (f"Bearer {KEY.token()},Bearer {KEY.token()}", 401, "the request has no ID token"),
    "no JSON": ("Bearer AAAA.AAAA.AAAA", 401, "the request's token is no JSON Web Token"),
    "no signature": (f"Bearer {unsigned(alg='none')}", 401, "the request has no ID token"),
    "algorithm none": (f"Bearer {unsigned(alg='none')}AAAA", 401, "not signed as Google signs"),
    "symmetric": (f"Bearer {unsigned(alg='HS256', kid='key-1')}AAAA", 401, "not signed as Google signs"),
    "elliptic": (f"Bearer {unsigned(alg='ES256', kid='key-1')}AAAA", 401, "not signed as Google signs"),
    "no key": (f"Bearer {unsigned(alg='RS256')}AAAA", 401, "not signed as Google signs"),
    "unknown key": (f"Bearer {unsigned(alg='RS256', kid='key-9')}AAAA", 401, "Certificate for key id key-9 not found"),
    "another's signature": (f"Bearer {STRANGERS.token()}", 401, "Could not verify token signature"),
    "claims changed": (f"Bearer {resigned(KEY.token(email='a@b'), email=INVOKER)}", 401, "Could not verify"),
    "signature removed": (
        f"Bearer {KEY.token().rpartition('.')[0]}.SIGNATURE_REMOVED_BY_GOOGLE",
        401,
        "Could not verify token signature",
    ),
    "another audience": (f"Bearer {KEY.token(aud='https://other.run.app')}", 401, "Token has wrong audience"),
    "no audience": (f"Bearer {KEY.token(aud=None)}", 401, "Token has wrong audience"),
    "expired": (f"Bearer {KEY.token(exp=int(time.time()) - HOUR, iat=0)}", 401, "Token expired"),
    "of the future": (f"Bearer {KEY.token(iat=int(time.time()) + 24 * HOUR)}", 401, "Token used too early"),
    "no expiry": (f"Bearer {KEY.token(exp=None)}", 401, "does not contain required claim exp"),
    "expiry is text": (f"Bearer {KEY.token(exp='never')}", 401, "the token is not valid"),
    "another issuer": (f"Bearer {KEY.token(iss='https://example.org')}", 401, "Google has verified"),
    "not verified": (f"Bearer {KEY.token(email_verified=False)}", 401, "Google has verified"),
    "another account": (f"Bearer {KEY.token(email='x@local.iam')}", 403, "the token is of 'x@local.iam'; INVOKER is"),
    "no account": (f"Bearer {KEY.token(email=None)}", 403, "the token is of None; INVOKER is"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_an_event_that_is_not_signed_for_it_starts_nothing(emulator: Emulator, signed: Function, what: str) -> None:
    authorization, expected, reason = REFUSED[what]
    generation = upload(emulator, "trained/unsigned")
    before = deployments(emulator)
    sent = {"Authorization": authorization} if authorization else {}
    status, line = send(signed, generation, "trained/unsigned", **sent)
    assert (status, line["severity"]) == (expected, "WARNING")
    assert line["message"].startswith(f"refused with {expected}: ")
    assert reason in line["message"]
    assert deployments(emulator) == before
    for secret in authorization.split()[1:]:
        assert secret not in signed.log.read_text()


@pytest.mark.slow
def test_an_event_that_is_signed_for_it_starts_the_pipeline(emulator: Emulator, signed: Function) -> None:
    generation = upload(emulator, "trained/signed")
    for scheme, verb in (("Bearer", "started"), ("bearer", "already started")):
        status, line = send(signed, generation, "trained/signed", Authorization=f"{scheme} {KEY.token()}")
        assert (status, line["message"].partition(" deploy-")[0]) == (200, verb)


@pytest.mark.slow
def test_what_is_no_event_is_not_looked_at_before_its_caller(signed: Function) -> None:
    url = f"http://127.0.0.1:{signed.port}/"
    answer = requests.post(url, b"model.yaml", headers={"Content-Type": "application/cloudevents+json"}, timeout=30)
    assert (answer.status_code, answer.text) == (401, "refused")
    right = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {KEY.token()}"}
    answer = requests.post(url, b"model.yaml", headers=right, timeout=30)
    assert (answer.status_code, answer.text) == (400, "this is no CloudEvent")
    assert requests.get(url, timeout=30).status_code == 405


@pytest.mark.slow
def test_certificates_are_fetched_seldom(signed: Function, issuer: Google) -> None:
    for _ in range(3):
        send(signed, 1, "trained/none", Authorization=f"Bearer {KEY.token()}")
    before = issuer.fetched
    for number in range(5):
        send(signed, 1, "trained/none", Authorization=f"Bearer {KEY.token()}")
        send(signed, 1, "trained/none", Authorization=f"Bearer {unsigned(alg='RS256', kid=f'new-{number}')}AAAA")
    assert issuer.fetched - before <= 1


@pytest.mark.slow
def test_an_event_is_delivered_again_where_certificates_cannot_be_had(
    emulator: Emulator, issuer: Google, tmp_path: Path
) -> None:
    generation = upload(emulator, "trained/later")
    with running(tmp_path / "log", environment(**SIGNED, **issuer.variables, **pointed_at(emulator))) as function:
        issuer.status = 500
        status, line = send(function, generation, "trained/later", Authorization=f"Bearer {KEY.token()}")
        assert (status, line["severity"]) == (503, "WARNING")
        assert line["message"].startswith("could not fetch Google's certificates: ")
        issuer.status = 200
        status, line = send(function, generation, "trained/later", Authorization=f"Bearer {KEY.token()}")
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


@pytest.mark.slow
def test_behind_cloud_run_the_account_that_it_has_checked_is_compared(emulator: Emulator, tmp_path: Path) -> None:
    generation = upload(emulator, "trained/private")
    handed_on = KEY.token().rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
    other = KEY.token(email="editor@local.iam").rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
    settings = environment(CALLERS="private", INVOKER=INVOKER, **pointed_at(emulator))
    with running(tmp_path / "log", settings) as function:
        for headers, expected in (
            ({}, 401),
            ({"Authorization": f"Bearer {other}"}, 403),
            # Where both are there Cloud Run has checked the second.
            ({"Authorization": f"Bearer {handed_on}", "X_Serverless_Authorization": f"Bearer {other}"}, 403),
        ):
            assert send(function, generation, "trained/private", **headers)[0] == expected
            assert not [each for each in deployments(emulator).values() if each == "trained/private"]
        status, line = send(function, generation, "trained/private", Authorization=f"Bearer {handed_on}")
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


_PARTS = st.one_of(
    st.text(alphabet="abcAZ09-_=+/ \n."),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.dictionaries(st.sampled_from(["alg", "kid", "aud", "exp", "iat", "email"]) | st.text(), inner),
    ).map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")),
)


@given(
    sent=st.one_of(
        st.text(),
        st.lists(_PARTS, min_size=1, max_size=4).map(lambda parts: f"Bearer {'.'.join(parts)}"),
        st.tuples(_PARTS, _PARTS).map(lambda parts: f"Bearer {parts[0]}.{parts[1]}.{KEY.token().split('.')[2]}"),
        # Nested as deep as no parser goes.
        st.integers(2000, 4000).map(lambda n: f"Bearer {base64.urlsafe_b64encode(b'[' * n).decode()}.e30.e30"),
    ),
    callers=st.sampled_from(["signed", "private"]),
)
def test_whatever_is_sent_as_a_token_is_refused(sent: str, callers: str) -> None:
    settings = Settings.read(environment(CALLERS=callers, INVOKER=INVOKER, AUDIENCE=AUDIENCE))
    known = Callers(settings, lambda _: {KEY.id: KEY.certificate.decode()})
    with pytest.raises(CallerError) as refused:
        known.check({"Authorization": sent})
    assert refused.value.status in (401, 403)


def test_a_right_token_is_taken() -> None:
    settings = Settings.read(environment(CALLERS="signed", INVOKER=INVOKER, AUDIENCE=AUDIENCE))
    Callers(settings, lambda _: {KEY.id: KEY.certificate.decode()}).check({"Authorization": f"Bearer {KEY.token()}"})
