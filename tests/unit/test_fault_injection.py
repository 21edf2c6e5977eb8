import os
import signal
import subprocess
import sys

import pytest

from digitsum.fault_injection import VARIABLE

PASSING = """
import sys
from digitsum.fault_injection import fault_point
for name in sys.argv[1:]:
    print(name, flush=True)
    fault_point(name)
"""
WAY = ["a", "b", "a", "ab", "a"]


def pass_by(wanted: str | None) -> tuple[int, list[str]]:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment |= {VARIABLE: wanted} if wanted is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", PASSING, *WAY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(("wanted", "passed"), [("a:1", 1), ("b:1", 2), ("a:2", 3), ("a:3", 5)])
def test_a_process_is_killed_where_it_comes_to_a_point_for_the_nth_time(wanted, passed):
    assert pass_by(wanted) == (-signal.SIGKILL, WAY[:passed])


@pytest.mark.parametrize("wanted", [None, "", "a", "a:", "a:0", "a:4", "b:2", "c:1", "a:one"])
def test_a_process_that_never_comes_there_lives(wanted):
    assert pass_by(wanted) == (0, WAY)
