"""Credentials planted in what services answer and users give, looked for in all that the project tells and keeps.

What is taken out of a text, and what stays, is for tests/earthengine/test_redaction.py.
"""

# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml
from google.cloud.aiplatform_v1 import PipelineState
from kfp import compiler

from components.conclude import Conclusion, why
from components.earthengine.errors import PipelineError, StorageError, VertexError
from components.earthengine.redaction import REMOVED
from components.record import Record
from components.report import write_call, write_report
from components.status import endpoint_status
from components.storage import read_text
from components.vertex import Vertex
from tests.faults.leaky import PLANTED, SIGNED_URL, leaks, leaky
from tests.leaking_pipeline import leaking
from tests.trigger.function import LATE, environment, running
from tests.vertex_local.conftest import PARENT, start, stop, until

ROOT = Path(__file__).parents[1]
ENDPOINT = f"{PARENT}/endpoints/1"


@pytest.fixture(scope="module")
def services() -> Iterator[Mapping[str, str]]:
    with leaky() as variables:
        yield variables


def check(text: str) -> None:
    """See that a text tells of the planted credentials without them."""
    assert REMOVED in text, text
    assert leaks(text) == []


def test_what_is_looked_for_is_found_where_it_is() -> None:
    for text in (*PLANTED, SIGNED_URL):
        assert leaks(text)


def test_errors_of_both_services_do_not_hold_them(services: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, address in services.items():
        monkeypatch.setenv(name, address)
    with pytest.raises(StorageError) as refused:
        read_text("gs://b/x")
    check(str(refused.value))
    with pytest.raises(VertexError) as failed:
        endpoint_status(Vertex("local", "us-central1"), ENDPOINT)
    check(str(failed.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "gs://b/model", "--repository", "r", "--project", "local"],
        ["submit", SIGNED_URL, "--repository", "r", "--project", "local"],
        ["status", "1", "--project", "local"],
        ["doctor", "--bucket", "models", "--repository", "us-central1-docker.pkg.dev/local/r", "--project", "local"],
    ],
    ids=["submit", "submit a signed URL", "status", "doctor"],
)
def test_commands_do_not_tell_them(services: Mapping[str, str], arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "pipeline.py"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **services})
    assert ended.returncode == 1
    check(ended.stdout + ended.stderr)
    assert "Traceback" not in ended.stderr


def test_a_parameter_that_holds_one_is_refused() -> None:
    from components.built_images import Images
    from components.commands.submission import read_parameters
    from components.dags import deploy_pipeline

    for planted in (*PLANTED, SIGNED_URL):
        with pytest.raises(PipelineError, match="holds a credential, which a pipeline job would keep and show") as held:
            read_parameters(deploy_pipeline("pytorch", Images("r", "1")), [f"serving_image={planted}"])
        assert leaks(str(held.value)) == []


def test_the_record_and_the_report_do_not_hold_them(
    emulator: str, services: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("VERTEX_EMULATOR_HOST", services["VERTEX_EMULATOR_HOST"])
    vertex, record = Vertex("local", "us-central1"), Record.of("gs://models/staging", "run")
    with pytest.raises(VertexError), record.telling("deploy"):
        endpoint_status(vertex, ENDPOINT)
    check(read_text("gs://models/staging/runs/run/fault.txt") or "")
    # What Vertex AI tells of another step is none of this project's words.
    silent = Record.of("gs://models/staging", "other")
    fault = why(vertex, silent, "other", " and ".join(PLANTED))
    check(fault)
    conclusion = Conclusion(False, False, fault, None, (), {}, ())
    write_report(vertex, None, conclusion, tmp_path / "report.html")
    write_call(None, conclusion, tmp_path / "call.md")
    for page in tmp_path.iterdir():
        check(page.read_text())


@pytest.mark.slow
def test_a_step_that_fails_leaves_none_in_logs_errors_pages_and_state(
    services: Mapping[str, str], tmp_path: Path
) -> None:
    """A step with errors of Cloud Storage, uncaught and logged, on the local Vertex AI."""
    compiler.Compiler().compile(leaking, str(tmp_path / "leaking.yaml"))
    local = start(tmp_path / "state")
    try:
        job = {
            "pipeline_spec": yaml.safe_load((tmp_path / "leaking.yaml").read_text()),
            "runtime_config": {
                "gcs_output_directory": "gs://b/root",
                "parameter_values": {"storage": services["STORAGE_EMULATOR_HOST"]},
            },
        }
        name = local.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="leaking").name
        until(lambda: local.jobs.get_pipeline_job(name=name).end_time, 60)
        ended = local.jobs.get_pipeline_job(name=name)
        assert ended.state == PipelineState.PIPELINE_STATE_FAILED
        check(str(ended.job_detail.task_details[0].error.message))
        pages = f"{local.url}/console/{name}"
        [task] = ended.job_detail.task_details
        log = httpx.get(f"{pages}/logs/1").text
        check(log)
        for expected in ("not tidied up", "direct cause", "uncaught", task.task_name):
            assert expected in log
        for page in (pages, f"{pages}/logs/worker", f"{local.url}/"):
            assert leaks(httpx.get(page).text) == []
        # And what a client of its own sends along is kept nowhere.
        token = PLANTED[0].removeprefix("Authorization: ")
        url = f"{local.url}/v1/{PARENT}/endpoints?access_token={PLANTED[2]}"
        for path in (url, url.replace("endpoints", "nothing")):
            assert leaks(httpx.get(path, headers={"Authorization": token}).text) == []
    finally:
        stop(local)
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert [path for path in kept if "log" in path.name]
    assert {path.name: leaks(path.read_bytes().decode("latin-1")) for path in kept} == {path.name: [] for path in kept}


@pytest.mark.slow
def test_the_trigger_does_not_tell_them(services: Mapping[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log, environment(**services)) as function:
        for options in ({}, {"age": LATE}):
            _, line = function.finalize("models", "trained/x/model.yaml", 1, **options)
            check(line["message"])
        for number, planted in enumerate(PLANTED):
            _, line = function.finalize("models", planted, 1, event_id=f"e-{number}")
            check(line["message"])
        told = [httpx.post(f"http://127.0.0.1:{function.port}/", content=planted).text for planted in PLANTED]
    for text in (log.read_text(), log.with_suffix(".stderr").read_text(), *told):
        assert leaks(text) == []
