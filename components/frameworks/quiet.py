"""Keeps to itself what C++ code of a framework prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT, _STDERR = 1, 2


@contextmanager
def quiet_import() -> Iterator[None]:
    """Import TensorFlow in the block without its notes on CPU features and absent GPUs.

    TensorFlow logs some of these notes before it reads TF_CPP_MIN_LOG_LEVEL, which silences the
    rest, and some of them as errors; what really fails is raised as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silenced(_STDERR):
        yield


@contextmanager
def quiet_export() -> Iterator[None]:
    """Export to ONNX in the block: PyTorch's exporter prints whole graphs to stdout when it fails."""
    with _silenced(_STDOUT):
        yield


@contextmanager
def _silenced(descriptor: int) -> Iterator[None]:
    before = os.dup(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)
        os.close(nowhere)
