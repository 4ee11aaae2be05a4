"""Imports TensorFlow without its notes on CPU features and absent GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep what C++ code writes to stderr in the block to itself.

    TensorFlow logs some of these notes before it reads TF_CPP_MIN_LOG_LEVEL, which silences the
    rest, and some of them as errors; what really fails is raised as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
