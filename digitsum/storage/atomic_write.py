"""Atomic writes: a file appears whole, under its final name, or not at all.

Locally the bytes go to a hidden `.tmp-` file beside the final name, are synced to the disk and
renamed; syncing the directory makes the rename last. On an object store a single put makes the
object visible once it is complete. A reader sees the old file or the new one, never a part of
either. A process killed before the rename leaves a `.tmp-` file, which readers ignore.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digitsum.fault_injection import fault_point
from digitsum.storage.location import Location, storage_error

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def published(target: Location) -> Iterator[Path]:
    """Yield a local path to write to; the file appears at `target` when the block ends.

    If the block raises, nothing appears and the temporary file is deleted.
    """
    directory = Path(target.path).parent if target.is_local else Path(tempfile.gettempdir())
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        yield temporary
        publish = _rename if target.is_local else _put
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def publish_bytes(data: bytes, target: Location) -> None:
    """Write a small file at `target` in one step, replacing the one there.

    Raises InputError or StorageError if the file system refuses.
    """
    try:
        with published(target) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise storage_error(f"{target.uri}: cannot be written", error) from error


def _rename(temporary: Path, target: Location) -> None:
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    fault_point("written")
    temporary.replace(target.path)
    fault_point("renamed")
    directory = os.open(temporary.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _put(temporary: Path, target: Location) -> None:
    """Upload the file by one write.

    Closing a stream completes the upload, even while an exception unwinds. After a single write of
    all bytes, no close can publish a part of them.
    """
    size = temporary.stat().st_size
    fault_point("written")
    with open(temporary, "rb") as source:
        stream = target.filesystem.open_output_stream(target.path)
        if size:
            with mmap.mmap(source.fileno(), size, access=mmap.ACCESS_READ) as content:
                stream.write(content)
    stream.close()
    fault_point("renamed")
