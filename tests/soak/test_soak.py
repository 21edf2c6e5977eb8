"""An archive that grows is scored round after round, with kills; what that takes must stay flat.

`make soak` does it for an hour, on Ray and by threads; DIGITSUM_SOAK_S is how long, and at least
one block of rounds is run, in which everything happens once. Without it, as in `make test`, a few
rounds are run by threads alone: nothing may be lost or left over, but too few to judge a slope.

Two processes live as long as the soak, one on Ray and one by threads, and score again and again, in
turns with commands that start and end. After each round `digitsum verify`, and a count of its own,
check that every row of the archive is scored once.
"""

import os
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from commands import printed_json, short_directory
from flatness import Verdict, judge
from growing_archive import GrowingArchive
from measures import (
    disk_mb,
    left_in_shared_memory_mb,
    measure_process,
    measure_scores,
    shared_memory,
)
from rounds import BLOCK_ROUNDS, Kill, Round, Way, rounds
from soak_processes import ActorKiller, Living, run_command, tail

from digitsum.ray_runtime import SESSIONS_KEPT

SOAK_S = float(os.environ.get("DIGITSUM_SOAK_S", "0"))
IS_SHORT = SOAK_S == 0
SHORT_ROUNDS = 8
SEED = int(os.environ.get("DIGITSUM_SOAK_SEED", "7"))

# By process, then by figure: how much a round may add.
PER_ROUND = {
    Way.LIVING_THREADS.value: {
        # 180 MB in a process that scores every night of a year; what is kept by mistake, a batch
        # of images, a figure or a compiled network, is more.
        "driver MB": 0.5,
        # In a year 73 of the 1,024 that a process may have; one that is not closed is 1 a round.
        "files": 0.2,
        "threads": 0.2,
    },
    Way.LIVING_RAY.value: {
        "driver MB": 0.5,
        # Twice what Ray Data alone takes a run: Ray's stats actor, agent and GCS remember each data
        # set, and grew by 2 to 3 MB a run without anything of digitsum's. An actor has 100 MB.
        "tree MB": 5.0,
        "files": 0.2,
        "threads": 0.2,
        "processes": 0.2,
        "Ray's files MB": 0.2,  # Ray logs each run and each worker while it lives
        "objects MB": 0.1,  # no image passes through it; plans are kilobytes
        "CPUs held": 0.05,  # an actor that was lost must not keep its CPU
    },
    "all": {"left in /dev/shm MB": 0.1},  # other programs of the machine may leave some
}
MOST = {"strays": 0, "sessions": SESSIONS_KEPT}
"""Limits that hold after any round."""


@pytest.fixture
def out():
    with short_directory("soak-") as directory:  # Ray puts sockets below it
        yield directory


@pytest.fixture
def living(out):
    processes = {Way.LIVING_THREADS: Living("threads", out / "log", out / "t")}
    if not IS_SHORT:
        processes[Way.LIVING_RAY] = Living("ray", out / "log", out / "r")
    yield processes
    for process in processes.values():
        process.end()


@pytest.mark.timeout(SOAK_S + 1800)
def test_soak(out, living, capsys):
    soak = Soak(out, living)
    began = time.monotonic()
    with capsys.disabled():
        print()
        for this in rounds(SEED):
            if is_enough(this.number, time.monotonic() - began, soak):
                break
            print(soak.run(without_ray(this) if IS_SHORT else this), flush=True)
        verdicts = [*soak.verdicts(), *soak.excesses()]
        print("\n".join([*verdicts, *soak.summary()]), flush=True)
    assert soak.num_killed[Kill.DRIVER]
    if IS_SHORT:
        verdicts = soak.excesses()
    else:
        assert soak.num_killed[Kill.ACTOR]
    assert not [verdict for verdict in verdicts if Verdict.GROWS.value in verdict]


def is_enough(num_rounds: int, elapsed_s: float, soak: "Soak") -> bool:
    if IS_SHORT:
        return num_rounds >= SHORT_ROUNDS and soak.num_killed[Kill.DRIVER] > 0
    return num_rounds >= BLOCK_ROUNDS and elapsed_s > SOAK_S


def without_ray(this: Round) -> Round:
    """Return the round done by threads, whose actors cannot be killed."""
    way = {Way.LIVING_RAY: Way.LIVING_THREADS, Way.COMMAND_RAY: Way.COMMAND_THREADS}
    kill = None if this.kill is Kill.ACTOR else this.kill
    return replace(this, way=way.get(this.way, this.way), kill=kill)


