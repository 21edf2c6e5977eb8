"""Hostile shards: each rejects only itself, in bounded memory, and all else is scored.

`docs/security.md` lists them. Damaged shards are in tests/faults/test_corruption.py.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.images import decode_images
from digitsum.archive.parquet.footer import MAX_ROW_GROUP_ROWS
from digitsum.archive.reader import MAX_ID_BYTES, read_chunk
from digitsum.archive.shards import open_archive
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.options import DEFAULT_SHAPE, ReadOptions

SIZE = DEFAULT_SHAPE.num_pixels
BLANK = bytes(SIZE)
MIB = 2**20


@pytest.fixture
def archive(tmp_path) -> Path:
    """Make an archive of ten good images."""
    assert main(f"synth --out {tmp_path}/archive --images 10 --shards 1".split()) == 0
    return tmp_path / "archive"


@pytest.fixture
def scored(archive, tmp_path, capsys) -> Callable[..., tuple[int, str, list[dict]]]:
    """Score the archive in threads; return exit code, messages, and the rows of its parts."""

    def scored(options: str = "") -> tuple[int, str, list[dict]]:
        capsys.readouterr()
        places = f"--archive {archive} --scores {tmp_path}/scores --executor threads --max-actors 1"
        code = main(f"score {places} {options}".split())
        message = capsys.readouterr().err
        assert "Traceback" not in message
        parts = sorted((tmp_path / "scores").glob("model=*/**/rows-*.parquet"))
        return code, message, [row for part in parts for row in pq.read_table(part).to_pylist()]

    return scored


def rejected(tmp_path: Path) -> dict[str, str]:
    """Return the shards and chunks that the last run rejected as a whole, with the reason."""
    run = max((tmp_path / "scores" / "_runs").glob("score-*"))
    rows = [r for f in run.glob("rejected/*.parquet") for r in pq.read_table(f).to_pylist()]
    return {row["shard"]: row["reason"] for row in rows if row["row"] is None}


def read_apart(path: Path, *, below_mib: int, max_read_mb: int = 256) -> str:
    """Read a shard in a process of its own, with so much memory; return what it printed."""
    code = r"""
import re, sys
from pathlib import Path
from digitsum.archive.reader import read_chunk
from digitsum.options import ReadOptions
from digitsum.archive.chunks import plan_chunks
from digitsum.archive.shards import open_archive
from digitsum.errors import InputError
# Not getrusage's maximum, which begins with that of the process that this one was forked from.
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before, options, rows, errors = peak(), ReadOptions(max_read_mb=int(sys.argv[2])), 0, 0
try:
    archive = open_archive(sys.argv[1], options)
    for chunk in plan_chunks(archive.shards[0], 50_000):
        for some in read_chunk(archive.root, chunk, options):
            rows, errors = rows + len(some.pixels), errors + len(some.errors)
    print(rows, errors)
except InputError as error:
    print(error)
