"""Looking back at a scoring run: what its manifest says, what it rejected, and some of its images.

All is read from what the run left, so that a report can be made again at any time.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from digitsum.archive.images import Uint8Array
from digitsum.archive.reader import read_chunk
from digitsum.archive.score_parts import PartSource, part_path
from digitsum.archive.shards import DAMAGED, read_table
from digitsum.errors import DigitsumError, InputError, one_line
from digitsum.manifest import MANIFEST_FILE
from digitsum.model.prediction_stats import Distributions
from digitsum.options import ReadOptions
from digitsum.scoring.rejects import DIRECTORY, SHARDS
from digitsum.scoring.results import find_scored_chunk
from digitsum.scoring.status import last_scored
from digitsum.storage.location import Location, locate

SAMPLE_IMAGES = 24
_SAMPLE_CHUNKS = 6
MOST_REJECTED = 200
_MOST_OF_ONE = 50


@dataclass(frozen=True)
class Sampled:
    """An image that a run scored."""

    pixels: Uint8Array
    """uint8 (height, width)."""
    score: Mapping[str, Any]
    """Its row of the scores."""
    shard: str


@dataclass(frozen=True)
class ScoreReview:
    """What there is to see of a scoring run."""

    run: Location
    manifest: Mapping[str, Any]
    last: Mapping[str, Any] | None
    """The manifest of the last run before it that scored anything."""
    rejected: tuple[Mapping[str, Any], ...]
    """What was rejected, at most MOST_REJECTED of it: shard, row, image_id, stage, reason."""
    reasons: Mapping[tuple[str, str], int]
    """How much was rejected by stage and reason."""
    sample: tuple[Sampled, ...]
    """Random images that it scored."""
    no_sample: str | None = None
    """Why there are none."""

    @property
    def outcome(self) -> Mapping[str, Any]:
        """What came of the run."""
        outcome: Mapping[str, Any] = self.manifest["outcome"]
        return outcome

    def distributions(self) -> dict[str, Distributions]:
        """Return what was predicted, by whose it is, as far as it is known."""
        found = {
            "this run": self.outcome.get("predicted"),
            "validation images": self.outcome.get("reference"),
            "the run before": (self.last or {}).get("outcome", {}).get("predicted"),
        }
        known = {name: Distributions.from_json(counts) for name, counts in found.items()}
        return {name: counts for name, counts in known.items() if counts and counts.num_images}


def review_scoring(run: Location, manifest: Mapping[str, Any]) -> ScoreReview:
    """Return what there is to see of a run, whose manifest it is.

    Raises InputError where it is no scoring run's.
    """
    if manifest.get("kind") != "score" or not isinstance(manifest.get("outcome"), dict):
        raise InputError(f"{run.uri}: is no scoring run; give one of a scores directory's _runs/.")
    scores = run.parent.parent
    last = last_scored(scores, manifest["outcome"]["model_digest"], before=run.name)
    rejected, reasons = _rejected(run)
    sample, no_sample = sample_of(scores, manifest)
    return ScoreReview(run, manifest, last, rejected, reasons, sample, no_sample)


def read_manifest(run: Location) -> dict[str, Any]:
    """Return a run's manifest; raises InputError where there is none that can be read."""
    file = run.join(MANIFEST_FILE)
    if not file.is_file():
        raise InputError(
            f"{run.uri}: holds no {MANIFEST_FILE}: give the directory of a run that was completed."
        )
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.uri}: not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{file.uri}: not a manifest; give the directory of a run.")
    return manifest


def _rejected(
    run: Location,
) -> tuple[tuple[Mapping[str, Any], ...], dict[tuple[str, str], int]]:
    rows: list[Mapping[str, Any]] = []
    reasons: Counter[tuple[str, str]] = Counter()
    # Whole shards first, and not all of what is shown of one chunk.
    names = sorted(run.join(DIRECTORY).files(), key=lambda name: not name.startswith(SHARDS))
    for name in names:
        file = run.join(f"{DIRECTORY}/{name}")
        try:
            table = read_table(file.read_bytes())
        except (*DAMAGED, OSError) as error:
            raise InputError(
                f"{file.uri}: cannot be read ({one_line(error)}); remove it, or score again with "
                "--retry-rejected."
            ) from error
        counted = table.group_by(["stage", "reason"]).aggregate([([], "count_all")])
        for pair in counted.to_pylist():
            reasons[pair["stage"], pair["reason"]] += pair["count_all"]
        shown = min(MOST_REJECTED - len(rows), _MOST_OF_ONE)
        rows += table.slice(0, max(0, shown)).to_pylist()
    return tuple(rows), dict(reasons)


def sample_of(
    scores: Location, manifest: Mapping[str, Any]
) -> tuple[tuple[Sampled, ...], str | None]:
    """Return random images that a run scored; where there are none to show, why."""
    outcome = manifest["outcome"]
    scored = [chunk for chunk in outcome.get("chunks", []) if not chunk["reason"]]
    if not scored:
        return (), None
    rng = np.random.default_rng(zlib.crc32(str(manifest["run"]).encode()))
    chosen = rng.choice(len(scored), min(_SAMPLE_CHUNKS, len(scored)), replace=False)
    each = -(-SAMPLE_IMAGES // len(chosen))
    found: list[Sampled] = []
    why = None
    for number in sorted(chosen.tolist()):
        try:
            found += _sample_chunk(scores, manifest, scored[number], each, rng)
        except (DigitsumError, OSError, pa.ArrowException) as error:
            why = str(error)
    return tuple(found[:SAMPLE_IMAGES]), None if found else why


def _sample_chunk(
    scores: Location,
    manifest: Mapping[str, Any],
    said: Mapping[str, Any],
    num_images: int,
    rng: np.random.Generator,
) -> list[Sampled]:
    outcome, config = manifest["outcome"], manifest["config"]
    archive, read = locate(outcome["archive"]), ReadOptions(**config["read"])
    chunk = find_scored_chunk(
        archive,
        said["shard"],
        said["first_row"],
        said["fingerprint"],
        read,
        config["chunk_images"],
    )
    rows = next(read_chunk(archive, chunk, read), None)
    if rows is None:
        raise InputError(f"{chunk.shard}: holds fewer rows than its footer says; replace it.")
    source = PartSource(
        outcome["model_digest"],
        said["shard"],
        said["fingerprint"],
        said["first_row"],
        said["num_rows"],
    )
    table = read_table(scores.join(part_path(source)).read_bytes())
    picked = rng.choice(len(rows.pixels), min(num_images, len(rows.pixels)), replace=False)
    return [
        Sampled(rows.pixels[row], table.slice(row, 1).to_pylist()[0], chunk.shard)
        for row in sorted(picked.tolist())
    ]
