"""A model that export converted to ONNX: faster than its own framework on processors, which is not imported then."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnxruntime

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from containers.serving.cores import cores
from containers.serving.model import ONNX, last_line

# Networks up to this size are opened twice; beyond it the better way is known.
_SMALL_BYTES = 1 << 20
_TIMED_CALLS = 10


class OnnxModel:
    """A graph that takes tiles `[N, C, H, W]` float32 and has the contract's outputs.

    Args:
        path: of the artifact that it is from, for an error.
        contract: of the artifact.
        content: the serialized graph.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, contract: ModelContract, content: bytes) -> None:
        self.contract = contract
        threads = cores()
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, {threads} threads"
        width, height = self.contract.patch
        patch = np.zeros((1, self.contract.channels, height, width), np.float32)
        try:
            self._session = _fastest(content, threads, patch)
        # It raises classes of its own, of no common base but this.
        except Exception as error:
            raise ModelError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load {ONNX} ({last_line(error)}); "
                "export the model with this version or an older one"
            ) from None
        self._given = self._session.get_inputs()[0].name  # not tiles where an output has that name
        self._names = [output.name for output in self._session.get_outputs()]

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output."""
        return dict(zip(self._names, self._session.run(None, {self._given: tiles}), strict=True))


def _fastest(content: bytes, threads: int, patch: Tiles) -> onnxruntime.InferenceSession:
    """The model in the layout of memory that suits it.

    In blocks of 16 channels a U-Net takes half the time that it takes plainly; Earth Engine's own example, 15 and 3
    channels a pixel, takes three times as long, so small networks are tried in both.
    """
    levels = onnxruntime.GraphOptimizationLevel
    blocks = _opened(content, threads, levels.ORT_ENABLE_ALL)
    if len(content) > _SMALL_BYTES:
        return blocks
    plain = _opened(content, threads, levels.ORT_ENABLE_EXTENDED)
    return min(blocks, plain, key=lambda session: _seconds(session, patch))


def _opened(content: bytes, threads: int, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; what fails is raised too
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from decoding, encoding and whoever else is there: with clients on
    # the same 2 cores a U-Net answers half the requests with ONNX Runtime's own setting. So long as from one operator
    # to the next it pays: a tenth faster than none.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.enable_mem_pattern = False  # one is kept for each size of input: 24 MB more for a U-Net, and no faster
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _seconds(session: onnxruntime.InferenceSession, patch: Tiles) -> float:
    """How long a patch takes undisturbed: the shortest of some calls."""
    given = session.get_inputs()[0].name
    seconds = []
    for _ in range(_TIMED_CALLS):
        begin = time.perf_counter()
        session.run(None, {given: patch})
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
