"""Processes of a soak: commands, processes that live long, and what kills them."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from commands import below
from rounds import Kill

WAIT_S = 900  # on a machine that has other work to do, too
POLL_S = 0.05
ACTOR = "ray::MapWorker"
# From the plan to the end; a kill after that comes too late, and is counted so.
LASTS_S = {"threads": 1.5, "ray": 10.0}


def start(arguments: list[str], log: Path, ray_tmp: Path, **pipes: int) -> psutil.Popen:
    """Start Python with these arguments, its Ray's files in a directory of its own."""
    environment = os.environ | {"RAY_TMPDIR": str(ray_tmp), "PYTHONUNBUFFERED": "1"}
    with log.open("a") as output:
        streams = {"stdout": output} | pipes
        return psutil.Popen([sys.executable, *arguments], stderr=output, env=environment, **streams)


def end(process: psutil.Popen) -> list[psutil.Process]:
    """Kill a process and all below it; return those that did not end."""
    family = [process, *below(process)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    return psutil.wait_procs(family, timeout=WAIT_S)[1]


class Living:
    """A process that runs commands in itself: see `living.py`."""

    def __init__(self, executor: str, log: Path, ray_tmp: Path) -> None:
        self._log = log
        arguments = [str(Path(__file__).parent / "living.py"), executor]
        pipe = subprocess.PIPE
        self.process = start(arguments, log, ray_tmp, stdin=pipe, stdout=pipe)

    def ask(self, command: list[str], meanwhile: Callable[[], object] = bool) -> dict[str, Any]:
        """Run a command in it; return its answer."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + WAIT_S
        while not select.select([self.process.stdout], [], [], POLL_S)[0]:
            meanwhile()
            assert time.monotonic() < deadline, f"it hangs: see {self._log}\n{tail(self._log)}"
        line = self.process.stdout.readline()
        assert line, f"it died: see {self._log}\n{tail(self._log)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def at_rest(self) -> None:
        """Wait until its actors have ended, which Ray does after the driver goes on."""
        deadline = time.monotonic() + WAIT_S
        while below(self.process, ACTOR):
            assert time.monotonic() < deadline, "its actors do not end"
            time.sleep(POLL_S)

    def end(self) -> None:
        self.process.stdin.close()
        with contextlib.suppress(psutil.TimeoutExpired):
            self.process.wait(60)
        end(self.process)
        self.process.stdout.close()


class ActorKiller:
    """A killer of one actor of a driver, `delay_s` after the first actor was seen."""

    def __init__(self, driver: psutil.Process, delay_s: float) -> None:
        self._driver, self._delay_s = driver, delay_s
        self._seen_at: float | None = None
        self.num_killed = 0

    def __call__(self) -> None:
        actors = [] if self.num_killed else below(self._driver, ACTOR)
        if not actors:
            return
        self._seen_at = self._seen_at or time.monotonic()
        if time.monotonic() - self._seen_at >= self._delay_s:
            with contextlib.suppress(psutil.NoSuchProcess):
                actors[0].kill()
                self.num_killed = 1


def run_command(
    command: list[str], log: Path, ray_tmp: Path, runs: Path, kill: Kill | None, delay: float
) -> tuple[int, int, int]:
    """Run `digitsum` as a process of its own, and again if it was killed.

    Return its exit code, how many processes were killed, and how many outlived a killed driver.
    """
    executor = command[command.index("--executor") + 1]
    arguments = ["-m", "digitsum", *command]
    plans = set(runs.glob("*/plan.json"))
    process = start(arguments, log, ray_tmp)
    try:
        if kill is Kill.DRIVER:
            while process.poll() is None and set(runs.glob("*/plan.json")) == plans:
                time.sleep(POLL_S)
            time.sleep(delay * LASTS_S[executor])
            family = below(process)
            process.kill()
            if process.wait(WAIT_S) >= 0:  # it had ended before
                return process.returncode, 0, 0
            orphans = len(psutil.wait_procs(family, timeout=60)[1])
            code, _, _ = run_command(command, log, ray_tmp, runs, None, delay)
            return code, 1, orphans
        killer = ActorKiller(process, 2 * delay)
        deadline = time.monotonic() + WAIT_S
        while process.poll() is None:
            if kill is Kill.ACTOR:
                killer()
            assert time.monotonic() < deadline, f"it hangs: see {log}\n{tail(log)}"
            time.sleep(POLL_S)
        return process.returncode, killer.num_killed, 0
    finally:
        end(process)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
