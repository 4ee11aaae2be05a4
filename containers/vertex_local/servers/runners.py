"""How model servers are run: as processes of this machine, which stand for images, or as containers (see docker.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InvalidArgumentError
from ..processes import free_ports
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
    """From a model's containerSpec to a command."""

    def check(self, container_spec: Any) -> None:
        """Makes sure that it can be run, as far as that is known before.

        Raises:
            InvalidArgumentError: no machine can run it as it stands.
            FailedPreconditionError: this machine cannot run it as it is.
        """

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        """The command for one more server; ``aip`` are Vertex AI's variables except for AIP_HTTP_PORT.

        Raises:
            InvalidArgumentError: no machine can run it as it stands.
            FailedPreconditionError: this machine cannot run it as it is.
        """


class ProcessRunner:
    """Starts the program that an image's name stands for."""

    def check(self, container_spec: Any) -> None:
        for field in ("command", "args"):
            if given := list(getattr(container_spec, field)):
                raise InvalidArgumentError(
                    f"containerSpec.{field} {given} is for the image, and this emulator starts a program in its place:"
                    f" leave {field} out, or start the emulator with --runner docker"
                )
        images.command_for(container_spec.image_uri)

    def launch(self, container_spec: Any, aip: Mapping[str, str]) -> Launch:
        self.check(container_spec)
        http_port, grpc_port = free_ports(2)
        command = images.command_for(container_spec.image_uri)(http_port, grpc_port)
        variables = variables_of(container_spec, {**aip, "AIP_HTTP_PORT": str(http_port)})
        return Launch(command, variables, http_port, grpc_port)
