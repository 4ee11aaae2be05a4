"""Model servers as containers of their images, through Docker's command line.

A container has a network of its own, so that an image which listens on 8080 whatever AIP_HTTP_PORT says can be deployed
twice; its ports are published on the loopback interface only. Cloud Storage listens on that interface too, where
containers do not get. So a relay listens for them on the host's end of Docker's bridge, to containers on that bridge
alone, and STORAGE_EMULATOR_HOST names it. A firewall that keeps containers from the host must let them through there.
"""

import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import InvalidArgumentError, StartError
from ..processes import free_ports
from .environment import expand, variables_of
from .relay import relay
from .runners import Launch

_PROGRAM = str(Path(__file__).with_name("container.py"))
_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*")
# Where a server listens of which the model's containerSpec says nothing.
_HTTP_PORT = 8080
_LABEL = "vertex-local"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class DockerRunner:
    """Starts containers; ``label`` tells those of one emulator from others'."""

    def __init__(self, label: str, storage_url: str) -> None:
        self._label = label
        self._storage_url = storage_url

    def check(self, container_spec: Any) -> None:
        if not _IMAGE.fullmatch(container_spec.image_uri):
            raise InvalidArgumentError(
                f"containerSpec.imageUri {container_spec.image_uri!r} is no name of an image,"
                " such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG"
            )

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        self.check(container_spec)
        port = container_spec.ports[0].container_port if container_spec.ports else _HTTP_PORT
        http_port, grpc_port = free_ports(2)
        published = {http_port: port}
        if container_spec.grpc_ports:
            published[grpc_port] = container_spec.grpc_ports[0].container_port
        variables = variables_of(container_spec, {**aip, "AIP_HTTP_PORT": str(port)})

        options = ["--label", self._label, "--env", f"STORAGE_EMULATOR_HOST={self._storage_url}"]
        for name, value in variables.items():
            options += ["--env", f"{name}={value}"]
        for host_port, container_port in published.items():
            options += ["--publish", f"127.0.0.1:{host_port}:{container_port}"]
        if container_spec.shared_memory_size_mb:
            options += ["--shm-size", f"{container_spec.shared_memory_size_mb}m"]
        words = [expand(word, variables) for word in (*container_spec.command, *container_spec.args)]
        if container_spec.command:
            options += ["--entrypoint", words.pop(0)]
        name = f"vertex-local-{aip['AIP_ENDPOINT_ID']}-{aip['AIP_DEPLOYED_MODEL_ID']}-{secrets.token_hex(4)}"
        command = [sys.executable, "-I", "-S", _PROGRAM, name, *options, container_spec.image_uri, *words]
        return Launch(command, {}, http_port, grpc_port)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[DockerRunner]:
    """A runner for the emulator with this state directory, with Cloud Storage in the containers' reach.

    Raises:
        StartError: Docker does not answer, or its bridge is not on this machine.
    """
    await _docker("version", "--format", "{{.Server.Version}}")
    label = f"{_LABEL}={directory}"
    # Of an emulator that ended together with its guards, as when the machine is switched off.
    left_over = (await _docker("ps", "--all", "--quiet", "--filter", f"label={label}")).split()
    if left_over:
        await _docker("rm", "--force", *left_over)
    url = os.environ["STORAGE_EMULATOR_HOST"]
    host, port = urlsplit(url).hostname, urlsplit(url).port or 80
    if host not in _LOOPBACK:
        yield DockerRunner(label, url)
        return
    bridge = json.loads(await _docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
    subnet = ip_network(bridge["Subnet"])
    # Docker takes the subnet's first address, and tells of it only after the daemon's first restart.
    gateway = bridge.get("Gateway") or str(next(subnet.hosts()))
    try:
        server = await relay(gateway, subnet, (host, port))
    except OSError as fault:
        raise StartError(
            f"Docker's bridge {gateway} is no address of this machine ({fault}); --runner docker needs a"
            " Docker daemon that runs on this machine itself, not in a virtual machine"
        ) from fault
    async with server:
        relay_port = server.sockets[0].getsockname()[1]
        yield DockerRunner(label, f"http://{gateway}:{relay_port}")


async def _docker(*arguments: str) -> str:
    """What a docker command prints.

    Raises:
        StartError: it cannot be run, or fails.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "docker", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as fault:
        raise StartError("--runner docker needs the program `docker` on PATH: install Docker") from fault
    output, errors = await process.communicate()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
        raise StartError(
            f"--runner docker needs a Docker daemon, and `docker {arguments[0]}` fails: {lines[-1]};"
            " start the daemon, or point DOCKER_HOST at it"
        )
    return output.decode()
