"""Tells the C library to keep the memory that every request needs again.

glibc gives large blocks back to the system as soon as they are free, so that each request faults all its pages in
anew: 8 tiles over gRPC took 4.1 ms, and 3.1 ms when the blocks are kept; the model alone 4.5 ms and 2.6 ms.
"""

from __future__ import annotations

import ctypes

# mallopt(3); the numbers are those of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Larger blocks are mapped one by one, and returned when they are free: glibc's highest value for it.
_LARGEST_KEPT = 32 << 20
# Free memory above this goes back to the system, so that one rush of large requests is not kept for ever.
_KEPT = 256 << 20


def keep() -> None:
    """Keep freed memory for the next request, where the C library is glibc; call it before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    # A pool of its own for each thread would keep as much again for each.
    mallopt(_M_ARENA_MAX, 1)
