"""What is taken out of a text wherever it stands, and what is left as it is."""

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path
from string import ascii_letters, digits

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from components.earthengine import redaction
from components.earthengine.errors import JobError, PipelineError
from components.earthengine.redaction import redact
from containers import trigger

_TOKEN = st.text(ascii_letters + digits + "-_", min_size=40, max_size=80)
_BASE64 = st.binary(min_size=40, max_size=80).map(lambda data: base64.b64encode(data).decode())
_HEX = st.binary(min_size=40, max_size=80).map(bytes.hex)
# How a secret stands, and what it is made of.
FORMS = {
    "Authorization: Bearer {}": _TOKEN,
    "authorization: {}": _TOKEN,
    "Authorization: Basic {}": _BASE64,
    "{{'Authorization': 'Bearer {}', 'x': 1}}": _TOKEN,
    '{{"authorization": "Bearer {}"}}': _TOKEN,
    '"{{\\"Authorization\\": \\"Bearer {}\\"}}"': _TOKEN,
    "[('authorization', 'Bearer {}')]": _TOKEN,
    "[(b'authorization', b'Bearer {}')]": _TOKEN,
    "a Bearer {} of another": _TOKEN,
    "ya29.{}": _TOKEN,
    "ya29.c.{}....": _TOKEN,
    "1//0{}": _TOKEN,
    "AIzaSy{}": _TOKEN,
    "GOCSPX-{}": _TOKEN,
    "eyJhbGciOiJSUzI1NiJ9.eyJhdWQ.{}": _TOKEN,
    "https://storage.googleapis.com/b/o?X-Goog-Expires=9&X-Goog-Signature={}": _HEX,
    "/b/o?X-Goog-Signature={}&X-Goog-Date=20260101T000000Z": _HEX,
    "url: https%3A%2F%2Fhost%2Fo%3FX-Goog-Signature%3D{}": _HEX,
    "X-Goog-Credential={}": _TOKEN,
    "X-Goog-Security-Token: {}": _TOKEN,
    "/b/o?GoogleAccessId={}&Expires=1": _TOKEN,
    "/b/o?GoogleAccessId=a&Expires=1&Signature={}": _BASE64,
    "/upload/storage/v1/b/x/o?uploadType=resumable&upload_id={}": _TOKEN,
    "with url: /o?upload_id={} (Caused by": _TOKEN,
    "https://user:{}@host/path": _TOKEN,
    "postgresql://:{}@host": _TOKEN,
    "https://host/v1/x?key={}&alt=json": _TOKEN,
    "access_token={}": _TOKEN,
    '{{"refresh_token": "{}"}}': _TOKEN,
    '{{"client_secret": "{}"}}': _TOKEN,
    "password={}": _TOKEN,
    "map[Accept:[*/*] Authorization:[Bearer {}]]": _TOKEN,
    '{{"Authorization": ["Basic {}"]}}': _BASE64,
    "/b/o?X-Goog-Expires\\u003d9\\u0026X-Goog-Signature\\u003d{}": _HEX,
    '{{"uri": "https://host/o?access_token\\u003d{}\\u0026x\\u003d1"}}': _TOKEN,
    "https://host/o?x\\u003d1\\u0026sig\\u003d{}": _HEX,
    '{{"accessToken": "{}"}}': _TOKEN,
    "idToken={}": _TOKEN,
    "clientSecret: {}": _TOKEN,
    "DB_PASSWORD={}": _TOKEN,
    "password=-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----": _BASE64,
    "GOOGLE_OAUTH_ACCESS_TOKEN={}": _TOKEN,
    "https://host/?url=https%253A%252F%252Fx%253Fupload_id%253D{}": _TOKEN,
    "https://user:p@{}@host": _TOKEN,
    "https://{}@host/x": _TOKEN,
    'password: "two {}"': _TOKEN,
    "{{'password': 'a&b;\\'{}'}}": _TOKEN,
    "X-Goog-Api-Key: {}": _TOKEN,
    "Cookie: a=b; SID={}": _TOKEN,
    "{{'Set-Cookie': 'SID={}; Secure'}}": _TOKEN,
    "x-goog-iap-jwt-assertion: {}": _TOKEN,
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n": _BASE64,
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{}\n-----END RSA PRIVATE KEY-----": _BASE64,
    '{{"private_key": "-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----\\n"}}': _BASE64,
    "-----BEGIN PRIVATE KEY-----\n{}": _BASE64,
}
_BETWEEN = st.sampled_from(["", " ", "\n", '"', "(", ": ", "\\n"])
SECRETS = st.one_of(
    [
        st.tuples(st.just(form), values).map(lambda pair: (pair[0].format(pair[1]), pair[1]))
        for form, values in FORMS.items()
    ]
)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_taken_out_alone(form: str) -> None:
    value = "q" + "7Z" * 30
    assert value not in redact(form.format(value))
    assert redaction.REMOVED in redact(form.format(value))


@given(before=st.text(), between=_BETWEEN, secret=SECRETS, after=st.text())
def test_a_secret_is_taken_out_wherever_it_stands(
    before: str, between: str, secret: tuple[str, str], after: str
) -> None:
    text, value = secret
    assume(value not in before + after)
    # What goes before may end in a letter, which would make another word of it.
    told = redact(f"{before}{between or ' '}{text}{after}")
    assert value not in told
    assert redact(told) == told


