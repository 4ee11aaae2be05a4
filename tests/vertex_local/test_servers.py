"""Model servers: what they are started from, how they end, and that they come back."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Awaitable, Callable
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.api_core import exceptions
from google.longrunning import operations_pb2

from containers.vertex_local import messages
from containers.vertex_local.app import VertexLocal
from containers.vertex_local.errors import InternalError, InvalidArgumentError, UnavailableError
from containers.vertex_local.processes import Process
from containers.vertex_local.servers import images
from containers.vertex_local.servers.environment import variables_of
from containers.vertex_local.servers.fleet import Fleet
from containers.vertex_local.servers.relay import relay
from containers.vertex_local.servers.runners import ProcessRunner
from containers.vertex_local.store import Store

from .conftest import BUCKET, ECHO, PARENT, Emulator, kill, refused, start, stop, store_artifacts, until
from .emulator import echo
from .listening import listening
from .test_command import alive, descendants_of, wait_until_dead

NAME = f"{PARENT}/endpoints/e"
PREBUILT = "us-docker.pkg.dev/vertex-ai/prediction"

# What Google's notebook for Earth Engine puts in its archive: the instances come in as a list of nested lists.
HANDLER = """
import torch

def handle(data, context):
    if data is None:
        return None
    return torch.as_tensor(data).sum(1).tolist()
"""


def archive() -> bytes:
    """A ``model.mar`` that adds up the bands of its tiles."""
    content = BytesIO()
    manifest = {"model": {"modelName": "model", "handler": "handler.py", "modelVersion": "1.0"}, "runtime": "python"}
    with zipfile.ZipFile(content, "w") as mar:
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        mar.writestr("handler.py", HANDLER)
    return content.getvalue()


def server_of(emulator: Emulator, endpoint: str) -> int:
    """The process of the server of an endpoint's only deployed model."""
    mark = f"AIP_ENDPOINT_ID={endpoint.rpartition('/')[2]}".encode()
    for pid in alive(descendants_of(emulator.process.pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if command[1].endswith(b"echo_server.py") and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no server runs for {endpoint}")


# --- how servers end, and come back


def test_a_killed_server_is_started_again(emulator: Emulator) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, emulator.upload().model, {"0": 100}, id="7")
    emulator.predictions.predict(endpoint=endpoint, instances=[1])
    family = {server_of(emulator, endpoint)} | descendants_of(server_of(emulator, endpoint))
    os.kill(server_of(emulator, endpoint), signal.SIGKILL)
    wait_until_dead(family)
    with pytest.raises(
        exceptions.ServiceUnavailable, match=r"'7' of .* is being started again: .* exit status 137(.|\n)*listening"
    ):
        emulator.predictions.predict(endpoint=endpoint, instances=[2])

    def answers() -> bool:
        try:
            return list(emulator.predictions.predict(endpoint=endpoint, instances=[3]).predictions) == [3]
        except exceptions.ServiceUnavailable:
            return False

    until(answers)
    method = "/tensorflow.serving.PredictionService/Predict"
    reverse = {"endpoint": endpoint, "method_name": method, "input": b"abc"}
    assert emulator.predictions.direct_raw_predict(reverse).output == b"cba"
    log = (emulator.state / "log" / "emulator.log").read_text()
    assert re.search(rf"deployed model 7 of {endpoint.rpartition('/')[2]}, restart 1 in 0\.5 s", log)
    emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="7").result(timeout=20)


def in_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Fleet], Awaitable[None]]) -> None:
    """Plays a scenario with a fleet of this process; nothing of it is left then."""

    async def play() -> None:
        async with aiohttp.ClientSession() as client:
            fleet = Fleet(ProcessRunner(), client, tmp_path)
            try:
                await scenario(fleet)
            finally:
                await fleet.stop()

    monkeypatch.setitem(images.IMAGES, "serving-echo", echo)
    before = descendants_of(os.getpid())
    asyncio.run(play())
    assert not alive(descendants_of(os.getpid()) - before)


def echo_model(**environment: str) -> Any:
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    return messages.Model(name=f"{PARENT}/models/m", container_spec={"image_uri": ECHO, "env": variables})


