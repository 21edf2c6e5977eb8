import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from digitsum.archive.import_images import BATCH_IMAGES, ImportImagesConfig, import_images
from digitsum.archive.preprocessing import CanvasOptions
from digitsum.archive.writer import REJECTED_FILE
from digitsum.cli import main
from digitsum.errors import InputError, TooManyRejectedError
from digitsum.options import ImageShape

PIXELS = [
    np.full((4, 6), value, np.uint8) + np.arange(6, dtype=np.uint8) for value in range(0, 90, 9)
]
NAMES = ("b.png", "a/2.PNG", "a/1.bmp", "a.tif")


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


FILES = dict(zip(NAMES, map(encode, PIXELS), strict=False))


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w", prefix: str = "") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def imported(tmp_path):
    """Import a source, with the text of a CSV of labels, or the file; return the columns."""

    def run(
        source: Path, labels: str | None = None, csv: Path | None = None, **options
    ) -> dict[str, list]:
        if labels is not None:
            csv = tmp_path / "labels.csv"
            csv.write_text(labels, encoding="utf-8")
        places = {"source": str(source), "out": str(tmp_path / "out")}
        config = ImportImagesConfig(labels=str(csv) if csv else None, **places, **options)
        written = run.written = import_images(config)
        assert written.num_shards == len(list((tmp_path / "out").glob("*.parquet")))
        return pq.read_table(tmp_path / "out").to_pydict()

    return run


@pytest.fixture
def refused(imported, tmp_path, content):
    """Check that an import is refused with a message and leaves nothing behind."""

    def run(message: str, *args, **options) -> None:
        with pytest.raises(InputError, match=message):
            imported(*args, **options)
        assert content(tmp_path / "out") == {}

    return run


def test_import_folder(imported, tmp_path):
    source = write_folder(tmp_path / "in", FILES | {"notes.txt": b"x", "a/Thumbs.db": b"x"})
    columns = imported(source)
    assert imported.written.shape == ImageShape(4, 6)
    order = ["a/1.bmp", "a/2.PNG", "a.tif", "b.png"]
    assert columns["image_id"] == order
    assert columns["image"] == [PIXELS[NAMES.index(name)].tobytes() for name in order]
    assert "digit_sum" not in columns


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_import_tar(mode, prefix, imported, tmp_path):
    source = write_tar(tmp_path / "in", FILES | {"notes.txt": b"x"}, mode, prefix)
    columns = imported(source, shard_images=3)
    assert columns["image_id"] == list(NAMES)
    assert columns["image"] == [pixels.tobytes() for pixels in PIXELS[:4]]


def test_import_labels_any_order(imported, tmp_path):
    labels = "\ufeffdigit_sum,note,image_id\n36,x,b.png\n0,y,a.tif\n 7 ,z,a/2.PNG\n12,,a/1.bmp\n"
    columns = imported(write_folder(tmp_path / "in", FILES), labels)
    assert columns["digit_sum"] == [12, 7, 0, 36]


def test_import_color_inverted(imported, tmp_path):
    color = np.repeat(PIXELS[3][..., None], 3, axis=2)
    files = {"a.png": encode(color), "b.png": encode(PIXELS[5])}
    canvas = CanvasOptions(invert=True)
    columns = imported(write_folder(tmp_path / "in", files), canvas=canvas)
    assert columns["image"] == [(255 - PIXELS[3]).tobytes(), (255 - PIXELS[5]).tobytes()]


def test_import_several_batches(imported, tmp_path):
    files = {f"{n:05d}.png": encode(PIXELS[n % 10]) for n in range(BATCH_IMAGES + 5)}
    labels = "image_id,digit_sum\n" + "".join(f"{n:05d}.png,{n % 37}\n" for n in range(len(files)))
    columns = imported(write_tar(tmp_path / "in.tar", files), labels)
    assert columns["image_id"] == list(files)
    assert columns["digit_sum"] == [n % 37 for n in range(len(files))]
    assert columns["image"] == [PIXELS[n % 10].tobytes() for n in range(len(files))]


BAD = {
    "no image": (b"no image", "image cannot be decoded"),
    "cut": (encode(PIXELS[0])[:-20], "image cannot be decoded"),
    "other shape": (encode(PIXELS[0].T), "image is 6x4 pixels, not 4x6"),
    "16 bits": (encode(PIXELS[0].astype(np.uint16)), "image has pixels of mode I;16, not 8 bits"),
}


@pytest.mark.parametrize(
    ("bad", "name"),
    # Were the first of another shape, it would be the others that are.
    [*[(bad, "c.png") for bad in BAD], ("no image", "a/0.png"), ("16 bits", "a/0.png")],
)
def test_import_bad_image(bad, name, imported, tmp_path):
    data, reason = BAD[bad]
    source = write_folder(tmp_path / "in", FILES | {name: data})
    columns = imported(source, GOOD + f"{name},3\n")
    assert columns["image_id"] == ["a/1.bmp", "a/2.PNG", "a.tif", "b.png"]
    (line,) = (tmp_path / "out" / REJECTED_FILE).read_text().splitlines()
    found = json.loads(line)
    assert found == {"image_id": name, "reason": imported.written.rejected[name]}
    assert found["reason"].startswith(reason)
    with pytest.raises(TooManyRejectedError, match=rf"1 of 5 images .*{name}: {reason}"):
        imported.written.check_rejected(0.19)
    imported.written.check_rejected(0.2)


def test_import_command_names_rejected(tmp_path, capsys):
    source = write_folder(tmp_path / "in", FILES | {"c.png": b""})
    for allowed, code in (("20%", 0), ("0.1", 3)):
        out = tmp_path / allowed
        command = ["import", "images", str(source), "--out", str(out), "--max-rejected", allowed]
        assert main(command) == code
        out_text, err = capsys.readouterr()
        assert out_text == f"{out}: 4 images of 4x6 pixels in 1 shards\n"
        assert "1 of 5 images were rejected, listed in _rejected.jsonl there" in err


