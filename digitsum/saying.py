"""What commands say to a person: lines whose ids, reasons and names are text to the terminal."""

from __future__ import annotations

import sys
from typing import Any

from digitsum.archive.writing import WrittenArchive
from digitsum.printable import printable


def say(*lines: str) -> None:
    """Print lines; ids, reasons and names in them come from data, and are text to the terminal."""
    print(*map(printable, lines), sep="\n", end="\n" if lines else "", flush=True)


def warn(line: str) -> None:
    """Write a line to stderr, as `say` does to stdout."""
    sys.stderr.write(f"{printable(line)}\n")


def say_written(written: WrittenArchive) -> None:
    """Say what an archive that was written holds, and warn where its ink seems to be dark."""
    say(
        f"{written.uri}: {written.num_images:,} images of {written.shape} pixels in "
        f"{written.num_shards} shards"
    )
    if written.is_inverted:
        warn(
            f"{written.uri}: most images are bright, as paper with dark ink is; models read bright "
            "ink on dark: look at them with `digitsum inspect`, and import again with --invert"
        )


def plan_lines(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each decision, and one for each of its reasons."""
    lines = []
    for decision, counts in summary.items():
        lines.append(f"{decision:10}" + _counts(counts))
        lines += [f"{'':10}{_counts(of)}  {why}" for why, of in counts["reasons"].items()]
    return lines


def _counts(counts: dict[str, Any]) -> str:
    numbers = {what: number for what, number in counts.items() if what != "reasons"}
    return "".join(f"{number:12,} {what}" for what, number in numbers.items())
