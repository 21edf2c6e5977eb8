import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from factories import read_files, write_images

from digitsum.archive import shards as shards_module
from digitsum.cli import main
from digitsum.errors import InputError, ScoresHeldError, TooManyRejectedError
from digitsum.model.saved_model import load_model
from digitsum.scoring import commit, score_run
from digitsum.scoring.config import ComputeOptions, ScoreConfig
from digitsum.scoring.lock import lock_scores
from digitsum.scoring.rejects import read_rejects
from digitsum.scoring.results import ScoreOutcome
from digitsum.scoring.sample import read_sample
from digitsum.scoring.score import LOST, ScoreResult, score
from digitsum.scoring.status import last_runs, score_outcome
from digitsum.scoring.worker import ChunkScorer
from digitsum.storage.location import locate


@pytest.fixture
def config(tmp_path, model_uri) -> ScoreConfig:
    """Give a run by threads of two shards, of 5 and 3 images, in chunks of 2."""
    for name, num_images in (("a", 5), ("b", 3)):
        write_images(tmp_path / "archive" / f"{name}.parquet", num_images)
    return ScoreConfig(
        archive=str(tmp_path / "archive"),
        scores=str(tmp_path / "scores"),
        model=model_uri,
        chunk_images=2,
        max_rejected="0",
        compute=ComputeOptions(executor="threads", backend="torch"),
    )


@pytest.fixture
def parts(tmp_path):
    """List the parts below the scores, by shard and rows."""

    def parts() -> list[str]:
        root = tmp_path / "scores"
        return sorted(f"{path.parent.name}/{path.name}" for path in root.glob("model=*/**/rows-*"))

    return parts


def fail_chunks(monkeypatch, error: Exception, *which: tuple[str, int], times: int = 99) -> Counter:
    """Let the worker fail at these chunks, by shard and first row; count its calls by chunk."""
    call, calls = ChunkScorer.__call__, Counter()

    def failing(self, chunk):
        place = (chunk.shard, chunk.first_row)
        calls[place] += 1
        if place in which and calls[place] <= times:
            raise error
        return call(self, chunk)

    monkeypatch.setattr(ChunkScorer, "__call__", failing)
    return calls


def current(config: ScoreConfig) -> str | None:
    path = Path(config.scores) / "CURRENT"
    return path.read_text().strip() if path.exists() else None


def read_outcome(result: ScoreResult) -> ScoreOutcome:
    """Return the outcome that the run's manifest records."""
    outcome = score_outcome(result.run)
    assert outcome == result.outcome
    return outcome


def test_score_all_then_only_new(config, parts, tmp_path):
    plans = []
    outcome = read_outcome(score(config, plans.append))
    assert (outcome.images, outcome.totals.scored, outcome.complete) == (8, 8, True)
    assert [(c.chunk.shard, c.chunk.num_rows) for c in outcome.chunks] == [
        *[("a.parquet", n) for n in (2, 2, 1)],
        *[("b.parquet", n) for n in (2, 1)],
    ]
    assert len(parts()) == 5
    assert current(config) == f"model={load_model(config.model).digest[:16]}"
    (tmp_path / "archive" / "a.parquet").unlink()
    write_images(tmp_path / "archive" / "c.parquet", 1)
    again = read_outcome(score(config, plans.append))
    assert (again.images, again.totals.images, again.plan.gone.parts) == (1, 4, 3)
    assert [len(plan.to_score) for plan in plans] == [5, 1]
    assert [path.partition("/")[0] for path in parts()] == ["b", "b", "c"]
    assert read_outcome(score(config)).images == 0


def test_score_records_plan_and_sample(config):
    result = score(config)
    run = Path(result.run.path)
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "plan.json", "sample"]
    assert json.loads((run / "plan.json").read_text())["new"]["images"] == 8
    sample = read_sample(result.run)
    assert sorted((image.shard, image.row) for image in sample) == [
        *[("a.parquet", row) for row in range(5)],
        *[("b.parquet", row) for row in range(3)],
    ]


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """Count the calls that list or plan something, and with what."""
    calls: Counter = Counter()

    def count(module, name: str, what=lambda *given: "") -> None:
        function = getattr(module, name)

        def counted(*given, **known):
            calls[f"{name} {what(*given)}".strip()] += 1
            return function(*given, **known)

        monkeypatch.setattr(module, name, counted)

    count(score_run, "list_shards")
    count(shards_module, "list_parquet", lambda root, below: "archive")
    count(commit, "list_parquet", lambda scores, below: "scores")
    count(score_run, "plan_scores")
    return calls


def test_score_lists_and_plans_once(config, calls):
    once = {"list_shards": 1, "list_parquet archive": 1, "list_parquet scores": 1, "plan_scores": 1}
    for _ in range(2):
        calls.clear()
        score(config)
        assert calls == once