print((peak() - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(max_read_mb)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    message, peak_mib = done.stdout.splitlines()
    assert int(peak_mib) < below_mib
    return message


def write(path: Path, image: pa.Array, ids: pa.Array | None = None, **options) -> Path:
    columns = {"image": image} if ids is None else {"image_id": ids, "image": image}
    options = {"compression": "zstd", "store_schema": False} | options
    pq.write_table(pa.table(columns), path, **options)
    return path


def constant(value: bytes, num_rows: int) -> pa.Array:
    """Return a column of one value in every row, by a dictionary."""
    indices = pa.array(np.zeros(num_rows, np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array([value], pa.binary()))


def pixels(num_rows: int) -> pa.Array:
    data = np.zeros(num_rows * SIZE, np.uint8)
    return pa.Array.from_buffers(pa.binary(SIZE), num_rows, [None, pa.py_buffer(data)])


def lists(lengths: list[int]) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.zeros(sum(lengths), np.uint8)))


@pytest.fixture
def read_written(tmp_path) -> Callable[..., str]:
    """Write a shard of less than a MB, and read it in another process."""

    def run(image: pa.Array, *, below_mib: int, max_read_mb: int = 256, **options) -> str:
        shard = write(tmp_path / "a.parquet", image, **options)
        assert shard.stat().st_size < MIB
        return read_apart(shard, below_mib=below_mib, max_read_mb=max_read_mb)

    return run


def test_expanding_pages(read_written):
    blank = pixels(100_000)  # 641 MiB
    options = {"use_dictionary": True, "row_group_size": 10**6}
    assert read_written(blank, below_mib=256, **options) == "100000 0"


def test_huge_page(read_written):
    data = pa.array([bytes(100 * MIB), BLANK], pa.binary())
    message = read_written(data, below_mib=100, use_dictionary=False)
    assert "column 'image' may take" in message
    assert "--max-read-mb" in message


def test_huge_dictionary_value(read_written):
    huge = constant(bytes(20 * MIB), 4096)  # 80 GiB, row by row
    assert read_written(huge, below_mib=256, dictionary_pagesize_limit=2**30) == "4096 4096"


def test_huge_dictionary_id(read_written):
    ids = constant(b"x" * (10 * MIB), 4096).cast(pa.dictionary(pa.int32(), pa.string()))
    options = {"ids": ids, "dictionary_pagesize_limit": 2**30}
    assert read_written(pixels(4096), below_mib=256, **options) == "4096 4096"


def test_read_as_dictionary(tmp_path):
    images = [bytes([n]) * SIZE for n in range(5)]
    rows = [*images, None, bytes(MIB), *images]
    write(tmp_path / "a.parquet", pa.array(rows, pa.binary()), dictionary_pagesize_limit=2**30)
    found = {}
    for limit in (1024, 20):  # the latter reads it as a dictionary
        options = ReadOptions(max_read_mb=limit)
        archive = open_archive(str(tmp_path), options)
        [chunk] = plan_chunks(archive.shards[0], 100)
        read = list(read_chunk(archive.root, chunk, options))
        errors = {some.first_row + row: why for some in read for row, why in some.errors.items()}
        found[limit] = errors, np.concatenate([some.pixels for some in read])
    assert found[20][0] == found[1024][0]
    assert set(found[20][0]) == {5, 6}
    assert (found[20][1] == found[1024][1]).all()
    assert (found[20][1][7:].reshape(5, -1) == np.arange(5)[:, None]).all()


def test_unused_dictionary_values():
    indices = pa.array([1, None, 1], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array([b"no image", BLANK], pa.binary()))
    assert decode_images(column, DEFAULT_SHAPE).errors == {1: "image is null"}


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_huge_list(version, read_written):
    wild = lists([SIZE, 30_000_000, SIZE])
    message = read_written(wild, below_mib=100, data_page_version=version)
    assert "column 'image.list.element' may take" in message


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_large_row_group_of_lists(version, compression, read_written):
    plain = lists([SIZE] * 5000)  # 33 million values
    options = {"data_page_version": version, "compression": compression}
    options |= {"data_page_size": MIB // 8, "write_batch_size": SIZE, "max_read_mb": 128}
    assert read_written(plain, below_mib=400, **options) == "5000 0"


def test_large_row_group_of_images(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=60_000 * SIZE, dtype=np.uint8)
    image = pa.Array.from_buffers(pa.binary(SIZE), 60_000, [None, pa.py_buffer(noise)])
    shard = write(tmp_path / "a.parquet", image, use_dictionary=False, compression="none")
    assert shard.stat().st_size > 380 * MIB
    assert read_apart(shard, below_mib=256) == "60000 0"


def test_many_row_groups_of_huge_values(read_written):
    huge = pa.array([bytes(20 * MIB)] * 40, pa.binary())  # 800 MiB
    options = {"use_dictionary": False, "row_group_size": 1}
    assert read_written(huge, below_mib=400, **options) == "40 40"


def test_footer_with_false_sizes(tmp_path):
    huge = pa.array([bytes(100 * MIB)] * 2, pa.binary())
    shard = write(tmp_path / "a.parquet", huge, use_dictionary=False)
    true_size = pq.read_metadata(shard).row_group(0).column(0).total_uncompressed_size
    low, high = _varint(2 * 1000)
    padded = bytes([low, high | 0x80, 0x80, 0x80, 0x00])  # a small number in as many bytes
    assert len(padded) == len(_varint(2 * true_size))
    shard.write_bytes(shard.read_bytes().replace(_varint(2 * true_size), padded))
    assert pq.read_metadata(shard).row_group(0).column(0).total_uncompressed_size < 10_000
    assert "may take" in read_apart(shard, below_mib=100)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_over_limit_rejects_only_itself(archive, scored, tmp_path):
    huge = pa.array([bytes(40 * MIB), BLANK], pa.binary())
    write(archive / "huge.parquet", huge, use_dictionary=False)
    write(archive / "wild.parquet", lists([SIZE, 10_000_000]))
    write(archive / "none.parquet", pixels(0))
    code, _, rows = scored("--max-read-mb 64")
    assert code == 3
    assert [row["predicted_sum"] is None for row in rows] == [False] * 10
    reasons = rejected(tmp_path)
    assert set(reasons) == {"huge.parquet", "wild.parquet"}
    assert all("--max-read-mb" in reason for reason in reasons.values())


def test_scores_over_limit(archive, scored, tmp_path):
    ids = pa.array([f"{number:0>1000}" for number in range(9000)])
    small_pages = {"data_page_size": 2**16, "write_batch_size": 64, "use_dictionary": ["image"]}
    write(archive / "long.parquet", pixels(9000), ids, row_group_size=10_000, **small_pages)
    code, _, rows = scored("--max-read-mb 8")
    assert (code, len(rows)) == (3, 10)
    assert "rows 0 to 8999: the scores take more than" in rejected(tmp_path)["long.parquet"]


def test_too_many_rows_in_row_group(archive, scored, tmp_path):
    many = MAX_ROW_GROUP_ROWS + 1
    column = pa.Array.from_buffers(pa.binary(1), many, [None, pa.py_buffer(bytes(many))])
    write(archive / "many.parquet", column, row_group_size=2**26, use_dictionary=True)
    with pytest.raises(InputError, match="a row group of 16,777,217 rows"):
        open_archive(str(archive / "many.parquet"), ReadOptions(height=1, width=1))
    assert scored()[0] == 3


def png(side: int) -> bytes:
    """Return the header of a PNG that claims to be so large; no pixel is there."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 0, 0, 0, 0)
    end = struct.pack(">I4sI", 0, b"IEND", crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I17sI", 13, header, crc32(header)) + end


@pytest.mark.filterwarnings("error")
def test_huge_png(archive, scored):
    images = [*map(png, (50_000, 12_000, 4_000)), BLANK]
    write(archive / "png.parquet", pa.array(images, pa.binary()))
    code, _, rows = scored("--max-rejected 50%")
    assert code == 0
    errors = [row["error"] for row in rows if row["error"]]
    assert (len(rows), len(errors)) == (14, 3)
    assert "50000x50000" in errors[0] or "bomb" in errors[0]


def test_wild_ids(archive, scored):
    wild = ["a", "a", None, "x" * MIB, "two\nlines", "<script>", "'; DROP", "\u202e"]
    wild.append("x" * MAX_ID_BYTES)
    write(archive / "ids.parquet", pixels(len(wild)), pa.array(wild))
    code, _, rows = scored("--max-rejected 50%")
    assert code == 0
    rows = rows[:9]
    made = {2: "ids.parquet#2", 3: "ids.parquet#3"}
    assert [row["image_id"] for row in rows] == [made.get(n, id_) for n, id_ in enumerate(wild)]
    reasons = {n: row["error"] for n, row in enumerate(rows) if row["error"]}
    assert reasons == {3: f"image id has {MIB} bytes, more than {MAX_ID_BYTES}"}


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.uint8())),
        pa.struct({"bytes": pa.list_(pa.binary())}),
        pa.map_(pa.string(), pa.binary()),
        pa.dictionary(pa.int32(), pa.binary()),
        pa.list_(pa.struct({"bytes": pa.binary()})),
    ],
    ids=str,
)
def test_nested_types(kind, archive, scored, tmp_path):
    pq.write_table(pa.table({"image": pa.array([None], kind)}), archive / "nested.parquet")
    code, _, rows = scored()
    assert (code, len(rows)) == (3, 10)
    assert "holds no images that digitsum reads" in rejected(tmp_path)["nested.parquet"]


def test_empty_row_groups(archive, scored):
    schema = pa.schema({"image": pa.binary(SIZE)})
    with pq.ParquetWriter(archive / "some.parquet", schema) as writer:
        for num_rows in (0, 3, 0, 0, 2, 0):
            writer.write_table(pa.table({"image": pixels(num_rows)}, schema))
    code, _, rows = scored()
    assert (code, len(rows)) == (0, 15)


NAMES = ["new\nline.parquet", "quo'te\".parquet", "#%20?.parquet", "-rf.parquet", "a..b.parquet",
         "$(id).parquet", "\u202e.parquet", "d.parquet/in.parquet", "a\\b.parquet"]  # fmt: skip


def test_wild_shard_names(archive, scored, tmp_path):
    for name in NAMES:
        (archive / name).parent.mkdir(exist_ok=True)
        write(archive / name, pixels(1))
    outside = set(tmp_path.iterdir())
    code, _, rows = scored()
    assert (code, len(rows)) == (0, 10 + len(NAMES))
    assert set(tmp_path.iterdir()) == outside | {tmp_path / "scores"}
    code, _, again = scored()
    assert (code, again) == (0, rows)


def test_name_not_utf8(archive, scored, tmp_path):
    os.link(archive / "shard-00000.parquet", os.fsencode(archive) + b"/\xff.parquet")
    code, _, rows = scored()
    assert (code, len(rows)) == (3, 10)
    assert rejected(tmp_path)["\ufffd.parquet"].endswith("has a name that is not UTF-8; rename it.")


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """Make a directory beside the archive, with a shard of its own."""
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    write(tmp_path / "elsewhere" / "deep" / "theirs.parquet", pixels(2))
    return tmp_path / "elsewhere"


def test_links_out_of_archive(archive, elsewhere, scored, tmp_path):
    (archive / "file.parquet").symlink_to(elsewhere / "deep" / "theirs.parquet")
    (archive / "directory").symlink_to(elsewhere)
    code, message, rows = scored()
    assert (code, len(rows)) == (3, 10)
    assert set(rejected(tmp_path)) == {"file.parquet", "directory"}
    assert "leads out of the archive; copy its target, or give --follow-links" in message
    code, _, rows = scored("--follow-links")
    assert (code, len(rows)) == (0, 14)


def test_archive_is_a_link(archive, tmp_path, scored):
    archive.rename(tmp_path / "moved")
    archive.symlink_to(tmp_path / "moved")
    code, _, rows = scored()
    assert (code, len(rows)) == (0, 10)


@pytest.mark.parametrize("options", ["", "--follow-links"])
def test_links_in_a_circle(options, archive, elsewhere, scored):
    for name in ("one", "two"):  # as many paths as 2^40, if they were
        (archive / name).symlink_to(archive)
        (elsewhere / name).symlink_to(elsewhere)
    (archive / "up").symlink_to(archive.parent)
    if options:
        (archive / "away").symlink_to(elsewhere)
    code, _, rows = scored(f"{options} --max-rejected 100%")
    assert (code, len(rows)) == (0, 12 if options else 10)


def test_pipes_devices_broken_links(archive, scored, tmp_path):
    os.mkfifo(archive / "pipe.parquet")
    (archive / "device.parquet").symlink_to("/dev/zero")
    (archive / "nothing.parquet").symlink_to(tmp_path / "nothing")
    (archive / "itself.parquet").symlink_to(archive / "itself.parquet")
    code, _, rows = scored("--follow-links")
    assert (code, len(rows)) == (3, 10)
    names = {"device.parquet", "itself.parquet", "nothing.parquet", "pipe.parquet"}
    assert set(rejected(tmp_path)) == names
    manifest = max((tmp_path / "scores" / "_runs").glob("score-*/manifest.json"))
    assert set(json.loads(manifest.read_text())["outcome"]["rejected_shards"]) == names


def test_link_to_hidden_files(archive, elsewhere, scored):
    elsewhere.rename(archive / ".cache")
    (archive / "cached").symlink_to(archive / ".cache")
    (archive / "one.parquet").symlink_to(archive / ".cache" / "deep" / "theirs.parquet")
    code, _, rows = scored("--max-rejected 100%")
    assert (code, len(rows)) == (0, 12)
    code, _, rows = scored("--follow-links")
    assert (code, len(rows)) == (0, 14)


@pytest.mark.parametrize("place", ["model", "shard", "_runs"])
def test_no_write_through_link(place, archive, scored, tmp_path, content):
    assert scored()[0] == 0
    [model] = (tmp_path / "scores").glob("model=*")
    scores = tmp_path / "scores"
    linked = {"model": model, "shard": model / "shard-00000", "_runs": scores / "_runs"}[place]
    for part in model.glob("*/rows-*"):
        part.unlink()
    linked.rename(tmp_path / "outside")
    linked.symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / ".tmp-mine").touch()
    before = content(tmp_path / "outside")
    code, message, _ = scored()
    assert code == 2
    assert "link that leads out of" in message
    assert content(tmp_path / "outside") == before


def test_link_replaced_by_part(archive, scored, tmp_path):
    assert scored()[0] == 0
    [part] = (tmp_path / "scores").glob("model=*/*/rows-*")
    expected = pq.read_table(part).to_pylist()
    (tmp_path / "theirs").write_text("as it was")
    part.unlink()
    part.symlink_to(tmp_path / "theirs")
    code, _, rows = scored()
    assert (code, rows) == (0, expected)
    assert (tmp_path / "theirs").read_text() == "as it was"
    assert not part.is_symlink()
