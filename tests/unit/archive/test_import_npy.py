import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from digitsum.archive.import_npy import ImportNpyConfig, import_npy
from digitsum.archive.preprocessing import CanvasOptions
from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.options import ImageShape


def some_images(num_images: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(num_images, 4, 6), dtype=np.uint8)


@pytest.fixture
def imported(tmp_path):
    """Save arrays as .npy files (in directories of their own), import them, return the columns."""

    def run(images: dict[str, np.ndarray], labels: dict[str, np.ndarray] | None = None, **options):
        paths = {"data": [], "labels": []}
        for option, arrays in (("data", images), ("labels", labels or {})):
            for name, array in arrays.items():
                path = tmp_path / option / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
                paths[option].append(str(path))
        places = {option: tuple(files) for option, files in paths.items()}
        written = import_npy(ImportNpyConfig(out=str(tmp_path / "out"), **places, **options))
        columns = pq.read_table(tmp_path / "out").to_pydict()
        assert written.num_images == len(columns["image"])
        assert written.num_shards == len(list((tmp_path / "out").iterdir()))
        return written, columns

    return run


def test_import_npy(imported):
    images = some_images()
    written, columns = imported({"data0": images}, {"lab0": np.array([0, 36, 7, 8, 9])})
    assert written.shape == ImageShape(4, 6)
    assert columns["image"] == [image.tobytes() for image in images]
    assert columns["digit_sum"] == [0, 36, 7, 8, 9]
    assert columns["image_id"] == [f"data0-{row:08d}" for row in range(5)]


def test_import_npy_canvas(imported):
    canvas = CanvasOptions(invert=True, height=4, width=7)
    written, columns = imported({"data0": np.full((3, 8, 12), 55, np.uint8)}, canvas=canvas)
    assert written.shape == ImageShape(4, 7)
    assert columns["image"] == [bytes([*[200] * 6, 0] * 4)] * 3


def test_import_npy_too_wide(imported):
    with pytest.raises(InputError, match=r"image is 4x6 pixels, not 4x5; correct --height"):
        imported({"data0": some_images()}, canvas=CanvasOptions(width=5))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("ink", [10, 240], ids=["dark", "bright"])
def test_import_npy_dark_ink_warning(ink, invert, tmp_path, capsys):
    images = np.full((9, 20, 30), 250 - ink, np.uint8)
    images[:, 8:12, 10:20] = ink
    np.save(tmp_path / "scans.npy", images)
    command = f"import npy {tmp_path}/scans.npy --out {tmp_path}/out".split()
    assert main([*command, "--invert"] if invert else command) == 0
    is_dark = (ink == 10) != invert
    assert ("import again with --invert" in capsys.readouterr().err) == is_dark


def test_import_npy_several_files(imported):
    images = {"data0": some_images(5, 0), "data1": some_images(4, 1)}
    labels = {"a": np.arange(5), "b": np.arange(20, 24)}
    written, columns = imported(images, labels, shard_images=3)
    assert written.num_shards == 3
    assert columns["image"] == [i.tobytes() for array in images.values() for i in array]
    assert columns["digit_sum"] == [0, 1, 2, 3, 4, 20, 21, 22, 23]
    assert columns["image_id"][4:6] == ["data0-00000004", "data1-00000000"]


def test_import_npy_many_ids(imported):
    many = np.zeros((8200, 1, 2), np.uint8)
    _, columns = imported({"data0": many}, {"lab0": np.arange(8200) % 37})
    assert columns["image_id"] == [f"data0-{row:08d}" for row in range(8200)]
    assert columns["digit_sum"] == [row % 37 for row in range(8200)]


def test_import_npy_same_names(imported):
    images = {"mon/data": some_images(2, 0), "tue/data": some_images(2, 1), "0-data": some_images()}
    _, columns = imported(images)
    assert len(set(columns["image_id"])) == 9
    assert sorted(columns) == ["image", "image_id"]  # no sums without labels


@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "<u8"])
def test_import_npy_label_types(kind, imported):
    _, columns = imported({"data0": some_images(2)}, {"lab0": np.array([0, 45], kind)}, digits=5)
    assert columns["digit_sum"] == [0, 45]


NOT_IMAGES = {
    "float": some_images().astype(np.float32),
    "2 dimensions": some_images()[0],
    "4 dimensions": some_images()[..., None],
    "no image": some_images(0),
    "scalar": np.array(7, np.uint8),
    "text": np.array(["a", "b"]),
    "objects": np.array([[[{}]]], object),
    "other shape": some_images().transpose(0, 2, 1),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_import_npy_not_images(kind, imported, tmp_path):
    message = r"bad\.npy: (holds|not a NumPy file)"
    if kind == "other shape":
        message = r"several shapes, \[\(4, 6\), \(6, 4\)\]"
    with pytest.raises(InputError, match=message):
        imported({"good": some_images(), "bad": NOT_IMAGES[kind]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(4), "not one integer for each of the 5 images"),
        (np.arange(5)[:, None], "not one integer for each"),
        (np.arange(5.0), "not one integer for each"),
        (np.array([0, 1, 37, 38, 2]), r"row 2: the sum 37 is outside 0\.\.36"),
        (np.array([0, 1, 2, 3, -1]), r"row 4: the sum -1 is outside 0\.\.36"),
        (np.array([0, 1, 2, 3, 2**16], np.int64), "row 4: the sum 65536"),
    ],
)
def test_import_npy_wrong_labels(labels, message, imported, tmp_path):
    with pytest.raises(InputError, match=rf"lab0\.npy: .*{message}"):
        imported({"data0": some_images()}, {"lab0": labels})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ()}, "at least one"),
        ({"labels": ("a.npy", "b.npy")}, "1 files of images but 2 of --labels"),
        ({"digits": 0}, "at least 1"),
        ({"shard_images": 0}, "at least 1"),
    ],
    ids=str,
)
def test_import_npy_config_refused(options, message):
    with pytest.raises(InputError, match=message):
        ImportNpyConfig(**{"data": ("a.npy",), "out": "unused", **options})


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "text", "cut", "npz", "cut npz"])
def test_import_npy_malformed(kind, tmp_path):
    path, npy, npz = tmp_path / "data0.npy", io.BytesIO(), io.BytesIO()
    np.save(npy, some_images())
    np.savez(npz, some_images())
    contents = {"empty": b"", "text": b"plain text", "cut": npy.getvalue()[:-10]}
    contents |= {"npz": npz.getvalue(), "cut npz": npz.getvalue()[:-10]}
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(contents[kind])
    with pytest.raises(InputError, match=r"data0\.npy: "):
        import_npy(ImportNpyConfig(data=(str(path),), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