@pytest.mark.slow
def test_restarts_are_counted_and_the_counts_of_predictions_survive_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descendants_of(os.getpid())

    async def scenario(fleet: Fleet) -> None:
        deployed = messages.DeployedModel(id="1")
        server = await fleet.launch(NAME, deployed, echo_model())
        fleet.add(NAME, server)
        assert fleet.status(NAME, "1").state == "serving"
        for fault in (None, UnavailableError("down")):
            with contextlib.suppress(UnavailableError), server.request():
                if fault:
                    raise fault
        for restarts in (1, 2):
            for pid in descendants_of(os.getpid()) - before:
                with contextlib.suppress(ProcessLookupError):  # the guard ends by itself, too
                    os.kill(pid, signal.SIGKILL)
            while fleet.status(NAME, "1").state == "serving":
                await asyncio.sleep(0.01)
            assert fleet.status(NAME, "1").state == "restarting"
            with pytest.raises(UnavailableError, match=r"'1' of .* is being started again"):
                fleet.get(NAME, "1").check_running()
            while fleet.status(NAME, "1").state != "serving":
                await asyncio.sleep(0.01)
            status = fleet.status(NAME, "1")
            assert (status.restarts, status.requests, status.failures) == (restarts, 2, 1)
        assert status.log.read_text().count("listening") == 3

    in_fleet(tmp_path, monkeypatch, scenario)


def test_a_server_that_fails_after_a_restart_of_the_emulator_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.relaunch(NAME, messages.DeployedModel(id="1"), echo_model(FAULT="no memory"))
        assert fleet.status(NAME, "1").state == "starting"
        begin = time.monotonic()
        while fleet.status(NAME, "1").restarts < 2:
            await asyncio.sleep(0.01)
        assert time.monotonic() - begin > 0.5 + 1.0
        announced = [re.search(r"restart \d in [\d.]+ s", message) for message in caplog.messages]
        assert [found[0] for found in announced if found][:2] == ["restart 1 in 0.5 s", "restart 2 in 1.0 s"]
        with pytest.raises(UnavailableError, match=r"being started again: Model server terminated(.|\n)*no memory"):
            fleet.get(NAME, "1").check_running()
        fleet.retire(NAME, "1")

    in_fleet(tmp_path, monkeypatch, scenario)


def test_predictions_and_their_failures_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def finished(service: VertexLocal, operation: Any) -> None:
        request = operations_pb2.WaitOperationRequest(name=operation.name)
        assert not (await service.operations.wait_operation(request)).error.message

    async def scenario() -> None:
        with contextlib.closing(Store(tmp_path)) as store:
            service = VertexLocal(store, tmp_path, ProcessRunner())
            try:
                upload = messages.UploadModelRequest(parent=PARENT, model=echo_model(), model_id="m")
                upload.model.display_name = "m"
                await finished(service, await service.models.upload_model(upload))
                create = {"parent": PARENT, "endpoint_id": "e", "endpoint": {"display_name": "e"}}
                await finished(service, service.endpoints.create_endpoint(messages.CreateEndpointRequest(**create)))
                endpoint = f"{PARENT}/endpoints/e"
                resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
                deployed = {"id": "1", "model": f"{PARENT}/models/m", "dedicated_resources": resources}
                deploy = {"endpoint": endpoint, "deployed_model": deployed, "traffic_split": {"0": 100}}
                await finished(service, service.endpoints.deploy_model(messages.DeployModelRequest(**deploy)))
                for instance, raised in (("fine", None), ("refuse", InvalidArgumentError), ("crash", InternalError)):
                    with pytest.raises(raised) if raised else contextlib.nullcontext():
                        await service.predictions.predict_body(endpoint, json.dumps({"instances": [instance]}).encode())
                status = service.fleet.status(endpoint, "1")
                assert (status.state, status.restarts, status.requests, status.failures) == ("serving", 0, 3, 2)
            finally:
                await service.stop()

    monkeypatch.setitem(images.IMAGES, "serving-echo", echo)
    asyncio.run(scenario())


def test_nothing_is_left_when_a_process_has_been_stopped(tmp_path: Path) -> None:
    before = descendants_of(os.getpid())

    async def stopped() -> set[int]:
        deaf = "trap '' TERM; echo ready; while true; do sleep 600; done"
        process = await Process.start(["sh", "-c", f"({deaf}) & {deaf}"], tmp_path / "log", {})
        while (tmp_path / "log").read_text().count("ready") < 2:
            await asyncio.sleep(0.01)
        family = descendants_of(os.getpid()) - before
        assert len(family) >= 5  # the guard, two shells, and what they wait for
        await process.stop(grace_s=0.2)
        return alive(family)

    assert asyncio.run(stopped()) == set()


