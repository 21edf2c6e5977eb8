"""Commands as processes with a Ray below them, some of which are killed."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

WAIT_S = 400
"""Seconds after which something counts as hanging; on a loaded machine a run takes minutes."""


def start(command: str, log: Path, setup: str = "pass", **environment: str) -> psutil.Popen:
    """Start a digitsum command as a process, its output appended to a log, after Python `setup`."""
    code = f"import sys; from digitsum.cli import main; {setup}; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, *command.split()]
    with log.open("a") as output:
        return psutil.Popen(line, stdout=output, stderr=output, env=os.environ | environment)


def check_ends(process: psutil.Popen, log: Path, code: int = 0) -> None:
    """Wait for a process; fail with its log unless it ends with this exit code."""
    assert process.wait(WAIT_S) == code, log.read_text()


def wait_for(condition: Callable[[], bool], process: psutil.Popen, log: Path) -> None:
    """Wait until a condition holds while a process runs."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, f"the run ended before it could be hurt:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"nothing happened:\n{log.read_text()}"
        time.sleep(0.01)


def kill_everything(process: psutil.Popen) -> None:
    """Kill a driver and every process below it at once, as a loss of power would."""
    family = [process, *process.children(recursive=True)]
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(member)
    psutil.wait_procs(family, timeout=WAIT_S)
