"""Looking back at a scoring run: what its manifest says, what it rejected, and some of its images.

All is read from what the run left, so that a report can be made again at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from digitsum.archive.shards import DAMAGED, read_table
from digitsum.errors import InputError, one_line
from digitsum.manifest import read_manifest, to_python
from digitsum.model.prediction_stats import Distributions
from digitsum.scoring.rejects import REJECTS_DIRECTORY, SHARDS_NAME
from digitsum.scoring.sample import SampledImage, read_sample
from digitsum.scoring.status import last_scored, score_outcome
from digitsum.storage.location import Location

MOST_REJECTED = 200
_MOST_OF_ONE = 50


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
    sample: tuple[SampledImage, ...]
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


def review_scoring(run: Location) -> ScoreReview:
    """Return what there is to see of a run; raises InputError if it is not a scoring run."""
    outcome = score_outcome(run)
    manifest = to_python(read_manifest(run))
    values = to_python(outcome) | {"seconds": outcome.elapsed_s}
    values["chunks"] = [{**chunk, **chunk["chunk"]} for chunk in values["chunks"]]
    scores = run.parent.parent
    last = last_scored(scores, outcome.model_digest, before=run.name)
    rejected, reasons = _rejected(run)
    manifest |= {"outcome": values, **manifest["origin"]}
    earlier = {"outcome": to_python(last)} if last else None
    return ScoreReview(run, manifest, earlier, rejected, reasons, read_sample(run))


def _rejected(
    run: Location,
) -> tuple[tuple[Mapping[str, Any], ...], dict[tuple[str, str], int]]:
    rows: list[Mapping[str, Any]] = []
    reasons: Counter[tuple[str, str]] = Counter()
    # Whole shards first, and not all of what is shown of one chunk.
    names = sorted(
        run.join(REJECTS_DIRECTORY).files(), key=lambda name: not name.startswith(SHARDS_NAME)
    )
    for name in names:
        file = run.join(f"{REJECTS_DIRECTORY}/{name}")
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
