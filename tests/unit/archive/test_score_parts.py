import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import (
    DIGEST_CHARACTERS,
    SCORES_SCHEMA,
    Part,
    known_count_digest,
    model_directory,
    part_directory,
    part_path,
    read_part,
    write_part,
)
from digitsum.archive.shards import Fingerprint
from digitsum.errors import InputError
from digitsum.storage.location import locate

DIGEST = "0123456789abcdef" * 4
PRINT = Fingerprint(5, 7, 9, "image", "image_id", 40, 168)
CHUNK = ChunkId("day=1/a b.parquet", PRINT, 4, 3)
KEY = b"digitsum.part"

known_counts = st.none() | st.integers(1, 64)
digests = st.builds(known_count_digest, st.sampled_from([DIGEST, DIGEST[::-1]]), known_counts)
shards = st.sampled_from(["a", "b", "a/b", "b/a", "a.parquet", "ä %?"]).map(
    lambda name: f"{name}.parquet"
)
counts = st.integers(0, 10**13)
columns = st.text("a= ä\n", max_size=8)
fingerprints = st.builds(
    Fingerprint, counts, counts, counts, columns, st.none() | columns, counts, counts
)
chunks = st.builds(ChunkId, shards, fingerprints, counts, st.integers(1, 10**13))


def scores(num_rows: int = 3) -> pa.Table:
    rows = range(1, num_rows)
    columns = {
        "image_id": [f"image-{row}" for row in range(num_rows)],
        "predicted_sum": [None, *rows],
        "confidence": np.linspace(0, 1, num_rows).astype(np.float32),
        "digits": [None, *[[row, 9] for row in rows]],
        "digit_x": [None, *[[20, 300] for _ in rows]],
        "count_probabilities": [None, *[[0.25, 0.75] for _ in rows]],
        "error": ["image is null", *[None for _ in rows]],
    }
    return pa.table(columns, schema=SCORES_SCHEMA)


def metadata_of(part: Part, folder: Path) -> dict[bytes, bytes]:
    """Return the Parquet metadata of a part as it is written."""
    location = locate(str(folder / "part"))
    write_part(location, scores(part.chunk.num_rows), part.model_digest, part.chunk)
    return dict(pq.read_schema(location.path).metadata)


def changed(metadata: dict[bytes, bytes], *path: str, value: object) -> dict[bytes, bytes]:
    """Return metadata whose JSON has another value, or none if it is ..., at a path."""
    document = json.loads(metadata[KEY])
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    if value is ...:
        del inner[path[-1]]
    return metadata | {KEY: json.dumps(document).encode()}


@given(digests, chunks.map(lambda chunk: replace(chunk, num_rows=3)))
def test_part_round_trip(digest, chunk):
    with tempfile.TemporaryDirectory() as folder:
        metadata = metadata_of(Part(digest, chunk, 1), Path(folder))
        assert Part.from_metadata(metadata | {b"\xff": b"\xfe"}) == Part(digest, chunk, 1)
        assert read_part(locate(f"{folder}/part")) == Part(digest, chunk, 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[((name,), ...) for name in ("model_digest", "chunk", "num_rejected")],
        *[(("chunk", name), ...) for name in ("shard", "fingerprint", "first_row", "num_rows")],
        (("version",), 3),
        (("version",), 5),
        (("chunk", "first_row"), "four"),
        (("chunk", "num_rows"), 2**63),
        (("chunk", "fingerprint", "mtime_ns"), 10**40),
        (("num_rejected",), None),
        (("num_rejected",), "one"),
        (("num_rejected",), -1),
        (("num_rejected",), 4),
        (("num_rejected",), 1.5),
    ],
    ids=str,
)
def test_part_metadata_malformed(path, value, tmp_path):
    metadata = metadata_of(Part(DIGEST, CHUNK, 1), tmp_path)
    assert Part.from_metadata(metadata) is not None
    assert Part.from_metadata(changed(metadata, *path, value=value)) is None


@pytest.mark.parametrize("metadata", [None, {}, {b"pandas": b"{}"}, {KEY: b"\xff"}, {KEY: b"[]"}])
def test_part_metadata_of_others(metadata):
    assert Part.from_metadata(metadata) is None


@given(digests, digests, chunks, chunks)
def test_part_path_is_unique(digest, other_digest, chunk, other):
    def place(digest: str, chunk: ChunkId) -> tuple:
        return digest, chunk.shard, chunk.first_row, chunk.num_rows

    same = place(digest, chunk) == place(other_digest, other)
    assert (part_path(digest, chunk) == part_path(other_digest, other)) == same
    # It does not depend on the shard's bytes, and is in the directory of the shard's parts.
    assert part_path(digest, replace(chunk, fingerprint=PRINT)) == part_path(digest, chunk)
    assert part_path(digest, chunk).rpartition("/")[0] == part_directory(digest, chunk.shard)


