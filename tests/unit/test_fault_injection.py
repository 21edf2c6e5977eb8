import os
import signal
import subprocess
import sys

import pytest

from digitsum.fault_injection import VARIABLE

PASS_POINTS = """
import sys
from digitsum.fault_injection import fault_point
for name in sys.argv[1:]:
    print(name, flush=True)
    fault_point(name)
"""
POINTS = ["a", "b", "a", "ab", "a"]


def pass_points(wanted: str | None) -> tuple[int, list[str]]:
    """Return the exit code of a process that passes all points, and those that it reached."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment |= {VARIABLE: wanted} if wanted is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", PASS_POINTS, *POINTS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(("wanted", "passed"), [("a:1", 1), ("b:1", 2), ("a:2", 3), ("a:3", 5)])
def test_fault_point_kills_at_nth(wanted, passed):
    assert pass_points(wanted) == (-signal.SIGKILL, POINTS[:passed])


@pytest.mark.parametrize("wanted", [None, "", "a", "a:", "a:0", "a:4", "b:2", "c:1", "a:one"])
def test_fault_point_not_reached(wanted):
    assert pass_points(wanted) == (0, POINTS)
