import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from factories import make_chunk, make_result, write_run

from digitsum.archive.score_parts import CURRENT_FILE
from digitsum.errors import InputError
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY, write_manifest
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.status import (
    NUM_RUNS,
    Status,
    failed_chunks,
    last_run_died,
    last_scored,
    measured_rate,
    score_outcome,
    status,
)
from digitsum.storage.location import Location, locate

MODEL, OTHER_MODEL = "a" * 64, "b" * 64
DID_NOT_END = "ended before it was complete, or is still running"


@pytest.fixture
def end(scores):
    """Write the manifest of a run that ended on a night; return the run's name."""
    return lambda night, **changes: write_run(Path(scores.path), night, **changes).name


@pytest.fixture
def kill(scores, end):
    """Make the directory of a run that was killed, perhaps with something for a manifest."""

    def kill(night: int, manifest: str | bytes | None = None) -> str:
        name = end(night)
        file = Path(scores.path) / RUNS_DIRECTORY / name / MANIFEST_FILE
        file.unlink()
        if manifest is not None:
            file.write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
        return name

    return kill


def make(place: Location) -> Path:
    path = Path(place.path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def status_of(scores: Location) -> Status:
    return status(StatusConfig(scores=scores.uri))


def test_status_last_ten_runs_first(scores, end):
    nights = [3, 0, 2, 1, *range(4, NUM_RUNS + 3)]
    names = sorted(end(night) for night in nights)
    assert NUM_RUNS == 10
    for other in ("footer_cache", "train-20260131T010203.000000Z"):
        make(scores.join(f"{RUNS_DIRECTORY}/{other}"))
    (make(scores.join(RUNS_DIRECTORY)) / "score-file").write_text("no directory")
    assert [run.name for run in status_of(scores).runs] == names[:2:-1]


def test_last_run_died(scores, end, kill):
    assert not last_run_died(scores)
    for night, is_killed in enumerate((True, False, True)):
        (kill if is_killed else end)(night)
        assert last_run_died(scores) == is_killed


@pytest.mark.parametrize(
    "manifest",
    [None, "", "{", "[]", '"text"', "null", b"\xff\xfe{", '{"outcome": null}', '{"outcome": {}}'],
)
def test_status_run_without_manifest(scores, manifest, end, kill):
    name = kill(1, manifest)
    before = end(0)
    runs = status_of(scores).runs
    assert [(run.name, run.outcome is None) for run in runs] == [(name, True), (before, False)]
    assert runs[0].sentence() == DID_NOT_END


def test_run_status_sentence(scores, end):
    end(0, images=12_345, elapsed_s=67.89, rejected=1_000)
    end(1, complete=False, why_incomplete="7 of 9\nimages were rejected")
    incomplete, complete = status_of(scores).runs
    assert complete.sentence() == "11,345 images scored and 1,000 rejected in 67.9 s; complete"
    assert incomplete.sentence() == (
        "998 images scored and 2 rejected in 10.0 s; incomplete: 7 of 9 images were rejected"
    )


def test_status_current(scores, tmp_path, end):
    end(0)
    assert status_of(scores).current is None
    (make(scores) / CURRENT_FILE).write_text("model=0123\n")
    assert status_of(scores).current == "model=0123"
    other = locate(str(tmp_path / "other"))
    (make(other) / CURRENT_FILE).write_text("model=0123\n")
    assert status_of(other) == Status(other.uri, "model=0123", ())


def test_status_no_scores(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no directory")
    for name in ("absent", "empty", "file"):
        with pytest.raises(InputError, match=f"{name}: holds no scores and no runs"):
            status_of(locate(str(tmp_path / name)))
    (tmp_path / "empty" / RUNS_DIRECTORY).write_text("in the way")
    with pytest.raises(InputError):
        status_of(locate(str(tmp_path / "empty")))


def test_status_in_json(scores, end, kill):
    killed, ended = kill(1), end(0, chunks=(make_result(make_chunk()),))
    found = json.loads(json.dumps(status_of(scores).to_json()))
    assert (found["scores"], found["current"]) == (scores.uri, None)
    assert found["runs"][0] == {"run": killed}
    assert (found["runs"][1]["run"], found["runs"][1]["images"]) == (ended, 1000)
    assert "chunks" not in found["runs"][1]


def test_measured_rate_of_last_scored(scores, end, kill):
    assert measured_rate(scores, MODEL) is None
    end(0, images_per_s=0.0)
    kill(1)
    assert measured_rate(scores, MODEL) is None
    end(2, images_per_s=50.0)
    name = end(3, images_per_s=70.0)
    kill(4, "{")
    for night in range(5, 36):  # nights with nothing to do
        end(night, images_per_s=0.0, images=0)
    assert measured_rate(scores, MODEL) == (70.0, name)


def test_measured_rate_prefers_model(scores, end):
    own = end(0, images_per_s=50.0)
    end(1, images_per_s=0.0)
    other = end(2, model=OTHER_MODEL, images_per_s=70.0)
    assert measured_rate(scores, MODEL) == (50.0, own)
    assert measured_rate(scores, OTHER_MODEL) == (70.0, other)
    assert measured_rate(scores, "c" * 64) == (70.0, other)


def test_last_scored_before_run(scores, end):
    end(0, images=7)
    end(1, model=OTHER_MODEL, images=8)
    end(2, images=0)
    last = end(3, images=9)
    assert last_scored(scores, MODEL, before=last).images == 7
    assert last_scored(scores, MODEL, before="score-3").images == 9
    assert last_scored(scores, "c" * 64, before=last) is None


def test_failed_chunks_of_last_run(scores, end):
    chunk = make_chunk()
    end(0, chunks=(make_result(chunk, reason="damaged"),))
    name = end(1, chunks=(make_result(chunk, reason="gone"),))
    end(2, model=OTHER_MODEL)
    assert failed_chunks(scores, MODEL) == {chunk.id: f"rejected by {name}: gone"}
    end(3, chunks=(make_result(chunk),))
    assert failed_chunks(scores, MODEL) == {}


def test_score_outcome_of_other_runs(tmp_path):
    run = locate(str(write_run(tmp_path, 0)))
    write_manifest(run, "train", StatusConfig(scores="s"), datetime.now(UTC), {})
    with pytest.raises(InputError, match="not a scoring run"):
        score_outcome(run)
    with pytest.raises(InputError, match="is of version 99, but this digitsum reads version 1"):
        score_outcome(locate(str(write_run(tmp_path, 1, version=99))))
