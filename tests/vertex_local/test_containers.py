# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""Steps and model servers as containers: what they are given, how they end, and that nothing is left of them."""

import contextlib
import io
import json
import os
import re
import signal
import socketserver
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from docker import DockerClient
from docker.errors import APIError
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from kfp import compiler, dsl
from kfp.local import docker_task_handler

from .conftest import PARENT, Emulator, free_ports, kill, start, stop, store_artifacts, until
from .test_command import descendants_of, run, wait_until_dead

needs_docker = pytest.mark.containers
State = aiplatform_v1.PipelineState
BASE = "python:3.11-slim"

# Heeds neither AIP_HTTP_PORT nor SIGTERM, and reads its artifact when it starts.
IMAGE_SERVER = """
import ctypes, json, os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

bucket, _, prefix = os.environ["AIP_STORAGE_URI"].removeprefix("gs://").partition("/")
url = f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/{bucket}/o?prefix={prefix}/"
[found] = json.load(urllib.request.urlopen(url))["items"]
weights = urllib.request.urlopen(found["mediaLink"]).read().decode()
if os.environ["WHERE"] == "nowhere":
    ctypes.string_at(0)

class Handler(BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        match json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]:
            case ["crash"]:
                print("no band named B9", flush=True)
                os._exit(7)
            case ["grow"]:
                bytearray(300 << 20)
        self.answer({"predictions": [weights, *sys.argv[1:], os.environ["AIP_HTTP_PORT"], os.environ["WHERE"]]})

ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
DOCKERFILE = f'FROM {BASE}\nCOPY server.py /\nENTRYPOINT ["python", "/server.py"]\nCMD ["default"]\n'
IMAGE = "vertex-local-test:1"
# By its name it is one of this project's own.
OWN_IMAGE = "vertex-local-test/serving-pytorch:1"


HANDLED = "Traceback (most recent call last):\nValueError: handled"

# Asks the emulator for a custom job.
ESCAPE = """
import json, os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

pool = {"replicaCount": "1", "containerSpec": {"imageUri": "a/b:1", "command": ["true"]}}
body = json.dumps({"displayName": "out", "jobSpec": {"workerPoolSpecs": [pool]}}).encode()
url = f"http://{os.environ['VERTEX_EMULATOR_HOST']}/v1/projects/local/locations/us-central1/customJobs"
try:
    urlopen(Request(url, body, {"Content-Type": "application/json"}))
except HTTPError as refused:
    print(refused.code, json.load(refused))
"""


@dsl.container_component
def shell(script: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image=BASE, command=["sh", "-c"], args=[script])


@dsl.container_component
def greet() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image=IMAGE, command=["echo"], args=["mine"])


@dsl.container_component
def produce(rows: dsl.OutputPath(int)) -> dsl.ContainerSpec:  # type: ignore[valid-type]
    script = 'umask 077; mkdir -p "$(dirname "$0")"; echo 120 >"$0"'
    return dsl.ContainerSpec(image=BASE, command=["sh", "-c", script], args=[rows])


@dsl.container_component
def tell(rows: int) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image=BASE, command=["echo"], args=[rows])


@dsl.container_component
def absent() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="registry.invalid/absent:1", command=["true"])


def job_of(body: Callable[[], object], folder: Path) -> dict[str, Any]:
    """A pipeline of the tasks that a function makes."""

    @dsl.pipeline(name="contained")
    def contained() -> None:
        body()

    path = folder / "contained.yaml"
    compiler.Compiler().compile(contained, str(path))
    return {
        "pipeline_spec": yaml.safe_load(path.read_text()),
        "runtime_config": {"gcs_output_directory": "gs://staging/root"},
    }


def submit(emulator: Emulator, job: dict[str, Any]) -> str:
    name: str = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job).name
    return name


def ended(emulator: Emulator, name: str) -> Any:
    """A job when it has ended."""

    def job() -> Any:
        found = emulator.jobs.get_pipeline_job(name=name)
        return found if found.end_time else None

    return until(job, 60)


def log_of(emulator: Emulator, job: Any, task: str) -> str:
    """What the only run of a task has written."""
    _, project, _, location, _, job_id = job.name.split("/")
    [log] = Path(emulator.state, "jobs", project, location, job_id).glob(f"{task}-*.log")
    return log.read_text()


def containers_of(docker: DockerClient, state: Path) -> list[Any]:
    found: list[Any] = docker.containers.list(all=True, filters={"label": f"vertex-local={state}"}, ignore_removed=True)
    return found


@pytest.fixture(scope="module")
def contained(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator whose steps and servers are containers."""
    running = start(tmp_path_factory.mktemp("contained") / "state", None, "--runner", "docker")
    try:
        store_artifacts(running)
        yield running
    finally:
        stop(running)
    assert containers_of(docker, running.state) == []