class Soak:
    """The state of a soak."""

    def __init__(self, out: Path, living: dict[Way, Living]) -> None:
        self._out, self._living = out, living
        self._archive = GrowingArchive(out)
        self._scores = out / "scores"
        self._shared_memory = shared_memory()
        self._commands_tmp = out / "c"
        self._commands_tmp.mkdir()
        self._series: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.num_killed = dict.fromkeys(Kill, 0)
        self._num_too_late = self._num_rows = 0

    def run(self, this: Round) -> str:
        """Run a round; check what it did, and return it as a line of the table."""
        for change in this.changes:
            self._archive.change(change)
        began = time.monotonic()
        num_killed, orphans = self._score(this)
        seconds = time.monotonic() - began
        assert orphans == 0, f"round {this.number}: {orphans} processes outlived a killed driver"
        self._check_rows(this)
        if this.kill:
            self.num_killed[this.kill] += num_killed
            self._num_too_late += not num_killed
        killed = this.kill.value if this.kill and num_killed else "too late" if this.kill else ""
        num_shards = len(list(self._archive.path.glob("*.parquet")))
        figures = " ".join(f"{name} {value:.1f}" for name, value in self._measure(this).items())
        return (
            f"{this.number:4} {this.way.value:17} {killed:8} {seconds:5.1f} s {num_shards} shards "
            f"({len(self._archive.damaged)} damaged) | {figures}"
        )

    def _score(self, this: Round) -> tuple[int, int]:
        """Score; return how many processes were killed, and how many outlived a driver."""
        executor = "ray" if this.way in (Way.LIVING_RAY, Way.COMMAND_RAY) else "threads"
        # Importing what an actor needs takes most of a round, and of the machine's cores.
        num_actors = 1 if this.way is Way.LIVING_RAY else 2
        command = f"score --archive {self._archive.path} --scores {self._scores} --json "
        command += f"--executor {executor} --max-actors {num_actors} --max-rejected 60%"
        log = self._out / "log"
        if this.way in self._living:
            living = self._living[this.way]
            killer = ActorKiller(living.process, 2 * this.delay)
            code = living.ask(command.split(), killer if this.kill else bool)["code"]
            num_killed, orphans = killer.num_killed, 0
        else:
            runs = self._scores / "_runs"
            code, num_killed, orphans = run_command(
                command.split(), log, self._commands_tmp, runs, this.kill, this.delay
            )
        assert code == 0, f"round {this.number} ended with {code}:\n{tail(log)}"
        return num_killed, orphans

    def _check_rows(self, this: Round) -> None:
        command = f"verify --archive {self._archive.path} --scores {self._scores}"
        command += " --sample 200 --json"
        answer = self._living[Way.LIVING_THREADS].ask(command.split())
        verified = printed_json(answer["output"])
        damaged = self._archive.damaged
        faults = [f for f in verified["faults"] if not any(stem in f for stem in damaged)]
        faults += self._archive.faults_of(self._scores)
        assert not faults, f"round {this.number}: {faults}\n{tail(self._out / 'log')}"
        assert verified["images"] > 0
        assert verified["recomputed"] > 0
        self._num_rows = verified["images"]

    def _measure(self, this: Round) -> dict[str, float]:
        measured = measure_scores(self._scores)
        measured["left in /dev/shm MB"] = left_in_shared_memory_mb(self._shared_memory)
        measured["sessions"] = len(list(self._commands_tmp.glob("ray/session_2*")))
        if this.way in self._living:
            living = self._living[this.way]
            living.at_rest()
            on_ray = this.way is Way.LIVING_RAY
            measured |= measure_process(living.process, tree=on_ray)
            if on_ray:
                usage = living.ask(["status", str(self._scores)])
                measured["Ray's files MB"] = disk_mb(self._out / "r")
                measured["objects MB"] = usage["object_store_bytes"] / 1e6
                measured["CPUs held"] = usage["cpus_held"]
        for whose in (this.way.value, "all"):
            for name, value in measured.items():
                self._series[whose, name].append(value)
        return measured

    def verdicts(self) -> list[str]:
        """Return a line for each figure that is judged."""
        lines = []
        for whose, figures in PER_ROUND.items():
            for name, tolerance in figures.items():
                judged = judge(self._series[whose, name], tolerance)
                lines.append(
                    f"{whose:18}{name:20} may add {tolerance:g} a round, adds {judged.slope:.3f} "
                    f"({judged.low:.3f} to {judged.high:.3f}), from {judged.first:.2f} to "
                    f"{judged.last:.2f} in {judged.num_rounds} rounds: {judged.verdict.value}"
                )
        return lines

    def excesses(self) -> list[str]:
        """Return a line for each figure that may not exceed a number."""
        lines = []
        for name, most in MOST.items():
            largest = max(self._series["all", name])
            verdict = Verdict.GROWS if largest > most else Verdict.FLAT
            lines.append(f"{'all':18}{name:20} at most {most}, was {largest:g}: {verdict.value}")
        return lines

    def summary(self) -> list[str]:
        """Return what is not judged, but should be known."""
        runs_mb, runs = (self._series["all", name] for name in ("_runs MB", "runs"))
        killed = ", ".join(f"{number} of {kill.value}s" for kill, number in self.num_killed.items())
        return [
            f"kills: {killed}; {self._num_too_late} too late",
            f"rows at the end: {self._num_rows:,}; after every round none lost, none twice",
            f"_runs: {runs[-1]:.0f} runs, {1000 * runs_mb[-1] / runs[-1]:.0f} kB each, by design",
            f"Ray's files of the commands: {disk_mb(self._commands_tmp):.1f} MB",
        ]
