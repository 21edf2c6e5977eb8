"""What a Ray that digitsum starts on this machine leaves on its disk: a session's logs, 2 MB each.

Ray removes none of it, and a machine that scores every night would gather them. So the last few are
kept, to be read where something went wrong, and older ones removed. Only those are that digitsum
started, and whose driver has ended: it holds a lock in its session, which the kernel releases
however it ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

LOCK_FILE = "digitsum.lock"
SESSIONS_KEPT = 10
"""As many as the runs that `digitsum status` lists."""


@contextmanager
def held_session(session: Path) -> Iterator[None]:
    """Mark a session as digitsum's, and as that of a driver that lives, within the block."""
    lock = FileLock(session / LOCK_FILE, timeout=0)
    with suppress(OSError):  # without it the session stays for ever, and does no other harm
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_ended_sessions(directory: Path, kept: int = SESSIONS_KEPT) -> None:
    """Remove the sessions below a directory that digitsum started and that have ended.

    The last `kept` of digitsum's stay, and all that cannot be removed.
    """
    found = {lock.parent for lock in directory.glob(f"session_*/{LOCK_FILE}")}
    sessions = sorted(session for session in found if not session.is_symlink())
    for session in sessions[: max(0, len(sessions) - kept)]:
        with suppress(OSError), FileLock(session / LOCK_FILE, timeout=0):
            shutil.rmtree(session)
