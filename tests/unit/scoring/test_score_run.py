import pytest

from digitsum.archive.score_parts import known_count_digest
from digitsum.errors import InputError
from digitsum.model.saved_model import load_model
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.score_run import check_apart, open_score_run, plan_run
from digitsum.storage.location import locate


@pytest.fixture
def config(tmp_path, model_uri, write_images) -> ScoreConfig:
    write_images(tmp_path / "archive" / "a.parquet", 5)
    return ScoreConfig(
        archive=str(tmp_path / "archive"), scores=str(tmp_path / "scores"), model=model_uri
    )


@pytest.mark.parametrize("known_count", [None, 2])
def test_open_score_run_writes_nothing(config, tmp_path, known_count):
    options = vars(config) | {"known_count": known_count, "chunk_images": 2}
    run = open_score_run(ScoreConfig(**options))
    digest = load_model(config.model).digest
    assert run.model_digest == known_count_digest(digest, known_count)
    assert run.directory.path.startswith(f"{tmp_path}/scores/_runs/score-")
    planned = plan_run(run)
    assert planned.plan.model_digest == run.model_digest
    assert [chunk.num_rows for chunk in planned.plan.chunks("new")] == [2, 2, 1]
    assert (planned.parts, planned.survey.rejected) == ({}, ())
    assert not (tmp_path / "scores").exists()


def test_open_score_run_refused(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for option, value, message in (
        ("scores", "file", "is a file; give a directory"),
        ("scores", "archive/below", "lies within the archive"),
        ("model", "absent", "absent"),
    ):
        with pytest.raises(InputError, match=message):
            open_score_run(ScoreConfig(**vars(config) | {option: str(tmp_path / value)}))


@pytest.mark.parametrize("link", ["_runs/footer_cache", "model"])
def test_open_score_run_link_out_of_scores(config, tmp_path, link):
    name = link if link != "model" else f"model={load_model(config.model).digest[:16]}"
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "scores" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a link that leads out"):
        open_score_run(config)


@pytest.mark.parametrize("scores", ["/a/archive", "/a/archive/scores", "/a/archive/b/c"])
def test_check_apart_among_the_shards(scores):
    with pytest.raises(InputError, match="lies within the archive"):
        check_apart(locate("/a/archive"), locate(scores))


@pytest.mark.parametrize(
    "scores", ["/a/archive2", "/a", "/a/scores", "/a/archive/_scores", "/a/archive/.s/x"]
)
def test_check_apart_beside_the_shards(scores):
    check_apart(locate("/a/archive"), locate(scores))