def test_a_killed_emulator_takes_servers_along_that_heed_no_sigterm(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state")
    try:
        store_artifacts(emulator)
        emulator.deploy(emulator.endpoint(), emulator.upload().model, {"0": 100})
        family = descendants_of(emulator.process.pid)
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family]
        assert b"sleep\x00600\x00" in commands  # the server's child
    finally:
        kill(emulator)
    wait_until_dead(family)


# --- deployments that fail


def test_a_server_that_ends_fails_the_deployment_with_its_last_lines(emulator: Emulator) -> None:
    environment = [{"name": "FAULT", "value": "RuntimeError: model.pt is no archive"}]
    model = emulator.upload(container_spec={"env": environment}).model
    begin = time.monotonic()
    with pytest.raises(exceptions.FailedPrecondition) as caught:
        emulator.deploy(emulator.endpoint(), model)
    assert str(caught.value).endswith(
        "Model server terminated: the server ended with exit status 1; its log ends:\n"
        "loading the model\nRuntimeError: model.pt is no archive"
    )
    assert time.monotonic() - begin < 8


@pytest.mark.slow
def test_a_server_that_is_never_healthy_fails_the_deployment_and_is_ended(emulator: Emulator) -> None:
    spec = {"env": [{"name": "UNHEALTHY", "value": "1"}], "deployment_timeout": {"seconds": 2}}
    model = emulator.upload(container_spec=spec).model
    before = alive(descendants_of(emulator.process.pid))
    endpoint = emulator.endpoint()
    with pytest.raises(exceptions.FailedPrecondition) as caught:
        emulator.deploy(endpoint, model)
    assert re.search(
        r"Model server never became ready: no 200 from /v1/endpoints/\d+/deployedModels/\d+ within 2 s;"
        r" its log ends:\nlistening$",
        str(caught.value),
    )
    assert alive(descendants_of(emulator.process.pid)) <= before
    assert not emulator.endpoints.get_endpoint(name=endpoint).deployed_models


# --- images


@pytest.mark.parametrize(
    "image",
    [
        "us-docker.pkg.dev/my-project/mine/pytorch-cpu.2-4:latest",
        "us-docker.pkg.dev/my-project/vertex-ai/prediction/pytorch-cpu.2-4:latest",
        "tf2-cpu.2-15",
        f"{PREBUILT}/sklearn-cpu.1-6:latest",
        "nginx:1",
    ],
)
def test_an_image_of_somebody_else_is_refused(emulator: Emulator, image: str) -> None:
    with refused("INVALID_ARGUMENT", rf"{re.escape(image)}.*serving-pytorch.*--runner docker"):
        emulator.upload(container_spec={"image_uri": image})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"env": [{"name": "A=B", "value": "1"}]}, "containerSpec.env 'A=B'"),
        ({"env": [{"name": "A", "value": "1\0"}]}, "containerSpec.env 'A'"),
        ({"health_route": "health"}, "containerSpec.health_route 'health' must begin with /"),
        ({"predict_route": "predict"}, "containerSpec.predict_route 'predict' must begin with /"),
    ],
)
def test_a_container_that_could_not_start_is_refused(emulator: Emulator, spec: dict[str, Any], message: str) -> None:
    with refused("INVALID_ARGUMENT", message):
        emulator.upload(container_spec=spec)


@pytest.mark.parametrize("field", ["command", "args"])
def test_a_command_of_one_s_own_needs_the_image(emulator: Emulator, field: str) -> None:
    with pytest.raises(exceptions.BadRequest, match=rf"containerSpec\.{field} \['serve'\].*--runner docker"):
        emulator.upload(container_spec={field: ["serve"]})


def test_google_s_tensorflow_images_are_known(emulator: Emulator) -> None:
    for image in ("tf2-cpu.2-15:latest", "tf2-gpu.2-14", "tf_opt-cpu.nightly:latest"):
        assert emulator.upload(container_spec={"image_uri": f"{PREBUILT}/{image}"}).model_version_id == "1"


