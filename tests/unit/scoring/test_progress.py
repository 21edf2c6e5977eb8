import io
import sys
from itertools import pairwise

import pytest
from factories import make_chunk

from digitsum.console import duration
from digitsum.scoring import progress
from digitsum.scoring.progress import MAX_INTERVAL_S, Progress
from digitsum.scoring.results import ChunkResult


def result_of(num_rows: int, num_rejected: int = 0, worker: str = "") -> ChunkResult:
    chunk = make_chunk(num_rows=num_rows).id
    return ChunkResult(chunk, num_rejected, forward_s=10.0, worker=worker)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_log_lines_ever_rarer(clock, capsys):
    with Progress(1_000_000, 10_000) as shown:
        for _ in range(10_000):
            clock[0] += 1
            shown.advance(result_of(100, 1))
    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 60
    assert lines[0] == (
        "1,000 of 1,000,000 images, 100 images/s, 10 rejected, 10 of 10,000 chunks, about "
        "2 h 46 min left"
    )
    done = [int(line.split()[0].replace(",", "")) for line in lines]
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= 100 * (MAX_INTERVAL_S + 1)


def test_progress_short_run_silent(clock, capsys):
    with Progress(100, 2) as shown:
        shown.advance(result_of(50))  # in no time
        clock[0] += 1
        shown.advance(result_of(50))
    assert capsys.readouterr().err == ""


def test_progress_live_line(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(1000, 4) as shown:
        clock[0] += 2
        shown.advance(result_of(250, 3))
        shown._bar.refresh()
    written = terminal.getvalue()
    assert "25% of 1,000 images, 125/s, 3 rejected, 6 s left" in written
    assert written.rstrip("\n").endswith("\x1b[2K")  # the line is cleared


def test_progress_busy_actors(clock, capsys):
    with Progress(1_000_000, 100_000) as shown:
        for actor in range(3):
            clock[0] += 4
            shown.advance(result_of(10, worker=f"actor {actor}"))
        assert "busy" not in capsys.readouterr().err  # 12 s: others may not be done yet
        for actor in (0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1):  # the third is lost
            clock[0] += 5
            shown.advance(result_of(10, worker=f"actor {actor}"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "busy" in line]
    assert ", 3 actors busy, about " in lines[0]
    assert ", 2 actors busy, about " in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