@example([(f"Cookie: a=b; SID={'0' * 40}", "0" * 40), (f'password: "two {"0" * 40}"', "0" * 40)], "(")
@example([("-----BEGIN PRIVATE KEY-----\nAA", "AA"), (f"https://user:p@{'0' * 40}@host", "0" * 40)], "")
@example([("-----BEGIN PRIVATE KEY-----\nAA", "AA"), (f"Cookie: a=b; SID={'0' * 40}", "0" * 40)], "")
@example([(f"Cookie: a=b; SID={'0' * 40}", "0" * 40)] * 2, "(")
@example([(f"Cookie: a=b; SID={'0' * 40}", "0" * 40), (f'password: "two {"0" * 40}"', "0" * 40)], "(")
@example([(f"-----BEGIN PRIVATE KEY-----\nAA{end}", "AA") for end in ("", f"\nhttps://user:p@{'0' * 40}@host")], "")
@given(st.lists(SECRETS, min_size=2, max_size=5), _BETWEEN)
def test_many_are_taken_out_at_once(secrets: list[tuple[str, str]], between: str) -> None:
    told = redact((between or "\n").join(text for text, _ in secrets))
    assert not [value for _, value in secrets if value in told]


@given(SECRETS)
def test_they_are_taken_out_of_json(secret: tuple[str, str]) -> None:
    text, value = secret
    told = redact(json.dumps({"message": text, "severity": "ERROR"}))
    assert value not in told
    assert json.loads(told)["severity"] == "ERROR"


@pytest.mark.parametrize(
    "text",
    [
        "projects/my-project/locations/us-central1/endpoints/1234567890123456789",
        "gs://bucket/models/land-cover/model.yaml",
        "http://127.0.0.1:8080/console/projects/local/locations/us-central1/models/1@2?runs=all#version-2",
        "https://storage.googleapis.com/storage/v1/b/models/o?prefix=a%2Fb&pageToken=abc&fields=items%28name%29",
        "steps@my-project.iam.gserviceaccount.com",
        "us-central1-docker.pkg.dev/p/images/steps@sha256:" + "ab" * 32,
        "could not read gs://a/b: 403: Bearer authentication is needed; see the authorization, which lacks a role",
        "GET https://storage.googleapis.com/storage/v1/b/x?projection=noAcl&prettyPrint=false: Not found",
        "the band key is 5; token: no; signature (None)",
        "private_key_id names the key",
        "10:20 a@b 1://2@3",
        "ssh://git@host/x; http://127.0.0.1:8080/a@b; the cookie: none",
        '["http://host:80","a@b"]',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.binary(max_size=4000))
def test_tensors_and_digests_stay(data: bytes) -> None:
    for text in (base64.b64encode(data).decode(), data.hex(), f"sha256:{data.hex()}"):
        assert redact(f'{{"b64": "{text}"}}') == f'{{"b64": "{text}"}}'


def test_errors_do_not_hold_them() -> None:
    for kind in (PipelineError, JobError):
        assert str(kind("GET /o?upload_id=abc&x=1 failed")) == "GET /o?upload_id=[removed]&x=1 failed"


def test_records_of_the_log_do_not_hold_them(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("urllib3.connectionpool")
    try:
        try:
            raise OSError("https://host/o?upload_id=abc-1")
        except OSError as cause:
            raise ValueError("Authorization: Bearer abc-2") from cause
    except ValueError:
        log.exception("Retrying after %r: %s", ConnectionError("ya29.abc-3"), "/o?X-Goog-Signature=abc-4")
    assert "[removed]" in caplog.text
    assert "direct cause" in caplog.text
    assert "abc-" not in caplog.text


def test_what_ends_a_program_is_told_without_them() -> None:
    program = (
        "import components\n"
        "try:\n    raise OSError('https://host/o?upload_id=abc-' + '1')\n"
        "except OSError as cause:\n    error = ValueError('Authorization: Bearer abc-' + '2')\n"
        "    error.add_note('ya29.abc-' + '3')\n    raise error from cause\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "OSError: https://host/o?upload_id=[removed]\n" in ended.stderr
    assert "ValueError: Authorization: [removed]\n[removed]\n" in ended.stderr


def test_what_ends_a_thread_or_a_finalizer_is_told_without_them() -> None:
    program = (
        "import components, threading\n"
        "def fail(*_): raise OSError('https://host/o?upload_id=abc-' + '1')\n"
        "thread = threading.Thread(target=fail, name='reader')\nthread.start()\nthread.join()\n"
        "Lost = type('Lost', (), {'__del__': fail})\nLost()\nat_the_end = Lost()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.count("OSError: https://host/o?upload_id=[removed]\n") == 2
    assert "Exception in thread reader:\n" in ended.stderr
    assert "Exception ignored in: <function fail" in ended.stderr
    assert "=abc-" not in ended.stderr
    assert "unraisablehook" not in ended.stderr


@pytest.mark.parametrize(
    "piece",
    ["password='", 'password="\\"', "https://a:", "://a@", "%25", "Cookie:a=", "\\u0026key\\u003d", "_password ", "["],
)
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    redact(piece * (400_000 // len(piece)))


def test_the_trigger_has_the_same() -> None:
    # It is deployed as a folder alone, and imports nothing of the project.
    copy = Path(str(trigger.__file__)).with_name("redaction.py")
    assert copy.read_bytes() == Path(redaction.__file__).read_bytes()
