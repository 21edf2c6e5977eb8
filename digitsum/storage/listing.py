"""Listings of the Parquet files below a directory, and what becomes of links and devices there.

An archive comes from strangers, and a link in it may lead anywhere: to other people's images, in a
circle, or to a device that never ends. So none is followed out of the archive unless the user asks
for it. What is not followed is listed too, with the reason, and counts as rejected.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs as pafs

from digitsum.errors import InputError
from digitsum.storage.location import NAME_NOT_UTF8, Location, storage_error

PARQUET_SUFFIX = ".parquet"
_LEADS_OUT = "is a link that leads out of the archive; copy its target, or give --follow-links"
_NOT_A_FILE = "is not a file (a pipe, a device, or a broken link); remove it"
_NOT_UTF8 = "has a name that is not UTF-8; rename it"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A shard, or a part of the scores, as the file system lists it."""

    path: str
    """Path relative to the archive or the scores, with `/` between components."""
    size_bytes: int
    mtime_ns: int
    refused: str = ""
    """Reason why it must not be opened, such as that it is a link out of the archive."""


def is_hidden(path: str) -> bool:
    """Return whether a component of a relative path begins with `_` or `.`; readers skip those."""
    return any(component.startswith(("_", ".")) for component in path.split("/"))


def list_parquet(root: Location, below: str, *, follow_links: bool = False) -> list[ListedFile]:
    """Return the Parquet files below a directory of `root`, by path; [] if it is absent.

    Hidden files are skipped. So are local links to directories within `root`, whose targets are
    listed under their own names; links out of `root` are listed as refused, or with `follow_links`
    walked, each target once. Raises InputError or StorageError if a directory cannot be listed.
    """
    directory = root.join(below) if below else root
    prefix = root.path.rstrip("/") + "/"
    try:
        if root.is_local:
            walk = _Walk(root.path, follow_links)
            files = list(walk.files(below)) if os.path.lexists(directory.path) else []
        else:
            selector = pafs.FileSelector(directory.path, recursive=True, allow_not_found=True)
            files = [
                ListedFile(entry.path.removeprefix(prefix), entry.size, entry.mtime_ns)
                for entry in root.filesystem.get_file_info(selector)
                if entry.type == pafs.FileType.File
                and entry.path.endswith(PARQUET_SUFFIX)
                and not is_hidden(entry.path.removeprefix(prefix))
            ]
    except OSError as error:
        raise storage_error(f"{directory.uri}: cannot be listed", error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{directory.uri}: {NAME_NOT_UTF8}") from error
    return sorted(files, key=lambda file: file.path)


def list_file(root: Location, path: str) -> ListedFile | None:
    """Return one file below a root as a listing would, or None if it is absent."""
    info = root.join(path).info()
    is_file = info.type == pafs.FileType.File
    return ListedFile(path, info.size, info.mtime_ns) if is_file else None


@dataclass
class _Walk:
    """A walk through a local directory."""

    root: str
    follow_links: bool
    visited: set[str] = field(default_factory=set)
    """Real paths of the linked directories that were walked."""

    def __post_init__(self) -> None:
        self.real_root = os.path.realpath(self.root)

    def files(self, below: str) -> Iterator[ListedFile]:
        pending = [below]
        while pending:
            directory = pending.pop()
            with os.scandir(f"{self.root}/{directory}") as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if is_hidden(entry.name):
                        continue
                    listed = self._linked(path) if entry.is_symlink() else None
                    if listed is not None:
                        yield from listed
                    elif entry.is_symlink() or entry.is_dir():
                        pending.append(path)
                    elif entry.name.endswith(PARQUET_SUFFIX):
                        yield _listed(path, entry.stat(follow_symlinks=False))

    def _linked(self, path: str) -> list[ListedFile] | None:
        """Return what a link is listed as; None if it is a directory to walk."""
        real = os.path.realpath(f"{self.root}/{path}")
        is_within = f"{real}/".startswith(f"{self.real_root.rstrip('/')}/")
        try:
            status = Path(real).stat()
        except OSError:
            status = None
        if status is None or not stat.S_ISDIR(status.st_mode):
            refused = "" if is_within or self.follow_links else _LEADS_OUT
            return [_listed(path, status, refused)] if path.endswith(PARQUET_SUFFIX) else []
        relative = os.path.relpath(real, self.real_root)
        if is_within and (relative == "." or not is_hidden(relative)):
            return []
        if not self.follow_links:
            return [_listed(path, status, _LEADS_OUT)]
        if real in self.visited or f"{self.real_root}/".startswith(f"{real}/"):
            return []
        self.visited.add(real)
        return None


def _listed(path: str, status: os.stat_result | None, refused: str = "") -> ListedFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        path = path.encode(errors="surrogateescape").decode(errors="replace")
        refused = _NOT_UTF8
    if status is None:
        return ListedFile(path, 0, 0, _NOT_A_FILE)
    if not refused and not stat.S_ISREG(status.st_mode):
        refused = _NOT_A_FILE
    return ListedFile(path, status.st_size, status.st_mtime_ns, refused)
