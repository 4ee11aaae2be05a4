"""Whether the cores are idle while nothing of ours runs.

A busy neighbour does not slow all contestants alike: threads of OpenMP wait for each other at every
operation, so that one that is kept from its core costs the whole call tens of milliseconds.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_SAMPLE_S = 0.2
_IDLE = 0.9
_PATIENCE_S = 10


def wait_for_quiet() -> bool:
    """Wait until the cores that this process may use are idle; False where they still were not after a while."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        before = _idle_and_all()
        time.sleep(_SAMPLE_S)
        idle, both = (now - then for now, then in zip(_idle_and_all(), before, strict=True))
        if idle >= _IDLE * both:
            return True
        if time.monotonic() > end:
            return False


def _idle_and_all() -> tuple[int, int]:
    """Ticks that these cores were idle, and all ticks (proc_stat(5))."""
    wanted = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    ticks = [[int(tick) for tick in line[1:9]] for line in lines if line[0] in wanted]
    return sum(core[3] + core[4] for core in ticks), sum(map(sum, ticks))