def test_part_paths_sort_as_rows():
    starts = [0, 9, 10, 8192, 65_536, 10**9]
    paths = [part_path(DIGEST, replace(CHUNK, first_row=start)) for start in starts]
    assert sorted(paths) == paths


@given(digests, digests)
def test_model_directory_is_unique(one, other):
    assert (model_directory(one) == model_directory(other)) == (one == other)


def test_model_directory_known_count():
    assert known_count_digest(DIGEST, None) == DIGEST
    own = model_directory(DIGEST)
    assert own == f"model={DIGEST[:DIGEST_CHARACTERS]}"
    assert model_directory(known_count_digest(DIGEST, 12)) == f"{own}-digits12"


def test_write_part(tmp_path):
    location = locate(str(tmp_path)).join(part_path(DIGEST, CHUNK))
    assert write_part(location, scores(), DIGEST, CHUNK) == Part(DIGEST, CHUNK, 1)
    table = pq.read_table(location.path, partitioning=None)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.to_pylist() == scores().to_pylist()
    other = replace(CHUNK, fingerprint=replace(PRINT, size_bytes=6))
    write_part(location, scores(), DIGEST, other)  # replaces it
    assert read_part(location) == Part(DIGEST, other, 1)


def test_parts_read_as_hive_dataset(tmp_path):
    for day in (1, 2):
        chunk = ChunkId(f"day={day}/a.parquet", PRINT, 0, 3)
        write_part(locate(str(tmp_path)).join(part_path(DIGEST, chunk)), scores(), DIGEST, chunk)
    table = ds.dataset(tmp_path, partitioning="hive").to_table()
    assert table.column("day").to_pylist() == [1, 1, 1, 2, 2, 2]
    assert set(table.column("model").to_pylist()) == {DIGEST[:16]}
    assert table.column("image_id").to_pylist() == ["image-0", "image-1", "image-2"] * 2


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=9))
def test_write_part_conserves_rows(rows):
    """Each row has a sum or an error, not both; the part counts the errors."""
    columns = dict.fromkeys(SCORES_SCHEMA.names, [None] * len(rows))
    columns |= {
        "image_id": [str(row) for row in range(len(rows))],
        "predicted_sum": [5 if some else None for some, _ in rows],
        "error": ["bad" if some else None for _, some in rows],
    }
    table = pa.table(columns, SCORES_SCHEMA)
    chunk = ChunkId("a.parquet", PRINT, 0, len(rows))
    with tempfile.TemporaryDirectory() as directory:
        location = locate(f"{directory}/part.parquet")
        if any(has_sum == has_error for has_sum, has_error in rows):
            with pytest.raises(ValueError, match=r"a\.parquet: a row is neither scored nor"):
                write_part(location, table, DIGEST, chunk)
            assert list(Path(directory).iterdir()) == []
        else:
            part = write_part(location, table, DIGEST, chunk)
            assert part == read_part(location) == Part(DIGEST, chunk, sum(bad for _, bad in rows))


def test_write_part_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/part\.parquet: cannot be written"):
        write_part(locate(str(tmp_path / "file" / "part.parquet")), scores(), DIGEST, CHUNK)


WITH_NULL_ID = pa.array(["a", None, "b"])
WRONG_TABLES = {
    "shorter": (scores(2), InputError, "gave 2 rows from row .* promised 3"),
    "longer": (scores(4), InputError, "gave 4 rows from row .* promised 3"),
    "null id": (scores().set_column(0, "image_id", WITH_NULL_ID), ValueError, "image_id"),
    **{
        name: (scores().drop_columns([name]), (ValueError, KeyError), name)
        for name in SCORES_SCHEMA.names
    },
}


@pytest.mark.parametrize(("table", "error", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_write_part_wrong_table(table, error, message, tmp_path, content):
    with pytest.raises(error, match=message):
        write_part(locate(str(tmp_path / "part")), table, DIGEST, CHUNK)
    assert content(tmp_path) == {}


def test_read_part_not_a_part(tmp_path, write_parquet):
    root = locate(str(tmp_path))
    write_part(root.join("whole"), scores(), DIGEST, CHUNK)
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-5])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "damaged").write_bytes(data[:-60] + b"\xff" * 52 + data[-8:])
    write_parquet(tmp_path / "foreign", {"x": [1]})
    write_parquet(tmp_path / "strange", {"x": [1]}, metadata={b"\xff": b"\xfe"})
    (tmp_path / "directory").mkdir()
    for name in ("absent", "cut", "empty", "damaged", "foreign", "strange", "directory"):
        assert read_part(root.join(name)) is None, name
