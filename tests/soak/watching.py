"""What a soak measures of processes and directories."""

import contextlib
from pathlib import Path

import psutil

MEGABYTE = 1e6
SHARED_MEMORY = Path("/dev/shm")
_BLOCK_BYTES = 512
_PARTS = "rows-*.parquet"


def of_process(process: psutil.Process, *, tree: bool) -> dict[str, float]:
    """Measure a process at rest, and with `tree` all below it.

    Memory is what each has for itself alone (USS): what it shares, such as torch's code, is more or
    less its own as other programs of the machine start and end. Shared objects are Ray's to count.
    """
    found: dict[str, float] = {
        "driver MB": _own_bytes(process) / MEGABYTE,
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }
    if tree:
        family = [process, *process.children(recursive=True)]
        found["tree MB"] = sum(map(_own_bytes, family)) / MEGABYTE
        found["processes"] = len(family)
    return found


def _own_bytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss)
    except psutil.Error:
        return 0.0


def disk_mb(directory: Path) -> float:
    """Return the disk that a directory takes, its own and that of those below included."""
    total = 0
    for path in [directory, *directory.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * _BLOCK_BYTES
    return total / MEGABYTE


def of_scores(scores: Path) -> dict[str, float]:
    """Measure a scores directory: what runs left in `_runs`, and what is neither that nor a part.

    Parts grow with the archive. `strays` are all else: files but CURRENT, those that are half
    written anywhere, and directories below a model that hold no part.
    """
    runs = scores / "_runs"
    strays = list(scores.rglob(".tmp-*"))
    for model in scores.glob("model=*"):
        for path in model.iterdir():
            strays += [] if path.is_dir() and any(path.glob(_PARTS)) else [path]
            strays += [p for p in path.glob("*") if not p.match(_PARTS) and p not in strays]
    known = {"_runs", "CURRENT"}
    strays += [
        path
        for path in scores.iterdir()
        if path.name not in known and not path.match("model=*") and path not in strays
    ]
    return {
        "strays": len(strays),
        "_runs MB": disk_mb(runs),
        "runs": len(list(runs.glob("score-*"))),
    }


class SharedMemory:
    """Files in /dev/shm that are new since the start, and that no process has mapped any more."""

    def __init__(self) -> None:
        self._before = self._names()

    def left_mb(self) -> float:
        new = self._names() - self._before
        if not new:
            return 0.0
        left = new - self._mapped()
        total = 0
        for name in left:
            with contextlib.suppress(FileNotFoundError):
                total += (SHARED_MEMORY / name).lstat().st_size
        return total / MEGABYTE

    @staticmethod
    def _names() -> set[str]:
        if not SHARED_MEMORY.is_dir():
            return set()
        return {path.name for path in SHARED_MEMORY.iterdir()}

    @staticmethod
    def _mapped() -> set[str]:
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                maps = process.memory_maps()
                found |= {Path(m.path).name for m in maps if m.path.startswith(str(SHARED_MEMORY))}
        return found
