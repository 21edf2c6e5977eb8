"""Target that reads the manifest of a run, and its seeds."""

import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from factories import write_run
from parquet_targets import CHUNK
from targets import refused_in_a_line

from digitsum.model.outputs import PredictionStats
from digitsum.options import ReadOptions
from digitsum.report.inspect import inspect
from digitsum.scoring.config import StatusConfig
from digitsum.scoring.results import ChunkResult
from digitsum.scoring.status import last_run_died, last_scored, measured_rate, status
from digitsum.storage.location import locate

RUN = "score-20260101T000000.000000Z"


def read_manifest_of_a_run(data: bytes, place: Path) -> None:
    """Read a manifest by every reader of manifests."""
    warnings.simplefilter("ignore")
    run = place / "_runs" / RUN
    run.mkdir(parents=True)
    (run / "manifest.json").write_bytes(data)
    scores = locate(str(place))
    with refused_in_a_line():
        found = status(StatusConfig(scores=str(place)))
        assert len(found.runs) == 1
        assert "\n" not in found.runs[0].sentence()
        json.dumps(found.to_json())
    with refused_in_a_line():
        measured_rate(scores, "digest")
        last_scored(scores, "digest", before="score-3")
        last_run_died(scores)
    for path in (place, run):
        with refused_in_a_line():
            inspect(str(path), ReadOptions()).lines()


def manifests() -> Iterator[bytes]:
    """Yield manifests of a scoring run and of a training run."""
    predicted = PredictionStats((0, 90, 20), (0,) * 10 + (110,), (0, 110))
    with tempfile.TemporaryDirectory() as scores:
        found = {"predicted": predicted, "reference": predicted, "chunks": (ChunkResult(CHUNK, 1),)}
        run = write_run(Path(scores), 0, model="digest", **found)
        content = (run / "manifest.json").read_bytes()
    yield content
    best = {"epoch": 1, "validation_accuracy": 0.5, "validation_images": 10}
    trained = {"best": best, "model": "nowhere", "model_digest": "digest"}
    yield json.dumps(json.loads(content) | {"kind": "train", "outcome": trained}).encode()
