"""The processor cores that a process may use."""

import os

from yinggem.common.processors import usable_cores


def test_the_cores_are_those_that_may_be_used():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(before)})
            assert usable_cores() == 1
        finally:
            os.sched_setaffinity(0, before)
