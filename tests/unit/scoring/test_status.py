import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from digitsum.archive.score_parts import CURRENT_FILE
from digitsum.errors import InputError
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY, new_run_id, write_manifest
from digitsum.scoring.config import ScoreConfig, StatusConfig
from digitsum.scoring.status import NUM_RUNS, Status, last_run_died, measured_rate, status
from digitsum.storage.location import Location, locate

MODEL = "a" * 64
OTHER_MODEL = "b" * 64
NOW = datetime(2026, 1, 31, 1, 2, 3, tzinfo=UTC)


@pytest.fixture
def scores(tmp_path) -> Location:
    return locate(str(tmp_path / "scores"))


def run_of(scores, night: int) -> Location:
    name = new_run_id("score", NOW + timedelta(days=night))
    return scores.join(f"{RUNS_DIRECTORY}/{name}")


def end(scores, night: int, *, model: str = MODEL, rate: float = 100.0, **outcome) -> str:
    """Write the manifest of a run, as `score` does; return the run's name."""
    run = run_of(scores, night)
    config = ScoreConfig(archive="a", scores=scores.uri)
    said = {"images": 1000, "rejected": 2, "seconds": 10.0, "complete": True} | outcome
    said |= {"model_digest": model, "images_per_s": rate}
    write_manifest(run, "score", config, NOW + timedelta(days=night), said)
    return run.name


def killed(scores, night: int, manifest: str | bytes | None = None) -> str:
    run = run_of(scores, night)
    directory = make(run)
    if manifest is not None:
        data = manifest.encode() if isinstance(manifest, str) else manifest
        (directory / MANIFEST_FILE).write_bytes(data)
    return run.name


def make(place: Location):
    path = Path(place.path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def status_of(scores) -> Status:
    return status(StatusConfig(scores=scores.uri))


def test_the_last_runs_come_first(scores):
    names = [end(scores, night) for night in (3, 0, 2, 1)]
    assert [run.name for run in status_of(scores).runs] == sorted(names, reverse=True)


def test_no_more_than_the_last_ten_runs_are_told(scores):
    names = [end(scores, night) for night in range(NUM_RUNS + 3)]
    assert NUM_RUNS == 10
    assert [run.name for run in status_of(scores).runs] == names[:2:-1]


def test_what_is_no_scoring_run_is_passed_over(scores):
    name = end(scores, 0)
    make(scores.join(f"{RUNS_DIRECTORY}/footer_cache"))
    make(scores.join(f"{RUNS_DIRECTORY}/train-20260131T010203.000000Z"))
    (make(scores.join(RUNS_DIRECTORY)) / "score-file").write_text("no directory")
    assert [run.name for run in status_of(scores).runs] == [name]


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", '"text"', "null", b"\xff\xfe{"])
def test_a_run_without_a_manifest_of_use_was_ended_or_is_at_work(scores, manifest):
    name = killed(scores, 1, manifest)
    before = end(scores, 0)
    runs = status_of(scores).runs
    assert [(run.name, bool(run.outcome)) for run in runs] == [(name, False), (before, True)]
    assert runs[0].sentence() == "ended before it was complete, or is still at work"


def test_only_the_last_run_counts_as_one_that_died(scores):
    assert not last_run_died(scores)
    killed(scores, 0)
    assert last_run_died(scores)
    end(scores, 1)
    assert not last_run_died(scores)
    killed(scores, 2)
    assert last_run_died(scores)


@pytest.mark.parametrize("outcome", ["null", "[]", '"done"', "{}"])
def test_a_manifest_without_an_outcome_says_nothing_of_it(scores, outcome):
    killed(scores, 0, f'{{"outcome": {outcome}}}')
    (run,) = status_of(scores).runs
    assert run.outcome == {}
    assert run.sentence() == "ended before it was complete, or is still at work"


def test_a_sentence_says_what_was_scored_and_whether_all_is_complete(scores):
    end(scores, 0, images=12_345, seconds=67.89, rejected=1_000)
    end(scores, 1, complete=False, why_incomplete="7 of 9 images were rejected")
    incomplete, complete = status_of(scores).runs
    assert complete.sentence() == ("11,345 images scored and 1,000 rejected in 67.9 s; complete")
    assert incomplete.sentence() == (
        "998 images scored and 2 rejected in 10.0 s; incomplete: 7 of 9 images were rejected"
    )


def test_the_current_directory_is_that_of_the_last_complete_run(scores):
    end(scores, 0)
    assert status_of(scores).current is None
    (make(scores) / CURRENT_FILE).write_text("model=0123\n")
    assert status_of(scores).current == "model=0123"


def test_scores_without_runs_and_runs_without_scores_have_a_status(scores, tmp_path):
    (make(scores) / CURRENT_FILE).write_text("model=0123\n")
    assert status_of(scores) == Status(scores.uri, "model=0123", ())
    other = locate(str(tmp_path / "other"))
    killed(other, 0)
    assert len(status_of(other).runs) == 1


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_a_place_that_holds_neither_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(InputError, match=f"{name}: holds no scores and no runs"):
        status_of(locate(str(tmp_path / name)))


def test_a_file_in_the_place_of_the_runs_is_bad_input(scores):
    (make(scores) / RUNS_DIRECTORY).write_text("in the way")
    with pytest.raises(InputError):
        status_of(scores)


def test_as_one_object_it_has_all_of_the_runs_but_their_chunks(scores):
    names = [killed(scores, 1), end(scores, 0, chunks=[1, 2, 3])]
    told = json.loads(json.dumps(status_of(scores).to_json()))
    assert (told["scores"], told["current"]) == (scores.uri, None)
    assert [run["run"] for run in told["runs"]] == names
    assert told["runs"][0] == {"run": names[0]}
    assert told["runs"][1]["images"] == 1000
    assert "chunks" not in told["runs"][1]


def test_the_rate_is_that_of_the_last_run_that_scored(scores):
    end(scores, 0, rate=50.0)
    name = end(scores, 1, rate=70.0)
    end(scores, 2, rate=0.0)
    killed(scores, 3)
    killed(scores, 4, "{")
    assert measured_rate(scores, MODEL) == (70.0, name)


def test_the_rate_of_the_same_model_goes_before_a_later_one_of_another(scores):
    own = end(scores, 0, rate=50.0)
    end(scores, 1, rate=0.0)
    other = end(scores, 2, model=OTHER_MODEL, rate=70.0)
    assert measured_rate(scores, MODEL) == (50.0, own)
    assert measured_rate(scores, OTHER_MODEL) == (70.0, other)
    assert measured_rate(scores, "c" * 64) == (70.0, other)


def test_without_a_run_that_scored_there_is_no_rate(scores):
    assert measured_rate(scores, MODEL) is None
    end(scores, 0, rate=0.0)
    killed(scores, 1)
    assert measured_rate(scores, MODEL) is None


def test_a_rate_is_remembered_over_nights_on_which_nothing_was_to_do(scores):
    name = end(scores, 0, rate=50.0)
    for night in range(1, 31):
        end(scores, night, rate=0.0, images=0)
    assert measured_rate(scores, MODEL) == (50.0, name)
