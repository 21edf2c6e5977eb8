"""Parquet files below a local directory, and what is to be made of links and of what is no file.

An archive comes from elsewhere, and a link in it may lead anywhere: to another's images, in a
circle, or to a device that never ends. So links to directories are not followed unless that is
asked for, and nothing is followed that leads out of the archive. What is not followed is listed
too, with the reason, so that it is counted as rejected and not lost in silence.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LEADS_OUT = "is a link that leads out of the archive; copy its target, or give --follow-links"
NO_FILE = "is no file (a pipe, a device, or a link to nothing); remove it"
NO_TEXT = "has a name that is no UTF-8; rename it"

Found = tuple[str, int, int, str]
"""Path relative to the root, bytes, modification time in ns, and why it cannot be read, or ""."""


def is_hidden(path: str) -> bool:
    """Whether a relative path has a component that readers pass over: `_...` or `.`..."""
    return any(component.startswith(("_", ".")) for component in path.split("/"))


def walk_files(root: str, below: str, suffix: str, *, follow_links: bool) -> Iterator[Found]:
    """Yield the files below a directory of `root` whose names end so, and links to directories.

    Hidden ones are passed over, and so are links to directories of `root` itself, which are listed
    under their own names. With `follow_links` other linked directories are walked, each once.
    Raises OSError where a directory cannot be listed.
    """
    walk = _Walk(root, os.path.realpath(root), suffix, follow_links)
    try:
        yield from walk.files(below)
    except FileNotFoundError:
        if os.path.lexists(f"{root}/{below}"):
            raise


@dataclass
class _Walk:
    root: str
    real_root: str
    suffix: str
    follow_links: bool
    walked: set[str] = field(default_factory=set)
    """Real paths of the linked directories that were walked."""

    def files(self, below: str) -> Iterator[Found]:
        pending = [below]
        while pending:
            directory = pending.pop()
            with os.scandir(f"{self.root}/{directory}") as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if is_hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        found = self._linked(path)
                        if found is None:
                            pending.append(path)
                        else:
                            yield from found
                    elif entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    elif entry.name.endswith(self.suffix):
                        yield _found(path, entry.stat(follow_symlinks=False))

    def _linked(self, path: str) -> list[Found] | None:
        """Return what a link is listed as, if at all; None where it is a directory to walk."""
        real = os.path.realpath(f"{self.root}/{path}")
        within = f"{real}/".startswith(f"{self.real_root.rstrip('/')}/")
        try:
            status = Path(real).stat()
        except OSError:
            status = None
        if status is None or not stat.S_ISDIR(status.st_mode):
            may_read = within or self.follow_links
            found = _found(path, status, "" if may_read else LEADS_OUT)
            return [found] if path.endswith(self.suffix) else []
        relative = os.path.relpath(real, self.real_root)
        if within and (relative == "." or not is_hidden(relative)):
            return []
        if not self.follow_links:
            return [_found(path, status, LEADS_OUT)]
        if real in self.walked or f"{self.real_root}/".startswith(f"{real}/"):
            return []
        self.walked.add(real)
        return None


def _found(path: str, status: os.stat_result | None, refused: str = "") -> Found:
    try:
        path.encode()
    except UnicodeEncodeError:
        path = path.encode(errors="surrogateescape").decode(errors="replace")
        refused = NO_TEXT
    if status is None:
        return path, 0, 0, NO_FILE
    if not refused and not stat.S_ISREG(status.st_mode):
        refused = NO_FILE
    return path, status.st_size, status.st_mtime_ns, refused
