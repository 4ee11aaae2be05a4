"""How many cores this container really has."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Where a container finds its own control group.
_CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = _CGROUP) -> int:
    """The cores of the CPU set or the quota, whichever allows fewer; of a quota of 1.5 cores 2, at least 1.

    Frameworks count the machine's: with more threads than a quota allows, all of them stand still for the rest of
    each period of 100 ms.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Cores' worth of time a period (kernel.org: cgroup-v2, "cpu.max"; sched-bwc for version 1)."""
    try:
        if (limits := cgroup / "cpu.max").exists():
            quota, period = limits.read_text(encoding="ascii").split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
    except OSError:
        return math.inf
    # Version 2 says "max", version 1 -1.
    return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
