import hashlib
import io
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive import shards as module
from digitsum.archive.score_parts import Part, PartSource
from digitsum.archive.shards import Shard
from digitsum.errors import InputError
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import SavedModel
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring import commit
from digitsum.scoring.commit import committed_parts
from digitsum.scoring.footer_cache import (
    FooterCache,
    FooterCacheFiles,
    footer_cache_files,
    read_footer_cache,
    write_footer_cache,
)
from digitsum.scoring.plan import ScorePlan, plan_scores
from digitsum.scoring.score_run import survey_archive
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

DIGEST = "0123456789abcdef" * 4
LISTED_NS = 10**18
SETTLED_NS = 2 * 10**9
OPTIONS = ReadOptions()
CHUNK_IMAGES = 2

paths = st.lists(st.sampled_from("abäZ =%/.#"), min_size=1, max_size=9).map("".join)
settled = st.builds(
    ListedFile, paths, st.integers(0, 2**62), st.integers(-(10**18), LISTED_NS - SETTLED_NS - 1)
)
names = st.text(st.characters(codec="utf-8"), max_size=5)
shards = st.builds(
    Shard,
    settled,
    st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    st.builds(ImageShape, st.integers(1, 4096), st.integers(1, 4096)),
    st.none() | names,
    names,
)
sources = st.builds(PartSource, names, names, names, st.integers(0, 2**62), st.integers(0, 2**62))
parts = st.tuples(settled, st.builds(Part, sources, st.integers(0, 2**62)))


def files_in(scores: Path | str) -> FooterCacheFiles:
    return footer_cache_files(locate(str(scores)), locate("/archive"), DIGEST, OPTIONS, "16x24")


def shard(path: str, mtime_ns: int) -> Shard:
    return Shard(ListedFile(path, 5, mtime_ns), (3, 4), ImageShape(2, 3), None)


def part(path: str, mtime_ns: int) -> tuple[ListedFile, Part]:
    return ListedFile(path, 5, mtime_ns), Part(PartSource(DIGEST, "a", "size=5", 0, 7), 2)


@settings(max_examples=50)
@given(
    st.lists(shards, max_size=5, unique_by=lambda shard: shard.file),
    st.lists(parts, max_size=5, unique_by=lambda entry: entry[0]),
)
def test_what_is_entered_is_read_again_as_it_was(shards, parts):
    with tempfile.TemporaryDirectory() as scores:
        files = files_in(scores)
        write_footer_cache(files, shards, parts, LISTED_NS, LISTED_NS)
        assert read_footer_cache(files) == FooterCache(
            {shard.file: shard for shard in shards}, dict(parts)
        )


@pytest.mark.parametrize("before_ns", [SETTLED_NS, 1, 0, -1, -SETTLED_NS])
def test_a_file_that_was_written_within_2_s_of_being_listed_is_not_entered(before_ns, tmp_path):
    files, old = files_in(tmp_path), LISTED_NS - SETTLED_NS - 1
    young = LISTED_NS - before_ns
    write_footer_cache(
        files,
        [shard("old", old), shard("young", young)],
        [part("old", old), part("young", young)],
        LISTED_NS,
        LISTED_NS,
    )
    footer_cache = read_footer_cache(files)
    assert (
        [file.path for file in footer_cache.shards]
        == [file.path for file in footer_cache.parts]
        == ["old"]
    )


def test_shards_and_parts_are_settled_each_by_when_they_were_listed(tmp_path):
    files, mtime_ns = files_in(tmp_path), LISTED_NS - SETTLED_NS - 1
    entries = [shard("a", mtime_ns)], [part("a", mtime_ns)]
    write_footer_cache(files, *entries, LISTED_NS, mtime_ns)
    assert (len(read_footer_cache(files).shards), len(read_footer_cache(files).parts)) == (1, 0)
    write_footer_cache(files, *entries, mtime_ns, LISTED_NS)
    assert (len(read_footer_cache(files).shards), len(read_footer_cache(files).parts)) == (0, 1)


def test_what_is_not_there_any_more_is_forgotten(tmp_path):
    files = files_in(tmp_path)
    write_footer_cache(files, [shard("a", 1), shard("b", 1)], [part("a", 1)], LISTED_NS, LISTED_NS)
    write_footer_cache(files, [shard("b", 1)], [], LISTED_NS, LISTED_NS)
    assert read_footer_cache(files) == FooterCache({shard("b", 1).file: shard("b", 1)}, {})


