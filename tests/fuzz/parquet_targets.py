"""Targets that read shards, parts, the footer cache and rejects from elsewhere, and their seeds."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from seeds import SHAPE, SHARD, parquet_of
from targets import refused_in_a_line

from digitsum.archive.chunks import Chunk, ChunkId, plan_chunks
from digitsum.archive.reader import Rows, check_labels, read_chunk
from digitsum.archive.score_parts import _PART_KEY, SCORES_SCHEMA, Part, part_path, read_part
from digitsum.archive.shards import Archive, Fingerprint, read_shard
from digitsum.evaluation.compare import compare
from digitsum.manifest import to_json
from digitsum.model.outputs import Predictions
from digitsum.options import ReadOptions
from digitsum.report.inspect import inspect
from digitsum.scoring.commit import commit_part, list_parts
from digitsum.scoring.config import CompareConfig
from digitsum.scoring.footer_cache import _PARTS, _SHARDS, FooterCacheFiles, read_footer_cache
from digitsum.scoring.plan import Survey, plan_scores
from digitsum.scoring.rejects import REJECTS_SCHEMA, read_rejects
from digitsum.scoring.worker import score_table
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import Location, locate

FINGERPRINT = Fingerprint(1, 1, 4, "image", "image_id", SHAPE.height, SHAPE.width)
CHUNK = ChunkId(SHARD, FINGERPRINT, 0, 4)
OPTIONS = ReadOptions()
CHUNK_IMAGES = 5
DIGITS = 4
MODEL, OTHER_MODEL = "a" * 64, "b" * 64
MOST_ROWS = 100_000
"""Larger shards are not read here: a few bytes may describe a billion rows."""


def score_shard(data: bytes, place: Path, options: ReadOptions = OPTIONS) -> list[Rows]:
    """Survey, read and commit a shard, as a run of scoring does; return what was read.

    A chunk is committed with as many rows as its footer promised, or not at all.
    """
    root = _write(place, f"archive/{SHARD}", data).parent
    scores = locate(str(place / "scores"))
    found: list[Rows] = []
    with refused_in_a_line():
        shard = read_shard(root, ListedFile(SHARD, len(data), 1), options, SHAPE)
        assert all(rows >= 0 for rows in shard.row_group_rows)
        archive = Archive(root, (shard,))
        with refused_in_a_line():
            check_labels(archive, options, DIGITS)
        if shard.num_rows > MOST_ROWS:
            return []
        chunks = plan_chunks(shard, CHUNK_IMAGES)
        assert sum(chunk.num_rows for chunk in chunks) == shard.num_rows
        for chunk in chunks:
            with refused_in_a_line():
                found += _committed(root, scores, chunk, options)
            with refused_in_a_line():
                list(_read(root, chunk, options, labels=True))
        committed = {file.path: part for file, part in list_parts(scores, MODEL, {}).items()}
        plan = plan_scores(Survey(archive, {}), MODEL, CHUNK_IMAGES, committed)
        assert not plan.gone
        assert {d.decided for d in plan.decisions} <= {"new", "done"}
    with refused_in_a_line():
        inspect(root.uri, options).lines()
    return found


def _committed(root: Location, scores: Location, chunk: Chunk, options: ReadOptions) -> list[Rows]:
    read = list(_read(root, chunk, options, labels=False))
    tables = [SCORES_SCHEMA.empty_table()]
    for rows in read:
        n = len(rows.image_ids)
        predictions = Predictions(np.zeros(n, np.int16), np.ones(n, np.float32))
        tables.append(score_table(rows, predictions))
    committed = commit_part(scores, pa.concat_tables(tables), MODEL, chunk.id)
    assert read_part(scores.join(part_path(MODEL, chunk.id))) == committed
    assert committed.num_rejected == sum(len(rows.errors) for rows in read)
    assert sum(len(rows.image_ids) for rows in read) == chunk.num_rows
    return read


def _read(root: Location, chunk: Chunk, options: ReadOptions, *, labels: bool) -> Iterator[Rows]:
    next_row = chunk.first_row
    for rows in read_chunk(root, chunk, options, labels=labels):
        n = len(rows.image_ids)
        assert rows.first_row == next_row
        assert rows.pixels.shape == (n, chunk.shape.height, chunk.shape.width)
        assert rows.pixels.dtype == np.uint8
        assert rows.image_ids.type == pa.string()
        assert rows.image_ids.null_count == 0
        assert all(0 <= row < n and reason for row, reason in rows.errors.items())
        assert (rows.digit_sums is not None) == labels
        assert rows.digit_sums is None or rows.digit_sums.shape == (n,)
        assert rows.digits is None or len(rows.digits) == n
        next_row += n
        yield rows


def read_forged_part(data: bytes, place: Path) -> None:
    """Read a part by every reader of parts; beside it is a good part of another model."""
    path = part_path(MODEL, CHUNK)
    _write(place, f"scores/{path}", data)
    _write(place, f"scores/{part_path(OTHER_MODEL, CHUNK)}", part(OTHER_MODEL))
    scores = locate(str(place / "scores"))
    with refused_in_a_line():
        read_part(scores.join(path))
    with refused_in_a_line():
        inspect(scores.uri, OPTIONS).lines()
    with refused_in_a_line():
        compare(CompareConfig(archive=str(place / "archive"), scores=scores.uri))


def read_footer_cache_file(data: bytes, place: Path) -> None:
    """Read a footer cache with a forged digest: it is used or ignored."""
    content = hashlib.sha256(data).digest() + data
    file = _write(place, "footer_cache", content)
    footer_cache = read_footer_cache(FooterCacheFiles(file, file))
    assert not (footer_cache.shards and footer_cache.parts)


def read_run_rejects(data: bytes, place: Path) -> None:
    """Read what a run rejected, as a report does."""
    _write(place, "run/rejected/shards.parquet", data)
    with refused_in_a_line():
        rows, counts = read_rejects(locate(str(place / "run")))
        assert sum(counts.values()) >= len(rows)


def _write(place: Path, name: str, data: bytes) -> Location:
    file = place / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return locate(str(file))


def part(model: str = "a" * 64) -> bytes:
    """Return a part of four rows, one of them rejected."""
    rows = [("a", 3, 0.5, [1, 2], [1, 2], [0.5, 0.5], None)] * 3
    rows += [("d", None, None, None, None, None, "no image")]
    names = SCORES_SCHEMA.names
    table = pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows], SCORES_SCHEMA)
    return parquet_of(table.replace_schema_metadata({_PART_KEY: to_json(Part(model, CHUNK, 1))}))


def parts() -> Iterator[bytes]:
    yield part()
    yield part("b" * 64)


def footer_caches() -> Iterator[bytes]:
    """Yield the two tables of a footer cache."""
    for schema in (_SHARDS, _PARTS):
        row: dict[str, Any] = {field.name: 1 for field in schema if pa.types.is_integer(field.type)}
        row |= {field.name: "a" for field in schema if pa.types.is_string(field.type)}
        row |= {field.name: [4] for field in schema if pa.types.is_list(field.type)}
        yield parquet_of(pa.Table.from_pylist([row], schema))


def rejects() -> Iterator[bytes]:
    row = {"shard": SHARD, "row": 3, "image_id": "d", "stage": "decode", "reason": "no image"}
    yield parquet_of(pa.Table.from_pylist([row] * 5, REJECTS_SCHEMA))
