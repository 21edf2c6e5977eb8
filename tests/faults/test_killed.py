"""Processes of a run on a Ray of its own are killed in the middle; nothing may be lost or twice."""

import pyarrow.parquet as pq

from digitsum.archive.synth import SynthConfig, synth
from digitsum.fault_injection import VARIABLE
from digitsum.model.saved_model import load_model
from digitsum.training.metrics import history_from_json

WAIT_S = 200


def test_scoring_killed_with_all_its_processes_is_finished_by_the_next_run(
    nights, undisturbed, left, start, wait_for, kill_everything, tmp_path
):
    scores, log = tmp_path / "scores", tmp_path / "log"
    command = nights(tmp_path) + " --executor ray --backend torch"
    before = left(scores)
    process = start(command, log)
    wait_for(lambda: len(left(scores).items() - before.items()) >= 2, process, log)
    kill_everything(process)
    assert left(scores) != undisturbed

    assert start(command, log).wait(WAIT_S) == 0, log.read_text()
    assert left(scores) == undisturbed


def test_a_chunk_that_no_actor_survives_costs_itself(nights, start, tmp_path):
    scores, log = tmp_path / "fresh", tmp_path / "log"
    command = nights(tmp_path).replace(f"{tmp_path}/scores", str(scores))
    command = command.replace(
        "--chunk-images 80", "--executor ray --backend torch --chunk-images 1000"
    )
    doomed = {VARIABLE: "scoring shard-00004.parquet:1"}
    assert start(command, log, **doomed).wait(WAIT_S) == 3, log.read_text()
    [run] = (scores / "_runs").glob("score-*")
    [whole] = [q for q in pq.read_table(run / "rejected").to_pylist() if q["row"] is None]
    assert (whole["shard"], whole["stage"]) == ("shard-00004.parquet", "actor")
    scored = {part.parent.name for part in scores.glob("model=*/*/rows-*")}
    assert scored == {f"shard-0000{n}" for n in (0, 1, 3, 5)}

    assert start(command, log).wait(WAIT_S) == 0, log.read_text()
    assert len(list(scores.glob("model=*/*/rows-*"))) == 5


def test_a_second_run_is_told_who_holds_the_scores(
    nights, undisturbed, left, start, wait_for, tmp_path
):
    scores, log, second = tmp_path / "scores", tmp_path / "log", tmp_path / "second"
    command = nights(tmp_path) + " --executor ray --backend torch"
    process = start(command, log)
    holder = scores / "_runs/.held-by.json"
    wait_for(holder.exists, process, log)
    assert start(command, second).wait(WAIT_S) == 4, second.read_text()
    [said] = [line for line in second.read_text().splitlines() if line.startswith("digitsum: ")]
    assert f"process {process.pid} on " in said
    assert process.wait(WAIT_S) == 0, log.read_text()
    assert left(scores) == undisturbed


def test_training_goes_on_from_its_checkpoint_when_a_worker_is_killed(
    start, wait_for, workers_below, tmp_path
):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    synth(SynthConfig(out=f"{tmp_path}/archive", images=8000, shards=2, digits=2, width=96))
    process = start(
        f"train --archive {tmp_path}/archive --digits 2 --out {tmp_path}/model --name hurt "
        "--epochs 3 --workers 2",
        log,
    )
    wait_for(lambda: any(run.glob("checkpoint_*/history.json")), process, log)
    workers_below(process, "ray::RayTrainWorker")[0].kill()
    assert len(list(run.glob("checkpoint_*"))) == 1, "the second epoch had ended already"
    assert process.wait(WAIT_S) == 0, log.read_text()

    assert log.read_text().count("Started training worker group") == 2
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert len({epoch.train_loss for epoch in history}) == 3


def test_training_killed_with_all_its_processes_is_finished_by_the_same_command(
    start, wait_for, kill_everything, tmp_path
):
    log, run = tmp_path / "log", tmp_path / "_runs/hurt"
    # Ray Train resumes from the checkpoints that are listed here, not from all that lie there.
    listed = run / "checkpoint_manager_snapshot.json"
    synth(SynthConfig(out=f"{tmp_path}/archive", images=2000, shards=2, digits=2, width=96))
    command = (
        f"train --archive {tmp_path}/archive --digits 2 --out {tmp_path}/model --name hurt "
        "--epochs 4 --network counter --teachers packaged"
    )
    process = start(command, log)
    wait_for(lambda: listed.exists() and "checkpoint_2" in listed.read_text(), process, log)
    kill_everything(process)
    assert not (tmp_path / "model").exists()
    begun = history_from_json(min(run.glob("checkpoint_*/history.json")).read_text())

    assert start(command, log).wait(WAIT_S) == 0, log.read_text()
    history = history_from_json((run / "curves.json").read_text())
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
    assert history[: len(begun)] == begun

    undisturbed = command.replace("/model", "/other").replace("hurt", "undisturbed")
    assert start(undisturbed, log).wait(WAIT_S) == 0, log.read_text()
    resumed, whole = (load_model(f"{tmp_path}/{name}") for name in ("model", "other"))
    assert resumed.digest == whole.digest
