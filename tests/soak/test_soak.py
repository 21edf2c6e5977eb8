"""An archive that grows is scored round after round, with kills; what that takes must stay flat.

`make soak` is an hour of it; DIGITSUM_SOAK_S says how long. By default two minutes, for all tests
take half an hour as it is; whatever is given, one block of rounds is run to its end, in which
everything happens once. The table and the verdicts are printed.

Two processes live as long as the soak, one on Ray and one by threads, and score again and again;
commands that start and end take turns with them on the same scores. After each round every row of
the archive must be scored once: `digitsum verify` says so, and so does a count of its own.
"""

import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pytest
from flatness import Figure, Verdict, judge
from growing_archive import GrowingArchive
from processes import ActorKiller, Living, run_command, tail
from rounds import BLOCK_ROUNDS, Kill, Round, Way, rounds
from watching import SharedMemory, disk_mb, of_process, of_scores

from digitsum.ray_runtime import SESSIONS_KEPT

SOAK_S = float(os.environ.get("DIGITSUM_SOAK_S", "120"))
SEED = int(os.environ.get("DIGITSUM_SOAK_SEED", "7"))
LIVING_RAY, LIVING_THREADS = Way.LIVING_RAY.value, Way.LIVING_THREADS.value

_MEMORY = "in a process that scores every night of a year, 180 MB; what is held on to by mistake, \
a batch of images, a figure or a compiled network, is more"
_HANDLES = "in a year 73 of the 1,024 that a process may have; one that is not closed is 1 a round"
FIGURES = {
    LIVING_RAY: [
        Figure("driver MB", "MB", 0.5, _MEMORY),
        # The rest of the tree is Ray's: its stats actor, agent and GCS remember each data set, and
        # grew by 2 to 3 MB a run of Ray Data without anything of digitsum's. An actor has 100 MB.
        Figure("tree MB", "MB", 5.0, "twice what Ray Data alone takes a run"),
        Figure("files", "files", 0.2, _HANDLES),
        Figure("threads", "threads", 0.2, _HANDLES),
        Figure("processes", "processes", 0.2, "an actor that is not ended is 1 a round"),
        Figure("Ray's files MB", "MB", 0.2, "Ray logs each run and each worker while it lives"),
        Figure("objects MB", "MB", 0.1, "no image passes through it; plans are kilobytes"),
        Figure("CPUs held", "CPUs", 0.05, "an actor that was lost must not keep its CPU"),
    ],
    LIVING_THREADS: [
        Figure("driver MB", "MB", 0.5, _MEMORY),
        Figure("files", "files", 0.2, _HANDLES),
        Figure("threads", "threads", 0.2, _HANDLES),
    ],
    "all": [
        Figure("left in /dev/shm MB", "MB", 0.1, "other programs of the machine may leave some"),
    ],
}
MOST = {"strays": 0, "sessions": SESSIONS_KEPT}
"""What may never be more, after any round."""


@pytest.fixture
def out():
    # Its path must be short, for Ray puts sockets below it.
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def living(out):
    processes = {
        Way.LIVING_RAY: Living("ray", out / "log", out / "r"),
        Way.LIVING_THREADS: Living("threads", out / "log", out / "t"),
    }
    yield processes
    for process in processes.values():
        process.end()


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 1800)
def test_scoring_night_after_night_takes_no_more_and_loses_nothing(out, living, capsys):
    soak = Soak(out, living)
    began = time.monotonic()
    with capsys.disabled():
        print(f"\n{Soak.HEADER}")
        for this in rounds(SEED):
            if time.monotonic() - began > SOAK_S and this.number >= BLOCK_ROUNDS:
                break
            print(soak.run(this), flush=True)
        verdicts = soak.verdicts()
        print("\n".join([*verdicts, *soak.summary()]), flush=True)
    assert soak.num_killed[Kill.DRIVER]
    assert soak.num_killed[Kill.ACTOR]
    assert not [verdict for verdict in verdicts if Verdict.GROWS.value in verdict]


