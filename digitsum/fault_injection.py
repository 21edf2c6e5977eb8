"""Where a test may have this process killed, to see what it leaves behind.

DIGITSUM_FAULT_POINT=NAME:N kills the process, as SIGKILL does, when it comes to the point NAME for
the N-th time. Without the variable, which no user sets, the points do nothing.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "DIGITSUM_FAULT_POINT"

_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Kill this process where it was asked to die at the point of that name."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
