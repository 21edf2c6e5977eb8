"""What a place holds, whatever it is: `digitsum inspect`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from digitsum.archive.chunks import Chunk, plan_chunks
from digitsum.archive.images import Uint8Array
from digitsum.archive.parquet.footer import row_groups
from digitsum.archive.preprocessing import count_bright
from digitsum.archive.reader import read_chunk
from digitsum.archive.score_parts import CURRENT_FILE, MODEL_KEY
from digitsum.archive.shards import (
    DAMAGED,
    SHARD_SUFFIX,
    Archive,
    Shard,
    list_parquet,
    list_shards,
    open_parquet,
    read_shards,
)
from digitsum.errors import InputError, one_line
from digitsum.manifest import MANIFEST_FILE, RUNS_DIRECTORY, read_manifest
from digitsum.model.prediction_stats import Distributions
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
from digitsum.report.sum_counts import SumCounts, histogram
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.sample import read_sample
from digitsum.scoring.status import status
from digitsum.storage.location import Location, locate

_MOST_FILES_COUNTED = 1000
_MOST_CHUNKS_TRIED = 20


@dataclass(frozen=True)
class Inspected:
    """What a place holds."""

    uri: str
    kind: str
    """archive, scores, model or run."""
    facts: tuple[tuple[str, str], ...]
    """What there is to know, by name."""
    sums: tuple[int, ...] = ()
    """Images by their sum, from 0 up, true or predicted; () where there are none."""
    images: tuple[tuple[Uint8Array, str], ...] = ()
    """A few images, uint8 (height, width), and what there is to say of each."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the images as one object."""
        return {
            "path": self.uri,
            "kind": self.kind,
            "facts": dict(self.facts),
            "sums": list(self.sums),
        }

    def lines(self) -> list[str]:
        """Return what a person reads."""
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{self.uri}: {self.kind}"]
        lines += [f"  {name:{width}}  {value}" for name, value in self.facts]
        if any(self.sums):
            lines.append(f"  {'sums':{width}}  {histogram(self.sums)}")
        return lines


def inspect(uri: str, read: ReadOptions) -> Inspected:
    """Return what a place holds; raises InputError where it is nothing that digitsum knows."""
    place = locate(uri)
    try:
        return _inspected(place, read)
    except (*DAMAGED, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{place.uri}: cannot be understood ({type(error).__name__}: {one_line(error)}): it is "
            "damaged, or of another version of digitsum."
        ) from error


def _inspected(place: Location, read: ReadOptions) -> Inspected:
    if place.is_file():
        if not place.path.endswith(SHARD_SUFFIX):
            raise InputError(
                f"{place.uri}: is no Parquet; give an archive, scores, a model or a run, or "
                "make an archive of it with `digitsum import`."
            )
        return _archive(place, read)
    if place.join(MANIFEST_FILE).is_file():
        return _run(place)
    if place.join(CONFIG_FILE).is_file():
        return _model(place)
    if place.join(REPORT_FILE).is_file():
        raise InputError(f"{place.uri}: holds a report; open its {REPORT_FILE}.")
    if place.name.startswith(f"{MODEL_KEY}="):
        raise InputError(
            f"{place.uri}: holds one model's part of scores; give their directory, "
            f"{place.parent.uri}."
        )
    is_scores = any(name.startswith(f"{MODEL_KEY}=") for name in place.directories())
    if is_scores or place.join(CURRENT_FILE).is_file():
        return _scores(place)
    return _archive(place, read)


def _archive(place: Location, read: ReadOptions) -> Inspected:
    root, files = list_shards(place, follow_links=read.follow_links)
    found = read_shards(root, files, read, DEFAULT_SHAPE)
    archive = Archive(root, tuple(shard for shard in found if isinstance(shard, Shard)))
    unread = [error for error in found if isinstance(error, InputError)]
    if not archive.shards:
        raise unread[0]
    first = archive.shards[0]
    location = archive.root.join(first.file.path)
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        told = row_groups(parquet.metadata, location.uri)
    compression = ", ".join(sorted({group.columns[0].codec for group in told}))
    shapes = sorted({str(shard.shape) for shard in archive.shards})
    groups = [rows for shard in archive.shards for rows in shard.row_group_rows]
    is_labelled = read.label_column in schema.names
    sizes = sum(shard.file.size_bytes for shard in archive.shards)
    facts = [
        ("shards", f"{len(archive.shards):,}"),
        ("images", f"{archive.num_images:,} of {', '.join(shapes)} pixels"),
        (
            "bytes",
            f"{sizes:,}, {sizes / max(archive.num_images, 1):,.0f} an image, {compression}",
        ),
        ("row groups", f"{len(groups):,} of at most {max(groups, default=0):,} images"),
        ("columns", ", ".join(f"{field.name} {field.type}" for field in schema)),
        ("labelled", "yes" if is_labelled else f"no, there is no column {read.label_column!r}"),
    ]
    if unread:
        facts.append(("cannot be read", f"{len(unread):,} shards, the first: {unread[0]}"))
    some = archive.shards[:_MOST_FILES_COUNTED]
    if is_labelled and len(archive.shards) > len(some):
        facts.append(("sums are of", f"the first {len(some):,} shards"))
    sums = SumCounts()
    for shard in some if is_labelled else ():
        try:
            sums.count(archive.root.join(shard.file.path), read.label_column)
        except (*DAMAGED, OSError) as error:
            facts.append(("sums not of", f"{shard.file.path}: {one_line(error)}"))
    images = _first_images(archive, read, is_labelled)
    if 2 * sum(count_bright(pixels[None]) for pixels, _ in images) > len(images):
        facts.append(("ink", "dark on bright, as it seems; models read bright ink on dark"))
    return Inspected(place.uri, "archive", tuple(facts), sums.counts, images)


