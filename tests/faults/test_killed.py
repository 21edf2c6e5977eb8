"""Processes of a run on a Ray of its own are killed in the middle; nothing may be lost or twice.

DIGITSUM_CHUNK_RETRIES is how often a chunk that kills its actor is tried again.
"""

import os

import pyarrow.parquet as pq
from commands import below
from on_ray import check_ends, kill_everything, start, wait_for
from without_ray import left_behind

from digitsum.archive.synth import SynthConfig, synth
from digitsum.fault_injection import VARIABLE
from digitsum.model.saved_model import load_model
from digitsum.training.metrics import history_from_json

CHUNK_RETRIES = int(os.environ.get("DIGITSUM_CHUNK_RETRIES", "1"))
ON_RAY = "--executor ray --backend torch"


def test_scoring_all_killed(nights, undisturbed, tmp_path):
    scores, log = tmp_path / "scores", tmp_path / "log"
    command = f"{nights(tmp_path)} {ON_RAY}"
    before = left_behind(scores)
    process = start(command, log)
    wait_for(lambda: len(left_behind(scores).items() - before.items()) >= 2, process, log)
    kill_everything(process)
    assert left_behind(scores) != undisturbed

    check_ends(start(command, log), log)
    assert left_behind(scores) == undisturbed


def test_chunk_that_kills_actors(nights, tmp_path):
    scores, log = tmp_path / "fresh", tmp_path / "log"
    command = nights(tmp_path).replace(f"{tmp_path}/scores", str(scores))
    command = command.replace("--chunk-images 80", f"{ON_RAY} --chunk-images 1000")
    retries = "from digitsum.scoring.executors import ray_data; "
    retries += f"ray_data.MAX_CHUNK_RETRIES = {CHUNK_RETRIES}"
    doomed = {VARIABLE: "scoring shard-00004.parquet:1"}
    check_ends(start(command, log, retries, **doomed), log, code=3)
    [run] = (scores / "_runs").glob("score-*")
    [whole] = [row for row in pq.read_table(run / "rejected").to_pylist() if row["row"] is None]
    assert (whole["shard"], whole["stage"]) == ("shard-00004.parquet", "worker")
    scored = {part.parent.name for part in scores.glob("model=*/*/rows-*")}
    assert scored == {f"shard-0000{n}" for n in (0, 1, 3, 5)}

    check_ends(start(command, log), log)
    assert len(list(scores.glob("model=*/*/rows-*"))) == 5


def test_scores_held_by_another_run(nights, undisturbed, tmp_path):
    scores, log, second = tmp_path / "scores", tmp_path / "log", tmp_path / "second"
    command = f"{nights(tmp_path)} {ON_RAY}"
    process = start(command, log)
    wait_for((scores / "_runs/.held-by.json").exists, process, log)
    check_ends(start(command, second), second, code=4)
    [error] = [line for line in second.read_text().splitlines() if line.startswith("digitsum: ")]
    assert f"process {process.pid} on " in error
    check_ends(process, log)
    assert left_behind(scores) == undisturbed


def prepare_training(tmp_path, num_images, options):
    """Write an archive; return the command that trains on it in `_runs/hurt`."""
    archive = f"{tmp_path}/archive"
    synth(SynthConfig(out=archive, images=num_images, shards=2, digits=2, width=96))
    return f"train --archive {archive} --digits 2 --out {tmp_path}/model --name hurt {options}"


def test_training_worker_killed(tmp_path):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    command = prepare_training(tmp_path, 8000, "--epochs 3 --workers 2")
    process = start(command, log)
    wait_for(lambda: any(run.glob("checkpoint_*/history.json")), process, log)
    below(process, "ray::RayTrainWorker")[0].kill()
    assert len(list(run.glob("checkpoint_*"))) == 1, "the second epoch had ended already"
    check_ends(process, log)

    assert log.read_text().count("Started training worker group") == 2
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert len({epoch.train_loss for epoch in history}) == 3


def test_training_all_killed(tmp_path):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    # Ray Train resumes from the checkpoints that are listed here, whatever else is there.
    listed = run / "checkpoint_manager_snapshot.json"
    options = "--epochs 4 --network counter --teachers packaged"
    command = prepare_training(tmp_path, 2000, options)
    process = start(command, log)
    wait_for(lambda: listed.exists() and "checkpoint_2" in listed.read_text(), process, log)
    kill_everything(process)
    assert not (tmp_path / "model").exists()
    begun = history_from_json(min(run.glob("checkpoint_*/history.json")).read_text())

    check_ends(start(command, log), log)
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert history[: len(begun)] == begun

    undisturbed = command.replace("/model", "/other").replace("hurt", "undisturbed")
    check_ends(start(undisturbed, log), log)
    resumed, whole = (load_model(f"{tmp_path}/{name}") for name in ("model", "other"))
    assert resumed.digest == whole.digest
