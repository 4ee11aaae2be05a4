"""One model behind both ports: whether it is ready, and its answer to a request in some format."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import Codec, codec
from containers.serving import log, outcomes
from containers.serving.admission import Admission
from containers.serving.exchange import Exchange
from containers.serving.limits import MAX_RESPONSE_BYTES
from containers.serving.metrics import Metrics
from containers.serving.model import ServedModel
from containers.serving.outcomes import AbandonedError, Outcome, UnavailableError

Detect = Callable[[ModelContract, bytes], Codec]

# Requests that are unpacked at a time: one in the model, and one before it or after it. More would only take memory,
# several times what they took on the wire.
_AT_WORK = 2


class Service:
    """Loads one model and answers with it.

    Whoever brings a request works on it in a thread of its own, so that one is decoded while another is in the model,
    which takes one at a time: inference uses every core by itself.
    """

    def __init__(self) -> None:
        self.admission = Admission()
        self.metrics = Metrics(self.admission)
        self._model: ServedModel | None = None
        self._at_work = threading.Semaphore(_AT_WORK)
        self._in_model = threading.Lock()
        self._stopping = False

    @property
    def contract(self) -> ModelContract:
        """The loaded model's contract.

        Raises:
            UnavailableError: no model is loaded yet.
        """
        return self._loaded().contract

    def check_ready(self) -> None:
        """Raise UnavailableError unless new requests are welcome: the warm-up is answered and no stop has begun."""
        self._loaded()
        if self._stopping:
            raise UnavailableError("the server is about to stop; send requests to another")

    def stop(self) -> None:
        """Tell whoever asks for its health to send no more; requests that come all the same are answered."""
        self._stopping = True

    def load(self, obtain: Callable[[], ServedModel]) -> Future[ServedModel]:
        """Obtain the model and try it, in a thread of its own; the future ends when it is ready."""

        def run() -> ServedModel:
            model = obtain()
            width, height = model.contract.patch
            tiles = np.zeros((1, model.contract.channels, height, width), np.float32)
            own = codec(model.contract.payload_format)
            # All the way, as Earth Engine's first request will go.
            tiles = own.decode_request(model.contract, own.encode_request(model.contract, tiles))
            own.encode_response(model.contract, model.predict(tiles))
            self.metrics.loaded(model)
            self._model = model
            return model

        loader = ThreadPoolExecutor(1, "load")
        loading = loader.submit(run)
        loader.shutdown(wait=False)
        return loading

    def answer(self, exchange: Exchange, detect: Detect, body: bytes, wanted: Callable[[], bool]) -> bytes:
        """The answer to a request, in the request's format.

        Args:
            exchange: where to note what is found.
            detect: tells the format.
            body: of the request.
            wanted: whether the caller is still there; asked before anything is done for it.

        Raises:
            UnavailableError: no model is loaded yet.
            AbandonedError: the caller has gone.
            PayloadError: the request is not what its format says, or its answer would be too large.
            ModelError: the model failed on it, or it ended the model's process.
        """
        model = self._loaded()
        clock, seconds = time.perf_counter, exchange.seconds
        with self._at_work:
            _still(wanted)
            begun = clock()
            chosen = detect(model.contract, body)
            exchange.format = chosen.format
            tiles = chosen.decode_request(model.contract, body)
            exchange.tiles = len(tiles)
            seconds["decode"] = clock() - begun
            with self._in_model:
                _still(wanted)
                begun = clock()
                outputs = model.predict(tiles)
                seconds["model"] = clock() - begun
            begun = clock()
            answer = chosen.encode_response(model.contract, outputs)
            seconds["encode"] = clock() - begun
        if len(answer) > MAX_RESPONSE_BYTES:
            raise PayloadError(
                f"the answer takes {len(answer)} bytes, {exchange.tiles} instances; at most {MAX_RESPONSE_BYTES}: "
                "ask for fewer or smaller tiles"
            )
        exchange.response_bytes = len(answer)
        return answer

    def end(self, exchange: Exchange, error: BaseException | None = None) -> Outcome:
        """Tell the metrics and the log of a request that was answered, or refused for an error."""
        outcome = outcomes.outcome(error)
        self.metrics.observe(exchange, outcome)
        log.request(exchange, outcome, error)
        return outcome

    def _loaded(self) -> ServedModel:
        if self._model is None:
            raise UnavailableError("the model is still being loaded; try again when the health route answers 200")
        return self._model


def _still(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise AbandonedError("the caller went before it was answered")