def _first_images(
    archive: Archive, read: ReadOptions, is_labelled: bool
) -> tuple[tuple[Uint8Array, str], ...]:
    chunks = (chunk for shard in archive.shards for chunk in plan_chunks(shard, 1)[:1])
    for chunk in islice(chunks, _MOST_CHUNKS_TRIED):
        with suppress(InputError):  # some other one may be whole
            return _images_of(archive, chunk, read, is_labelled)
    return ()


def _images_of(
    archive: Archive, chunk: Chunk, read: ReadOptions, is_labelled: bool
) -> tuple[tuple[Uint8Array, str], ...]:
    rows = next(read_chunk(archive.root, chunk, read), None)
    if rows is None:  # its pages hold fewer rows than its footer says
        return ()
    captions = [""] * len(rows.pixels)
    if is_labelled:
        with open_parquet(archive.root.join(chunk.shard)) as parquet:
            batches = parquet.iter_batches(NUM_IMAGES, chunk.row_groups[:1], [read.label_column])
            batch = next(batches, None)  # none where the footer says that it has no values
        known = batch.column(0).to_pylist() if batch else []
        captions[: len(known)] = ["" if label is None else str(label) for label in known]
    return tuple(
        (pixels, rows.errors.get(row, captions[row]))
        for row, pixels in enumerate(rows.pixels[:NUM_IMAGES])
    )


def _model(place: Location) -> Inspected:
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
        ("looks again", f"where less sure than {model.cascade_below:g}"),
    ]
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # they may say anything
        if best := metrics.get("best"):
            facts.append(("validation accuracy", f"{best['validation_accuracy']:.2%}"))
        if test := metrics.get("test"):
            facts.append(("test accuracy", f"{test['accuracy']:.2%} of {test['images']:,} images"))
    sums = model.reference.sums if model.reference else ()
    return Inspected(place.uri, "model", tuple(facts), sums)


def _run(place: Location) -> Inspected:
    manifest = read_manifest(place)
    kind, outcome = manifest.kind, manifest.outcome
    if kind not in ("score", "train"):
        raise InputError(f"{place.uri}: its {MANIFEST_FILE} is not that of a run of digitsum.")
    facts = [
        ("of", kind),
        ("began", manifest.started),
        ("ended", manifest.ended),
        ("command", " ".join(manifest.origin.command)),
        ("model", outcome["model_digest"]),
    ]
    if kind == "train":
        facts += [(name.replace("_", " "), str(value)) for name, value in outcome["best"].items()]
        return Inspected(place.uri, "run", tuple(facts))
    predicted = Distributions.from_json(outcome["predicted"])
    facts += [
        ("images", f"{outcome['images']:,}, {outcome['rejected']:,} rejected"),
        ("images/s", f"{outcome['images_per_s']:,.0f}"),
        ("complete", "yes" if outcome["complete"] else str(outcome["why_incomplete"])),
    ]
    images = tuple((image.pixels, score_caption(vars(image))) for image in read_sample(place))
    return Inspected(place.uri, "run", tuple(facts), predicted.sums if predicted else (), images)


def _scores(place: Location) -> Inspected:
    found = status(StatusConfig(scores=place.uri))
    facts = [("current", found.current or "none: no run was complete yet")]
    models = [name for name in place.directories() if name.startswith(f"{MODEL_KEY}=")]
    sums: tuple[int, ...] = ()
    for name in models:
        files = list_parquet(place, name)
        counted = SumCounts()
        for file in files[:_MOST_FILES_COUNTED]:
            counted.count(place.join(file.path), "predicted_sum")
        said = f"{counted.num_rows:,} images, {counted.num_null:,} of them rejected"
        more = len(files) > _MOST_FILES_COUNTED
        facts.append(
            (name, f"{said}, in the first {_MOST_FILES_COUNTED:,} parts" if more else said)
        )
        sums = counted.counts if name == found.current or not sums else sums
    facts += [(run.name, run.sentence()) for run in found.runs[:3]]
    images: tuple[tuple[Uint8Array, str], ...] = ()
    scored = [run.name for run in found.runs if run.outcome and run.outcome.images]
    if scored:
        inspected = _run(place.join(f"{RUNS_DIRECTORY}/{scored[0]}"))
        images = inspected.images
    return replace(Inspected(place.uri, "scores", tuple(facts), sums), images=images)
