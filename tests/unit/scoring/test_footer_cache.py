import hashlib
import io
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import commit_scores, write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.archive import shards as shards_module
from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import Part
from digitsum.archive.shards import Fingerprint, Shard
from digitsum.model.saved_model import SavedModel, load_model
from digitsum.options import ImageShape, ReadOptions
from digitsum.scoring import commit
from digitsum.scoring.commit import list_parts
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
sizes = st.integers(0, 2**62)
shards = st.builds(
    Shard,
    settled,
    st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    st.builds(ImageShape, st.integers(1, 4096), st.integers(1, 4096)),
    st.none() | names,
    names,
)
fingerprints = st.builds(Fingerprint, sizes, sizes, sizes, names, st.none() | names, sizes, sizes)
chunk_ids = st.builds(ChunkId, names, fingerprints, sizes, sizes)
parts = st.tuples(settled, st.builds(Part, names, chunk_ids, sizes))


def write(files, shards, parts, written=(), listed_ns=LISTED_NS, written_ns=LISTED_NS) -> None:
    write_footer_cache(
        files, shards, dict(parts), dict(written), listed_ns=listed_ns, written_ns=written_ns
    )


def files_in(scores: Path | str) -> FooterCacheFiles:
    return footer_cache_files(locate(str(scores)), locate("/archive"), DIGEST, OPTIONS, "16x24")


def shard(path: str, mtime_ns: int) -> Shard:
    return Shard(ListedFile(path, 5, mtime_ns), (3, 4), ImageShape(2, 3), None)


def part(path: str, mtime_ns: int) -> tuple[ListedFile, Part]:
    fingerprint = Fingerprint(5, 1, 7, "image", None, 2, 3)
    return ListedFile(path, 5, mtime_ns), Part(DIGEST, ChunkId("a", fingerprint, 0, 7), 2)


@settings(max_examples=50)
@given(
    st.lists(shards, max_size=5, unique_by=lambda shard: shard.file),
    st.lists(parts, max_size=5, unique_by=lambda entry: entry[0]),
    st.integers(0, 5),
)
def test_footer_cache_round_trip(shards, parts, num_written):
    with tempfile.TemporaryDirectory() as scores:
        files = files_in(scores)
        write(files, [shard("gone", 1)], [part("gone", 1)])
        write(files, shards, parts[num_written:], parts[:num_written])
        assert read_footer_cache(files) == FooterCache(
            {shard.file: shard for shard in shards}, dict(parts)
        )


@pytest.mark.parametrize("before_ns", [SETTLED_NS, 1, 0, -1, -SETTLED_NS])
def test_footer_cache_young_files(before_ns, tmp_path):
    files, old = files_in(tmp_path), LISTED_NS - SETTLED_NS - 1
    entries = [part("old", old), part("young", LISTED_NS - before_ns)]
    for kept, written in ((entries, []), ([], entries)):
        write(files, [shard(file.path, file.mtime_ns) for file, _ in entries], kept, written)
        cache = read_footer_cache(files)
        assert [file.path for file in cache.shards] == ["old"]
        assert [file.path for file in cache.parts] == ["old"]


def test_footer_cache_by_when_listed(tmp_path):
    files, mtime_ns = files_in(tmp_path), LISTED_NS - SETTLED_NS - 1
    entries = [shard("a", mtime_ns)], [part("a", mtime_ns)], [part("b", mtime_ns)]
    write(files, *entries, LISTED_NS, mtime_ns)
    cache = read_footer_cache(files)
    assert (len(cache.shards), [file.path for file in cache.parts]) == (1, ["a"])
    write(files, *entries, mtime_ns, LISTED_NS)
    cache = read_footer_cache(files)
    assert (len(cache.shards), [file.path for file in cache.parts]) == (0, ["b"])


def test_footer_cache_files_of_each_way_to_read(tmp_path):
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
        lambda path: path.write_text("not Parquet"),
        lambda path: pq.write_table(pa.table({"path": ["a"]}), path),
        lambda path: rewrite(path, lambda table: table.drop_columns(["mtime_ns"])),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["absent", "empty", "cut", "half", "damaged", "text", "foreign", "older", "directory"],
)
def test_footer_cache_damaged(damage, tmp_path):
    files = files_in(tmp_path)
    write(files, [shard("a", 1)], [part("a", 1)])
    whole = read_footer_cache(files)
    damage(Path(files.shards.path))
    assert read_footer_cache(files) == replace(whole, shards={})
    damage(Path(files.parts.path))
    assert read_footer_cache(files) == FooterCache({}, {})


