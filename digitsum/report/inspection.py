"""What a place holds, whatever it is: `digitsum inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from digitsum.archive.images import Uint8Array
from digitsum.archive.location import Location, locate
from digitsum.archive.reading import read_chunk
from digitsum.archive.schema import ReadOptions
from digitsum.archive.scores import CURRENT_FILE, MODEL_KEY
from digitsum.archive.shards import Archive, open_archive, open_parquet, plan_chunks
from digitsum.errors import InputError
from digitsum.model.bundle import CONFIG_FILE, METRICS_FILE, load_bundle, num_parameters
from digitsum.report.captions import score_caption
from digitsum.report.contact_sheet import NUM_IMAGES
from digitsum.runs import MANIFEST_FILE, RUNS_DIRECTORY
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.review import read_manifest, review_scoring
from digitsum.scoring.status import status

_BARS = " ▁▂▃▄▅▆▇█"
_MOST_SHARDS_COUNTED = 1000


@dataclass(frozen=True)
class Inspected:
    """What a place holds."""

    uri: str
    kind: str
    """archive, scores, bundle or run."""
    facts: tuple[tuple[str, str], ...]
    """What there is to know, by name."""
    sums: tuple[int, ...] = ()
    """Images by their sum, from 0 up, true or predicted; () where there are none."""
    images: tuple[tuple[Uint8Array, str], ...] = ()
    """A few images, uint8 (height, width), and what there is to say of each."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the images as one object."""
        return {"path": self.uri, "kind": self.kind, **dict(self.facts), "sums": list(self.sums)}

    def lines(self) -> list[str]:
        """Return what a person reads."""
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{self.uri}: {self.kind}"]
        lines += [f"  {name:{width}}  {value}" for name, value in self.facts]
        if any(self.sums):
            lines.append(f"  {'sums':{width}}  {histogram(self.sums)}")
        return lines


def histogram(counts: Sequence[int]) -> str:
    """Return counts as a line of bars, between the first number that occurs and the last."""
    some = np.flatnonzero(counts)
    first, last = int(some[0]), int(some[-1])
    most = max(counts)
    tallest = len(_BARS) - 1
    levels = [max(bool(n), round(tallest * n / most)) for n in counts[first : last + 1]]
    return f"{first} {''.join(_BARS[level] for level in levels)} {last}"


def inspect(uri: str, read: ReadOptions) -> Inspected:
    """Return what a place holds; raises InputError where it is nothing that digitsum knows."""
    place = locate(uri)
    if place.join(MANIFEST_FILE).is_file():
        return _run(place)
    if place.join(CONFIG_FILE).is_file():
        return _bundle(place)
    is_scores = any(name.startswith(f"{MODEL_KEY}=") for name in place.directories())
    if is_scores or place.join(CURRENT_FILE).is_file():
        return _scores(place)
    return _archive(place, read)


def _archive(place: Location, read: ReadOptions) -> Inspected:
    archive = open_archive(place.uri, read)
    first = archive.shards[0]
    location = archive.root.join(first.file.path)
    with open_parquet(location) as parquet:
        schema = parquet.schema_arrow
        compression = parquet.metadata.row_group(0).column(0).compression if first.num_rows else ""
    shapes = sorted({str(shard.shape) for shard in archive.shards})
    groups = [rows for shard in archive.shards for rows in shard.row_group_rows]
    is_labelled = read.label_column in schema.names
    sizes = sum(shard.file.size_bytes for shard in archive.shards)
    facts = [
        ("shards", f"{len(archive.shards):,}"),
        ("images", f"{archive.num_images:,} of {', '.join(shapes)} pixels"),
        ("bytes", f"{sizes:,}, {sizes / max(archive.num_images, 1):,.0f} an image, {compression}"),
        ("row groups", f"{len(groups):,} of at most {max(groups, default=0):,} images"),
        ("columns", ", ".join(f"{field.name} {field.type}" for field in schema)),
        ("labelled", "yes" if is_labelled else f"no, there is no column {read.label_column!r}"),
    ]
    sums = _label_counts(archive, read) if is_labelled else ()
    if is_labelled and len(archive.shards) > _MOST_SHARDS_COUNTED:
        facts.append(("sums are of", f"the first {_MOST_SHARDS_COUNTED:,} shards"))
    images = _first_images(archive, read, is_labelled)
    return Inspected(place.uri, "archive", tuple(facts), sums, images)


def _label_counts(archive: Archive, read: ReadOptions) -> tuple[int, ...]:
    counts = np.zeros(0, np.int64)
    for shard in archive.shards[:_MOST_SHARDS_COUNTED]:
        location = archive.root.join(shard.file.path)
        try:
            with open_parquet(location) as parquet:
                labels = parquet.read([read.label_column]).column(0).drop_null()
            found = np.bincount(labels.cast(pa.int64()).to_numpy())
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise InputError(
                f"{location.uri}: column {read.label_column!r} holds no sums ({error}); correct "
                "--label-column."
            ) from error
        longer = np.zeros(max(len(counts), len(found)), np.int64)
        longer[: len(counts)] += counts
        longer[: len(found)] += found
        counts = longer
    return tuple(map(int, counts))


