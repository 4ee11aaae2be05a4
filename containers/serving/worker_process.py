"""The server's side of a worker: the process that has the model."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from components.earthengine import errors
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads import Outputs, Tiles
from containers.serving import channel
from containers.serving.limits import ANSWER_S


class GoneError(Exception):
    """The worker had ended before it took a request."""


class _RaisedThere(Exception):  # noqa: N818  its name stands in the log before the text
    """What caused an error in the worker; its text is the stack there."""


class WorkerProcess:
    """A process that runs a module as `containers.serving.worker` is one; it ends with the thread that starts it.

    Args:
        module: what to run.
        path: of the artifact.

    Raises:
        OSError: the system starts no process.

    Attributes:
        pid: its process id.
        contract: of the loaded model; see `wait_until_ready`.
        runtime: what runs it.
        answered: how many requests.
    """

    contract: ModelContract
    runtime: str

    def __init__(self, module: str, path: Path) -> None:
        self._channel, other = channel.pair()
        words = [sys.executable, "-m", module, str(path), *map(str, other.descriptors)]
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=other.descriptors)  # noqa: S603
        except OSError:
            self._channel.close()
            raise
        finally:
            other.close()
        self._talking = threading.Lock()
        self.pid = self._process.pid
        self.answered = 0

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded and warm.

        Raises:
            ModelError, ContractError: it cannot be, or the process ended meanwhile.
        """
        try:
            message, arrays = self._channel.receive()
        except (EOFError, ConnectionResetError):
            raise ModelError(f"the model's process {self.ending()} while it loaded the model") from None
        _check(message)
        self.contract = ModelContract.parse(arrays["contract"].tobytes().decode())
        self.runtime = message["runtime"]

    def predict(self, tiles: Tiles) -> Outputs:
        """The model's answers to raw tiles `[N, C, H, W]`, as its contract says.

        Raises:
            ModelError: the model failed on them, or they ended the process; or it did not answer in time, or they
                could not be handed over, and it was ended.
            GoneError: it had ended before it took them.
        """
        with self._talking:
            if self._process.poll() is not None:
                raise GoneError
            try:
                self._channel.send({}, {"tiles": tiles})
                message, outputs = self._channel.receive(ANSWER_S)
            except (BrokenPipeError, ConnectionResetError):
                raise GoneError from None
            except EOFError:
                raise ModelError(
                    f"the model's process {self.ending()} while it worked on tiles of shape {tiles.shape}; "
                    "another one is started, which the same tiles may end too"
                ) from None
            except OSError as error:
                # It may still work, or answer later: the next request must not get that answer.
                self.kill()
                self._process.wait()
                late = isinstance(error, TimeoutError)
                how = f"gave no answer in {ANSWER_S:g} s" if late else f"could not be asked ({error})"
                raise ModelError(
                    f"the model's process {how} for tiles of shape {tiles.shape}, and is ended; another one is started"
                ) from None
            _check(message)
            self.answered += 1
            # The next answer lies in the same place.
            return {name: output.copy() for name, output in outputs.items()}

    def ending(self) -> str:
        """Wait until it has ended; how it did, as a verb."""
        status = self._process.wait()
        if status >= 0:
            return f"ended with exit status {status}"
        names = {-number: number.name for number in signal.Signals}
        why = ", as the kernel does where memory runs out," if status == -signal.SIGKILL else ""
        return f"was ended by {names.get(status, f'signal {-status}')}{why}"

    def kill(self) -> None:
        """End it; a request that is in it fails."""
        self._process.kill()

    def close(self) -> None:
        """End it, and give back what it held."""
        self.kill()
        self._process.wait()
        with self._talking:
            self._channel.close()


def _check(message: dict[str, str]) -> None:
    """Raise the error that a message tells of."""
    if "error" not in message:
        return
    error: type[errors.PipelineError] = getattr(errors, message["error"])
    cause = _RaisedThere(f"in the model's process\n{message['stack'].rstrip()}") if message["stack"] else None
    raise error(message["text"]) from cause