def test_ways_to_read_an_archive_have_ledgers_of_shards_apart_and_models_of_parts(tmp_path):
    place = locate(str(tmp_path))
    ways = [
        ("/a", DIGEST, OPTIONS, "16x24"),
        ("/b", DIGEST, OPTIONS, "16x24"),
        ("/a", DIGEST, ReadOptions(image_column="other"), "16x24"),
        ("/a", DIGEST, ReadOptions(height=16, width=24), "16x24"),
        ("/a", DIGEST, OPTIONS, "16x32"),
        ("/a", DIGEST[::-1], OPTIONS, "16x24"),
        ("/a", f"{DIGEST}-digits4", OPTIONS, "16x24"),
    ]
    found = [footer_cache_files(place, locate(uri), *rest) for uri, *rest in ways]
    assert len({files.shards.path for files in found}) == 5
    assert len({files.parts.path for files in found}) == 3
    assert all("/_runs/" in place.path for files in found for place in vars(files).values())


def rewrite(path: Path, change) -> None:
    """Replace a footer cache's file by a whole one of another table."""
    table, content = pq.read_table(pa.BufferReader(path.read_bytes()[32:])), io.BytesIO()
    pq.write_table(change(table), content)
    path.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:-60] + b"\xff" * 52 + b"\0\0\0\0PAR1"),
        lambda path: path.write_text("no Parquet"),
        lambda path: pq.write_table(pa.table({"path": ["a"]}), path),
        lambda path: rewrite(path, lambda table: table.drop_columns(["mtime_ns"])),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["absent", "empty", "cut", "half", "damaged", "text", "foreign", "older", "directory"],
)
def test_a_ledger_that_is_absent_broken_or_foreign_is_empty(damage, tmp_path):
    files = files_in(tmp_path)
    write_footer_cache(files, [shard("a", 1)], [part("a", 1)], LISTED_NS, LISTED_NS)
    whole = read_footer_cache(files)
    damage(Path(files.shards.path))
    assert read_footer_cache(files) == replace(whole, shards={})
    damage(Path(files.parts.path))
    assert read_footer_cache(files) == FooterCache({}, {})


def test_a_ledger_of_which_any_bit_was_flipped_says_nothing_that_was_not_entered(tmp_path):
    files = files_in(tmp_path)
    write_footer_cache(
        files, [shard(f"{n}.parquet", n) for n in range(40)], [], LISTED_NS, LISTED_NS
    )
    whole, path = read_footer_cache(files), Path(files.shards.path)
    content = path.read_bytes()
    wrong = []
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = read_footer_cache(files)
        except Exception as error:
            wrong.append((place, repr(error)))
        else:
            wrong += [] if found in (whole, FooterCache()) else [(place, "believed")]
    assert wrong == []


@pytest.fixture(scope="module")
def model() -> SavedModel:
    network = CounterNetwork(CounterConfig(16, 24, num_digits=2, max_digits=2)).eval()
    return SavedModel("counter", network, 1 / 255, 1.0, "models/counter", DIGEST)


@pytest.fixture
def archive(tmp_path, write_parquet) -> Path:
    """Write shards of 5, 3 and 0 images in row groups of 2."""
    for name, num_images in (("a", 5), ("day=1/b", 3), ("empty", 0)):
        write_images(write_parquet, tmp_path / f"archive/{name}.parquet", num_images)
    return tmp_path / "archive"


def write_images(write_parquet, path: Path, num_images: int, byte: int = 1) -> None:
    images = pa.array([bytes([byte]) * (16 * 24)] * num_images, pa.binary(16 * 24))
    write_parquet(path, {"image": images}, row_group_size=2, compression="none")


class Nights:
    """Runs night after night: each plans, commits, and writes the footer cache; without Ray."""

    def __init__(self, archive: Path, scores: Path, model: SavedModel, commit_scores) -> None:
        self.archive, self.scores, self.model = archive, scores, model
        self.commit_scores = commit_scores
        shape = str(model.shape)
        self.files = footer_cache_files(
            locate(str(scores)), locate(str(archive)), model.digest, OPTIONS, shape
        )

    def plan(self, footer_cache: FooterCache) -> ScorePlan:
        found = survey_archive(str(self.archive), OPTIONS, self.model, None, footer_cache.shards)
        committed = committed_parts(locate(str(self.scores)), self.model.digest, footer_cache.parts)
        return plan_scores(found, self.model.digest, CHUNK_IMAGES, committed.by_path)

    def run(self) -> None:
        """Commit all parts, and enter all that was there an hour ago, or longer."""
        age(self.archive)
        self.commit_scores(self.archive, self.scores, self.model, chunk_images=CHUNK_IMAGES)
        age(self.scores)
        found = survey_archive(str(self.archive), OPTIONS, self.model, None, {})
        committed = committed_parts(locate(str(self.scores)), self.model.digest, {})
        now_ns = time.time_ns()
        write_footer_cache(self.files, found.archive.shards, committed.whole, now_ns, now_ns)


def age(directory: Path) -> None:
    for path in directory.rglob("*.parquet"):
        os.utime(path, (path.stat().st_mtime - 3600, path.stat().st_mtime - 3600))


