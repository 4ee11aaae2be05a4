"""Model servers and the steps of pipelines as containers of their images.

A container has a network of its own, so that an image which listens on 8080 whatever AIP_HTTP_PORT says can be deployed
twice; its ports are published on the loopback interface only. The emulator and Cloud Storage listen on that interface
too, where containers do not get. So a relay for each listens on the host's end of Docker's bridge, to containers on
that bridge alone, and VERTEX_EMULATOR_HOST and STORAGE_EMULATOR_HOST name these. A firewall that keeps containers from
the host must let them through there.
"""

import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from containers.ports import free_ports

from .. import container, daemon
from ..errors import FailedPreconditionError, InvalidArgumentError, StartError
from . import images
from .environment import expand, variables_of
from .relay import relay
from .runners import Launch

_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*")
# Where a server listens of which the model's containerSpec says nothing.
_HTTP_PORT = 8080
_LABEL = "vertex-local"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The user of this project's images. Root's files would be nobody else's to remove.
_USER = "65532:65532"
# What this project's images do with, and a step of any image. /tmp is a volume, not memory: models are large.
_CONFINED: dict[str, Any] = {
    "read_only": True,
    "mounts": [{"Type": "volume", "Target": "/tmp"}],  # noqa: S108
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


class DockerRunner:
    """Starts containers; those of one emulator are told from others' by their labels."""

    def __init__(self, labels: Mapping[str, str], vertex: str, storage_url: str) -> None:
        """Takes the address of the emulator, HOST:PORT, and of Cloud Storage, as containers have them."""
        self._labels = labels
        self._storage_url = storage_url
        self.hosts: Sequence[str] = [urlsplit(f"//{vertex}").hostname or ""]
        user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else _USER
        environment = {
            "GOOGLE_CLOUD_PROJECT": os.environ["GOOGLE_CLOUD_PROJECT"],
            "HOME": "/tmp",  # noqa: S108  the user may be none of the image's
            "STORAGE_EMULATOR_HOST": storage_url,
            "VERTEX_EMULATOR_HOST": vertex,
        }
        self.steps: Mapping[str, Any] | None = {
            **_CONFINED,
            "labels": labels,
            "user": user,
            "environment": environment,
        }

    def check(self, container_spec: Any) -> None:
        if not _IMAGE.fullmatch(container_spec.image_uri):
            raise InvalidArgumentError(
                f"containerSpec.imageUri {container_spec.image_uri!r} is no name of an image,"
                " such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG"
            )

    def check_custom_job(self) -> None:
        # Steps reach this service, and a custom job is outside of what confines them.
        raise FailedPreconditionError(
            "a custom job is a process of this machine, which an emulator with --runner docker does not start:"
            " start the emulator with --runner process for it"
        )

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        self.check(container_spec)
        port = container_spec.ports[0].container_port if container_spec.ports else _HTTP_PORT
        http_port, grpc_port = free_ports(2)
        published = {http_port: port}
        if container_spec.grpc_ports:
            published[grpc_port] = container_spec.grpc_ports[0].container_port
        variables = variables_of(container_spec, {**aip, "AIP_HTTP_PORT": str(port)})

        # Another's image may write wherever it likes, as it may on Vertex AI.
        options = dict(_CONFINED) if images.is_own(container_spec.image_uri) else {}
        options["name"] = f"vertex-local-{aip['AIP_ENDPOINT_ID']}-{aip['AIP_DEPLOYED_MODEL_ID']}-{secrets.token_hex(4)}"
        options["labels"] = self._labels
        options["environment"] = {"STORAGE_EMULATOR_HOST": self._storage_url, **variables}
        options["ports"] = {
            container_port: {"HostIp": "127.0.0.1", "HostPort": host_port}
            for host_port, container_port in published.items()
        }
        if container_spec.shared_memory_size_mb:
            options["shm_size"] = f"{container_spec.shared_memory_size_mb}m"
        if container_spec.command:
            options["entrypoint"] = [expand(word, variables) for word in container_spec.command]
        words = [expand(word, variables) for word in container_spec.args]
        return Launch(container.command(options, container_spec.image_uri, words), {}, http_port, grpc_port)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[DockerRunner]:
    """A runner for the emulator with this state directory, with it and Cloud Storage in the containers' reach.

    Raises:
        StartError: steps cannot get to the directory, Docker does not answer, or its bridge is not on this machine.
    """
    if os.getuid() == 0:
        _check_open(directory)
    labels = {_LABEL: str(directory)}
    try:
        with closing(docker.from_env()) as client:
            # Of an emulator that ended together with its guards, as when the machine is switched off.
            mine = f"{_LABEL}={directory}"
            for each in client.containers.list(all=True, filters={"label": mine}, ignore_removed=True):
                _remove(each)
            gateway, subnet = _bridge(client)
    except (DockerException, OSError) as fault:
        raise StartError(daemon.why_not(fault)) from fault
    async with AsyncExitStack() as relays:
        vertex, storage = [
            await _within_reach(url, gateway, subnet, relays)
            for url in (f"http://{os.environ['VERTEX_EMULATOR_HOST']}", os.environ["STORAGE_EMULATOR_HOST"])
        ]
        yield DockerRunner(labels, urlsplit(vertex).netloc, storage)


def _check_open(directory: Path) -> None:
    """Sees that steps, which are not root, get to a directory that is mounted under its own path.

    Docker makes the folders above it that an image lacks, open to all. What an image has are the usual folders below /,
    of which /root is as closed there as here.

    Raises:
        StartError: they do not.
    """
    top = Path(*directory.parts[:2])
    if not top.stat().st_mode & stat.S_IXOTH:
        user = _USER.partition(":")[0]
        raise StartError(f"steps run as {user} and cannot get to {directory}: give a --state outside of {top}")


def _remove(left_over: Container) -> None:
    """Removes a container, unless its guard does so at this moment."""
    try:
        left_over.remove(v=True, force=True)
    except APIError as fault:
        if fault.status_code not in (404, 409):
            raise


def _bridge(client: docker.DockerClient) -> tuple[str, IPv4Network]:
    """This machine's end of Docker's bridge, and the addresses of the containers on it.

    Raises:
        StartError: there is no bridge with such addresses.
    """
    try:
        configurations = client.networks.get("bridge").attrs["IPAM"]["Config"] or []
    except NotFound:
        configurations = []
    for each in configurations:
        subnet = ip_network(each["Subnet"])
        if isinstance(subnet, IPv4Network):
            # Docker takes the subnet's first address, and tells of it only after the daemon's first restart.
            return each.get("Gateway") or str(next(subnet.hosts())), subnet
    raise StartError(
        "Docker has no network bridge with IPv4 addresses, by which containers reach this emulator;"
        " start the daemon without --bridge=none"
    )


async def _within_reach(url: str, gateway: str, subnet: IPv4Network, relays: AsyncExitStack) -> str:
    """The URL under which containers get where ``url`` leads on this machine.

    Raises:
        StartError: Docker's bridge is not on this machine.
    """
    host, port = urlsplit(url).hostname, urlsplit(url).port or 80
    if host not in _LOOPBACK:
        return url
    try:
        server = await relay(gateway, subnet, (host, port))
    except OSError as fault:
        raise StartError(
            f"Docker's bridge {gateway} is no address of this machine ({fault}); --runner docker needs a"
            " Docker daemon that runs on this machine itself, not in a virtual machine, nor rootless"
        ) from fault
    await relays.enter_async_context(server)
    return f"http://{gateway}:{server.sockets[0].getsockname()[1]}"
