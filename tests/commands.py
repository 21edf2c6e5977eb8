"""digitsum's commands as processes of their own, and what such processes need."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SERVER_START_S = 240
COMMAND_S = 600
"""Seconds after which a command counts as hanging; on a loaded machine it takes a minute."""


def run_digitsum(command: str, environment: Mapping[str, str], code: int = 0) -> str:
    """Run a command to its end, check its exit code, and return stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "digitsum", *command.split()],
        env=dict(environment),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_S,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def printed_json(output: str) -> dict[str, Any]:
    """Return the one JSON object among the lines that a command printed."""
    [line] = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(line)


def below(process: psutil.Process, title: str = "") -> list[psutil.Process]:
    """Return the processes below one whose title begins with this."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if (child.cmdline() or [""])[0].startswith(title):
                    found.append(child)
    return found


def wait_until_up(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers; fail with its log if it ends or takes too long."""
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answers, if only to ask for a token
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the server did not come up:\n{log.read_text()}")


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def short_directory(prefix: str) -> Iterator[Path]:
    """Give a directory whose path is short enough for Ray's sockets: 107 characters at most."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
