import io
import sys
from itertools import pairwise

import pytest

from digitsum.console import duration
from digitsum.scoring import progress
from digitsum.scoring.progress import MOST_S_BETWEEN, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then_and_ever_more_rarely(clock, capsys):
    with Progress(1_000_000, 10_000) as shown:
        for _ in range(10_000):
            clock[0] += 1
            shown.advance(100, 1)
    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 60
    assert lines[0] == (
        "1,000 of 1,000,000 images, 100 images/s, 10 rejected, 10 of 10,000 chunks, about "
        "2 h 46 min left"
    )
    done = [int(line.split()[0].replace(",", "")) for line in lines]
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= 100 * (MOST_S_BETWEEN + 1)


def test_a_short_run_says_nothing_to_a_log(clock, capsys):
    with Progress(100, 1) as shown:
        clock[0] += 1
        shown.advance(100)
    assert capsys.readouterr().err == ""


def test_a_person_sees_one_live_line_that_goes_away(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(1000, 4) as shown:
        clock[0] += 2
        shown.advance(250, 3)
        shown._bar.refresh()
    written = terminal.getvalue()
    assert "25% of 1,000 images, 125/s, 3 rejected, 6 s left" in written
    assert written.rstrip("\n").endswith("\x1b[2K")  # the line is cleared


def test_an_instant_chunk_divides_by_no_zero(clock, capsys):
    with Progress(100, 2) as shown:
        shown.advance(50)
        shown.advance(0)


def test_the_actors_at_work_are_counted_once_that_can_be_told(clock, capsys):
    with Progress(1_000_000, 100_000) as shown:
        for actor in range(3):
            clock[0] += 4
            shown.advance(10, 0, f"actor {actor}", 10.0)
        assert "busy" not in capsys.readouterr().err  # 12 s: others may not be done yet
        for actor in (0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1):  # the third is lost
            clock[0] += 5
            shown.advance(10, 0, f"actor {actor}", 10.0)
    said = [line for line in capsys.readouterr().err.splitlines() if "busy" in line]
    assert ", 3 actors busy, about " in said[0]
    assert ", 2 actors busy, about " in said[-1]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")],
)
def test_times_are_said_as_a_person_reads_them(seconds, said):
    assert duration(seconds) == said
