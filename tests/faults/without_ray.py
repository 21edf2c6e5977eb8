"""Commands in processes that are forked, killed and run again, and what they leave behind.

Scoring is by one thread, without Ray, and writes no report; all else is the real thing. Processes
are forked from one that has everything imported, so that a kill and the run after it take a second.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from digitsum import fault_injection
from digitsum.cli import main
from digitsum.report import build

SIGKILLED = -9
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["without_ray"])


def start_forked(
    command: str, log: Path, fault: str | None = None, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Start a command in a process, which is killed at the fault point, such as `written:2`."""
    variables = dict(environment or {}) | ({fault_injection.VARIABLE: fault} if fault else {})
    process = _context.Process(target=_run, args=(command, str(log), variables), daemon=True)
    process.start()
    return process


def exit_code(
    command: str, log: Path, fault: str | None = None, environment: dict[str, str] | None = None
) -> int | None:
    """Run a command in a process and return its exit code, -9 if it was killed."""
    process = start_forked(command, log, fault, environment)
    process.join()
    return process.exitcode


def check_completes(command: str, log: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command in a process; fail with its log unless it ends with 0."""
    assert exit_code(command, log, None, environment) == 0, log.read_text()


def run_here(command: str) -> int:
    """Run a command in this process and return its exit code."""
    if command.startswith("score "):
        # By torch, because OpenVINO takes as long to compile the network as all else takes.
        command = f"{command} --executor threads --max-actors 1 --backend torch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_report", lambda run: run)
        return main(command.split())


def left_behind(scores: Path) -> dict[str, bytes]:
    """Read all files of a scores directory, hidden ones too, except what runs leave on purpose."""
    return {
        path.relative_to(scores).as_posix(): path.read_bytes()
        for path in scores.rglob("*")
        if path.is_file() and ("_runs" not in path.parts or path.name.startswith(".tmp-"))
    }


def _run(command: str, log: str, variables: dict[str, str]) -> None:
    with Path(log).open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(variables)
    code = run_here(command)
    sys.stdout.flush()
    os._exit(code)
