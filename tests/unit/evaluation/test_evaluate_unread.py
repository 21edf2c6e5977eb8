"""An evaluation counts what can be read, and says what could not be."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digitsum.cli import main


@pytest.fixture
def archive(tmp_path) -> Path:
    """Write four labelled shards of 30 images."""
    out = tmp_path / "archive"
    assert main(f"synth --out {out} --images 120 --shards 4 --split test".split()) == 0
    return out


@pytest.fixture
def evaluated(archive, tmp_path, monkeypatch, capsys):
    """Evaluate the archive; return exit code, figures and stderr."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*options: str) -> tuple[int, dict, str]:
        command = f"evaluate --archive {archive} --report {tmp_path}/report --backend torch"
        code = main([*command.split(), "--executor", "threads", *options])
        said, err = capsys.readouterr()
        return code, json.loads(said.splitlines()[-1]), err

    return run


def damage_images(shard: Path) -> None:
    """Overwrite half of the images' bytes; the footer, with the labels' statistics, stays."""
    column = pq.read_metadata(shard).row_group(0).column(1)
    with shard.open("r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size // 2)
        file.write(b"\xff" * (column.total_compressed_size // 3))


def test_a_chunk_that_cannot_be_read_counts_as_rejected(archive, evaluated, tmp_path):
    _, whole, _ = evaluated()
    damage_images(archive / "shard-00002.parquet")
    code, figures, err = evaluated("--max-rejected", "25%")
    assert code == 0
    assert (figures["images"], figures["rejected"]) == (120, 30)
    assert figures["accuracy"] <= whole["accuracy"] * 90 / 120 + 30 / 120
    (place,) = figures["unread"]
    assert place == "shard-00002.parquet, rows from 0 on"
    assert "cannot be read" in err
    page = (tmp_path / "report/report.html").read_text()
    assert "What could not be read" in page
    assert place in page

    code, figures, err = evaluated()
    assert code == 3
    assert "30 of 120 images were rejected, more than the 1%" in err


def test_a_shard_that_is_no_parquet_is_left_out_and_named(archive, evaluated):
    (archive / "shard-00001.parquet").write_bytes(b"PAR1 no Parquet PAR1")
    code, figures, err = evaluated()
    assert code == 3
    assert "1 of 4 shards were rejected" in err
    assert (figures["images"], figures["rejected"]) == (90, 0)
    assert list(figures["unread"]) == ["shard-00001.parquet"]
    assert evaluated("--max-rejected", "0.25")[0] == 0


def test_the_report_says_where_its_figures_come_from(evaluated, tmp_path):
    code, figures, err = evaluated()
    assert (code, err, figures["unread"]) == (0, "", {})
    assert figures["versions"]["torch"]
    page = (tmp_path / "report/report.html").read_text()
    assert "Where it comes from" in page
    assert figures["model_digest"] in page
