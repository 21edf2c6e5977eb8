"""Processes are killed with SIGKILL in the middle of a run; nothing may be lost or done twice."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from digitsum.archive.synth import SynthConfig, synth
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.bundle import load_bundle, save_bundle
from digitsum.training.history import history_from_json

pytestmark = [pytest.mark.faults, pytest.mark.slow]
WAIT_S = 150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    """Give a bundle with fresh weights: which sums it predicts does not matter here."""
    uri = str(tmp_path_factory.mktemp("bundle") / "bundle")
    network = BaselineNetwork(BaselineConfig(width=96, num_digits=2))
    save_bundle(uri, "baseline", network, metrics={}, card="", pixel_scale=PIXEL_SCALE)
    return uri


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    """Give an archive of 12 shards, and so of 12 chunks."""
    out = str(tmp_path_factory.mktemp("archive") / "archive")
    synth(SynthConfig(out=out, images=6000, shards=12, digits=2, width=96))
    return out


def start(command: str, log: Path) -> psutil.Popen:
    line = [sys.executable, "-m", "digitsum", *command.split()]
    with log.open("a") as output:
        return psutil.Popen(line, stdout=output, stderr=output)


def wait_for(happened: Callable[[], bool], process: psutil.Popen, log: Path) -> None:
    ended = time.monotonic() + WAIT_S
    while not happened():
        assert process.poll() is None, f"the run ended before it could be hurt:\n{log.read_text()}"
        assert time.monotonic() < ended, f"nothing happened:\n{log.read_text()}"
        time.sleep(0.01)


def title_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.NoSuchProcess:
        return ""


def kill_one(process: psutil.Popen, title: str) -> None:
    """Kill one of the Ray workers below `process` whose title begins so."""
    family = process.children(recursive=True)
    workers = [member for member in family if title_of(member).startswith(title)]
    assert workers, f"no process {title}"
    workers[0].kill()


def kill_everything(process: psutil.Popen) -> None:
    """Kill a driver and every process below it at once, as the loss of power would."""
    family = [process, *process.children(recursive=True)]
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(member)
    psutil.wait_procs(family, timeout=WAIT_S)


def parts(scores: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(scores)): path.read_bytes()
        for path in scores.glob("model=*/**/rows-*")
    }


@pytest.fixture(scope="module")
def undisturbed(archive, bundle, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    command = f"score --archive {archive} --scores {out}/scores --bundle {bundle}"
    assert start(command, out / "log").wait(WAIT_S) == 0
    found = parts(out / "scores")
    assert len(found) == 12
    return found


def test_scoring_killed_with_all_its_processes_is_finished_by_the_next_run(
    archive, bundle, undisturbed, tmp_path
):
    scores, log = tmp_path / "scores", tmp_path / "log"
    command = f"score --archive {archive} --scores {scores} --bundle {bundle}"
    process = start(command, log)
    wait_for(lambda: len(parts(scores)) >= 3, process, log)
    kill_everything(process)
    committed = parts(scores)
    assert 3 <= len(committed) < 12
    assert committed.items() <= undisturbed.items()
    assert not (scores / "CURRENT").exists()

    assert start(command, log).wait(WAIT_S) == 0, log.read_text()
    assert parts(scores) == undisturbed


def test_scoring_goes_on_when_an_actor_is_killed(archive, bundle, undisturbed, tmp_path):
    scores, log = tmp_path / "scores", tmp_path / "log"
    process = start(f"score --archive {archive} --scores {scores} --bundle {bundle}", log)
    wait_for(lambda: len(parts(scores)) >= 2, process, log)
    kill_one(process, "ray::MapWorker")
    assert process.wait(WAIT_S) == 0, log.read_text()
    assert parts(scores) == undisturbed


def test_training_goes_on_from_its_checkpoint_when_a_worker_is_killed(tmp_path):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    synth(SynthConfig(out=f"{tmp_path}/archive", images=8000, shards=2, digits=2, width=96))
    process = start(
        f"train --archive {tmp_path}/archive --digits 2 --bundle {tmp_path}/bundle --name hurt "
        "--epochs 3 --workers 2",
        log,
    )
    wait_for(lambda: any(run.glob("checkpoint_*/history.json")), process, log)
    kill_one(process, "ray::RayTrainWorker")
    assert len(list(run.glob("checkpoint_*"))) == 1, "the second epoch had ended already"
    assert process.wait(WAIT_S) == 0, log.read_text()

    assert log.read_text().count("Started training worker group") == 2
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert len({epoch.train_loss for epoch in history}) == 3


def test_training_killed_with_all_its_processes_is_finished_by_the_same_command(tmp_path):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    # Ray Train resumes from the checkpoints that are listed here, not from all that lie there.
    listed = run / "checkpoint_manager_snapshot.json"
    synth(SynthConfig(out=f"{tmp_path}/archive", images=2000, shards=2, digits=2, width=96))
    command = (
        f"train --archive {tmp_path}/archive --digits 2 --bundle {tmp_path}/bundle --name hurt "
        "--epochs 4 --model counter"
    )
    process = start(command, log)
    wait_for(lambda: listed.exists() and "checkpoint_2" in listed.read_text(), process, log)
    kill_everything(process)
    assert not (tmp_path / "bundle").exists()
    begun = history_from_json(min(run.glob("checkpoint_*/history.json")).read_text())

    assert start(command, log).wait(WAIT_S) == 0, log.read_text()
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert history[: len(begun)] == begun
    assert load_bundle(f"{tmp_path}/bundle").network_name == "counter"
