import pytest
from factories import make_baseline, make_model, write_images, write_parquet

from digitsum.archive import shards as shards_module
from digitsum.archive.score_parts import known_count_digest
from digitsum.archive.shards import Shard, list_shards
from digitsum.errors import InputError, StorageError
from digitsum.model.saved_model import load_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.plan import Survey
from digitsum.scoring.score_run import check_apart, open_score_run, plan_run, survey_archive
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate
from digitsum.storage.retries import STORAGE_ATTEMPTS

OPTIONS = ReadOptions()
BASELINE = make_model(make_baseline())


@pytest.fixture
def config(tmp_path, model_uri) -> ScoreConfig:
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
    assert (planned.parts, planned.survey.rejected) == ({}, {})
    assert not (tmp_path / "scores").exists()


def test_open_score_run_refused(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for option, value, message in (
        ("scores", "file", "is a file; give a directory"),
        ("scores", "archive/below", "is within the archive"),
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
    with pytest.raises(InputError, match="is within the archive"):
        check_apart(locate("/a/archive"), locate(scores))


@pytest.mark.parametrize(
    "scores", ["/a/archive2", "/a", "/a/scores", "/a/archive/_scores", "/a/archive/.s/x"]
)
def test_check_apart_beside_the_shards(scores):
    check_apart(locate("/a/archive"), locate(scores))


@pytest.fixture
def survey(tmp_path):
    def survey(known=(), known_count: int | None = None, model=BASELINE) -> Survey:
        return survey_archive(str(tmp_path), OPTIONS, model, known_count, dict(known))

    return survey


def paths_of(survey: Survey) -> list[str]:
    return [shard.file.path for shard in survey.archive.shards]


def test_survey_by_path(survey, tmp_path):
    for name in ("b", "a/1", "a", "_hidden"):
        write_images(tmp_path / f"{name}.parquet")
    found = survey()
    assert paths_of(found) == ["a.parquet", "a/1.parquet", "b.parquet"]
    assert (found.rejected, found.archive.num_images, found.is_whole) == ({}, 9, True)
    one = survey_archive(str(tmp_path / "b.parquet"), OPTIONS, BASELINE, None, {})
    assert (paths_of(one), one.is_whole) == (["b.parquet"], False)


def test_survey_unreadable_shards(survey, tmp_path):
    for name in ("good", "cut"):
        write_images(tmp_path / f"{name}.parquet")
    (tmp_path / "bad.parquet").write_text("not Parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(cut.read_bytes()[:-9])
    write_parquet(tmp_path / "other.parquet", {"picture": [b"x"]})
    write_parquet(tmp_path / "floats.parquet", {"image": [0.5]})
    found = survey()
    assert paths_of(found) == ["good.parquet"]
    reasons = found.rejected
    not_whole = "not a whole Parquet file"
    expected = {
        "bad.parquet": not_whole,
        "cut.parquet": not_whole,
        "empty.parquet": not_whole,
        "floats.parquet": "is of type double",
        "other.parquet": "has no column 'image', only 'picture'",
    }
    assert list(reasons) == list(expected)
    for path, reason in reasons.items():
        assert reason.startswith(f"{tmp_path / path}: ")
        assert expected[path] in reason
        assert reason.isprintable()


@pytest.mark.parametrize(
    ("network", "height", "width", "reason"),
    [
        ("baseline", 16, 32, "images are 16x32, but the model was trained on 16x24"),
        ("counter", 16, 15, "images are 16x15.* 16 pixels high and 16 to 4096"),
        ("counter", 16, 4097, "images are 16x4097.* 16 pixels high and 16 to 4096"),
        ("counter", 15, 24, "images are 15x24.* 16 pixels high and 16 to 4096"),
        ("counter", 17, 24, "images are 17x24.* 16 pixels high and 16 to 4096"),
        ("counter", 16, 16, None),
        ("counter", 16, 4096, None),
    ],
)
def test_survey_shape(survey, model_uri, tmp_path, network, height, width, reason):
    model = {"model": load_model(model_uri)} if network == "counter" else {}
    shape = ImageShape(height, width)
    write_images(tmp_path / "good.parquet", 0)
    write_images(tmp_path / "other.parquet", 1, shape=shape)
    found = survey(**model)
    assert paths_of(found) == ["good.parquet"] + ["other.parquet"] * (reason is None)
    assert list(found.rejected) == ["other.parquet"] * (reason is not None)
    if reason:
        (tmp_path / "good.parquet").unlink()
        (file,) = list_shards(locate(str(tmp_path)))[1]
        # What was read before does not change that.
        for known in ({}, {file: Shard(file, (1,), shape, None)}):
            with pytest.raises(InputError, match=rf"^{tmp_path}/other\.parquet: {reason}"):
                survey(known, **model)


def test_survey_known_count(survey, model_uri, tmp_path):
    write_images(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="--known-count 3: the model adds up 2 digits"):
        survey(known_count=3)
    assert paths_of(survey(known_count=2)) == ["a.parquet"]
    counter = load_model(model_uri)
    write_images(tmp_path / "wide.parquet", shape=ImageShape(16, 400))
    assert paths_of(survey(known_count=2, model=counter)) == ["a.parquet", "wide.parquet"]
    with pytest.raises(InputError, match=r"--known-count 70: .* hold 1 to \d+ digits"):
        survey(known_count=70, model=counter)


def test_survey_not_an_archive(survey, tmp_path):
    with pytest.raises(InputError, match="holds no"):
        survey()
    (tmp_path / "a.parquet").write_text("not Parquet")
    write_images(tmp_path / "b.parquet", shape=ImageShape(16, 32))
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.parquet: not a whole Parquet file"):
        survey()  # the first of the rejected
    with pytest.raises(InputError, match="no such file or directory"):
        survey_archive(str(tmp_path / "absent"), OPTIONS, BASELINE, None, {})


def test_survey_known_if_listed_unchanged(survey, tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / f"{name}.parquet")
    files = list_shards(locate(str(tmp_path)))[1]
    known = {file: Shard(file, (7,), ImageShape(16, 24), None) for file in files}
    changed = ListedFile(files[1].path, files[1].size_bytes, files[1].mtime_ns + 1)
    known[changed] = known.pop(files[1])
    assert [shard.num_rows for shard in survey(known).archive.shards] == [7, 3]


@pytest.fixture
def refuse(monkeypatch, tmp_path):
    """Let the file system refuse a shard n times; return how often each of two was read."""
    for name in ("a", "b"):
        write_images(tmp_path / f"{name}.parquet")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda wait_s: None)
    read_shard = shards_module.read_shard

    def refuse(path: str, times: int, kind: type[Exception] = StorageError) -> dict[str, int]:
        num_reads: dict[str, int] = {}

        def read(root, file, *rest):
            num_reads[file.path] = num_reads.get(file.path, 0) + 1
            if file.path == path and num_reads[file.path] <= times:
                raise kind(f"{file.path}: timed out")
            return read_shard(root, file, *rest)

        monkeypatch.setattr(shards_module, "read_shard", read)
        return num_reads

    return refuse


@pytest.mark.parametrize("times", range(STORAGE_ATTEMPTS))
def test_survey_storage_recovers(survey, refuse, times):
    undisturbed = survey()
    num_reads = refuse("a.parquet", times)
    assert survey() == undisturbed
    assert num_reads == {"a.parquet": times + 1, "b.parquet": 1}


@pytest.mark.parametrize(("kind", "num_tries"), [(StorageError, STORAGE_ATTEMPTS), (InputError, 1)])
def test_survey_storage_refuses(survey, refuse, kind, num_tries):
    num_reads = refuse("a.parquet", 99, kind)
    found = survey()
    assert paths_of(found) == ["b.parquet"]
    assert found.rejected == {"a.parquet": "a.parquet: timed out"}
    assert num_reads == {"a.parquet": num_tries, "b.parquet": 1}
    refuse("a.parquet", 1, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        survey()