def test_torchserve_without_java_is_refused(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state", PATH=str(tmp_path), JAVA_HOME="")
    try:
        store_artifacts(emulator)
        with refused("FAILED_PRECONDITION", "lacks a Java runtime.*openjdk"):
            emulator.upload(container_spec={"image_uri": f"{PREBUILT}/pytorch-cpu.2-4:latest"})
    finally:
        stop(emulator)


@pytest.fixture
def java() -> None:
    if not shutil.which("java"):
        pytest.skip("TorchServe needs a Java runtime, and there is no java on PATH")


@pytest.mark.slow
def test_torchserve_answers_under_google_s_image_name(emulator: Emulator, java: None) -> None:
    emulator.storage.bucket(BUCKET).blob("sum/model.mar").upload_from_string(archive())
    spec = {"image_uri": f"{PREBUILT}/pytorch-cpu.2-4:latest", "grpc_ports": []}
    model = emulator.upload(container_spec=spec, artifact_uri=f"gs://{BUCKET}/sum").model
    endpoint = emulator.endpoint()
    before = alive(descendants_of(emulator.process.pid))
    emulator.deploy(endpoint, model, {"0": 100}, id="3")
    tile = [[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]
    answer = emulator.predictions.predict(endpoint=endpoint, instances=[tile, tile])
    assert list(answer.predictions) == [[[11.0, 22.0], [33.0, 44.0]]] * 2
    family = alive(descendants_of(emulator.process.pid)) - before
    java_directories = {
        Path(f"/proc/{pid}/cwd").readlink()
        for pid in family
        if b"ModelServer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }
    assert java_directories
    # Its management interface, which loads any archive from anywhere, where no page of a browser guesses it.
    listens = listening(family)
    assert all(address.is_loopback for address, _ in listens)
    assert len({address for address, _ in listens}) == 2
    assert all(directory.name.startswith("torchserve-") for directory in java_directories)
    emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="3").result(timeout=20)
    wait_until_dead(family)
    assert [directory for directory in java_directories if directory.exists()] == []


@pytest.mark.slow
def test_torchserve_without_an_archive_says_so(emulator: Emulator, java: None) -> None:
    emulator.storage.bucket(BUCKET).blob("other/other.mar").upload_from_string(archive())
    spec = {"image_uri": f"{PREBUILT}/pytorch-gpu.2-3", "grpc_ports": []}
    model = emulator.upload(container_spec=spec, artifact_uri=f"gs://{BUCKET}/other").model
    with pytest.raises(exceptions.FailedPrecondition, match=r"no model\.mar directly under the model's artifactUri"):
        emulator.deploy(emulator.endpoint(), model)


# --- the variables of a container


def test_variables_refer_to_earlier_ones() -> None:
    values = {
        "ROOT": "$(AIP_STORAGE_URI)/weights",
        "FILE": "$(ROOT)/a $(LATER) $$(ROOT) $ROOT",
        "LATER": "1",
        "AIP_STORAGE_URI": "gs://somewhere/else",
    }
    spec = echo_model(**values).container_spec
    assert variables_of(spec, {"AIP_STORAGE_URI": "gs://a/b"}) == {
        "AIP_STORAGE_URI": "gs://a/b",
        "ROOT": "gs://a/b/weights",
        "FILE": "gs://a/b/weights/a $(LATER) $(ROOT) $ROOT",
        "LATER": "1",
    }


# --- the relay between containers and this machine


@pytest.mark.parametrize(("peers", "answer"), [("127.0.0.0/8", b"back"), ("10.0.0.0/8", b"")])
def test_the_relay_passes_on_what_its_peers_send_and_nothing_else(peers: str, answer: bytes) -> None:
    received = []

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.write(b"back")
        writer.close()

    async def ask() -> bytes:
        server = await asyncio.start_server(target, "127.0.0.1", 0)
        between = await relay("127.0.0.1", ip_network(peers), server.sockets[0].getsockname())
        async with server, between:
            reader, writer = await asyncio.open_connection(*between.sockets[0].getsockname())
            with contextlib.closing(writer), contextlib.suppress(ConnectionResetError):
                writer.write(b"there")
                writer.write_eof()
                return await reader.read()
        return b""

    assert asyncio.run(ask()) == answer
    assert received == ([b"there"] if answer else [])
