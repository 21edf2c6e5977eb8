"""Measures that a soak takes of processes and directories."""

import contextlib
from pathlib import Path

import psutil

MEGABYTE = 1e6
SHARED_MEMORY = Path("/dev/shm")
_BLOCK_BYTES = 512
_PARTS = "rows-*.parquet"


def measure_process(process: psutil.Process, *, tree: bool) -> dict[str, float]:
    """Measure a process at rest, and with `tree` all below it.

    Memory is what each process alone has (USS): shared memory, such as torch's code, counts or not
    as other programs of the machine start and end. Ray counts its shared objects itself.
    """
    measured: dict[str, float] = {
        "driver MB": _own_bytes(process) / MEGABYTE,
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }
    if tree:
        family = [process, *process.children(recursive=True)]
        measured["tree MB"] = sum(map(_own_bytes, family)) / MEGABYTE
        measured["processes"] = len(family)
    return measured


def _own_bytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss)
    except psutil.Error:
        return 0.0


def disk_mb(directory: Path) -> float:
    """Return the disk space that a directory and all below it take."""
    total = 0
    for path in [directory, *directory.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * _BLOCK_BYTES
    return total / MEGABYTE


def measure_scores(scores: Path) -> dict[str, float]:
    """Measure what runs left in `_runs`, and count what is neither that nor a part.

    Such `strays` are files other than CURRENT, half-written files anywhere, and directories below
    a model that hold no part.
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


def shared_memory() -> set[str]:
    """Return the names of the files in /dev/shm."""
    return {path.name for path in SHARED_MEMORY.glob("*")}


def left_in_shared_memory_mb(before: set[str]) -> float:
    """Return the size of the files that are new since `before` and that no process maps."""
    total = 0
    for name in (shared_memory() - before) - _mapped():
        with contextlib.suppress(FileNotFoundError):
            total += (SHARED_MEMORY / name).lstat().st_size
    return total / MEGABYTE


def _mapped() -> set[str]:
    names = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            maps = process.memory_maps()
            names |= {Path(m.path).name for m in maps if m.path.startswith(str(SHARED_MEMORY))}
    return names
