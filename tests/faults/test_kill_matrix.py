"""Runs are killed, seeded, at every step that commits and in random moments; then run again.

Without Ray, for a kill there costs a second; `test_kills_on_a_cluster.py` has the kills of actors,
drivers and nodes of a real one. DIGITSUM_KILLS says how many kills there are in all.
"""

import os
import random
import time
from collections import defaultdict
from dataclasses import astuple, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq
from without_ray import exit_code, started

KILLS = int(os.environ.get("DIGITSUM_KILLS", "24"))
SIGKILLED = -9
# In the order in which a run comes to them, and how often it does at least.
POINTS = {
    "written": 14,
    "renamed": 14,
    "rejects_written": 9,
    "committed": 9,
    "scored": 1,
    "removed": 3,
    "pointed": 1,
    "completed": 1,
}


def check_midway(found, before, after):
    """Check that a reader sees, under every name, yesterday's part or tonight's, and no other."""
    for path, content in found.items():
        if ".tmp-" not in path:
            assert content in (before.get(path), after.get(path)), path
    assert before.keys() & after.keys() <= found.keys()


def image_ids(scores):
    parts = sorted(path for path in scores.glob("model=*/**/*.parquet"))
    tables = [pq.read_table(part, partitioning=None) for part in parts]
    return pa.concat_tables(tables)["image_id"].to_pylist()


@dataclass(frozen=True)
class Harm:
    """What kills did, after the run that followed them."""

    kills: int = 0
    lost: int = 0
    """Files that an undisturbed run leaves, and that are absent or other."""
    twice: int = 0
    """Images that were scored more than once."""
    stray: int = 0
    """Files that an undisturbed run does not leave."""

    def __add__(self, other):
        return Harm(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    @staticmethod
    def of(found, undisturbed, scores, kills=1):
        ids = image_ids(scores)
        return Harm(
            kills,
            sum(found.get(path) != content for path, content in undisturbed.items()),
            len(ids) - len(set(ids)),
            len(found.keys() - undisturbed.keys()),
        )


def test_steps(nights, undisturbed, left, tmp_path, capsys):
    rng = random.Random(1)
    killed = defaultdict(Harm)
    before = left(tmp_path_of(nights, tmp_path / "before"))
    for number in range(KILLS // 2):
        point = list(POINTS)[number % len(POINTS)]
        directory = tmp_path / str(number)
        command = nights(directory)
        fault = f"{point}:{rng.randint(1, POINTS[point])}"
        assert exit_code(command, directory / "log", fault) == SIGKILLED, fault
        check_midway(left(directory / "scores"), before, undisturbed)
        assert exit_code(command, directory / "log") == 0, (directory / "log").read_text()
        killed[point] += Harm.of(left(directory / "scores"), undisturbed, directory / "scores")
    with capsys.disabled():
        print_table("killed at", killed)
    assert_no_harm(killed, KILLS // 2)


def test_moments(nights, undisturbed, left, tmp_path, capsys):
    rng = random.Random(2)
    killed = defaultdict(Harm)
    before = left(tmp_path_of(nights, tmp_path / "before"))
    started_at = time.monotonic()
    whole = nights(tmp_path / "whole")
    assert exit_code(whole, tmp_path / "log") == 0
    lasted_s = time.monotonic() - started_at
    number = -1
    while sum(harm.kills for harm in killed.values()) < KILLS - KILLS // 2:
        number += 1
        directory = tmp_path / str(number)
        command = nights(directory)
        num_kills, num_killed = rng.randint(1, 3), 0
        for _ in range(num_kills):
            process = started(command, directory / "log")
            process.join(rng.uniform(0, lasted_s))
            process.kill()
            process.join()
            num_killed += process.exitcode == SIGKILLED
            check_midway(left(directory / "scores"), before, undisturbed)
        assert exit_code(command, directory / "log") == 0, (directory / "log").read_text()
        harm = Harm.of(left(directory / "scores"), undisturbed, directory / "scores", num_killed)
        killed[f"{num_kills} times in a row"] += harm
    with capsys.disabled():
        print_table("killed in a random moment", killed)
    assert_no_harm(killed, KILLS - KILLS // 2)


def tmp_path_of(nights, directory):
    nights(directory)
    return directory / "scores"


def print_table(title, killed):
    print(f"\n{title:40}" + "".join(f"{field.name:>8}" for field in fields(Harm)))
    for what, harm in killed.items():
        print(f"  {what:38}" + "".join(f"{number:8}" for number in astuple(harm)))


def assert_no_harm(killed, least_kills):
    assert sum(harm.kills for harm in killed.values()) >= least_kills
    for what, harm in killed.items():
        assert harm == Harm(kills=harm.kills), what
