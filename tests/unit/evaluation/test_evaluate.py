import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.errors import TooManyRejectedError
from digitsum.evaluation.evaluate import evaluate
from digitsum.evaluation.metrics import EVALUATION_FILE, Evaluation
from digitsum.scoring.config import ComputeOptions, EvaluateConfig

OPTIONS = ["--backend", "torch", "--executor", "threads"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Write four labelled shards of 10 images."""
    out = tmp_path_factory.mktemp("labelled") / "archive"
    synth(SynthConfig(out=str(out), images=40, shards=4, split="test"))
    return out


@pytest.fixture
def archive(labelled, tmp_path) -> Path:
    """Copy the archive, to be damaged."""
    return shutil.copytree(labelled, tmp_path / "archive")


def evaluation_of(archive: Path) -> Evaluation:
    compute = ComputeOptions(backend="torch", executor="threads")
    report = str(archive.parent / "report")
    return evaluate(EvaluateConfig(archive=str(archive), report=report, compute=compute))


def damage_images(shard: Path) -> None:
    """Overwrite half of the images' bytes; the footer, with the labels' statistics, stays."""
    column = pq.read_metadata(shard).row_group(0).column(1)
    with shard.open("r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size // 2)
        file.write(b"\xff" * (column.total_compressed_size // 3))


def test_evaluate_damaged_chunk(archive, tmp_path, capsys):
    damage_images(archive / "shard-00002.parquet")
    command = ["evaluate", "--archive", str(archive), "--report", f"{tmp_path}/report", *OPTIONS]
    assert main(command) == 3
    printed, err = capsys.readouterr()
    assert "10 of 40 images were rejected, more than the 1%" in err
    figures = json.loads(printed.splitlines()[-1])
    assert (figures["images"], figures["rejected"]) == (40, 10)
    assert figures["accuracy"] <= 30 / 40
    (place,) = figures["unread"]
    assert place == "shard-00002.parquet, rows from 0 on"
    page = (tmp_path / "report/report.html").read_text()
    assert "What could not be read" in page
    assert place in page


def test_evaluate_shard_no_parquet(archive):
    (archive / "shard-00001.parquet").write_bytes(b"PAR1 no Parquet PAR1")
    evaluation = evaluation_of(archive)
    assert (evaluation.metrics.num_images, evaluation.metrics.num_rejected) == (30, 0)
    assert list(evaluation.unread) == ["shard-00001.parquet"]
    evaluation.check_rejected(0.25)
    with pytest.raises(TooManyRejectedError, match="1 of 4 shards were rejected"):
        evaluation.check_rejected(0.01)


def test_report_rendered_from_record(labelled, tmp_path, capsys):
    report = tmp_path / "report"
    command = f"evaluate --archive {labelled} --report {report} --max-rejected 25%"
    assert main([*command.split(), *OPTIONS]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    figures = json.loads(printed.splitlines()[-1])
    assert figures["unread"] == {}
    assert figures["versions"]["torch"]
    assert json.loads((report / EVALUATION_FILE).read_text()).items() >= figures.items()
    page = (report / "report.html").read_text()
    assert "Where it comes from" in page
    assert figures["model_digest"] in page
    assert page.count('<img src="data:image/png') == 3
    # The record alone, elsewhere, gives the same page.
    (report / "report.html").unlink()
    elsewhere = report.rename(tmp_path / "elsewhere")
    assert main(["report", str(elsewhere)]) == 0
    assert (elsewhere / "report.html").read_text() == page

    # Counts that cannot be are refused.
    record = json.loads((elsewhere / EVALUATION_FILE).read_text())
    record["metrics"]["confusion"]["places"][0][0] = 10**6
    (elsewhere / EVALUATION_FILE).write_text(json.dumps(record))
    assert main(["report", str(elsewhere)]) == 2
    assert "its record is of another version of digitsum" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"version": 1}', "null"])
def test_report_of_broken_record(record, tmp_path, capsys):
    (tmp_path / EVALUATION_FILE).write_text(record)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"digitsum: {tmp_path}/{EVALUATION_FILE}: not a")
