"""Scoring in one thread, chunk after chunk, for the tests in which Ray has nothing to add.

All but the report is the real thing. Processes are forked from
one that has everything imported, so that a kill and the run after it take a second, and not half a
minute.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from digitsum import fault_injection as faults
from digitsum.cli import main
from digitsum.report import build as make_report

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["without_ray"])


def started(
    command: str, log: Path, fault: str | None = None, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Start a command in a process, which is killed at the fault point, such as `written:2`."""
    variables = dict(environment or {}) | ({faults.VARIABLE: fault} if fault else {})
    process = _context.Process(target=_run, args=(command, str(log), variables), daemon=True)
    process.start()
    return process


def exit_code(
    command: str, log: Path, fault: str | None = None, environment: dict[str, str] | None = None
) -> int | None:
    """Run a command in a process and return its exit code, -9 where it was killed."""
    process = started(command, log, fault, environment)
    process.join()
    return process.exitcode


def run_here(command: str) -> int:
    """Run a command in this process and return its exit code."""
    if command.startswith("score "):
        # By torch, for OpenVINO compiles the network first, which takes as long as all else.
        command = f"{command} --executor threads --max-actors 1 --backend torch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_report, "report_of", lambda run: [])
        return main(command.split())


def _run(command: str, log: str, variables: dict[str, str]) -> None:
    with Path(log).open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(variables)
    code = run_here(command)
    sys.stdout.flush()
    os._exit(code)
