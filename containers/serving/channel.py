"""Messages with arrays between two processes of this machine.

A message goes over a socket, its arrays lie in memory that both processes map: each has a file in memory that it writes
to and the other reads. Such files need no /dev/shm, of which a container has 64 MB, and no disk.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
# By an array's name: its type, its shape, and the byte that it begins at.
_Places = Mapping[str, tuple[str, Sequence[int], int]]

# Of a message without its arrays; the system's own limit is 208 KiB (net.core.wmem_default).
LARGEST_MESSAGE = 128 << 10
# What an array's beginning is a multiple of: a line of the processor's cache.
_ALIGNED_BYTES = 64
# What one large message takes above this is given back with the next one.
_KEPT_BYTES = 32 << 20


class Channel:
    """One of two ends, which take turns: the arrays of a message last until the next one.

    Args:
        peer: the descriptor of a socket whose other end is there, and which keeps messages apart.
        mine: of the file in memory that this end writes to.
        other: of the one that the other end writes to.
    """

    def __init__(self, peer: int, mine: int, other: int) -> None:
        self.descriptors = peer, mine, other
        self._socket = socket.socket(fileno=peer)
        self._mine, self._other = _Memory(mine), _Memory(other)

    def send(self, message: Mapping[str, Any], arrays: Arrays | None = None) -> None:
        """Send what JSON can say, and arrays by name.

        Raises:
            BrokenPipeError, ConnectionResetError: the other end is gone.
            OSError: there is no memory for the arrays, or the message is too long.
        """
        places = self._mine.write(arrays or {})
        self._socket.send(json.dumps([message, places]).encode())

    def receive(self, within_s: float | None = None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The next message and its arrays, which are views of the memory that they lie in.

        Raises:
            EOFError: the other end is gone.
            ConnectionResetError: it went and had not taken the message that it was sent last (unix(7)).
            TimeoutError: nothing came in time.
            OSError: the arrays cannot be mapped.
        """
        self._socket.settimeout(within_s)
        received = self._socket.recv(LARGEST_MESSAGE)
        if not received:
            raise EOFError
        message, places = json.loads(received)
        return message, self._other.read(places)

    def close(self) -> None:
        """Close it; the other end is told when no process has this one."""
        self._socket.close()
        for memory in self.descriptors[1:]:
            os.close(memory)


def pair() -> tuple[Channel, Channel]:
    """Both ends; one is for a process that inherits its descriptors, and to be closed here then."""
    with ExitStack() as unless_made:

        def held(descriptor: int) -> int:
            unless_made.callback(os.close, descriptor)
            return descriptor

        sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first, second = (held(end.detach()) for end in sockets)
        tiles, answers = held(os.memfd_create("tiles")), held(os.memfd_create("answers"))
        its_answers, its_tiles = held(os.dup(answers)), held(os.dup(tiles))
        unless_made.pop_all()
    return Channel(first, tiles, answers), Channel(second, its_answers, its_tiles)


class _Memory:
    """A file in memory, mapped as far as it is used."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, arrays: Arrays) -> _Places:
        """Copy arrays to it; where they are then."""
        places, end = {}, 0
        for name, array in arrays.items():
            places[name] = array.dtype.str, array.shape, end
            end += -(-array.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
        held = os.fstat(self._descriptor).st_size
        if held < end or held > max(end, _KEPT_BYTES):
            os.ftruncate(self._descriptor, end)
        for name, array in arrays.items():
            np.copyto(self._view(array.dtype, array.shape, places[name][2]), array)
        return places

    def read(self, places: _Places) -> dict[str, NDArray[Any]]:
        """The arrays at these places."""
        return {name: self._view(np.dtype(kind), shape, begin) for name, (kind, shape, begin) in places.items()}

    def _view(self, kind: np.dtype[Any], shape: Sequence[int], begin: int) -> NDArray[Any]:
        size = os.fstat(self._descriptor).st_size
        if self._map is None or len(self._map) != size:
            # The old one goes with the last view of it.
            self._map = mmap.mmap(self._descriptor, size)
        return np.ndarray(tuple(shape), kind, self._map, begin)
