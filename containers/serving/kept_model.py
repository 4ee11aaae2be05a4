"""The model as the server holds it: in a worker that is replaced when it ends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError, PipelineError
from components.earthengine.payloads import Outputs, Tiles
from containers.serving.outcomes import UnavailableError
from containers.serving.worker_process import GoneError, WorkerProcess

_log = logging.getLogger("serving")

# Before another worker is started, by how many in a row have ended without an answer. After as many as there are
# pauses, it is for the platform to start the container again, or elsewhere.
_PAUSES_S = (0.0, 0.5, 1.0, 2.0)


class KeptModel:
    """A `ServedModel` from `load` to `end`.

    Args:
        module: what a worker runs; see `WorkerProcess`.
        replaced: called when another worker has taken the place of one that ended.
        lost: called with the reason when there is no model any more, and will be none.

    Attributes:
        contract: of the model.
        runtime: what runs it.
    """

    contract: ModelContract
    runtime: str

    def __init__(self, module: str, replaced: Callable[[], None], lost: Callable[[PipelineError], None]) -> None:
        self._module = module
        self._replaced = replaced
        self._lost = lost
        self._path = Path()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._first: Future[None] = Future()
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._started: WorkerProcess | None = None
        self._ready: WorkerProcess | None = None
        self._fault: PipelineError | None = None

    @property
    def pid(self) -> int:
        """The process id of the worker that was started last, 0 before the first."""
        return self._started.pid if self._started else 0

    def load(self, path: Path) -> Self:
        """Start a worker for an artifact, and wait until it is ready.

        Raises:
            ModelError, ContractError: as `model.load`; or the worker ended.
        """
        self._path = path
        self._keeper.start()
        self._first.result()
        return self

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output; waits for a worker where there is none.

        Raises:
            ModelError: the model failed on them, or they ended the worker.
            UnavailableError: no worker can be had.
        """
        worker: WorkerProcess | None = None
        while True:
            worker = self._next(worker)
            try:
                return worker.predict(tiles)
            except GoneError:
                continue

    def end(self) -> None:
        """End the worker; none follows it."""
        with self._changed:
            self._ending.set()
            if self._started:
                self._started.kill()
        if self._keeper.is_alive():
            self._keeper.join()

    def _next(self, gone: WorkerProcess | None) -> WorkerProcess:
        """The worker that is ready, unless it is the one that is gone; waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._fault or self._ready not in (None, gone))
            if self._fault or not self._ready:
                raise UnavailableError(f"the server ends: {self._fault}")
            return self._ready

    def _keep(self) -> None:
        """Have one worker after the other; in a thread that lasts, as a worker ends with the one that starts it."""
        # A terminal and a guard send these to workers too, which inherit the mask: the server says when they end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        fruitless = 0
        while fruitless < len(_PAUSES_S) and not self._ending.wait(_PAUSES_S[fruitless]):
            answered, fault = self._use_one()
            if not self._first.done():
                self._first.set_exception(fault)
                return
            fruitless = 0 if answered else fruitless + 1
            if not self._ending.is_set():
                _log.error("%s", fault)
        self._first.cancel()
        if not self._ending.is_set():
            self._lose(ModelError(f"{fruitless} processes of the model in a row answered nothing; the last: {fault}"))

    def _use_one(self) -> tuple[int, PipelineError]:
        """Start a worker and offer it until it ends; how many requests it answered, and why it ended."""
        begin = time.monotonic()
        try:
            with self._changed:
                if self._ending.is_set():
                    return 0, UnavailableError("the server ends")
                worker = self._started = WorkerProcess(self._module, self._path)
        except OSError as error:
            return 0, ModelError(f"no process can be started for the model: {error}")
        try:
            worker.wait_until_ready()
            self._accept(worker, time.monotonic() - begin)
            self._offer(worker)
            how = worker.ending()
        except PipelineError as error:
            return 0, error
        # Whoever waits for the model must be told.
        except Exception as error:
            _log.exception("process %d of the model cannot be used", worker.pid)
            return 0, ModelError(f"the model's process cannot be used ({type(error).__name__}: {error}); see above")
        finally:
            self._offer(None)
            worker.close()
        return worker.answered, ModelError(f"the model's process {worker.pid} {how}")

    def _accept(self, worker: WorkerProcess, seconds: float) -> None:
        """Take the first worker's contract; that of another must be the same, as requests are decoded by it already."""
        if not self._first.done():
            self.contract, self.runtime = worker.contract, worker.runtime
            self._first.set_result(None)
        elif worker.contract != self.contract:
            raise ModelError(f"{self._path} was changed after the server had loaded it; start the server again")
        else:
            self._replaced()
            _log.info("process %d has loaded the model again, in %.1f s", worker.pid, seconds)

    def _offer(self, worker: WorkerProcess | None) -> None:
        with self._changed:
            self._ready = worker
            self._changed.notify_all()

    def _lose(self, fault: PipelineError) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()
        self._lost(fault)
