"""Steps in containers of their images, in place of kfp's own way to run them.

``StepContainers.run`` stands in for ``docker_task_handler.run_docker_container``: each step has a log of its own and
the emulator's variables, an image that is missing is named with the way out, and no container outlives the worker.

It also reads the exit status before the container is removed, which is because of a fault of kfp 2.17: that has Docker
remove the container as soon as it ends, and returns 0 where it is gone before the status is read, so that a part of the
steps that fail counts as succeeded. A test tells when this reason is gone; the others stay.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Never

from containers import guard

from . import container

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:([KMGTPE])(i?)|(m))?")
_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}")


class StepContainers:
    """Runs steps, each by a program that removes the container when it ends itself, with a guard that sees to this."""

    def __init__(self, options: Mapping[str, Any], log: Callable[[], Path]) -> None:
        """Takes what every container is created with, and where this thread's step writes."""
        self._options = options
        self._log = log
        self._guards: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def give(self, folder: Path) -> None:
        """Makes a folder that steps may write to."""
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            user, group = self._options["user"].split(":")
            os.chown(folder, int(user), int(group))

    def run(
        self,
        client: Any,  # noqa: ARG002  kfp's own
        image: str,
        command: Sequence[str],
        volumes: Mapping[str, Any],
        **options: Any,
    ) -> int:
        """Stands in for kfp.local's function of the same signature; the exit status is the container's."""
        if self._ended:
            return 128 + signal.SIGTERM
        log = self._log()
        environment = {**self._options["environment"], **options.pop("environment", {})}
        name = f"vertex-local-{log.stem}-{secrets.token_hex(4)}"
        options = {**self._options, **options, "name": name, "environment": environment, "volumes": volumes}
        words = guard.command(container.command(options, image, command))
        with (
            log.open("ab") as output,
            # Not of the worker's group: who is killed with that group leaves its container behind.
            subprocess.Popen(  # noqa: S603
                words, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            ) as process,
        ):
            self._guards.add(process)
            if self._ended:
                _tell(process)
            status = process.wait()
            self._guards.discard(process)
            return status

    def end(self, number: int, _: FrameType | None) -> Never:
        """Handles a signal: ends the containers, lets no other start, and the program after them."""
        # Not SIG_IGN, which a guard that a thread starts just now would inherit.
        signal.signal(number, lambda *_: None)
        self._ended = True
        for process in list(self._guards):
            _tell(process)
        sys.exit(128 + number)


def options_of(container_spec: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the container spec of a task asks for and kfp.local does not heed, in the Docker SDK's terms.

    Args:
        container_spec: a PipelineContainerSpec.
        inputs: the task's, which limits may refer to.

    Raises:
        ValueError: a limit is no quantity.
    """
    options: dict[str, Any] = {}
    if container_spec.command:
        options["entrypoint"] = []  # as on Vertex AI the command takes the place of the image's
    resources = container_spec.resources
    # The numbers are what older compilers have written, in GB.
    memory = resources.resource_memory_limit or (f"{resources.memory_limit}G" if resources.memory_limit else "")
    cpu = resources.resource_cpu_limit or (str(resources.cpu_limit) if resources.cpu_limit else "")
    if memory:
        size = round(_quantity(memory, inputs))
        options |= {"mem_limit": size, "memswap_limit": size}  # without swap
    if cpu:
        # On Vertex AI it finds a machine that is large enough; this one has what it has.
        options["nano_cpus"] = round(min(_quantity(cpu, inputs), os.cpu_count() or 1) * 1e9)
    return options


def _quantity(text: str, inputs: Mapping[str, Any]) -> float:
    resolved = _PARAMETER.sub(lambda reference: str(inputs[reference[1]]), text)
    parts = _QUANTITY.fullmatch(resolved)
    if not parts:
        raise ValueError(f"the limit {resolved!r} is no quantity such as 512Mi, 4G, 500m or 2")
    number, prefix, binary, milli = parts.groups()
    unit = (1024.0 if binary else 1000.0) ** (" KMGTPE".index(prefix) if prefix else 0)
    return float(number) * unit / (1000 if milli else 1)


def _tell(process: subprocess.Popen[bytes]) -> None:
    """Has a guard end what it guards: its parent is gone when the pipe closes."""
    assert process.stdin  # noqa: S101
    process.stdin.close()
