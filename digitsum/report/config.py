"""What can be chosen of a report."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import Positional

from digitsum.archive.schema import ReadOptions


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make the report of a run, of training or scoring, again: report.html, one file."""

    run: Positional[str]
    """The run: a directory or URI, below the _runs/ of scores or beside a bundle."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Say what a place holds: an archive, scores, a bundle or a run."""

    path: Positional[str]
    """Directory, file or URI."""
    json: bool = False
    """Say it as one JSON object."""
    sheet: str | None = None
    """Where to write a contact sheet, PNG: some of its images with their sums. Terminals that show
    pictures (iTerm2, WezTerm, kitty) show it anyway."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How to read an archive."""
