"""The verdict whether a figure that is taken round after round is flat or grows.

The slope is that of Theil and Sen, the median of the slopes between all pairs of rounds: a round
in which something else was running, or in which a process was killed, does not move it. The lower
end of its 99% interval is judged, so that noise is not taken for a leak; the upper end is the
largest leak that may have been overlooked. The first rounds do not count: caches fill, modules are
imported, the allocator takes its arenas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from scipy.stats import theilslopes

CONFIDENCE = 0.99
FEWEST_ROUNDS = 5
"""With fewer, the interval of the slope is too wide to judge."""
WARM_UP_ROUNDS, WARM_UP_FRACTION = 3, 0.25


class Verdict(Enum):
    FLAT = "flat"
    GROWS = "GROWS"
    UNKNOWN = "too few rounds"


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
    """Judge the values of successive rounds, without the first ones."""
    warm_up = max(WARM_UP_ROUNDS, int(WARM_UP_FRACTION * len(values)))
    counted = list(values)[warm_up:]
    if len(counted) < FEWEST_ROUNDS:
        first, last = (counted[0], counted[-1]) if counted else (0.0, 0.0)
        return Judged(Verdict.UNKNOWN, len(counted), first, last, 0.0, 0.0, 0.0)
    result = theilslopes(counted, alpha=CONFIDENCE)
    slope, low, high = float(result[0]), float(result[2]), float(result[3])
    verdict = Verdict.GROWS if low > tolerance else Verdict.FLAT
    return Judged(verdict, len(counted), counted[0], counted[-1], slope, low, high)
