"""Fault points: named places in the code at which a test can kill this process.

DIGITSUM_FAULT_POINT=NAME:N kills the process, with SIGKILL, when it reaches the point NAME for the
N-th time. Without that variable, which only tests set, the points do nothing.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "DIGITSUM_FAULT_POINT"

_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Kill this process if a test asked for it at this point."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
