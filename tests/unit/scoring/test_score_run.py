from pathlib import Path

import pyarrow as pa
import pytest

from digitsum.archive import shards as module
from digitsum.archive.shards import Shard, list_shards
from digitsum.errors import InputError, StorageError
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.saved_model import SavedModel
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring.plan import Survey
from digitsum.scoring.score_run import survey_archive
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate
from digitsum.storage.retries import STORAGE_ATTEMPTS

OPTIONS = ReadOptions()


@pytest.fixture(scope="module")
def model() -> SavedModel:
    network = BaselineNetwork(BaselineConfig(16, 24, 2)).eval()
    return SavedModel("baseline", network, PIXEL_SCALE, 1.0, "models/baseline", "a" * 64)


@pytest.fixture
def write_shard(tmp_path, write_parquet):
    """Write a shard of images of a shape, which it says itself."""

    def write(name: str, num_images: int = 3, height: int = 16, width: int = 24) -> Path:
        images = pa.array([bytes(height * width)] * num_images, pa.binary(height * width))
        metadata = {"digitsum.height": str(height), "digitsum.width": str(width)}
        return write_parquet(tmp_path / name, {"image": images}, metadata=metadata)

    return write


@pytest.fixture
def survey(tmp_path, model):
    def survey(known=(), num_digits: int | None = None) -> Survey:
        return survey_archive(str(tmp_path), OPTIONS, model, num_digits, dict(known))

    return survey


def shards_of(survey: Survey) -> list[str]:
    return [shard.file.path for shard in survey.archive.shards]


def test_shards_that_can_be_scored_are_found_by_path_and_none_is_rejected(survey, write_shard):
    for name in ("b.parquet", "a/1.parquet", "a.parquet", "_hidden.parquet"):
        write_shard(name)
    found = survey()
    assert shards_of(found) == ["a.parquet", "a/1.parquet", "b.parquet"]
    assert found.rejected == ()
    assert found.archive.num_images == 9


def test_a_shard_that_cannot_be_read_is_rejected_with_its_reason_and_no_other(
    survey, write_shard, write_parquet, tmp_path
):
    write_shard("good.parquet")
    (tmp_path / "bad.parquet").write_text("no Parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    data = write_shard("cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-9])
    write_parquet(tmp_path / "other.parquet", {"picture": [b"x"]})
    write_parquet(tmp_path / "floats.parquet", {"image": [0.5]})
    found = survey()
    assert shards_of(found) == ["good.parquet"]
    reasons = {shard.path: shard.reason for shard in found.rejected}
    assert list(reasons) == sorted(
        ["bad.parquet", "cut.parquet", "empty.parquet", "floats.parquet", "other.parquet"]
    )
    for path, reason in reasons.items():
        assert reason.startswith(f"{tmp_path / path}: ")
        assert reason.isprintable()
    for path in ("bad.parquet", "cut.parquet", "empty.parquet"):
        assert "not a whole Parquet file" in reasons[path]
    assert "has no column 'image', only 'picture'" in reasons["other.parquet"]
    assert "is of type double" in reasons["floats.parquet"]


def test_a_shard_of_a_shape_that_the_model_does_not_read_is_rejected(survey, write_shard):
    write_shard("good.parquet")
    write_shard("wide.parquet", width=32)
    found = survey()
    assert shards_of(found) == ["good.parquet"]
    (rejected,) = found.rejected
    assert rejected.path == "wide.parquet"
    assert "wide.parquet: images are 16x32, but the model was trained on 16x24" in rejected.reason


def test_an_archive_all_of_whose_shards_are_rejected_is_refused_with_the_first_ones_reason(
    survey, write_shard, tmp_path
):
    write_shard("b.parquet", width=32)
    (tmp_path / "a.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.parquet: not a whole Parquet file"):
        survey()
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(InputError, match=rf"^{tmp_path}/b\.parquet: images are 16x32"):
        survey()


def test_an_archive_without_images_is_no_archive_without_shards(survey, write_shard):
    write_shard("a.parquet", num_images=0)
    assert shards_of(survey()) == ["a.parquet"]


def test_a_place_that_is_no_archive_is_refused(survey, tmp_path, model):
    with pytest.raises(InputError, match="holds no"):
        survey()
    with pytest.raises(InputError, match="no such file or directory"):
        survey_archive(str(tmp_path / "absent"), OPTIONS, model, None, {})


def test_digits_that_the_model_cannot_be_told_are_refused(survey, write_shard):
    write_shard("a.parquet")
    with pytest.raises(InputError, match="--known-count 3: the model adds up 2 digits"):
        survey(num_digits=3)
    assert shards_of(survey(num_digits=2)) == ["a.parquet"]


def test_a_shard_that_is_known_is_taken_as_it_is_known_if_it_is_listed_so(
    survey, write_shard, tmp_path
):
    write_shard("a.parquet")
    write_shard("b.parquet")
    files = list_shards(locate(str(tmp_path)))[1]
    known = {file: Shard(file, (7,), ImageShape(16, 24), None) for file in files}
    changed = ListedFile(files[1].path, files[1].size_bytes, files[1].mtime_ns + 1)
    known[changed] = known.pop(files[1])
    assert [shard.num_rows for shard in survey(known).archive.shards] == [7, 3]


@pytest.fixture
def refuse(monkeypatch):
    """Let the file system refuse a shard for so many times; return how often each was asked for."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    read_shard = module.read_shard

    def refuse(path: str, times: int, kind: type[Exception] = StorageError) -> dict[str, int]:
        asked: dict[str, int] = {}

        def read(root, file, *rest):
            asked[file.path] = asked.get(file.path, 0) + 1
            if file.path == path and asked[file.path] <= times:
                raise kind(f"{file.path}: timed out")
            return read_shard(root, file, *rest)

        monkeypatch.setattr(module, "read_shard", read)
        return asked

    return refuse


@pytest.mark.parametrize("times", range(STORAGE_ATTEMPTS))
def test_a_file_system_that_recovers_costs_no_shard(survey, write_shard, refuse, times):
    write_shard("a.parquet")
    write_shard("b.parquet")
    undisturbed = survey()
    asked = refuse("a.parquet", times)
    assert survey() == undisturbed
    assert asked == {"a.parquet": times + 1, "b.parquet": 1}


def test_a_file_system_that_does_not_recover_costs_its_shard_and_no_other(
    survey, write_shard, refuse
):
    write_shard("a.parquet")
    write_shard("b.parquet")
    asked = refuse("a.parquet", 99)
    found = survey()
    assert shards_of(found) == ["b.parquet"]
    assert [(shard.path, shard.reason) for shard in found.rejected] == [
        ("a.parquet", "a.parquet: timed out")
    ]
    assert asked == {"a.parquet": STORAGE_ATTEMPTS, "b.parquet": 1}


def test_a_shard_that_is_bad_is_asked_for_once(survey, write_shard, refuse):
    write_shard("a.parquet")
    write_shard("b.parquet")
    asked = refuse("a.parquet", 99, InputError)
    assert len(survey().rejected) == 1
    assert asked == {"a.parquet": 1, "b.parquet": 1}


def test_an_error_that_is_no_input_error_ends_the_survey(survey, write_shard, refuse):
    write_shard("a.parquet")
    refuse("a.parquet", 1, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        survey()
