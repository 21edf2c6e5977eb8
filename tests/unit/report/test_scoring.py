"""The page of a scoring run shows what lies in its directory, and asks nothing else."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.errors import InputError
from digitsum.report.page import render
from digitsum.report.scoring import MAX_REJECTS, read_rejects, score_page
from digitsum.scoring.rejects import SCHEMA
from digitsum.storage.location import locate

RUN = "score-20260102T000000.000000Z"
BEFORE = "score-20260101T000000.000000Z"
DIGEST = "d" * 64


def manifest_of(run: str, **changes) -> dict:
    counts = {"sums": [0, 150, 50], "confidences": [200, *[0] * 10], "digit_counts": [0, 200]}
    chunk = {"shard": "a.parquet", "first_row": 0, "num_rows": 210, "reason": "", "attempts": 1}
    chunk |= {"read_s": 0.5, "forward_s": 1.0, "write_s": 0.5, "node": "n", "backend": "torch"}
    planned = {"chunks": 1, "images": 210, "shards": 1}
    totals = {"images": 210, "scored": 200, "rejected": 10, "rejected_shards": 1, "shards": 2}
    outcome = {
        "archive": "/gone",  # as the model is: nothing of either is opened
        "scores": "/gone",
        "model_digest": DIGEST,
        "images": 210,
        "rejected": 10,
        "seconds": 2.0,
        "images_per_s": 105.0,
        "plan": {"new": planned, "changed": planned, "done": planned},
        "totals": totals,
        "predicted": counts,
        "reference": counts,
        "bottleneck": "more cores would help",
        "shifts": [{"quantity": "sums", "index": 0.5, "p_value": 1e-9, "drift": True}],
        "why_incomplete": None,
        "chunks": [chunk | {"ended": 1000.0}, chunk | {"first_row": 210, "ended": 0.0}],
    }
    return {
        "run": run,
        "started": "2026-01-02T00:00:00+00:00",
        "ended": "2026-01-02T00:00:02+00:00",
        "command": ["digitsum", "score"],
        "versions": {"torch": "2"},
        "git_commit": None,
        "outcome": outcome | changes,
    }


def reject(run: Path, name: str, num_rows: int, reason: str) -> None:
    (run / "rejected").mkdir(parents=True, exist_ok=True)
    rows = [
        {"shard": name, "row": row, "image_id": None, "stage": "decode", "reason": reason}
        for row in range(num_rows)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), run / f"rejected/{name}.parquet")


@pytest.fixture
def run(tmp_path) -> Path:
    """Make the directory of a run after another."""
    for name in (BEFORE, RUN):
        run = tmp_path / "scores/_runs" / name
        run.mkdir(parents=True)
        (run / "manifest.json").write_text(json.dumps(manifest_of(name)))
    return run


def html_of(run: Path, **changes) -> str:
    return render(score_page(locate(str(run)), manifest_of(run.name, **changes))).decode()


def test_score_page_of_record(run):
    page = html_of(run)
    for title in ("Rate", "What was predicted", "Rejected", "Slowest chunks"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 4
    assert "the run before" in page
    assert 'role="alert">Drift: the predicted sums have drifted' in page
    assert "Nothing was rejected." in page
    assert "105 on average" in page


def test_score_page_incomplete_and_idle(run):
    nothing = {"sums": [], "confidences": [], "digit_counts": []}
    page = html_of(
        run, why_incomplete="too many", chunks=[], predicted=nothing, reference=None, shifts=[]
    )
    assert 'role="alert">Incomplete: too many' in page
    assert "Slowest chunks" not in page
    assert "Rate" not in page


def test_score_page_rejects(run):
    for number in range(10):
        reject(run, f"{number:04x}-000", 60, f"reason {number}")
    reject(run, "shards", 2, "no Parquet")
    rows, counts = read_rejects(locate(str(run)))
    assert len(rows) == MAX_REJECTS
    assert counts.total() == 602
    assert [row["shard"] for row in rows[:3]] == ["shards", "shards", "0000-000"]
    page = html_of(run)
    assert "60 times reason 0 (decode)" in page
    assert "And 3 other reasons." in page
    assert f"The first {MAX_REJECTS} of 602 are listed" in page


def test_read_rejects_damaged(run):
    (run / "rejected").mkdir()
    (run / "rejected/shards.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"shards\.parquet: cannot be read .*; remove it"):
        read_rejects(locate(str(run)))
