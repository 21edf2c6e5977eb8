"""Descriptions of what a place holds, an archive, scores, a model or a run: `digitsum inspect`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.files import DAMAGED, open_parquet
from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.preprocessing import count_bright
from digitsum.archive.reader import read_chunk
from digitsum.archive.score_parts import CURRENT_FILE, MODEL_KEY
from digitsum.archive.shards import Archive, Shard, list_shards, read_shards
from digitsum.errors import InputError, one_line
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY, read_manifest
from digitsum.model.saved_model import (
    CONFIG_FILE,
    MAX_METRICS_BYTES,
    METRICS_FILE,
    load_model,
    num_parameters,
)
from digitsum.options import DEFAULT_SHAPE, ReadOptions
from digitsum.report.figures import NUM_IMAGES, score_caption
from digitsum.report.page import REPORT_FILE
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.sample import read_sample
from digitsum.scoring.status import score_outcome, status
from digitsum.storage.listing import PARQUET_SUFFIX, list_parquet
from digitsum.storage.location import Location, locate

_MAX_FILES_COUNTED = 1000
_MAX_CHUNKS_TRIED = 20
_MAX_SUM = 10_000

Images = tuple[tuple[Uint8Array, str], ...]
"""Images, uint8 (height, width), each with a caption."""


@dataclass(frozen=True)
class Inspected:
    """A description of what a place holds."""

    uri: str
    kind: str
    """archive, scores, model or run."""
    facts: tuple[tuple[str, str], ...]
    """Names and values."""
    sums: tuple[int, ...] = ()
    """Images by their sum, from 0 up, true or predicted; () if none are known."""
    images: Images = ()
    """A few images."""

    def to_json(self) -> dict[str, Any]:
        """Return everything except the images."""
        facts, sums = dict(self.facts), list(self.sums)
        return {"path": self.uri, "kind": self.kind, "facts": facts, "sums": sums}

    def lines(self) -> list[str]:
        """Return what a person reads."""
        facts = list(self.facts)
        if total := sum(self.sums):
            mean = np.average(np.arange(len(self.sums)), weights=self.sums)
            known = np.flatnonzero(self.sums)
            facts.append(
                ("sums", f"{known[0]} to {known[-1]}, mean {mean:.1f}, of {total:,} images")
            )
        width = max(len(name) for name, _ in facts)
        return [
            f"{self.uri}: {self.kind}",
            *(f"  {name:{width}}  {value}" for name, value in facts),
        ]


def inspect(uri: str, read: ReadOptions) -> Inspected:
    """Return what a place holds; raises InputError if it is nothing that digitsum knows."""
    place = locate(uri)
    try:
        return _inspect(place, read)
    except (*DAMAGED, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{place.uri}: cannot be read ({type(error).__name__}: {one_line(error)}): it is "
            "damaged, or of another version of digitsum; replace it."
        ) from error


def _inspect(place: Location, read: ReadOptions) -> Inspected:
    if place.is_file():
        if not place.path.endswith(PARQUET_SUFFIX):
            raise InputError(
                f"{place.uri}: is not Parquet; give an archive, scores, a model or a run, or "
                "make an archive of it with `digitsum import`."
            )
        return _inspect_archive(place, read)
    if place.join(MANIFEST_FILE).is_file():
        return _inspect_run(place)
    if place.join(CONFIG_FILE).is_file():
        return _inspect_model(place)
    if place.join(REPORT_FILE).is_file():
        raise InputError(f"{place.uri}: holds a report; open its {REPORT_FILE}.")
    if place.name.startswith(f"{MODEL_KEY}=") or place.name == RUNS_DIRECTORY:
        raise InputError(
            f"{place.uri}: is only a part of scores; give the directory above it, "
            f"{place.parent.uri}."
        )
    has_models = any(name.startswith(f"{MODEL_KEY}=") for name in place.directories())
    if has_models or place.join(CURRENT_FILE).is_file():
        return _inspect_scores(place)
    return _inspect_archive(place, read)


def _inspect_archive(place: Location, read: ReadOptions) -> Inspected:
    root, files = list_shards(place, follow_links=read.follow_links)
    results = read_shards(root, files, read, DEFAULT_SHAPE)
    archive = Archive(root, tuple(shard for shard in results if isinstance(shard, Shard)))
    errors = [error for error in results if isinstance(error, InputError)]
    if not archive.shards:
        raise errors[0]
    first = root.join(archive.shards[0].file.path)
    with open_parquet(first) as parquet:
        schema = parquet.schema_arrow
        groups = row_groups(parquet.metadata, first.uri)
    compression = ", ".join(sorted({group.columns[0].codec for group in groups}))
    shapes = ", ".join(sorted({str(shard.shape) for shard in archive.shards}))
    group_rows = [rows for shard in archive.shards for rows in shard.row_group_rows]
    num_bytes = sum(shard.file.size_bytes for shard in archive.shards)
    bytes_each = num_bytes / max(archive.num_images, 1)
    is_labelled = read.label_column in schema.names
    facts = [
        ("shards", f"{len(archive.shards):,}"),
        ("images", f"{archive.num_images:,} of {shapes} pixels"),
        ("bytes", f"{num_bytes:,}, {bytes_each:,.0f} an image, {compression}"),
        ("row groups", f"{len(group_rows):,} of at most {max(group_rows, default=0):,} images"),
        ("columns", ", ".join(f"{field.name} {field.type}" for field in schema)),
        ("labelled", "yes" if is_labelled else f"no, there is no column {read.label_column!r}"),
    ]
    if errors:
        facts.append(("cannot be read", f"{len(errors):,} shards, the first: {errors[0]}"))
    counted = archive.shards[:_MAX_FILES_COUNTED] if is_labelled else ()
    if is_labelled and len(archive.shards) > len(counted):
        facts.append(("sums are of", f"the first {len(counted):,} shards"))
    sums = np.zeros(_MAX_SUM + 2, np.int64)
    for shard in counted:
        try:
            sums += _count_sums(root.join(shard.file.path), read.label_column)
        except (*DAMAGED, OSError) as error:
            facts.append(("sums not of", f"{shard.file.path}: {one_line(error)}"))
    images = _first_images(archive, read, is_labelled)
    if 2 * sum(count_bright(pixels[None]) for pixels, _ in images) > len(images):
        facts.append(("ink", "seems dark on bright; models read bright ink on dark"))
    return Inspected(place.uri, "archive", tuple(facts), _trimmed(sums), images)


def _first_images(archive: Archive, read: ReadOptions, is_labelled: bool) -> Images:
    """Return the first images of a shard that can be read, captioned with their labels."""
    chunks = (chunk for shard in archive.shards for chunk in plan_chunks(shard, 1)[:1])
    for chunk in islice(chunks, _MAX_CHUNKS_TRIED):
        with suppress(InputError):  # the next may be undamaged
            rows = next(read_chunk(archive.root, chunk, read), None)
            if rows is None:  # its pages hold fewer rows than its footer says
                return ()
            labels = _first_labels(archive, chunk, read) if is_labelled else []
            images = zip_longest(rows.pixels[:NUM_IMAGES], labels[: len(rows.pixels)])
            return tuple(
                (pixels, rows.errors.get(row, "" if label is None else str(label)))
                for row, (pixels, label) in enumerate(images)
            )
    return ()


def _first_labels(archive: Archive, chunk: Chunk, read: ReadOptions) -> list[int | None]:
    with open_parquet(archive.root.join(chunk.shard)) as parquet:
        batches = parquet.iter_batches(NUM_IMAGES, chunk.row_groups[:1], [read.label_column])
        batch = next(batches, None)  # None if the footer says that it has no values
    return batch.column(0).to_pylist() if batch else []


def _inspect_model(place: Location) -> Inspected:
    model = load_model(place.uri)
    file = place.join(METRICS_FILE)
    try:
        metrics = json.loads(file.read_bytes(MAX_METRICS_BYTES)) if file.is_file() else {}
    except (InputError, ValueError, RecursionError):
        metrics = {}
    weights = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    facts = [
        ("model", model.digest),
        ("network", model.network_name),
        ("images", f"{model.shape} pixels"),
        ("parameters", f"{num_parameters(model.network):,}, {weights:,} bytes"),
        ("digits", f"at most {model.network.config.max_digits}"),
        ("temperature", f"{model.temperature:.3f}"),
        ("cascade", f"a slower pass if less confident than {model.cascade_below:g}"),
    ]
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # metrics may hold anything
        if best := metrics.get("best"):
            facts.append(("validation accuracy", f"{best['validation_accuracy']:.2%}"))
        if test := metrics.get("test"):
            facts.append(("test accuracy", f"{test['accuracy']:.2%} of {test['images']:,} images"))
    sums = model.reference.sums if model.reference else ()
    return Inspected(place.uri, "model", tuple(facts), sums)


def _inspect_run(place: Location) -> Inspected:
    manifest = read_manifest(place)
    if manifest.kind not in ("score", "train"):
        raise InputError(f"{place.uri}: its {MANIFEST_FILE} is not that of a run of digitsum.")
    facts = [
        ("of", manifest.kind),
        ("began", manifest.started),
        ("ended", manifest.ended),
        ("command", " ".join(manifest.origin.command)),
        ("model", manifest.outcome["model_digest"]),
    ]
    if manifest.kind == "train":
        best = manifest.outcome["best"]
        facts += [(name.replace("_", " "), str(value)) for name, value in best.items()]
        return Inspected(place.uri, "run", tuple(facts))
    outcome = score_outcome(place)
    facts += [
        ("images", f"{outcome.images:,}, {outcome.rejected:,} rejected"),
        ("images/s", f"{outcome.images_per_s:,.0f}"),
        ("complete", outcome.why_incomplete or "yes"),
    ]
    images = tuple((image.pixels, score_caption(vars(image))) for image in read_sample(place))
    return Inspected(place.uri, "run", tuple(facts), outcome.predicted.sums, images)


def _inspect_scores(place: Location) -> Inspected:
    current = status(StatusConfig(scores=place.uri))
    facts = [("current", current.current or "none: no run was complete yet")]
    sums: tuple[int, ...] = ()
    for name in place.directories():
        if not name.startswith(f"{MODEL_KEY}="):
            continue
        files = list_parquet(place, name)
        counts = np.zeros(_MAX_SUM + 2, np.int64)
        for file in files[:_MAX_FILES_COUNTED]:
            counts += _count_sums(place.join(file.path), "predicted_sum")
        value = f"{counts.sum():,} images, {counts[-1]:,} of them rejected"
        if len(files) > _MAX_FILES_COUNTED:
            value += f", in the first {_MAX_FILES_COUNTED:,} parts"
        facts.append((name, value))
        if name == current.current or not sums:
            sums = _trimmed(counts)
    facts += [(run.name, run.sentence()) for run in current.runs[:3]]
    scored = [run.name for run in current.runs if run.outcome and run.outcome.images]
    images = _inspect_run(place.join(f"{RUNS_DIRECTORY}/{scored[0]}")).images if scored else ()
    return Inspected(place.uri, "scores", tuple(facts), sums, images)


def _count_sums(location: Location, column: str) -> npt.NDArray[np.int64]:
    """Return the rows of a file by their sum 0..10,000, int64 (10,002,); the last are of null.

    Raises InputError if the column does not hold sums.
    """
    counts = np.zeros(_MAX_SUM + 2, np.int64)
    with open_parquet(location) as parquet:
        if column not in parquet.schema_arrow.names:
            raise InputError(f"{location.uri}: has no column {column!r}; name that of the sums.")
        type_ = parquet.schema_arrow.field(column).type
        if not pa.types.is_integer(type_):
            raise InputError(
                f"{location.uri}: column {column!r} is of type {type_}, but sums are integers; "
                "correct --label-column."
            )
        for batch in parquet.iter_batches(columns=[column]):
            sums = batch.column(0).cast(pa.int64())
            least, most = pc.min_max(sums).as_py().values()
            if least is not None and not 0 <= least <= most <= _MAX_SUM:
                raise InputError(
                    f"{location.uri}: column {column!r} holds {least} to {most}, which are not "
                    "sums of digits; correct --label-column."
                )
            counts += np.bincount(sums.fill_null(_MAX_SUM + 1), minlength=_MAX_SUM + 2)
    return counts


def _trimmed(counts: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.trim_zeros(counts[:-1], "b").tolist())