def _first_images(
    archive: Archive, read: ReadOptions, is_labelled: bool
) -> tuple[tuple[Uint8Array, str], ...]:
    chunks = [chunk for shard in archive.shards for chunk in plan_chunks(shard, 1)][:1]
    for chunk in chunks:
        rows = next(read_chunk(archive.root, chunk, read, labels=is_labelled))
        found = []
        for row, pixels in enumerate(rows.pixels[:NUM_IMAGES]):
            known = "" if rows.digit_sums is None else str(rows.digit_sums[row])
            found.append((pixels, rows.errors.get(row, known)))
        return tuple(found)
    return ()


def _bundle(place: Location) -> Inspected:
    bundle = load_bundle(place.uri)
    file = place.join(METRICS_FILE)
    metrics = json.loads(file.read_bytes()) if file.is_file() else {}
    weights = sum(tensor.nbytes for tensor in bundle.network.state_dict().values())
    facts = [
        ("model", bundle.digest),
        ("network", bundle.network_name),
        ("images", f"{bundle.shape} pixels"),
        ("parameters", f"{num_parameters(bundle.network):,}, {weights:,} bytes"),
        ("digits", f"at most {bundle.network.config.max_digits}"),
        ("temperature", f"{bundle.temperature:.3f}"),
    ]
    best, test = (metrics.get(name) for name in ("best", "test"))
    if best:
        facts.append(("validation accuracy", f"{best['validation_accuracy']:.2%}"))
    if test:
        facts.append(("test accuracy", f"{test['accuracy']:.2%} of {test['images']:,} images"))
    sums = bundle.reference.sums if bundle.reference else ()
    return Inspected(place.uri, "bundle", tuple(facts), sums)


def _run(place: Location) -> Inspected:
    manifest = read_manifest(place)
    facts = [
        ("kind", str(manifest.get("kind"))),
        ("began", str(manifest.get("started"))),
        ("ended", str(manifest.get("ended"))),
        ("command", " ".join(map(str, manifest.get("command", [])))),
    ]
    if manifest.get("kind") != "score":
        best = manifest.get("outcome", {}).get("best", {})
        facts += [(name.replace("_", " "), str(value)) for name, value in best.items()]
        return Inspected(place.uri, "run", tuple(facts))
    review = review_scoring(place)
    outcome = review.outcome
    predicted = review.distributions().get("this run")
    facts += [
        ("model", str(outcome.get("model_digest"))),
        ("images", f"{outcome.get('images', 0):,}, {outcome.get('rejected', 0):,} rejected"),
        ("images/s", f"{outcome.get('images_per_s', 0):,.0f}"),
        ("complete", "yes" if outcome.get("complete") else str(outcome.get("why_incomplete"))),
    ]
    images = tuple((found.pixels, score_caption(found.score)) for found in review.sample)
    return Inspected(place.uri, "run", tuple(facts), predicted.sums if predicted else (), images)


def _scores(place: Location) -> Inspected:
    found = status(StatusConfig(scores=place.uri))
    facts = [("current", found.current or "none: no run was complete yet")]
    models = [name for name in place.directories() if name.startswith(f"{MODEL_KEY}=")]
    sums: tuple[int, ...] = ()
    for name in models:
        number, rejected, counts = _scored(place, name)
        facts.append((name, f"{number:,} images, {rejected:,} of them rejected"))
        sums = counts if name == found.current or not sums else sums
    facts += [(run.name, run.sentence()) for run in found.runs[:3]]
    images: tuple[tuple[Uint8Array, str], ...] = ()
    scored = [run.name for run in found.runs if run.outcome.get("images")]
    if scored:
        inspected = _run(place.join(f"{RUNS_DIRECTORY}/{scored[0]}"))
        images = inspected.images
    return replace(Inspected(place.uri, "scores", tuple(facts), sums), images=images)


def _scored(place: Location, model: str) -> tuple[int, int, tuple[int, ...]]:
    """Return the rows of a model's scores, those rejected, and the images by predicted sum."""
    dataset = ds.dataset(place.join(model).path, filesystem=place.filesystem)
    table = dataset.to_table(columns=["predicted_sum"])
    sums = table["predicted_sum"]
    known = sums.drop_null()
    counts = pc.value_counts(known).to_pylist() if len(known) else []
    by_sum = {pair["values"]: pair["counts"] for pair in counts}
    return (
        len(sums),
        sums.null_count,
        tuple(by_sum.get(number, 0) for number in range(max(by_sum, default=-1) + 1)),
    )