@pytest.fixture(scope="module")
def image(docker: DockerClient) -> Iterator[str]:
    """A tiny serving image."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, text in (("Dockerfile", DOCKERFILE), ("server.py", IMAGE_SERVER)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    context.seek(0)
    built, _ = docker.images.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True)
    built.tag(OWN_IMAGE)
    yield IMAGE
    for name in (IMAGE, OWN_IMAGE):
        docker.images.remove(name, force=True)


# --- steps


@needs_docker
@pytest.mark.slow
def test_a_failed_step_fails_its_run_fifty_times_out_of_fifty(contained: Emulator, tmp_path: Path) -> None:
    job = job_of(lambda: shell(script="exit 3"), tmp_path)
    jobs = [ended(contained, name) for name in [submit(contained, job) for _ in range(50)]]
    assert [job.state for job in jobs] == [State.PIPELINE_STATE_FAILED] * 50
    assert {job.error.message.partition("shell: ")[2] for job in jobs} == {
        "the container ended with exit status 3 and wrote nothing"
    }


@needs_docker
def test_kfp_itself_takes_some_failed_steps_for_succeeded(docker: DockerClient) -> None:
    for _ in range(40):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if docker_task_handler.run_docker_container(docker, BASE, ["sh", "-c", "exit 3"], {}) == 0:
                    return
        except APIError as fault:  # it looks at every image there is, and at containers that are being removed
            if fault.status_code not in (404, 409):
                raise
    pytest.fail(
        "kfp tells every failed step from one that succeeded: that it does not is no reason for step_containers.py any"
        " more; mend its docstring, which has the others"
    )


@needs_docker
def test_a_step_beyond_its_memory_limit_is_reported_as_that(contained: Emulator, tmp_path: Path) -> None:
    grow = "python -c 'bytearray(300 << 20)'"
    job = ended(contained, submit(contained, job_of(lambda: shell(script=grow).set_memory_limit("64Mi"), tmp_path)))
    assert job.state == State.PIPELINE_STATE_FAILED
    assert job.error.message.endswith("shell: the container ran out of memory: its limit is 64 MiB")
    # What was raised and handled before is not why it ended; nor need its output end with a line.
    script = f"printf 'Traceback (most recent call last):\\nValueError: handled\\nstep 3/10'; exec {grow}"
    half = ended(contained, submit(contained, job_of(lambda: shell(script=script).set_memory_limit("64Mi"), tmp_path)))
    assert half.error.message.endswith("shell: the container ran out of memory: its limit is 64 MiB")
    enough = ended(contained, submit(contained, job_of(lambda: shell(script=grow).set_memory_limit("1Gi"), tmp_path)))
    assert enough.state == State.PIPELINE_STATE_SUCCEEDED


@needs_docker
@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"echo '{HANDLED}'; python -c 'import ctypes; ctypes.string_at(0)'", "was ended by SIGSEGV"),
        ("exit 255", "ended with exit status 255 and wrote nothing"),
    ],
)
def test_what_has_ended_a_step_is_told(contained: Emulator, tmp_path: Path, script: str, told: str) -> None:
    job = ended(contained, submit(contained, job_of(lambda: shell(script=script), tmp_path)))
    assert job.state == State.PIPELINE_STATE_FAILED
    assert job.error.message.endswith(f"shell: the container {told}")


@needs_docker
def test_a_step_starts_no_process_of_this_machine(contained: Emulator, tmp_path: Path) -> None:
    job = ended(
        contained, submit(contained, job_of(lambda: shell(script=f"python - <<'END'\n{ESCAPE}\nEND"), tmp_path))
    )
    assert job.state == State.PIPELINE_STATE_SUCCEEDED, job.error
    assert re.search(r"^400 .* --runner process for it.*FAILED_PRECONDITION", log_of(contained, job, "shell"))


@needs_docker
def test_what_a_step_writes_stands_in_its_log(contained: Emulator, tmp_path: Path) -> None:
    lines = 20_000
    script = f"echo to stderr >&2; seq {lines}; sleep 0.2; printf 'without an end of line'"
    job = ended(contained, submit(contained, job_of(lambda: shell(script=script), tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED
    numbers = "".join(f"{number}\n" for number in range(1, lines + 1))
    log = log_of(contained, job, "shell")
    assert log.replace("to stderr\n", "") == f"{numbers}without an end of line"
    assert "to stderr\n" in log


@needs_docker
def test_a_step_that_succeeds_in_silence_has_an_empty_log(contained: Emulator, tmp_path: Path) -> None:
    job = ended(contained, submit(contained, job_of(lambda: shell(script="true"), tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED
    assert log_of(contained, job, "shell") == ""


@needs_docker
def test_a_missing_image_is_named_with_the_way_out(contained: Emulator, tmp_path: Path) -> None:
    job = ended(contained, submit(contained, job_of(absent, tmp_path)))
    assert job.state == State.PIPELINE_STATE_FAILED
    assert re.search(
        r"absent: the container cannot run: image registry\.invalid/absent:1 is not on this machine and cannot be"
        r" pulled \(.+\): build it with make images, or docker pull it$",
        job.error.message,
    )


@needs_docker
def test_what_a_step_writes_is_the_emulators_to_read(contained: Emulator, tmp_path: Path) -> None:
    job = ended(contained, submit(contained, job_of(lambda: tell(rows=produce().outputs["rows"]), tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED, job.error
    assert log_of(contained, job, "tell") == "120\n"
    [rows] = (contained.state / "pipeline_root").glob("**/produce/rows")
    assert rows.read_text() == "120\n"
    assert rows.stat().st_uid == (os.getuid() or 65532)


@needs_docker
def test_a_step_runs_confined(contained: Emulator, tmp_path: Path) -> None:
    script = (
        "set -e; id -u; touch /tmp/there ~/there; awk '$2 == \"/\" {print substr($4, 1, 2)}' /proc/mounts;"
        " grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    )
    job = ended(contained, submit(contained, job_of(lambda: shell(script=script), tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED, job.error
    none = "0" * 16
    assert log_of(contained, job, "shell").split() == [
        *(str(os.getuid() or 65532), "ro", "CapEff:", none, "CapBnd:", none, "NoNewPrivs:", "1")
    ]


@needs_docker
def test_a_steps_command_takes_the_place_of_the_images(contained: Emulator, tmp_path: Path, image: str) -> None:
    job = ended(contained, submit(contained, job_of(greet, tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED, job.error
    assert log_of(contained, job, "greet") == "mine\n"


REACH = """
import os, urllib.request
from urllib.request import Request, urlopen

