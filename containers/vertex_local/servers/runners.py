"""How model servers and steps are run: as processes, which stand for images, or as containers (see docker.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from containers.ports import free_ports

from ..errors import InvalidArgumentError
from . import images
from .environment import variables_of


@dataclass(frozen=True)
class Launch:
    """A command to start, and the ports of the loopback interface where its server then answers."""

    command: list[str]
    environment: dict[str, str]
    http_port: int
    grpc_port: int


class Runner(Protocol):
    """From a model's containerSpec to a command.

    Attributes:
        steps: what the containers of pipelines' steps are created with, in the Docker SDK's terms; None where steps are
            processes.
        hosts: what those who are run call this machine, beside loopback's names.
    """

    steps: Mapping[str, Any] | None
    hosts: Sequence[str]

    def check(self, container_spec: Any) -> None:
        """Makes sure that it can be run, as far as that is known before.

        Raises:
            InvalidArgumentError: no machine can run it as it stands.
            FailedPreconditionError: this machine cannot run it as it is.
        """

    def check_custom_job(self) -> None:
        """Makes sure that a custom job may run, which is a process of this machine.

        Raises:
            FailedPreconditionError: what is run here is not to get out of its containers.
        """

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        """The command for one more server; ``aip`` are Vertex AI's variables except for AIP_HTTP_PORT.

        Raises:
            InvalidArgumentError: no machine can run it as it stands.
            FailedPreconditionError: this machine cannot run it as it is.
        """


class ProcessRunner:
    """Starts the program that an image's name stands for."""

    steps: Mapping[str, Any] | None = None
    hosts: Sequence[str] = ()

    def check(self, container_spec: Any) -> None:
        for field in ("command", "args"):
            if given := list(getattr(container_spec, field)):
                raise InvalidArgumentError(
                    f"containerSpec.{field} {given} is for the image, and this emulator starts a program in its place:"
                    f" leave {field} out, or start the emulator with --runner docker"
                )
        images.command_for(container_spec.image_uri)

    def check_custom_job(self) -> None:
        """Any may."""

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        self.check(container_spec)
        http_port, grpc_port = free_ports(2)
        command = images.command_for(container_spec.image_uri)(http_port, grpc_port)
        variables = variables_of(container_spec, {**aip, "AIP_HTTP_PORT": str(http_port)})
        return Launch(command, variables, http_port, grpc_port)
