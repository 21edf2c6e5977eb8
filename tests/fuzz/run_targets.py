"""Target that reads the manifest of a run."""

import json
import warnings
from pathlib import Path

from targets import refused_in_a_line

from digitsum.options import ReadOptions
from digitsum.report.inspect import inspect
from digitsum.scoring.config import StatusConfig
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