api, storage = f"http://{os.environ['VERTEX_EMULATOR_HOST']}", os.environ["STORAGE_EMULATOR_HOST"]
print(os.environ["GOOGLE_CLOUD_PROJECT"], os.environ["OWN"], os.environ["HOME"])
print(urlopen(f"{api}/v1/projects/local/locations/us-central1/schedules").read().decode())
begin = Request(f"{storage}/upload/storage/v1/b/models/o?uploadType=resumable&name=large", b"{}", method="POST")
session = urlopen(begin).headers["Location"]
urlopen(Request(session, b"abc", method="PUT")).close()
"""


@needs_docker
def test_a_step_reaches_the_emulator_and_cloud_storage(contained: Emulator, tmp_path: Path) -> None:
    def reach() -> None:
        task = shell(script=f"python - <<'END'\n{REACH}\nEND")
        task.set_env_variable("OWN", "mine").set_env_variable("HOME", "/elsewhere")

    job = ended(contained, submit(contained, job_of(reach, tmp_path)))
    assert job.state == State.PIPELINE_STATE_SUCCEEDED, job.error
    assert log_of(contained, job, "shell") == "local mine /elsewhere\n{}\n"
    assert contained.storage.bucket("models").blob("large").download_as_bytes() == b"abc"


@needs_docker
def test_a_cancelled_job_leaves_no_container(contained: Emulator, tmp_path: Path, docker: DockerClient) -> None:
    def many() -> None:  # kfp runs some at once; the others wait for their turn
        with dsl.ParallelFor(items=[str(600 + more) for more in range(12)]) as seconds:
            shell(script=f"sleep {seconds}")

    name = submit(contained, job_of(many, tmp_path))
    until(lambda: len([each for each in containers_of(docker, contained.state) if each.status == "running"]) >= 2)
    contained.jobs.cancel_pipeline_job(name=name)
    until(lambda: contained.jobs.get_pipeline_job(name=name).state == State.PIPELINE_STATE_CANCELLED)
    assert containers_of(docker, contained.state) == []
    time.sleep(6)  # no guard that was just about to start one, whose time to end by itself is 5 s, has left it
    assert containers_of(docker, contained.state) == []


@needs_docker
def test_a_killed_worker_leaves_no_container(contained: Emulator, tmp_path: Path, docker: DockerClient) -> None:
    name = submit(contained, job_of(lambda: shell(script="sleep 600"), tmp_path))
    until(lambda: containers_of(docker, contained.state))
    os.kill(worker_of(contained, name), signal.SIGKILL)
    assert "exit status 137" in ended(contained, name).error.message
    until(lambda: containers_of(docker, contained.state) == [], 10)


def worker_of(emulator: Emulator, job: str) -> int:
    """The process that runs a job."""
    for pid in descendants_of(emulator.process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if words[1:3] == ["-m", "containers.vertex_local.worker"] and job.rpartition("/")[2] in words[3]:
                return pid
    raise AssertionError(f"no worker runs {job}")


@needs_docker
@pytest.mark.slow
def test_a_killed_emulator_leaves_no_container(tmp_path: Path, docker: DockerClient) -> None:
    state = tmp_path / "state"
    emulator = start(state, None, "--runner", "docker")
    try:
        submit(emulator, job_of(lambda: shell(script="sleep 600"), tmp_path))
        until(lambda: containers_of(docker, state))
        family = descendants_of(emulator.process.pid)
    finally:
        kill(emulator)
    wait_until_dead(family)
    # As of a machine that was switched off.
    left_over = docker.containers.create(BASE, labels={"vertex-local": str(state)})
    stop(start(state, None, "--runner", "docker"))
    assert containers_of(docker, state) == [], left_over.id


# --- model servers


def predicts(emulator: Emulator, endpoint: str) -> bool:
    try:
        return bool(emulator.predictions.predict(endpoint=endpoint, instances=[1]).predictions)
    except exceptions.ServiceUnavailable:
        return False


@needs_docker
@pytest.mark.slow
def test_docker_runs_the_image_itself(tmp_path: Path, image: str, docker: DockerClient) -> None:
    state = tmp_path / "state"
    emulator = start(state, None, "--runner", "docker")
    try:
        store_artifacts(emulator)
        spec = {"image_uri": image, "args": ["$(AIP_MODE)"], "env": [{"name": "WHERE", "value": "$(AIP_STORAGE_URI)"}]}
        endpoint = emulator.endpoint()
        plain = emulator.upload(container_spec={**spec, "args": []}).model
        emulator.deploy(endpoint, plain, {"0": 100}, id="1")
        # Both listen on 8080.
        model = emulator.upload(container_spec=spec).model
        emulator.deploy(endpoint, model, {"1": 0, "0": 100}, id="2")
        copy = f"gs://vertex-managed-artifacts/{model}/1"
        answer = emulator.predictions.predict(endpoint=endpoint, instances=[1])
        assert list(answer.predictions) == ["weights", "PREDICTION", "8080", copy]
        emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="2", traffic_split={"1": 100}).result()
        until(lambda: len(containers_of(docker, state)) == 1)
        answer = emulator.predictions.predict(endpoint=endpoint, instances=[1])
        assert answer.predictions[1] == "default"
        [container] = containers_of(docker, state)
        published = container.attrs["NetworkSettings"]["Ports"]
        assert {each["HostIp"] for ports in published.values() for each in ports or []} == {"127.0.0.1"}
        absent = emulator.upload(container_spec={"image_uri": "registry.invalid/absent:1"}).model
        with pytest.raises(exceptions.FailedPrecondition, match=r"exit status 125(.|\n)*registry\.invalid/absent:1 is"):
            emulator.deploy(endpoint, absent)
        family = descendants_of(emulator.process.pid)
    finally:
        kill(emulator)
    wait_until_dead(family)
    assert containers_of(docker, state) == []


@needs_docker
def test_this_projects_servers_are_confined_and_others_write_where_they_like(
    contained: Emulator, image: str, docker: DockerClient
) -> None:
    for name, confined in ((image, False), (OWN_IMAGE, True)):
        endpoint = contained.endpoint()
        spec = {"image_uri": name, "env": [{"name": "WHERE", "value": "here"}]}
        contained.deploy(endpoint, contained.upload(container_spec=spec).model, {"0": 100}, id="1")
        assert predicts(contained, endpoint)
        [container] = containers_of(docker, contained.state)
        assert container.attrs["HostConfig"]["ReadonlyRootfs"] is confined
        assert len(container.attrs["Mounts"]) == confined
        contained.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1").result()
        until(lambda: containers_of(docker, contained.state) == [])
        volumes = [mount["Name"] for mount in container.attrs["Mounts"]]
        assert not {volume.name for volume in docker.volumes.list()} & set(volumes)


@needs_docker
@pytest.mark.slow
def test_a_container_that_is_killed_is_started_again(contained: Emulator, image: str, docker: DockerClient) -> None:
    endpoint = contained.endpoint()
    spec = {"image_uri": image, "env": [{"name": "WHERE", "value": "here"}]}
    contained.deploy(endpoint, contained.upload(container_spec=spec).model, {"0": 100}, id="1")
    [container] = containers_of(docker, contained.state)
    container.kill()
    until(lambda: not predicts(contained, endpoint))
    until(lambda: predicts(contained, endpoint))
    contained.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1").result()
    until(lambda: containers_of(docker, contained.state) == [])


@needs_docker
@pytest.mark.slow
def test_a_server_that_crashes_or_has_no_memory_left_is_reported_as_that(
    contained: Emulator, image: str, docker: DockerClient
) -> None:
    endpoint = contained.endpoint()
    spec = {"image_uri": image, "env": [{"name": "WHERE", "value": "here"}]}
    contained.deploy(endpoint, contained.upload(container_spec=spec).model, {"0": 100}, id="1")

    def fault() -> str:
        with contextlib.suppress(exceptions.ServiceUnavailable):
            contained.predictions.predict(endpoint=endpoint, instances=[1])
            return ""
        with pytest.raises(exceptions.ServiceUnavailable) as caught:
            contained.predictions.predict(endpoint=endpoint, instances=[1])
        return str(caught.value) if "is being started again" in str(caught.value) else ""

    for instance, exit_status, words in (
        ("crash", 7, "no band named B9"),
        ("grow", 137, "the container ran out of memory: its limit is 64 MiB"),
    ):
        until(lambda: predicts(contained, endpoint))
        [container] = containers_of(docker, contained.state)
        container.update(mem_limit="64m", memswap_limit="64m")
        with pytest.raises(exceptions.ServiceUnavailable):
            contained.predictions.predict(endpoint=endpoint, instances=[instance])
        told = until(fault)
        assert f"ended with exit status {exit_status}" in told
        assert words in told
    contained.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1").result()
    until(lambda: containers_of(docker, contained.state) == [])


@needs_docker
def test_a_server_that_crashes_before_it_is_healthy_fails_the_deployment(contained: Emulator, image: str) -> None:
    spec = {"image_uri": image, "env": [{"name": "WHERE", "value": "nowhere"}]}
    model = contained.upload(container_spec=spec).model
    with pytest.raises(
        exceptions.FailedPrecondition, match=r"exit status 139(.|\n)*the container was ended by SIGSEGV"
    ):
        contained.deploy(contained.endpoint(), model)


# --- the daemon


def test_a_docker_daemon_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    refused = run(free_ports(), tmp_path / "state", "--runner", "docker")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"vertex_local: --runner docker needs a Docker daemon, and none answers at unix://{tmp_path}/none.sock:"
        " [Errno 2] No such file or directory; start the daemon, or point DOCKER_HOST at it\n"
    )


class Daemon(BaseHTTPRequestHandler):
    """A Docker daemon that has one container left over, and fails as it is told."""

    network: ClassVar[tuple[int, Any]]
    removal: ClassVar[int]

    def do_GET(self) -> None:
        left_over = {"Id": "1" * 64, "Image": BASE, "Name": "/left", "Config": {"Image": BASE}, "State": "exited"}
        match self.path.partition("?")[0].split("/")[2:] or ["version"]:
            case ["containers", "json"]:
                self.answer(200, [left_over])
            case ["containers", *_]:
                self.answer(200, left_over)
            case ["networks", *_]:
                self.answer(*self.network)
            case _:
                self.answer(200, {"ApiVersion": "1.41"})

    def do_DELETE(self) -> None:
        self.answer(self.removal, {"message": "no place on the disk"})

    def answer(self, code: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "a client"


NO_BRIDGE = "Docker has no network bridge with IPv4 addresses, .* --bridge=none"


@pytest.mark.parametrize(
    ("removal", "network", "message"),
    [
        (404, (404, {"message": "network bridge not found"}), NO_BRIDGE),
        (409, (200, {"Id": "b", "IPAM": {"Config": []}}), NO_BRIDGE),
        (409, (200, {"Id": "b", "IPAM": {"Config": None}}), NO_BRIDGE),
        (
            204,
            (200, {"Id": "b", "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "192.0.2.0/24"}]}}),
            r"Docker's bridge 192\.0\.2\.1 is no address of this machine .* virtual machine, nor rootless",
        ),
        (500, (200, {}), "the Docker daemon at unix://.* refuses: no place on the disk; see the daemon's log"),
    ],
)
def test_a_docker_daemon_that_cannot_serve_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removal: int, network: tuple[int, Any], message: str
) -> None:
    socket = tmp_path / "d.sock"
    monkeypatch.setattr(Daemon, "removal", removal, raising=False)
    monkeypatch.setattr(Daemon, "network", network, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    with socketserver.ThreadingUnixStreamServer(str(socket), Daemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = run(free_ports(), tmp_path / "state", "--runner", "docker")
        server.shutdown()
    assert (told.returncode, told.stderr.count("\n")) == (1, 1), told.stderr
    assert re.search(message, told.stderr), told.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root's steps are another user's")
def test_a_state_folder_where_steps_do_not_get_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/root") as folder:
        told = run(free_ports(), Path(folder, "state"), "--runner", "docker")
    assert (told.returncode, told.stderr) == (
        1,
        f"vertex_local: steps run as 65532 and cannot get to {folder}/state: give a --state outside of /root\n",
    )
