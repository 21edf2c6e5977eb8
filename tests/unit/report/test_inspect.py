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
from digitsum.report.inspect import inspect
from digitsum.report.sum_counts import histogram


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    synth(SynthConfig(out=str(out / "archive"), images=40, shards=2, split="test"))
    command = f"score --archive {out}/archive --scores {out}/scores --executor threads"
    assert main([*command.split(), "--backend", "torch"]) == 0
    return out


def facts(found) -> dict[str, str]:
    return dict(found.facts)


def test_an_archive_is_told_by_its_shards_and_sums(scored):
    found = inspect(str(scored / "archive"), ReadOptions())
    assert found.kind == "archive"
    assert facts(found)["images"] == "40 of 40x168 pixels"
    assert facts(found)["labelled"] == "yes"
    labels = pq.read_table(scored / "archive")["digit_sum"].to_numpy()
    assert found.sums == tuple(np.bincount(labels).tolist())
    assert len(found.images) == 20  # a shard's, of at most 24
    assert [caption for _, caption in found.images] == [str(label) for label in labels[:20]]


def test_bad_shards_are_named_and_the_others_told(scored, tmp_path):
    shutil.copytree(scored / "archive", tmp_path / "archive")
    (tmp_path / "archive/aa.parquet").write_text("no Parquet")
    first = tmp_path / "archive/shard-00000.parquet"
    damaged = bytearray(first.read_bytes())
    damaged[4:2000] = bytes(1996)
    first.write_bytes(damaged)
    found = inspect(str(tmp_path / "archive"), ReadOptions())
    assert facts(found)["images"].startswith("40 of")
    assert "1 shards, the first: " in facts(found)["cannot be read"]
    assert "aa.parquet" in facts(found)["cannot be read"]
    assert len(found.images) == 20  # the other shard's
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"a\.parquet: not a whole Parquet file"):
        inspect(str(tmp_path / "bad"), ReadOptions())


@pytest.mark.parametrize("paper", [5, 250])
def test_dark_ink_is_said(tmp_path, paper):
    image = np.full((16, 24), paper, np.uint8)
    image[4:8, 4:8] = 255 - paper
    pq.write_table(pa.table({"image": [image.tobytes()] * 3}), tmp_path / "a.parquet")
    found = inspect(str(tmp_path), ReadOptions(height=16, width=24))
    assert ("ink" in facts(found)) == (paper == 250)


def test_a_models_part_of_scores_is_refused_naming_the_scores(scored):
    [model] = (scored / "scores").glob("model=*")
    with pytest.raises(InputError, match=rf"give their directory, {scored}/scores"):
        inspect(str(model), ReadOptions())


def test_an_archive_without_labels_is_told_too(tmp_path):
    table = pa.table({"image": [bytes(16 * 24)] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    found = inspect(str(tmp_path), ReadOptions(height=16, width=24))
    assert found.sums == ()
    assert facts(found)["labelled"].startswith("no, ")
    assert [caption for _, caption in found.images] == ["", "", ""]


def test_an_empty_archive_is_told_too(tmp_path):
    synth(SynthConfig(out=str(tmp_path), images=1, shards=1))
    [shard] = tmp_path.glob("*.parquet")
    pq.write_table(pq.read_table(shard).slice(1), shard)
    assert inspect(str(tmp_path), ReadOptions()).images == ()


def test_scores_are_told_by_model_and_run(scored):
    found = inspect(str(scored / "scores"), ReadOptions())
    assert found.kind == "scores"
    [model] = [name for name in facts(found) if name.startswith("model=")]
    assert facts(found)["current"] == model
    assert facts(found)[model] == "40 images, 0 of them rejected"
    assert sum(found.sums) == 40
    assert len(found.images) == 24


def test_a_scoring_run_is_told_by_its_manifest(scored):
    [run] = (scored / "scores/_runs").glob("score-*")
    found = inspect(str(run), ReadOptions())
    assert found.kind == "run"
    assert facts(found)["complete"] == "yes"
    assert sum(found.sums) == 40


def test_a_bundle_is_told_by_its_network_and_figures():
    found = inspect(packaged_model(), ReadOptions())
    assert found.kind == "model"
    assert facts(found)["network"] == "counter"
    assert "test accuracy" in facts(found)
    assert sum(found.sums) == 5000


def test_a_single_shard_is_an_archive(scored):
    found = inspect(str(scored / "archive/shard-00001.parquet"), ReadOptions())
    assert facts(found)["images"] == "20 of 40x168 pixels"


def test_a_run_is_a_run_in_json_too(scored, capsys):
    [run] = (scored / "scores/_runs").glob("score-*")
    assert main(["inspect", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["facts"]["of"]) == ("run", "score")


def test_scores_without_a_part_yet_are_told_too(tmp_path):
    (tmp_path / "model=a/shard").mkdir(parents=True)
    (tmp_path / "_runs/score-1").mkdir(parents=True)
    assert facts(inspect(str(tmp_path), ReadOptions()))["model=a"].startswith("0 images")


def test_labels_that_are_null_have_no_caption(tmp_path):
    table = pa.table({"image": [bytes(16 * 24)] * 3, "digit_sum": [1, None, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = inspect(str(tmp_path), ReadOptions(height=16, width=24))
    assert [caption for _, caption in found.images] == ["1", "", "3"]
    assert found.sums == (0, 1, 0, 1)


@pytest.mark.parametrize(
    "columns",
    [{"digit_sum": [1, 2, 10**15]}, {"digit_sum": ["a", "b", "c"]}, {"digit_sum": [-1, 2, 3]}],
    ids=str,
)
def test_labels_that_are_no_sums_are_a_sentence(tmp_path, columns):
    pq.write_table(pa.table({"image": [bytes(16 * 24)] * 3, **columns}), tmp_path / "a.parquet")
    with pytest.raises(InputError):
        inspect(str(tmp_path), ReadOptions(height=16, width=24))


def test_a_later_shard_without_labels_is_a_sentence(tmp_path):
    images = {"image": [bytes(16 * 24)] * 3}
    pq.write_table(pa.table({**images, "digit_sum": [1, 2, 3]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(images), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: has no column 'digit_sum'"):
        inspect(str(tmp_path), ReadOptions(height=16, width=24))


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"kind": "other", "outcome": {}}', '{"kind": "score", "outcome": null}'],
)
def test_a_manifest_of_something_else_is_a_sentence(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError):
        inspect(str(tmp_path), ReadOptions())


@pytest.mark.parametrize("place", ["nowhere", "scores/_runs"])
def test_what_is_nothing_of_the_kind_is_refused(scored, place):
    with pytest.raises(InputError):
        inspect(str(scored / place), ReadOptions())


def test_the_command_draws_a_sheet_and_speaks_json(scored, tmp_path, capsys):
    assert main(["inspect", str(scored / "scores"), "--json", "--sheet", f"{tmp_path}/s.png"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], sum(said["sums"])) == ("scores", 40)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_a_bundle_is_refused(tmp_path, capsys):
    assert main(["inspect", packaged_model(), "--sheet", f"{tmp_path}/s.png"]) == 2
    assert "leave --sheet out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("counts", "line"),
    [([0, 0, 4, 2, 0, 1], "2 █▄ ▂ 5"), ([5], "0 █ 0"), ([10_000, 1], "0 █▁ 1")],
)
def test_a_histogram_has_a_bar_for_each_sum_that_occurs(counts, line):
    assert histogram(counts) == line