@pytest.fixture
def nights(archive, tmp_path, model, commit_scores) -> Nights:
    nights = Nights(archive, tmp_path / "scores", model, commit_scores)
    nights.run()
    (archive / "bad.parquet").write_text("no Parquet")
    return nights


def replace_by_one_of_the_same_size(nights, write_parquet):
    path = nights.archive / "a.parquet"
    before = path.stat()
    write_images(write_parquet, path, 5, byte=2)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))


def add_a_shard(nights, write_parquet):
    write_images(write_parquet, nights.archive / "c.parquet", 3)


def remove_a_shard(nights, _):
    (nights.archive / "a.parquet").unlink()


def break_a_shard(nights, _):
    (nights.archive / "a.parquet").write_text("no Parquet")


def mend_a_shard(nights, write_parquet):
    write_images(write_parquet, nights.archive / "bad.parquet", 4)


def break_a_part(nights, _):
    next(nights.scores.glob("model=*/a/rows-*")).write_bytes(b"")


def remove_a_part(nights, _):
    next(nights.scores.glob("model=*/a/rows-*")).unlink()


def nothing(*_):
    pass


CHANGES = [
    (nothing, 5, 0, 0, 0),
    (replace_by_one_of_the_same_size, 2, 0, 3, 0),
    (add_a_shard, 5, 2, 0, 0),
    (remove_a_shard, 2, 0, 0, 3),
    (break_a_shard, 2, 0, 0, 0),
    (mend_a_shard, 5, 2, 0, 0),
    (break_a_part, 4, 0, 1, 0),
    (remove_a_part, 4, 1, 0, 0),
]


@pytest.mark.parametrize(("change", "done", "new", "changed", "gone"), CHANGES)
def test_the_plan_is_the_same_with_and_without_the_ledger(
    nights, write_parquet, change, done, new, changed, gone
):
    change(nights, write_parquet)
    footer_cache = read_footer_cache(nights.files)
    assert (len(footer_cache.shards), len(footer_cache.parts)) == (3, 5)
    plan = nights.plan(footer_cache)
    assert plan == nights.plan(FooterCache())
    assert [len(plan.chunks(decided)) for decided in ("done", "new", "changed")] == [
        done,
        new,
        changed,
    ]
    assert len(plan.gone) == gone


def test_on_a_night_on_which_nothing_changed_no_footer_is_read(nights, monkeypatch):
    (nights.archive / "bad.parquet").unlink()
    plan = nights.plan(FooterCache())

    def fail(*_):
        raise AssertionError("a footer is read")

    monkeypatch.setattr(module, "read_shard", fail)
    monkeypatch.setattr(commit, "read_part", fail)
    assert nights.plan(read_footer_cache(nights.files)) == plan
    with pytest.raises(AssertionError, match="a footer is read"):
        nights.plan(FooterCache())


def test_of_a_shard_that_changed_the_footer_is_read_and_of_the_others_none(
    nights, write_parquet, monkeypatch
):
    replace_by_one_of_the_same_size(nights, write_parquet)
    read = []
    read_shard = module.read_shard
    monkeypatch.setattr(
        module,
        "read_shard",
        lambda root, file, *rest: (read.append(file.path), read_shard(root, file, *rest))[1],
    )
    nights.plan(read_footer_cache(nights.files))
    assert sorted(read) == ["a.parquet", "bad.parquet"]


def test_a_known_shard_is_refused_by_a_model_that_does_not_read_it(nights, model, write_parquet):
    wide = pa.array([bytes(16 * 32)], pa.binary(16 * 32))
    said = {"digitsum.height": "16", "digitsum.width": "32"}
    write_parquet(nights.archive / "wide.parquet", {"image": wide}, metadata=said)
    found = survey_archive(str(nights.archive), OPTIONS, model, None, {})
    write_footer_cache(nights.files, found.archive.shards, [], LISTED_NS * 9, LISTED_NS)
    network = BaselineNetwork(BaselineConfig(16, 24, 2)).eval()
    other = SavedModel("baseline", network, PIXEL_SCALE, 1.0, "models/baseline", DIGEST[::-1])
    files = footer_cache_files(
        locate(str(nights.scores)), locate(str(nights.archive)), other.digest, OPTIONS, "16x24"
    )
    known = read_footer_cache(files).shards
    without = survey_archive(str(nights.archive), OPTIONS, other, None, {})
    assert [shard.path for shard in without.rejected] == ["bad.parquet", "wide.parquet"]
    assert survey_archive(str(nights.archive), OPTIONS, other, None, known) == without


def test_a_known_shard_is_refused_where_it_cannot_hold_the_digits_that_are_told(nights, model):
    known = read_footer_cache(nights.files).shards
    with pytest.raises(InputError, match="--known-count 7"):
        survey_archive(str(nights.archive), OPTIONS, model, 7, {})
    with pytest.raises(InputError, match="--known-count 7"):
        survey_archive(str(nights.archive), OPTIONS, model, 7, known)
