"""Whether a figure that is taken round after round is flat, grows, or cannot be told: pure.

The slope is that of Theil and Sen, the median of the slopes between all pairs of rounds: a round in
which something else was at work, or the one in which a process was killed, does not move it. It is
judged by the lower end of its 99% interval, not by itself, so that noise is not taken for a leak;
the upper end says how great a leak may have been overlooked. The first rounds are left out: caches
fill, modules are imported, the allocator takes its arenas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from scipy.stats import theilslopes

CONFIDENCE = 0.99
FEWEST_ROUNDS = 5
"""Of fewer, the interval of the slope has no ends to speak of."""
WARM_UP_ROUNDS, WARM_UP_FRACTION = 3, 0.25


class Verdict(Enum):
    FLAT = "flat"
    GROWS = "GROWS"
    UNKNOWN = "too few rounds"


@dataclass(frozen=True)
class Figure:
    """What is watched, and how much of it a round may add."""

    name: str
    unit: str
    tolerance: float
    """Units a round."""
    why: str
    """Why so much is no leak, and why more is one."""


@dataclass(frozen=True)
class Judged:
    verdict: Verdict
    num_rounds: int
    """Those that counted."""
    first: float
    last: float
    """Of the rounds that counted."""
    slope: float
    low: float
    high: float
    """Units a round, and the ends of the slope's interval."""


def judge(values: Sequence[float], tolerance: float) -> Judged:
    """Judge the values of successive rounds, the first ones of which are left out."""
    warm_up = max(WARM_UP_ROUNDS, int(WARM_UP_FRACTION * len(values)))
    counted = list(values)[warm_up:]
    if len(counted) < FEWEST_ROUNDS:
        first, last = (counted[0], counted[-1]) if counted else (0.0, 0.0)
        return Judged(Verdict.UNKNOWN, len(counted), first, last, 0.0, 0.0, 0.0)
    found = theilslopes(counted, alpha=CONFIDENCE)
    slope, low, high = (float(end) for end in (found[0], found[2], found[3]))
    verdict = Verdict.GROWS if low > tolerance else Verdict.FLAT
    return Judged(verdict, len(counted), counted[0], counted[-1], slope, low, high)
