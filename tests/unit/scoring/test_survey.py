import pytest

from digitsum.archive import shards as shards_module
from digitsum.archive.shards import Shard, list_shards
from digitsum.errors import InputError, StorageError
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.saved_model import SavedModel, load_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring.plan import Survey
from digitsum.scoring.score_run import survey_archive
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate
from digitsum.storage.retries import STORAGE_ATTEMPTS

OPTIONS = ReadOptions()


@pytest.fixture(scope="module")
def baseline() -> SavedModel:
    network = BaselineNetwork(BaselineConfig(16, 24, 2)).eval()
    return SavedModel("baseline", network, PIXEL_SCALE, 1.0, "models/baseline", "a" * 64)


@pytest.fixture
def survey(tmp_path, baseline):
    def survey(known=(), known_count: int | None = None, model=baseline) -> Survey:
        return survey_archive(str(tmp_path), OPTIONS, model, known_count, dict(known))

    return survey


@pytest.fixture
def write(tmp_path, write_images):
    def write(*names: str, num_images: int = 3, **shape) -> None:
        for name in names:
            write_images(tmp_path / f"{name}.parquet", num_images, **shape)

    return write


def paths_of(survey: Survey) -> list[str]:
    return [shard.file.path for shard in survey.archive.shards]


def test_survey_by_path(survey, write, tmp_path, baseline):
    write("b", "a/1", "a", "_hidden")
    found = survey()
    assert paths_of(found) == ["a.parquet", "a/1.parquet", "b.parquet"]
    assert (found.rejected, found.archive.num_images, found.is_whole) == ((), 9, True)
    one = survey_archive(str(tmp_path / "b.parquet"), OPTIONS, baseline, None, {})
    assert (paths_of(one), one.is_whole) == (["b.parquet"], False)


def test_survey_unreadable_shards(survey, write, write_parquet, tmp_path):
    write("good", "cut")
    (tmp_path / "bad.parquet").write_text("not Parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(cut.read_bytes()[:-9])
    write_parquet(tmp_path / "other.parquet", {"picture": [b"x"]})
    write_parquet(tmp_path / "floats.parquet", {"image": [0.5]})
    found = survey()
    assert paths_of(found) == ["good.parquet"]
    reasons = {shard.path: shard.reason for shard in found.rejected}
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
def test_survey_shape(survey, write, model_uri, tmp_path, network, height, width, reason):
    model = {"model": load_model(model_uri)} if network == "counter" else {}
    write("good")
    write("other", height=height, width=width, num_images=1)
    found = survey(**model)
    assert paths_of(found) == ["good.parquet"] + ["other.parquet"] * (reason is None)
    for rejected in found.rejected:
        assert rejected.path == "other.parquet"
    if reason:
        (tmp_path / "good.parquet").unlink()
        with pytest.raises(InputError, match=rf"^{tmp_path}/other\.parquet: {reason}"):
            survey(**model)
        # What was read before does not change that.
        (file,) = list_shards(locate(str(tmp_path)))[1]
        known = {file: Shard(file, (1,), ImageShape(height, width), None)}
        with pytest.raises(InputError, match=rf"^{tmp_path}/other\.parquet: {reason}"):
            survey(known, **model)


def test_survey_known_count(survey, write, model_uri):
    write("a")
    with pytest.raises(InputError, match="--known-count 3: the model adds up 2 digits"):
        survey(known_count=3)
    assert paths_of(survey(known_count=2)) == ["a.parquet"]
    counter = load_model(model_uri)
    write("wide", width=400)
    assert paths_of(survey(known_count=2, model=counter)) == ["a.parquet", "wide.parquet"]
    with pytest.raises(InputError, match=r"--known-count 70: .* hold 1 to \d+ digits"):
        survey(known_count=70, model=counter)


def test_survey_all_rejected_names_the_first(survey, write, tmp_path):
    write("b", width=32)
    (tmp_path / "a.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.parquet: not a whole Parquet file"):
        survey()


def test_survey_no_images(survey, write):
    write("a", num_images=0)
    assert paths_of(survey()) == ["a.parquet"]


def test_survey_not_an_archive(survey, tmp_path, baseline):
    with pytest.raises(InputError, match="holds no"):
        survey()
    with pytest.raises(InputError, match="no such file or directory"):
        survey_archive(str(tmp_path / "absent"), OPTIONS, baseline, None, {})


def test_survey_known_if_listed_unchanged(survey, write, tmp_path):
    write("a", "b")
    files = list_shards(locate(str(tmp_path)))[1]
    known = {file: Shard(file, (7,), ImageShape(16, 24), None) for file in files}
    changed = ListedFile(files[1].path, files[1].size_bytes, files[1].mtime_ns + 1)
    known[changed] = known.pop(files[1])
    assert [shard.num_rows for shard in survey(known).archive.shards] == [7, 3]


@pytest.fixture
def refuse(monkeypatch):
    """Let the file system refuse a shard so many times; return how often each was read."""
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
def test_survey_storage_recovers(survey, write, refuse, times):
    write("a", "b")
    undisturbed = survey()
    num_reads = refuse("a.parquet", times)
    assert survey() == undisturbed
    assert num_reads == {"a.parquet": times + 1, "b.parquet": 1}


@pytest.mark.parametrize(("kind", "num_tries"), [(StorageError, STORAGE_ATTEMPTS), (InputError, 1)])
def test_survey_storage_refuses(survey, write, refuse, kind, num_tries):
    write("a", "b")
    num_reads = refuse("a.parquet", 99, kind)
    found = survey()
    assert paths_of(found) == ["b.parquet"]
    rejected = [(shard.path, shard.reason) for shard in found.rejected]
    assert rejected == [("a.parquet", "a.parquet: timed out")]
    assert num_reads == {"a.parquet": num_tries, "b.parquet": 1}


def test_survey_other_errors_are_raised(survey, write, refuse):
    write("a")
    refuse("a.parquet", 1, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        survey()