def test_score_lost_chunk(config, parts, monkeypatch):
    calls = fail_chunks(monkeypatch, MemoryError("by chance"), ("a.parquet", 2))
    result = score(config)
    outcome = read_outcome(result)
    assert (outcome.rejected, outcome.complete, current(config)) == (2, False, None)
    [lost] = [chunk for chunk in outcome.chunks if chunk.reason]
    assert (lost.chunk.first_row, lost.reason, lost.num_rejected) == (2, LOST, 2)
    [reject] = read_rejects(result.run)[0]
    assert (reject["shard"], reject["stage"], reject["reason"]) == ("a.parquet", "worker", LOST)
    with pytest.raises(TooManyRejectedError, match=f"2 of 8 images .*{LOST}"):
        result.check_rejected()
    assert set(calls.values()) == {1}  # no second pass: its actor may still hold a core
    assert len(parts()) == 4
    monkeypatch.undo()
    again = read_outcome(score(config))
    assert (again.images, again.complete, len(parts())) == (2, True, 5)


@pytest.mark.parametrize(("max_rejected", "exit_code"), [("0", 3), ("100%", 0)])
def test_score_damaged_shard_keeps_the_rest(config, parts, tmp_path, max_rejected, exit_code):
    score(config)
    before = parts()
    path = tmp_path / "archive" / "a.parquet"
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56  # the pages of the first row group
    path.write_bytes(data)
    result = score(replace(config, max_rejected=max_rejected))
    outcome = read_outcome(result)
    [failed] = [chunk for chunk in outcome.chunks if chunk.reason]
    assert (failed.chunk.first_row, outcome.images, outcome.totals.rejected) == (0, 5, 2)
    # The part of the old bytes goes: it must not be found among those of the new ones.
    assert parts() == before[1:]
    assert outcome.complete == (exit_code == 0)
    if exit_code:
        with pytest.raises(TooManyRejectedError) as refusal:
            result.check_rejected()
        assert refusal.value.exit_code == exit_code


def test_score_chunk_recovers_in_second_pass(config, monkeypatch):
    reads = Counter()

    def refuse_once(root, chunk):
        reads[chunk.id] += 1
        if chunk.shard == "b.parquet" and reads[chunk.id] == 1:
            raise InputError("b.parquet: was replaced; run again.")

    monkeypatch.setattr("digitsum.scoring.worker.check_unchanged", refuse_once)
    result = score(config)
    assert read_outcome(result).totals.scored == 8
    assert sorted(reads.values()) == [1, 1, 1, 2, 2]
    assert read_rejects(result.run)[0] == []


def test_score_part_of_a_lost_worker_stays(config, parts, monkeypatch, tmp_path):
    score(config)
    write_images(tmp_path / "archive" / "a.parquet", 5, 4)
    call = ChunkScorer.__call__

    def lost_after_commit(self, chunk):
        call(self, chunk)
        raise MemoryError("after the part was committed")

    monkeypatch.setattr(ChunkScorer, "__call__", lost_after_commit)
    assert read_outcome(score(config)).totals.rejected == 5
    assert len(parts()) == 5
    monkeypatch.undo()
    assert read_outcome(score(config)).images == 0  # all parts are of the new bytes


def test_score_retry_fails_and_keeps_part(config, parts, monkeypatch, tmp_path):
    write_images(tmp_path / "archive" / "a.parquet", 5, 4)
    allowed = replace(config, max_rejected="1")
    assert read_outcome(score(allowed)).totals.rejected == 1
    before = parts()
    fail_chunks(monkeypatch, MemoryError(), ("a.parquet", 4))
    outcome = read_outcome(score(replace(allowed, retry_rejected=True)))
    assert (outcome.images, outcome.totals.rejected, parts()) == (1, 1, before)


def test_score_cannot_write(config, monkeypatch, tmp_path, capsys):
    fail_chunks(monkeypatch, InputError("s: cannot be written; make room."), ("b.parquet", 0))
    arguments = f"score --archive {config.archive} --scores {config.scores} --model {config.model}"
    assert main([*arguments.split(), "--executor", "threads", "--chunk-images", "2"]) == 2
    assert "s: cannot be written; make room." in capsys.readouterr().err
    assert current(config) is None
    assert [run.outcome for run in last_runs(locate(config.scores))] == [None]
    monkeypatch.undo()
    assert read_outcome(score(config)).totals.scored == 8


def test_score_part_vanishes_during_the_run(config, monkeypatch):
    call = ChunkScorer.__call__

    def elsewhere(self, chunk):
        result = call(self, chunk)
        for path in Path(config.scores).glob("model=*/b/rows-*"):
            path.unlink(missing_ok=True)
        return result

    monkeypatch.setattr(ChunkScorer, "__call__", elsewhere)
    with pytest.raises(InputError, match=r"of 5 parts are not there.*place that all nodes"):
        score(config)
    assert current(config) is None


def test_score_held_or_refused(config, tmp_path):
    with lock_scores(locate(config.scores), "score-other"), pytest.raises(ScoresHeldError):
        score(config)
    with pytest.raises(InputError, match="no such file or directory"):
        score(replace(config, archive=str(tmp_path / "absent")))
    assert not Path(config.scores).exists()
    score(config)
    before = read_files(tmp_path / "scores")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.parquet").write_bytes((tmp_path / "archive/a.parquet").read_bytes())
    with pytest.raises(InputError, match=r"holds scores of .*, not of"):
        score(replace(config, archive=str(tmp_path / "other")))
    assert read_files(tmp_path / "scores") == before
