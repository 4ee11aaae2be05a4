"""Custom jobs, through Google's own client."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1

from .conftest import NUMBERED, PARENT, Emulator, kill, refused, result_of, start, stop, until

JobState = aiplatform_v1.JobState
IMAGE = "registry/local/images/train:1"
# Writes a model where Vertex AI wants it, through the client that a training program would use.
TRAIN = """
import os, sys
from google.cloud import storage
print("job", os.environ["CLOUD_ML_PROJECT_ID"], os.environ["CLOUD_ML_JOB_ID"], os.environ["VERTEX_EMULATOR_HOST"])
print("folders", os.environ["AIP_MODEL_DIR"], os.environ["AIP_CHECKPOINT_DIR"], os.environ["AIP_TENSORBOARD_LOG_DIR"])
print("own", os.environ["EPOCHS"], sys.argv[1:])
storage.Blob.from_uri(os.environ["AIP_MODEL_DIR"] + "model.yaml", storage.Client()).upload_from_string("name: x")
"""


def custom_job(command: list[str], name: str = "train", folder: str = "", **changes: Any) -> dict[str, Any]:
    pool = {
        "container_spec": {"image_uri": IMAGE, "command": command},
        "machine_spec": {"machine_type": "n1-standard-4"},
        "replica_count": 1,
        **changes,
    }
    spec: dict[str, Any] = {"worker_pool_specs": [pool]}
    if folder:
        spec["base_output_directory"] = {"output_uri_prefix": folder}
    return {"display_name": name, "job_spec": spec, "labels": {"by": "test"}}


def state_of(emulator: Emulator, name: str) -> Any:
    return emulator.custom_jobs.get_custom_job(name=name).state


def ended(emulator: Emulator, name: str) -> Any:
    until(lambda: emulator.custom_jobs.get_custom_job(name=name).end_time)
    return emulator.custom_jobs.get_custom_job(name=name)


def log_of(emulator: Emulator, name: str) -> Path:
    _, project, _, location, _, job_id = name.split("/")
    return emulator.state / "custom_jobs" / project / location / job_id / "workerpool0-0.log"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["gs://models/run-1", "gs://models/run-2/"])
def test_a_job_runs_its_command_and_has_where_to_put_the_model(emulator: Emulator, folder: str) -> None:
    container = {
        "image_uri": IMAGE,
        "command": ["python", "-c"],
        "args": [TRAIN, "--fast"],
        "env": [{"name": "EPOCHS", "value": "3"}],
    }
    job = custom_job([], folder=folder, container_spec=container)
    made = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=job | {"state": "JOB_STATE_FAILED"})
    assert made.name.startswith(f"{NUMBERED}/customJobs/")
    assert made.state == JobState.JOB_STATE_PENDING
    seen = ended(emulator, made.name)
    assert seen.state == JobState.JOB_STATE_SUCCEEDED, seen.error.message
    assert seen.create_time <= seen.start_time <= seen.end_time <= seen.update_time
    assert not seen.error.message
    base = folder.rstrip("/")
    assert log_of(emulator, made.name).read_text().splitlines() == [
        f"job local {made.name.rpartition('/')[2]} 127.0.0.1:{emulator.port}",
        f"folders {base}/model/ {base}/checkpoints/ {base}/logs/",
        "own 3 ['--fast']",
    ]
    name = base.removeprefix("gs://models/")
    assert emulator.storage.bucket("models").blob(f"{name}/model/model.yaml").download_as_bytes() == b"name: x"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            [sys.executable, "-c", "raise ValueError('no data')"],
            r"workerpool0-0 exited with a non-zero status of 1\. ValueError: no data",
        ),
        (["no-such-program"], r"status of 127\. no-such-program: No such file or directory"),
    ],
)
def test_a_failing_program_fails_the_job_and_says_why(emulator: Emulator, command: list[str], message: str) -> None:
    made = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=custom_job(command))
    seen = ended(emulator, made.name)
    assert seen.state == JobState.JOB_STATE_FAILED
    assert seen.error.code == 3
    assert re.search(message, seen.error.message)


@pytest.mark.slow
def test_a_cancelled_job_ends_with_its_program(emulator: Emulator, tmp_path: Path) -> None:
    # Deaf to the request to end, so that the second cancellation comes while the first one is at work.
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    job = custom_job([sys.executable, "-c", program])
    made = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=job)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert state_of(emulator, made.name) == JobState.JOB_STATE_RUNNING
    with refused("FAILED_PRECONDITION", "cancel it first"):
        emulator.custom_jobs.delete_custom_job(name=made.name)
    for _ in range(2):
        emulator.custom_jobs.cancel_custom_job(name=made.name)
    seen = ended(emulator, made.name)
    assert (seen.state, seen.error.code) == (JobState.JOB_STATE_CANCELLED, 1)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    with refused("FAILED_PRECONDITION", "has ended: JOB_STATE_CANCELLED"):
        emulator.custom_jobs.cancel_custom_job(name=made.name)
    assert log_of(emulator, made.name).exists()
    result_of(emulator.custom_jobs.delete_custom_job(name=made.name))
    assert not log_of(emulator, made.name).exists()
    for call in (
        emulator.custom_jobs.get_custom_job,
        emulator.custom_jobs.cancel_custom_job,
        emulator.custom_jobs.delete_custom_job,
    ):
        with refused("NOT_FOUND", made.name):
            call(name=made.name)


def test_jobs_are_listed_by_filter_and_by_pages(emulator: Emulator) -> None:
    commands = {"list-good": ["true"], "list-bad": ["false"], "list-last": ["true"]}
    for name, command in commands.items():
        made = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=custom_job(command, name))
        ended(emulator, made.name)

    def listed(condition: str, **fields: Any) -> list[str]:
        request = {"parent": PARENT, "filter": condition, **fields}
        return [job.display_name for job in emulator.custom_jobs.list_custom_jobs(request)]

    assert listed('display_name:"list-*"', page_size=2) == ["list-last", "list-bad", "list-good"]
    assert listed('display_name:"list-*" AND state="JOB_STATE_FAILED"') == ["list-bad"]
    assert listed('display_name="list-good" AND labels.by=test') == ["list-good"]
    assert listed('create_time<"2020-01-01T00:00:00Z"') == []
    with refused("INVALID_ARGUMENT", "'colour' is no field"):
        listed("colour=red")


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        (
            {"container_spec": {"image_uri": IMAGE}},
            "UNIMPLEMENTED",
            "without Docker the entry point of 'registry/local/images/train:1' is",
        ),
        (
            {"python_package_spec": {"executor_image_uri": IMAGE, "python_module": "trainer"}},
            "UNIMPLEMENTED",
            "pythonPackageSpec runs in its image, which needs Docker",
        ),
        ({"container_spec": {"command": ["true"]}}, "INVALID_ARGUMENT", r"containerSpec\.imageUri is required"),
        ({"replica_count": 2}, "INVALID_ARGUMENT", "replicaCount 2: the first pool has one replica"),
    ],
)
def test_what_cannot_run_is_refused(emulator: Emulator, changes: dict[str, Any], status: str, message: str) -> None:
    job = custom_job(["true"], "refused", **changes)
    if "python_package_spec" in changes:
        del job["job_spec"]["worker_pool_specs"][0]["container_spec"]
    with refused(status, message):
        emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=job)
    assert not list(emulator.custom_jobs.list_custom_jobs({"parent": PARENT, "filter": "display_name=refused"}))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (custom_job(["true"], ""), r"customJob\.displayName is required"),
        ({"display_name": "none", "job_spec": {}}, "workerPoolSpecs is required"),
        (custom_job(["true"], folder="/home/me"), "outputUriPrefix '/home/me': gs://BUCKET/FOLDER is allowed"),
    ],
)
def test_what_is_no_job_is_refused(emulator: Emulator, job: dict[str, Any], message: str) -> None:
    with refused("INVALID_ARGUMENT", message):
        emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=job)


@pytest.mark.slow
def test_jobs_survive_a_restart_and_what_ran_has_failed(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state")
    create = partial(emulator.custom_jobs.create_custom_job, parent=PARENT)
    good = create(custom_job=custom_job(["true"], "good")).name
    ended(emulator, good)
    long = create(custom_job=custom_job(["sleep", "600"], "long")).name
    until(lambda: state_of(emulator, long) == JobState.JOB_STATE_RUNNING)
    kill(emulator)
    again = start(tmp_path / "state", emulator.port)
    try:
        assert state_of(again, good) == JobState.JOB_STATE_SUCCEEDED
        seen = again.custom_jobs.get_custom_job(name=long)
        assert (seen.state, seen.error.message) == (JobState.JOB_STATE_FAILED, "The emulator ended before the job.")
        assert seen.end_time
    finally:
        stop(again)


@pytest.mark.slow
def test_a_few_jobs_run_at_a_time_and_the_others_wait(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state")
    try:
        names = [
            emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=custom_job(["sleep", "600"])).name
            for _ in range(5)
        ]
        until(lambda: [state_of(emulator, name) for name in names[:4]] == [JobState.JOB_STATE_RUNNING] * 4)
        assert state_of(emulator, names[4]) == JobState.JOB_STATE_PENDING
        emulator.custom_jobs.cancel_custom_job(name=names[0])
        until(lambda: state_of(emulator, names[4]) == JobState.JOB_STATE_RUNNING)
    finally:
        stop(emulator)