def test_import_scaled_and_padded(imported, tmp_path):
    rng = np.random.default_rng(0)
    ink = {"a.png": (40, 60), "b.png": (20, 40), "c.png": (80, 90), "wide.png": (20, 41)}
    drawn = {name: rng.integers(100, 200, shape, np.uint8) for name, shape in ink.items()}
    files = {name: encode(255 - pixels) for name, pixels in drawn.items()}
    canvas = CanvasOptions(invert=True, height=20, width=40)
    columns = imported(write_folder(tmp_path / "in", files), canvas=canvas)
    assert imported.written.shape == ImageShape(20, 40)
    assert imported.written.rejected == {"wide.png": "image scaled is 20x41 pixels, not 20x40"}
    a, b, c = (np.frombuffer(image, np.uint8).reshape(20, 40) for image in columns["image"])
    np.testing.assert_array_equal(b, drawn["b.png"])
    for image, name, width in ((a, "a.png", 30), (c, "c.png", 22)):
        assert (image[:, width:] == 0).all(), "dark, though the paper was bright"
        assert (image[:, :width] > 50).all()
        assert abs(image[:, :width].mean() - drawn[name].mean()) < 2


HEADER = "image_id,digit_sum\n"
GOOD = HEADER + "".join(f"{name},3\n" for name in NAMES)


WRONG_LABELS = {
    "empty": ("", "has no column digit_sum, image_id"),
    "no column": ("image_id,sum\nb.png,3\n", "has no column digit_sum"),
    "row missing": (HEADER + "b.png,3\na/1.bmp,3\n", r"has no row for a/2\.PNG"),
    "row too many": (GOOD + "c.png,3\n", r"has a row for c\.png"),
    "too large": (HEADER + "b.png,3\na.tif,37\n", r"line 3: digit_sum is '37', not .* 0\.\.36"),
    "negative": (GOOD.replace("b.png,3", "b.png,-1"), "line 2: digit_sum is '-1'"),
    "no integer": (GOOD.replace("b.png,3", "b.png,3.0"), "line 2: digit_sum is '3.0'"),
    "blank": (GOOD.replace("b.png,3", "b.png,"), "line 2: digit_sum is ''"),
    "row cut": (GOOD.replace("b.png,3", "b.png"), "line 2: digit_sum is ''"),
    "absurd": (GOOD.replace("b.png,3", "b.png," + "9" * 5000), "line 2: digit_sum"),
    "contradicting rows": (GOOD + "b.png,4\n", r"line 6: .*b\.png"),
    "row without id": ("digit_sum,image_id\n3\n4,z.png\n", "line 2"),
}


@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_import_wrong_labels(labels, message, refused, tmp_path):
    source = write_folder(tmp_path / "in", FILES)
    refused(rf"labels\.csv: .*{message}", source, labels, shard_images=1)


def test_import_unreadable_labels(refused, tmp_path):
    source = write_folder(tmp_path / "in", FILES)
    (tmp_path / "bytes.csv").write_bytes(b"image_id,digit_sum\n\xff\xfe,3\n")
    for name in ("bytes.csv", "nowhere.csv"):
        refused(f"{name}: cannot be read as CSV", source, csv=tmp_path / name)


def test_import_duplicate_member(refused, tmp_path):
    write_tar(tmp_path / "in.tar", {"a.png": FILES["b.png"], "./a.png": FILES["a.tif"]})
    refused(r"holds a\.png twice", tmp_path / "in.tar", shard_images=1)


def test_import_no_images(refused, tmp_path):
    message = "holds no image files"
    refused(message, write_folder(tmp_path / "in", {"notes.txt": b"x"}))
    undecodable = write_folder(tmp_path / "bad", {"a.png": b"", "b.png": b""})
    refused(rf"{message} .*; give another; a\.png: image cannot", undecodable)
    refused(message, write_tar(tmp_path / "in.tar", {"notes.txt": b"x"}))
    refused("nowhere: no such folder or tar", tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(FILES["b.png"])
    refused(r"a\.png: not a whole tar", tmp_path / "a.png")


def member_end(path: Path, number: int) -> int:
    """Return where the content of a tar's member ends, before it is filled up to 512 bytes."""
    with tarfile.open(path) as tar:
        member = tar.getmembers()[number]
        return member.offset_data + member.size


@pytest.mark.parametrize("shift", [-1, 0, 1, 511, 700, "header"])
def test_import_damaged_tar(shift, refused, tmp_path):
    tar = write_tar(tmp_path / "in.tar", FILES)
    data = bytearray(tar.read_bytes())
    if shift == "header":  # that of the third member
        header = -(-member_end(tar, 1) // 512) * 512
        data[header : header + 50] = b"\xaa" * 50
    else:
        data = data[: member_end(tar, 1) + shift]
    tar.write_bytes(data)
    refused(r"in\.tar: not a whole tar", tar, shard_images=1)


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8])
def test_import_cut_compressed_tar(kept, refused, tmp_path):
    noise = np.random.default_rng(0)
    files = {f"{n}.png": encode(noise.integers(256, size=(4, 6), dtype=np.uint8)) for n in range(9)}
    data = write_tar(tmp_path / "whole.tgz", files, "w:gz").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * kept)])
    refused("cut: not a whole tar", tmp_path / "cut", shard_images=1)


@pytest.mark.parametrize("options", [{"digits": 0}, {"shard_images": 0}], ids=str)
def test_import_config_refused(options):
    with pytest.raises(InputError, match="at least 1"):
        ImportImagesConfig(source="in", out="out", **options)
