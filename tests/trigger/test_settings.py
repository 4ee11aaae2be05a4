import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.trigger.errors import SettingsError
from containers.trigger.settings import Settings

from .function import COMMAND, environment

REQUIRED = ["GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "MODEL_BUCKET", "MODEL_PREFIX", "TEMPLATES"]
OPTIONAL = ["STAGING", "SERVICE_ACCOUNT", "PARAMETERS", "CALLERS", "INVOKER", "AUDIENCE"]


def read(**variables: str) -> Settings:
    return Settings.read(environment(**variables))


def test_settings_are_read_with_their_defaults() -> None:
    assert read() == Settings(
        project="local",
        location="us-central1",
        bucket="models",
        prefix="trained/",
        templates="gs://templates/deploy",
        staging="",
        service_account="",
        parameters={},
        callers="public",
        invoker="",
        audience="",
    )


def test_folders_are_meant_alike_with_and_without_a_slash_at_the_end() -> None:
    for slash in ("", "/"):
        settings = read(MODEL_PREFIX=f"a/b{slash}", TEMPLATES=f"gs://templates{slash}", STAGING=f"gs://stage/x{slash}")
        assert (settings.prefix, settings.templates, settings.staging) == ("a/b/", "gs://templates", "gs://stage/x")
    assert read(MODEL_PREFIX="/").prefix == ""


def test_what_is_staged_lies_where_the_pipeline_stages_it() -> None:
    from components.storage import staging_folder

    for staging in ("", "gs://stage/x"):
        assert read(STAGING=staging).staging_folder("models") == staging_folder(staging, "gs://models/a")


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", ["", "  "])
def test_a_missing_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is not set; give "):
        read(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_CLOUD_PROJECT", "projects/local"),
        ("GOOGLE_CLOUD_LOCATION", "us central1"),
        ("MODEL_BUCKET", "gs://models"),
        ("MODEL_PREFIX", "/trained"),
        ("MODEL_PREFIX", "gs://models/trained"),
        ("TEMPLATES", "build/templates"),
        ("TEMPLATES", "gs://x"),
        ("STAGING", "gs://"),
        ("SERVICE_ACCOUNT", "steps"),
        ("CALLERS", "everyone"),
        ("INVOKER", "trigger"),
        ("AUDIENCE", "http://trigger.run.app"),
        ("AUDIENCE", "https://trigger.run.app#x"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is '{value}'; give "):
        read(**{name: value})


@pytest.mark.parametrize(
    ("prefix", "staging", "named"),
    [
        ("trained/", "gs://models/trained", "STAGING is 'gs://models/trained'"),
        ("trained/new/", "gs://models/trained/", "STAGING is 'gs://models/trained'"),
        ("trained/", "gs://models", "STAGING is 'gs://models'"),
        ("/", "gs://models/", "STAGING is 'gs://models'"),
        ("earth-engine-models/", "", "MODEL_PREFIX is 'earth-engine-models/'"),
        ("earth-engine-models/a", "gs://stage/x", "MODEL_PREFIX is 'earth-engine-models/a/'"),
    ],
)
def test_what_is_watched_does_not_lie_in_what_is_staged(prefix: str, staging: str, named: str) -> None:
    with pytest.raises(SettingsError, match=f"^{named}; nothing is deployed of what lies in .*; give another folder$"):
        read(MODEL_PREFIX=prefix, STAGING=staging)


@pytest.mark.parametrize(
    ("prefix", "staging"),
    [
        ("/", ""),
        ("/", "gs://models/stage"),
        ("trained/", "gs://models/trained/stage"),
        ("trained/", "gs://models/train"),
    ],
)
def test_what_is_staged_may_lie_in_what_is_watched(prefix: str, staging: str) -> None:
    assert read(MODEL_PREFIX=prefix, STAGING=staging).staging == staging


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "PARAMETERS is no JSON"),
        ("[" * 100_000, "PARAMETERS is no JSON"),
        ("[1]", r"PARAMETERS is '\[1\]'; give a JSON object"),
        ('{"model_uri": "gs://a/b"}', "PARAMETERS has 'model_uri', which the function gives itself"),
        ('{"staging": "gs://a/b"}', "PARAMETERS has 'staging'"),
        (
            '{"sample": "https://host/o?X-Goog-Signature=abc"}',
            "PARAMETERS holds a credential, which every pipeline job",
        ),
        ('{"sample": "Bea\\u0072er abcdefghijklmnopq"}', "PARAMETERS holds a credential"),
    ],
)
def test_wrong_parameters_are_named(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(PARAMETERS=text)


@given(name=st.sampled_from([*REQUIRED, *OPTIONAL]), value=st.text())
def test_any_setting_is_read_or_refused_in_one_line(name: str, value: str) -> None:
    wrong = ""
    try:
        Settings.read(environment(INVOKER="a@b.c", AUDIENCE="https://x.app") | {name: value})
    except SettingsError as error:
        wrong = str(error)
    assert wrong == "" or (wrong.startswith(name) and len(wrong.splitlines()) == 1)


def test_callers_are_known_by_their_signatures_unless_a_setting_says_otherwise() -> None:
    invoker, audience = {"INVOKER": "a@b.c"}, {"AUDIENCE": "https://trigger.run.app"}
    for silent in ("", " "):
        assert read(CALLERS=silent, **invoker, **audience).callers == "signed"
        with pytest.raises(SettingsError, match=r"^INVOKER is not set; give "):
            read(CALLERS=silent, **audience)
        with pytest.raises(SettingsError, match=r"^AUDIENCE is not set; give the service's URL, or CALLERS=private "):
            read(CALLERS=silent, **invoker)
    assert read(CALLERS="private", **invoker).audience == ""
    with pytest.raises(SettingsError, match=r"^INVOKER is not set; give "):
        read(CALLERS="private")


@pytest.mark.slow
def test_the_function_does_not_start_with_a_wrong_setting() -> None:
    variables = environment(MODEL_BUCKET="gs://models")
    ended = subprocess.run([*COMMAND, "--port", "1"], env=variables, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "trigger: MODEL_BUCKET is 'gs://models'; give the name of the bucket that is watched, without gs://\n"
    )
