"""The lock of a scores directory: one run at a time writes to it.

On a local or mounted file system the kernel releases the lock when the process ends, however it
ends. pyarrow's object stores have no locks. Two runs at once are harmless there and only waste
work: names and contents of parts follow from their chunks, each appears in one step, and each run
reads its parts back before it calls itself complete.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from digitsum.errors import InputError, ScoresHeldError, one_line
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import Location
from digitsum.storage.retries import retried

LOCK_FILE = ".lock"
HOLDER_FILE = ".held-by.json"
ARCHIVE_FILE = "ARCHIVE"


@contextmanager
def lock_scores(scores: Location, run_name: str) -> Iterator[None]:
    """Hold the scores within the block; raises ScoresHeldError if another run does.

    A new directory into which the block writes nothing, as in a run that is refused, is removed.
    """
    if not scores.is_local:
        yield
        return
    runs = scores.join(RUNS_DIRECTORY)
    holder = runs.join(HOLDER_FILE)
    directory = Path(scores.path)
    created = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        Path(runs.path).mkdir(parents=True, exist_ok=True)
        lock = FileLock(runs.join(LOCK_FILE).path)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ScoresHeldError(
            f"{scores.uri}: is held by {_describe(holder)}; wait for it, or end it first."
        ) from error
    except OSError as error:
        raise InputError(f"{scores.uri}: cannot be written: {one_line(error)}") from error
    try:
        who = {"run": run_name, "process": os.getpid(), "host": socket.gethostname()}
        publish_bytes(json.dumps(who).encode() + b"\n", holder)
        yield
    finally:
        with suppress(OSError):  # it only names who holds the lock
            Path(holder.path).unlink(missing_ok=True)
        if created:
            _remove_unused(created)
        lock.release()


def _remove_unused(created: Sequence[Path]) -> None:
    """Remove a scores directory, and those above it, if it holds nothing except the lock."""
    scores = created[0]
    runs = scores / RUNS_DIRECTORY
    lock = runs / LOCK_FILE
    with suppress(OSError):
        if [*scores.iterdir()] == [runs] and [*runs.iterdir()] == [lock]:
            lock.unlink()
            for directory in (runs, *created):
                directory.rmdir()


def check_same_archive(scores: Location, archive: Location) -> None:
    """Raise InputError if scores are not of the archive that the first run recorded."""
    place = scores.join(f"{RUNS_DIRECTORY}/{ARCHIVE_FILE}")
    if not place.is_file():
        retried(lambda: publish_bytes(f"{archive.uri}\n".encode(), place))
        return
    scored = place.read_bytes().decode(errors="replace").strip()
    if scored != archive.uri:
        raise InputError(
            f"{scores.uri}: holds scores of {scored}, not of {archive.uri}; give other --scores, "
            f"or, if that archive was moved, write its new place into {place.uri}."
        )


def _describe(holder: Location) -> str:
    try:
        who = json.loads(holder.read_bytes())
        return f"run {who['run']}, process {who['process']} on {who['host']}"
    except (InputError, ValueError, KeyError, TypeError):
        return "another run, which has just begun or ended"
