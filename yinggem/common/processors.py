"""The processors of this machine."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period, and the period


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_cores(quota: Path = QUOTA) -> int:
    """As many of them as its container gives it time for, and not more than OMP_NUM_THREADS if that is set.

    A thread more would be stopped for the rest of a period in which the others have used up the time.
    """
    cores = usable_cores()
    try:
        time, period = quota.read_text(encoding="ascii").split()
        cores = min(cores, math.ceil(int(time) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # there is none
        pass
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores)
