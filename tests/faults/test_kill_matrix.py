"""Runs are killed, seeded, at every step that commits and in random moments; then run again.

They run without Ray, because there a kill costs a second; `test_kills_on_a_cluster.py` kills
actors, drivers and nodes. DIGITSUM_KILLS is the total number of kills.
"""

import os
import random
import time
from collections import Counter, defaultdict

import pytest
from factories import read_scores
from without_ray import SIGKILLED, check_completes, exit_code, left_behind, start_forked

KILLS = int(os.environ.get("DIGITSUM_KILLS", "16"))
# In the order in which a run passes them, and how often it does at least.
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


HARM = ("lost", "twice", "stray")
"""Files absent or different; images scored twice; files that an undisturbed run does not leave."""


class Nights:
    """Nights one after the other, each laid out again, and the harm that kills did to them."""

    def __init__(self, lay_out, undisturbed, tmp_path):
        self._lay_out, self._undisturbed, self._tmp_path = lay_out, undisturbed, tmp_path
        self._number = 0
        self.begin()
        self._before = left_behind(self.scores)
        self.by_kind = defaultdict(Counter)
        """Kills and the harm that they did, by kind of kill."""

    def begin(self):
        directory = self._tmp_path / str(self._number)
        self._number += 1
        self.command = self._lay_out(directory)
        self.scores, self.log = directory / "scores", directory / "log"

    def check_midway(self):
        """Check that a reader sees yesterday's part or tonight's under every name."""
        present = left_behind(self.scores)
        for path, content in present.items():
            if ".tmp-" not in path:
                assert content in (self._before.get(path), self._undisturbed.get(path)), path
        assert self._before.keys() & self._undisturbed.keys() <= present.keys()

    def finish(self, kind, num_kills):
        """Run to the end, and count the harm that the kills before did."""
        check_completes(self.command, self.log)
        present = left_behind(self.scores)
        ids = read_scores(self.scores)["image_id"].to_pylist()
        self.by_kind[kind].update(
            kills=num_kills,
            lost=sum(present.get(path) != old for path, old in self._undisturbed.items()),
            twice=len(ids) - len(set(ids)),
            stray=len(present.keys() - self._undisturbed.keys()),
        )

    def check_no_harm(self, capsys):
        with capsys.disabled():
            print(f"\n{'killed':40}" + "".join(f"{name:>8}" for name in ("kills", *HARM)))
            for kind, counts in self.by_kind.items():
                print(f"  {kind:38}" + "".join(f"{counts[name]:8}" for name in ("kills", *HARM)))
        for kind, counts in self.by_kind.items():
            assert not any(counts[name] for name in HARM), kind


@pytest.fixture
def killed_nights(nights, undisturbed, tmp_path):
    return Nights(nights, undisturbed, tmp_path)


def test_killed_at_each_step(killed_nights, capsys):
    rng = random.Random(1)
    for number in range(KILLS // 2):
        point = list(POINTS)[number % len(POINTS)]
        fault = f"{point}:{rng.randint(1, POINTS[point])}"
        killed_nights.begin()
        assert exit_code(killed_nights.command, killed_nights.log, fault) == SIGKILLED, fault
        killed_nights.check_midway()
        killed_nights.finish(f"at {point}", 1)
    killed_nights.check_no_harm(capsys)


def test_killed_in_random_moments(killed_nights, capsys):
    rng = random.Random(2)
    began = time.monotonic()
    check_completes(killed_nights.command, killed_nights.log)
    whole_s = time.monotonic() - began
    while sum(n["kills"] for n in killed_nights.by_kind.values()) < KILLS - KILLS // 2:
        killed_nights.begin()
        num_tries, num_kills = rng.randint(1, 3), 0
        for _ in range(num_tries):
            process = start_forked(killed_nights.command, killed_nights.log)
            process.join(rng.uniform(0, whole_s))
            process.kill()
            process.join()
            num_kills += process.exitcode == SIGKILLED
            killed_nights.check_midway()
        killed_nights.finish(f"in a random moment, {num_tries} times in a row", num_kills)
    killed_nights.check_no_harm(capsys)