def test_footer_cache_flipped_bits(tmp_path):
    files = files_in(tmp_path)
    write(files, [shard(f"{n}.parquet", n) for n in range(40)], [])
    whole, path = read_footer_cache(files), Path(files.shards.path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert read_footer_cache(files) in (whole, FooterCache()), place


def nulled(name: str, table: pa.Table) -> pa.Table:
    """Replace a column by nulls, or by lists of a null."""
    number, kind = table.schema.names.index(name), table.schema.field(name).type
    value = [None] if pa.types.is_list(kind) else None
    kind = pa.list_(pa.int64()) if pa.types.is_list(kind) else kind
    return table.set_column(number, name, pa.array([value], kind))


@pytest.mark.parametrize("kind", ["shards", "parts"])
def test_footer_cache_nulls(kind, tmp_path):
    files = files_in(tmp_path)
    write(files, *(([shard("a", 1)], []) if kind == "shards" else ([], [part("a", 1)])))
    path = Path(getattr(files, kind).path)
    content = path.read_bytes()
    for name in pq.read_table(pa.BufferReader(content[32:])).column_names:
        rewrite(path, partial(nulled, name))
        assert (read_footer_cache(files) == FooterCache()) == (name != "id_column"), name
        path.write_bytes(content)
    assert len(getattr(read_footer_cache(files), kind)) == 1


@pytest.fixture
def archive(tmp_path) -> Path:
    """Write shards of 5, 3 and 0 images in row groups of 2."""
    for name, num_images in (("a", 5), ("day=1/b", 3), ("empty", 0)):
        write_images(tmp_path / f"archive/{name}.parquet", num_images)
    return tmp_path / "archive"


class Nights:
    """Runs night after night: each plans, commits, and writes the footer cache; without Ray."""

    def __init__(self, archive: Path, scores: Path, model: SavedModel, commit_scores) -> None:
        self.archive, self.scores, self.model = archive, scores, model
        self.commit_scores = commit_scores
        place = locate(str(archive))
        self.files = footer_cache_files(
            locate(str(scores)), place, model.digest, OPTIONS, str(model.shape)
        )

    def survey(self, known=()):
        return survey_archive(str(self.archive), OPTIONS, self.model, None, dict(known))

    def parts(self, known=()):
        return list_parts(locate(str(self.scores)), self.model.digest, dict(known))

    def plan(self, cache: FooterCache) -> ScorePlan:
        committed = {file.path: part for file, part in self.parts(cache.parts).items()}
        survey = self.survey(cache.shards)
        return plan_scores(survey, self.model.digest, CHUNK_IMAGES, committed)

    def run(self) -> None:
        """Commit all parts, and enter all that was there an hour ago, or longer."""
        age(self.archive)
        self.commit_scores(self.archive, self.scores, self.model, chunk_images=CHUNK_IMAGES)
        age(self.scores)
        write(self.files, self.survey().archive.shards, self.parts(), (), time.time_ns())


def age(directory: Path) -> None:
    for path in directory.rglob("*.parquet"):
        os.utime(path, (path.stat().st_mtime - 3600, path.stat().st_mtime - 3600))


@pytest.fixture
def nights(archive, tmp_path, model_uri) -> Nights:
    nights = Nights(archive, tmp_path / "scores", load_model(model_uri), commit_scores)
    nights.run()
    (archive / "bad.parquet").write_text("not Parquet")
    return nights


def replace_shard(nights, _):
    path = nights.archive / "a.parquet"
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))


def break_shard(nights, _):
    (nights.archive / "a.parquet").write_text("not Parquet")


def remove_shard(nights, _):
    (nights.archive / "a.parquet").unlink()


def part_file(nights) -> Path:
    return next(nights.scores.glob("model=*/a/rows-*"))


CHANGES = {
    "nothing": (lambda *_: None, 5, 0, 0, 0),
    "shard replaced": (replace_shard, 2, 0, 3, 0),
    "shard added": (lambda n, write: write(n.archive / "c.parquet", 3), 5, 2, 0, 0),
    "shard removed": (remove_shard, 2, 0, 0, 3),
    "shard broken": (break_shard, 2, 0, 0, 0),
    "shard fixed": (lambda n, write: write(n.archive / "bad.parquet", 4), 5, 2, 0, 0),
    "part broken": (lambda n, _: part_file(n).write_bytes(b""), 4, 0, 1, 0),
    "part removed": (lambda n, _: part_file(n).unlink(), 4, 1, 0, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_footer_cache_changes_no_plan(nights, name):
    change, done, new, changed, gone = CHANGES[name]
    change(nights, write_images)
    cache = read_footer_cache(nights.files)
    assert (len(cache.shards), len(cache.parts)) == (3, 5)
    plan = nights.plan(cache)
    assert plan == nights.plan(FooterCache())
    nums = [len(plan.chunks(decided)) for decided in ("done", "new", "changed")]
    assert [*nums, len(plan.gone)] == [done, new, changed, gone]


def test_footer_cache_reads_no_footer(nights, monkeypatch):
    (nights.archive / "bad.parquet").unlink()
    plan = nights.plan(FooterCache())
    fail = Mock(side_effect=AssertionError("a footer is read"))
    monkeypatch.setattr(shards_module, "read_shard", fail)
    monkeypatch.setattr(commit, "read_part", fail)
    assert nights.plan(read_footer_cache(nights.files)) == plan
    with pytest.raises(AssertionError, match="a footer is read"):
        nights.plan(FooterCache())


def test_footer_cache_reads_changed_footers(nights, monkeypatch):
    replace_shard(nights, None)
    read = Mock(wraps=shards_module.read_shard)
    monkeypatch.setattr(shards_module, "read_shard", read)
    nights.plan(read_footer_cache(nights.files))
    assert sorted(call.args[1].path for call in read.mock_calls) == ["a.parquet", "bad.parquet"]
