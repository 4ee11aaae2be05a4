"""One model behind both ports: whether it is ready, and its answer to a request in some format."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from components.earthengine.errors import ModelError, PayloadError
from components.earthengine.payloads import batches
from components.earthengine.payloads.codec import Codec, Outputs, Tiles
from containers.serving.model import ServedModel

# TorchScript specialises its graph in the first calls.
_WARM_UP_CALLS = 2


class Service:
    """Loads one model and answers with it.

    The model lives in one thread: inference uses every core by itself, and OpenMP keeps a set of
    threads for each that calls it. Decoding and encoding run in the callers' threads meanwhile.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "model")
        self._model: ServedModel | None = None

    @property
    def ready(self) -> bool:
        """Whether the model has answered its warm-up tiles."""
        return self._model is not None

    def load(self, obtain: Callable[[], ServedModel]) -> Future[None]:
        """Load the model and warm it up, in the model's thread; the future ends when it is ready."""

        def run() -> None:
            model = obtain()
            width, height = model.contract.patch
            tiles = np.zeros((1, model.contract.channels, height, width), np.float32)
            for _ in range(_WARM_UP_CALLS):
                _checked(model, tiles)
            self._model = model

        return self._worker.submit(run)

    def answer(self, codec: Codec, body: bytes) -> bytes:
        """The answer to a request, in the request's format; only when `ready`.

        Raises:
            PayloadError: the request is not what its format says.
            ModelError: the model failed on it.
        """
        model = self._model
        if model is None:
            raise ModelError("the model is still being loaded; try again when the health route answers 200")
        tiles = codec.decode_request(model.contract, body)
        outputs = self._worker.submit(_checked, model, tiles).result()
        return codec.encode_response(model.contract, outputs)


def _checked(model: ServedModel, tiles: Tiles) -> Outputs:
    """The model's answers, refused unless they are what its contract says."""
    try:
        outputs = model.predict(tiles)
    except ModelError:
        raise
    # A framework may raise anything, and the server must outlive it.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"the model failed on tiles of shape {tiles.shape}: {type(error).__name__}: {lines[-1][:500]}"
        ) from error
    try:
        return batches.check_outputs(model.contract, outputs, len(tiles))
    except PayloadError as error:
        raise ModelError(f"the model does not answer as model.yaml says: {error}") from None
