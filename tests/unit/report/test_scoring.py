from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from factories import write_run

from digitsum.archive.chunks import ChunkId
from digitsum.archive.shards import Fingerprint
from digitsum.errors import InputError
from digitsum.manifest import read_manifest
from digitsum.model.outputs import PredictionStats
from digitsum.report.page import render
from digitsum.report.scoring import score_page
from digitsum.scoring.drift import Shift
from digitsum.scoring.plan import PlannedChunks, PlannedParts, PlannedShards, PlanSummary
from digitsum.scoring.rejects import MAX_REJECTS_READ, REJECTS_SCHEMA, read_rejects, write_rejects
from digitsum.scoring.results import ChunkResult
from digitsum.storage.location import Location, locate

FINGERPRINT = Fingerprint(1, 2, 420, "image", "image_id", 40, 168)
COUNTS = PredictionStats((0, 150, 50), (200, *[0] * 10), (0, 200))
RESULTS = tuple(
    ChunkResult(
        ChunkId("a.parquet", FINGERPRINT, first_row, 210),
        num_rejected=10,
        read_s=0.5,
        forward_s=1.0,
        write_s=0.5,
        attempts=1,
        node="n",
        backend="torch",
        ended=ended,
    )
    for first_row, ended in ((0, 1000.0), (210, 0.0))
)


@pytest.fixture
def run(tmp_path) -> Callable[..., Location]:
    """Write what a run of a night left; return its directory."""
    planned = PlannedChunks(1, 210)
    plan = PlanSummary(
        model_digest="a" * 64,
        new=planned,
        changed=planned,
        done=planned,
        gone=PlannedParts(0, {}),
        rejected=PlannedShards(1, {"no Parquet": 1}),
    )
    values = {"plan": plan, "predicted": COUNTS, "reference": COUNTS, "chunks": RESULTS}
    values["shifts"] = (Shift("sums", 0.5, 1e-9),)
    return lambda night=0, **changes: locate(str(write_run(tmp_path, night, **values | changes)))


def reject(run: Location, name: str, num_rows: int, reason: str) -> None:
    rows = [
        {"shard": name, "row": row, "image_id": None, "stage": "decode", "reason": reason}
        for row in range(num_rows)
    ]
    write_rejects(run, name, pa.Table.from_pylist(rows, REJECTS_SCHEMA))


def html_of(run: Location) -> str:
    return render(score_page(run, read_manifest(run))).decode()


def test_score_page_of_record(run):
    run(0)
    page = html_of(run(1))
    for title in ("Rate", "What was predicted", "Rejected", "Slowest chunks"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 4
    assert "the run before" in page
    assert 'role="alert">Drift: the predicted sums have drifted' in page
    assert "Nothing was rejected." in page
    assert "105 on average" in page


def test_score_page_incomplete_and_idle(run):
    nothing = {"chunks": (), "predicted": PredictionStats(), "reference": None, "shifts": ()}
    page = html_of(run(why_incomplete="too many", **nothing))
    assert 'role="alert">Incomplete: too many' in page
    for title in ("Rate", "What was predicted", "A random sample", "Slowest chunks"):
        assert f"<h2>{title}</h2>" not in page


def test_score_page_rejects(run):
    run = run()
    for number in range(10):
        reject(run, f"{number:04x}-000", 60, f"reason {number}")
    reject(run, "shards", 2, "no Parquet")
    rows, counts = read_rejects(run)
    assert len(rows) == MAX_REJECTS_READ
    assert counts.total() == 602
    assert [row["shard"] for row in rows[:3]] == ["shards", "shards", "0000-000"]
    page = html_of(run)
    assert "60 times reason 0 (decode)" in page
    assert "And 3 other reasons." in page
    assert f"The first {MAX_REJECTS_READ} of 602 are listed" in page


@pytest.mark.parametrize("directory", ["rejected", "sample"])
def test_score_page_damaged_files(run, directory):
    run = run()
    file = Path(run.path) / directory / "shards.parquet"
    file.parent.mkdir()
    file.write_text("no Parquet")
    with pytest.raises(InputError, match=r"shards\.parquet: cannot be read .*; remove it"):
        html_of(run)
