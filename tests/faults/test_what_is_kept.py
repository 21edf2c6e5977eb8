"""Files that a run must keep: parts of shards that it does not know, and files of others."""

import contextlib
import shutil

import pyarrow.parquet as pq
import pytest
from without_ray import run_here

from digitsum.scoring import score


@pytest.fixture
def archive(make_archive, tmp_path):
    return make_archive(tmp_path / "archive", num_images=60, num_shards=3)


@pytest.fixture
def command(archive, model, tmp_path):
    return f"score --archive {archive} --scores {tmp_path}/scores --model {model}"


def read_shard_parts(tmp_path):
    return {p.parent.name: p.read_bytes() for p in tmp_path.glob("scores/model=*/*/rows-*")}


def test_parts_of_another_run_stay(archive, command, tmp_path, monkeypatch):
    """As on an object store, on which no lock separates runs."""
    monkeypatch.setattr(score, "lock_scores", lambda scores, run: contextlib.nullcontext())
    score_chunks, late = score._score_chunks, tmp_path / "late.parquet"
    (archive / "shard-00002.parquet").rename(late)

    def meanwhile(*arguments):
        monkeypatch.setattr(score, "_score_chunks", score_chunks)
        shutil.move(late, archive / "shard-00002.parquet")
        assert run_here(command) == 0
        return score_chunks(*arguments)

    monkeypatch.setattr(score, "_score_chunks", meanwhile)
    assert run_here(command) == 0
    assert sorted(read_shard_parts(tmp_path)) == ["shard-00000", "shard-00001", "shard-00002"]


def test_parts_of_returned_shard_stay(archive, command, tmp_path, monkeypatch):
    assert run_here(command) == 0
    before = read_shard_parts(tmp_path)
    score_chunks, aside = score._score_chunks, tmp_path / "aside.parquet"
    (archive / "shard-00002.parquet").rename(aside)

    def meanwhile(*arguments):
        aside.rename(archive / "shard-00002.parquet")
        return score_chunks(*arguments)

    monkeypatch.setattr(score, "_score_chunks", meanwhile)
    assert run_here(command) == 0
    assert read_shard_parts(tmp_path) == before


def test_one_shard_keeps_the_others(archive, command, tmp_path):
    assert run_here(command) == 0
    before = read_shard_parts(tmp_path)
    assert run_here(command.replace(str(archive), f"{archive}/shard-00001.parquet", 1)) == 0
    assert read_shard_parts(tmp_path) == before


def test_another_archive_is_refused(archive, command, tmp_path, capsys):
    assert run_here(command) == 0
    before = read_shard_parts(tmp_path)
    shutil.copytree(archive, tmp_path / "other")
    assert run_here(command.replace(str(archive), f"{tmp_path}/other", 1)) == 2
    assert f"holds scores of {archive}" in capsys.readouterr().err
    assert read_shard_parts(tmp_path) == before


def test_files_of_others_stay(archive, command, tmp_path):
    assert run_here(command) == 0
    [model] = tmp_path.glob("scores/model=*")
    shutil.copy(archive / "shard-00000.parquet", model / "compacted.parquet")
    (archive / "shard-00002.parquet").unlink()
    assert run_here(command) == 0
    assert (model / "compacted.parquet").exists()
    assert sorted(read_shard_parts(tmp_path)) == ["shard-00000", "shard-00001"]


def test_old_rows_never_beside_new_ones(archive, command, tmp_path):
    """A shard was changed, and one of its chunks cannot be read."""
    shard = archive / "shard-00001.parquet"
    table = pq.read_table(shard)
    pq.write_table(table, shard, row_group_size=5)
    options = "--chunk-images 5 --max-rejected 100%"
    assert run_here(f"{command} {options}") == 0
    changed = table.take(list(range(20))[::-1])
    pq.write_table(changed, shard, row_group_size=5, compression="zstd", use_dictionary=False)
    content = bytearray(shard.read_bytes())
    start = pq.ParquetFile(shard).metadata.row_group(1).column(1).data_page_offset
    content[start : start + 12] = b"\xff" * 12  # the header of its page
    shard.write_bytes(content)

    assert run_here(f"{command} {options}") == 0
    parts = sorted((tmp_path / "scores").glob("model=*/shard-00001/rows-*"))
    assert [part.name[5:17] for part in parts] == ["000000000000", "000000000010", "000000000015"]
    ids = [i for part in parts for i in pq.read_table(part, partitioning=None)["image_id"]]
    expected = table["image_id"].to_pylist()[::-1]
    assert [i.as_py() for i in ids] == expected[:5] + expected[10:]


def test_half_written_files_are_removed(archive, command, tmp_path, monkeypatch):
    score_chunks = score._score_chunks

    def leave_halves(*arguments):
        result = score_chunks(*arguments)
        [model], [run] = tmp_path.glob("scores/model=*"), tmp_path.glob("scores/_runs/score-*")
        for directory in (model / "shard-00001", run / "rejected"):
            directory.mkdir(exist_ok=True)
            (directory / ".tmp-0").write_bytes(b"PAR1")
        return result

    monkeypatch.setattr(score, "_score_chunks", leave_halves)
    assert run_here(command) == 0
    assert list(tmp_path.rglob(".tmp-*")) == []
    assert sorted(read_shard_parts(tmp_path)) == ["shard-00000", "shard-00001", "shard-00002"]