class Soak:
    """The state of a soak."""

    HEADER = (
        "round what              kill       s shards damaged | driver MB tree MB  fds threads procs"
        " Ray MB obj MB CPUs | strays  shm MB _runs MB runs sessions"
    )

    def __init__(self, out: Path, living: dict[Way, Living]) -> None:
        self._out, self._living = out, living
        self._archive = GrowingArchive(out)
        self._scores = out / "scores"
        self._shared_memory = SharedMemory()
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
        found = self._measure(this)
        killed = this.kill.value if this.kill and num_killed else "too late" if this.kill else ""
        num_shards = len(list(self._archive.path.glob("*.parquet")))
        cells = [
            f"{this.number:5} {this.way.value:17} {killed:8} {seconds:5.1f} {num_shards:6}",
            f"{len(self._archive.damaged):7} |",
            *(
                f"{found[name]:{width}.{digits}f}" if name in found else " " * width
                for name, width, digits in _COLUMNS
            ),
        ]
        return " ".join(cells)

    def _score(self, this: Round) -> tuple[int, int]:
        """Score; return how many processes were killed, and how many outlived a driver."""
        engine = "ray" if this.way in (Way.LIVING_RAY, Way.COMMAND_RAY) else "threads"
        # Importing what an actor needs takes most of a round, and of the machine's cores.
        num_actors = 1 if this.way is Way.LIVING_RAY else 2
        command = f"score --archive {self._archive.path} --scores {self._scores} --json "
        command += f"--executor {engine} --max-actors {num_actors} --max-rejected 60%"
        log = self._out / "log"
        if this.way in self._living:
            living = self._living[this.way]
            killer = ActorKiller(living.process, 2 * this.delay)
            hurt = killer if this.kill else bool
            code = living.ask(command.split(), hurt)["code"]
            num_killed, orphans = killer.num_killed, 0
        else:
            code, num_killed, orphans = run_command(
                command.split(),
                log,
                self._commands_tmp,
                self._scores / "_runs",
                this.kill,
                this.delay,
            )
        assert code == 0, f"round {this.number} ended with {code}:\n{tail(log)}"
        return num_killed, orphans

    def _check_rows(self, this: Round) -> None:
        command = f"verify --archive {self._archive.path} --scores {self._scores}"
        command += " --sample 200 --json"
        answer = self._living[Way.LIVING_THREADS].ask(command.split())
        [line] = [line for line in answer["said"].splitlines() if line.startswith("{")]
        found = json.loads(line)
        damaged = self._archive.damaged
        faults = [f for f in found["faults"] if not any(stem in f for stem in damaged)]
        faults += self._archive.faults_of(self._scores)
        assert not faults, f"round {this.number}: {faults}\n{tail(self._out / 'log')}"
        assert found["images"] > 0
        assert found["recomputed"] > 0
        self._num_rows = found["images"]

    def _measure(self, this: Round) -> dict[str, float]:
        found = of_scores(self._scores)
        found["left in /dev/shm MB"] = self._shared_memory.left_mb()
        found["sessions"] = len(list(self._commands_tmp.glob("ray/session_2*")))
        if this.way in self._living:
            living = self._living[this.way]
            living.at_rest()
            on_ray = this.way is Way.LIVING_RAY
            found |= of_process(living.process, tree=on_ray)
            if on_ray:
                held = living.ask(["status", str(self._scores)])
                found["Ray's files MB"] = disk_mb(self._out / "r")
                found["objects MB"] = held["object_store_bytes"] / 1e6
                found["CPUs held"] = held["cpus_held"]
        for whose in (this.way.value, "all"):
            for name, value in found.items():
                self._series[whose, name].append(value)
        return found

    def verdicts(self) -> list[str]:
        """Return a line for each figure that is judged."""
        lines = [
            f"\n{'':18}{'a round may add':>38}{'rounds':>8}{'from':>9}{'to':>9}{'slope':>9}"
            "  99% interval"
        ]
        for whose, figures in FIGURES.items():
            for figure in figures:
                judged = judge(self._series[whose, figure.name], figure.tolerance)
                lines.append(
                    f"{whose:18}{figure.name:20}{figure.tolerance:8g} {figure.unit:9}"
                    f"{judged.num_rounds:8}{judged.first:9.2f}{judged.last:9.2f}"
                    f"{judged.slope:9.3f}  {judged.low:.3f} to {judged.high:.3f}: "
                    f"{judged.verdict.value}"
                )
        for name, most in MOST.items():
            found = max(self._series["all", name])
            verdict = Verdict.GROWS if found > most else Verdict.FLAT
            lines.append(
                f"{'all':18}{name:20}{most:8g} at most{found:42.0f} found: {verdict.value}"
            )
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


_COLUMNS = (
    ("driver MB", 9, 1),
    ("tree MB", 7, 0),
    ("files", 4, 0),
    ("threads", 7, 0),
    ("processes", 5, 0),
    ("Ray's files MB", 6, 2),
    ("objects MB", 6, 2),
    ("CPUs held", 4, 1),
    ("strays", 8, 0),
    ("left in /dev/shm MB", 7, 1),
    ("_runs MB", 8, 2),
    ("runs", 4, 0),
    ("sessions", 8, 0),
)
