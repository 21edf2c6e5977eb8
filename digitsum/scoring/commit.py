"""Committing scores: when a chunk is done, and what a reader sees meanwhile.

A chunk is done when its part has its final name, and its metadata name the model and the
chunk: shard, fingerprint, row range. The name follows from the chunk, so a chunk that is scored
twice (a worker that was lost after it committed, a run that was killed, two runs at once) ends in
the same one file, of the same content. If a run dies

1. before a part is renamed (on object stores: put), a reader sees nothing of the chunk, or its
   earlier part, and the chunk is scored again. On a local file system a hidden file stays beside
   it, which the next run removes, or the run itself if only a worker died.
2. after a part is renamed, a reader sees the whole part. The chunk is done; its rows were counted
   before. If the machine loses power before the directory is synced, it is as in 1.
3. when all parts are there, a reader may see parts of rows that the archive no longer has. They
   are removed last, so that no reader misses rows that are still there, and only if the shard is
   still as it was planned, so that no run removes what a later one has scored. Parts of replaced
   bytes go too if the new bytes cannot be read. The next run removes the rest.
4. before `CURRENT` is replaced, which is one step, readers that follow it see the last complete
   run's model. The next run has nothing to score and replaces it.
5. after that, the run is complete and has no manifest. The next run has nothing to score.

A run is complete only after the parts that its workers committed were read back from where the
driver stands (`check_committed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa

from digitsum.archive.chunks import ChunkId
from digitsum.archive.score_parts import (
    CURRENT_FILE,
    MODEL_KEY,
    PART_PREFIX,
    Part,
    model_directory,
    part_path,
    read_part,
    write_part,
)
from digitsum.archive.shards import FOOTER_THREADS
from digitsum.errors import InputError
from digitsum.fault_injection import fault_point
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.storage.atomic_write import TEMPORARY_PREFIX, publish_bytes
from digitsum.storage.listing import ListedFile, list_file, list_parquet
from digitsum.storage.location import Location, storage_error
from digitsum.storage.retries import retried

ListedParts = Mapping[ListedFile, Part | None]
"""A model's parts as they were listed, to their descriptions; None if one cannot be read."""


def list_parts(
    scores: Location, model_digest: str, known: Mapping[ListedFile, Part]
) -> ListedParts:
    """Return every part of a model; those that are listed as in `known` are not read again."""
    listed = retried(lambda: list_parquet(scores, model_directory(model_digest)))
    # Other files that somebody keeps there are not digitsum's to judge, or to remove.
    files = [file for file in listed if PurePosixPath(file.path).name.startswith(PART_PREFIX)]
    unknown = [file for file in files if file not in known]
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        parts = threads.map(
            lambda file: retried(lambda: read_part(scores.join(file.path))), unknown
        )
        read = dict(zip(unknown, parts, strict=True))
    return {file: known[file] if file in known else read[file] for file in files}


def list_parts_of_others(scores: Location, model_digest: str) -> set[str]:
    """Return the paths, below their model's directory, of the parts of other models."""
    own = model_directory(model_digest)
    return {
        file.path.partition("/")[2]
        for name in retried(scores.directories)
        if name.startswith(f"{MODEL_KEY}=") and name != own
        for file in retried(partial(list_parquet, scores, name))
    }


def remove_leftovers(scores: Location, model_digest: str) -> None:
    """Remove what killed runs left half written; no other run may be writing (`lock_scores`)."""
    _remove_temporary(scores)
    for directory in (model_directory(model_digest), RUNS_DIRECTORY):
        _remove_temporary(scores.join(directory), "**/")


def remove_leftovers_beside(scores: Location, parts: Iterable[str], run: Location) -> None:
    """Remove what workers that were lost in this run left half written, beside its parts.

    A worker that still writes, and only the driver has lost, fails when it renames.
    """
    for directory in {part.rpartition("/")[0] for part in parts}:
        _remove_temporary(scores.join(directory))
    _remove_temporary(run, "**/")


def _remove_temporary(directory: Location, below: str = "") -> None:
    if directory.is_local:
        for path in Path(directory.path).glob(f"{below}{TEMPORARY_PREFIX}*"):
            with _removing(str(path)):
                path.unlink()


def commit_part(scores: Location, table: pa.Table, model_digest: str, chunk: ChunkId) -> Part:
    """Make the part of a chunk appear from its scores; return its description.

    Raises InputError, and commits nothing, if the table has not as many rows as the chunk, or if a
    link leads out of the scores.
    """
    path = part_path(model_digest, chunk)
    scores.check_below(path)
    return write_part(scores.join(path), table, model_digest, chunk)


def check_committed(scores: Location, parts: Sequence[Part]) -> dict[ListedFile, Part]:
    """Read back parts that workers committed; return them as a listing would.

    Raises InputError if one is absent or says something else: the scores are a local directory of
    each node, or another run interfered.
    """

    def find(part: Part) -> ListedFile | None:
        path = part_path(part.model_digest, part.chunk)
        file = retried(lambda: list_file(scores, path))
        return file if file and retried(lambda: read_part(scores.join(path))) == part else None

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        files = list(threads.map(find, parts))
    missing = [part for part, file in zip(parts, files, strict=True) if file is None]
    if missing:
        raise InputError(
            f"{scores.uri}: {len(missing)} of {len(parts)} parts are not there, or not of the "
            f"shards as planned, the first of {missing[0].chunk.shard}; give --scores a place that "
            "all nodes share, and run again."
        )
    return {file: part for file, part in zip(files, parts, strict=True) if file}


def remove_parts(scores: Location, paths: Iterable[str]) -> None:
    """Remove parts of rows that the archive no longer has; a directory goes with its last part."""
    fault_point("scored")
    for path in paths:
        retried(partial(_remove_part, scores.join(path)))
        fault_point("removed")
        if scores.is_local:
            _remove_empty(Path(scores.join(path).path).parent, Path(scores.path))


def point_current(scores: Location, model_digest: str) -> None:
    """Point CURRENT at a model, all of whose chunks are done."""
    pointer = f"{model_directory(model_digest)}\n".encode()
    retried(lambda: publish_bytes(pointer, scores.join(CURRENT_FILE)))
    fault_point("pointed")


def _remove_part(part: Location) -> None:
    with _removing(part.uri):
        part.filesystem.delete_file(part.path)


@contextmanager
def _removing(place: str) -> Iterator[None]:
    """Raise what removing a file raises as a storage error, unless another run has removed it."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(f"{place}: cannot be removed", error) from error


def _remove_empty(directory: Path, scores: Path) -> None:
    """Remove an empty directory, and those above it, below the model's, that it leaves empty."""
    with suppress(OSError):
        while len(directory.relative_to(scores).parts) > 1:
            directory.rmdir()
            directory = directory.parent
