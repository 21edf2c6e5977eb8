import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model.saved_model import packaged_model
from digitsum.options import ReadOptions
from digitsum.report.inspect import Inspected, inspect

SMALL = ReadOptions(height=16, width=24)
SMALL_IMAGES = {"image": [bytes(16 * 24)] * 3}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Score an archive of two shards of 20 images."""
    out = tmp_path_factory.mktemp("scored")
    synth(SynthConfig(out=str(out / "archive"), images=40, shards=2, split="test"))
    command = f"score --archive {out}/archive --scores {out}/scores --executor threads"
    assert main([*command.split(), "--backend", "torch"]) == 0
    return out


def facts(inspected: Inspected) -> dict[str, str]:
    return dict(inspected.facts)


def captions(inspected: Inspected) -> list[str]:
    return [caption for _, caption in inspected.images]


def test_inspect_archive(scored):
    archive = inspect(str(scored / "archive"), ReadOptions())
    assert archive.kind == "archive"
    assert facts(archive)["images"] == "40 of 40x168 pixels"
    assert facts(archive)["labelled"] == "yes"
    labels = pq.read_table(scored / "archive")["digit_sum"].to_numpy()
    assert archive.sums == tuple(np.bincount(labels).tolist())
    assert captions(archive) == [str(label) for label in labels[:20]]  # of one shard
    shard = inspect(str(scored / "archive/shard-00001.parquet"), ReadOptions())
    assert facts(shard)["images"] == "20 of 40x168 pixels"
    line = f"{labels.min()} to {labels.max()}, mean {labels.mean():.1f}, of 40 images"
    assert archive.lines()[-1].split("sums", 1)[1].strip() == line


def test_inspect_archive_damaged_shards(scored, tmp_path):
    shutil.copytree(scored / "archive", tmp_path / "archive")
    (tmp_path / "archive/aa.parquet").write_text("no Parquet")
    first = tmp_path / "archive/shard-00000.parquet"
    damaged = bytearray(first.read_bytes())
    damaged[4:2000] = bytes(1996)
    first.write_bytes(damaged)
    archive = inspect(str(tmp_path / "archive"), ReadOptions())
    assert facts(archive)["images"].startswith("40 of")
    assert "1 shards, the first: " in facts(archive)["cannot be read"]
    assert "aa.parquet" in facts(archive)["cannot be read"]
    assert len(archive.images) == 20  # the other shard's


def test_inspect_archive_all_shards_damaged(tmp_path):
    (tmp_path / "a.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"a\.parquet: not a whole Parquet file"):
        inspect(str(tmp_path), ReadOptions())


@pytest.mark.parametrize("paper", [5, 250])
def test_inspect_archive_dark_ink(tmp_path, paper):
    image = np.full((16, 24), paper, np.uint8)
    image[4:8, 4:8] = 255 - paper
    pq.write_table(pa.table({"image": [image.tobytes()] * 3}), tmp_path / "a.parquet")
    assert ("ink" in facts(inspect(str(tmp_path), SMALL))) == (paper == 250)


@pytest.mark.parametrize(
    ("columns", "sums", "expected"),
    [({}, (), ["", "", ""]), ({"digit_sum": [1, None, 3]}, (0, 1, 0, 1), ["1", "", "3"])],
    ids=["no labels", "a null"],
)
def test_inspect_archive_missing_labels(tmp_path, columns, sums, expected):
    pq.write_table(pa.table({**SMALL_IMAGES, **columns}), tmp_path / "a.parquet")
    archive = inspect(str(tmp_path), SMALL)
    assert facts(archive)["labelled"].startswith("yes" if columns else "no, ")
    assert (archive.sums, captions(archive)) == (sums, expected)


@pytest.mark.parametrize("labels", [[1, 2, 10**15], ["a", "b", "c"], [-1, 2, 3]], ids=str)
def test_inspect_archive_labels_not_sums(tmp_path, labels):
    pq.write_table(pa.table({**SMALL_IMAGES, "digit_sum": labels}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="correct --label-column"):
        inspect(str(tmp_path), SMALL)


def test_inspect_archive_later_shard_unlabelled(tmp_path):
    pq.write_table(pa.table({**SMALL_IMAGES, "digit_sum": [1, 2, 3]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(SMALL_IMAGES), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: has no column 'digit_sum'"):
        inspect(str(tmp_path), SMALL)


def test_inspect_archive_empty(tmp_path):
    table = pa.table(SMALL_IMAGES).slice(3)
    pq.write_table(table, tmp_path / "a.parquet")
    assert inspect(str(tmp_path), SMALL).images == ()


def test_inspect_scores(scored, tmp_path, capsys):
    scores = inspect(str(scored / "scores"), ReadOptions())
    assert scores.kind == "scores"
    [model] = [name for name in facts(scores) if name.startswith("model=")]
    assert facts(scores)["current"] == model
    assert facts(scores)[model] == "40 images, 0 of them rejected"
    assert sum(scores.sums) == 40
    assert 0 < len(scores.images) <= 40
    sheet = f"{tmp_path}/sheet.png"
    assert main(["inspect", str(scored / "scores"), "--json", "--sheet", sheet]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["kind"], sum(printed["sums"])) == ("scores", 40)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_scores_one_model_directory(scored):
    [model] = (scored / "scores").glob("model=*")
    with pytest.raises(InputError, match=rf"give the directory above it, {scored}/scores"):
        inspect(str(model), ReadOptions())


def test_inspect_scores_without_parts(tmp_path):
    (tmp_path / "model=a/shard").mkdir(parents=True)
    (tmp_path / "_runs/score-1").mkdir(parents=True)
    assert facts(inspect(str(tmp_path), ReadOptions()))["model=a"].startswith("0 images")


def test_inspect_run(scored, capsys):
    [run] = (scored / "scores/_runs").glob("score-*")
    inspected = inspect(str(run), ReadOptions())
    assert inspected.kind == "run"
    assert facts(inspected)["complete"] == "yes"
    assert sum(inspected.sums) == 40
    assert main(["inspect", str(run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["kind"], printed["facts"]["of"]) == ("run", "score")


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"kind": "other", "outcome": {}}', '{"kind": "score", "outcome": null}'],
)
def test_inspect_run_of_other_manifest(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError):
        inspect(str(tmp_path), ReadOptions())


def test_inspect_model(tmp_path, capsys):
    model = inspect(packaged_model(), ReadOptions())
    assert model.kind == "model"
    assert facts(model)["network"] == "counter"
    assert "test accuracy" in facts(model)
    assert sum(model.sums) == 5000
    assert main(["inspect", packaged_model(), "--sheet", f"{tmp_path}/s.png"]) == 2
    assert "leave --sheet out" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["nowhere", "scores/_runs"])
def test_inspect_unknown_place(scored, place):
    with pytest.raises(InputError):
        inspect(str(scored / place), ReadOptions())
