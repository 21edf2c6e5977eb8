import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.archive.synth import BLOCK_IMAGES, SynthConfig, compose, layout_x, synth
from digitsum.errors import InputError
from digitsum.options import ImageShape


def min_width(num_digits: int) -> int:
    return 28 + 13 * (num_digits - 1)


@pytest.fixture
def made(tmp_path, glyph_file):
    """Synthesize a small archive; return its columns as lists, shard after shard."""

    def make(name: str, images: int = 20, **options) -> dict[str, list]:
        options = {"digits": 3, "height": 30, "width": 80, "glyphs": glyph_file} | options
        written = synth(SynthConfig(out=str(tmp_path / name), images=images, **options))
        sizes = [pq.read_metadata(path).num_rows for path in (tmp_path / name).iterdir()]
        assert (written.num_shards, written.num_images) == (len(sizes), images)
        assert sum(sizes) == images
        assert max(sizes) - min(sizes) <= 1
        return pq.read_table(tmp_path / name).to_pydict()

    return make


def test_synth_seed(made):
    assert made("a", seed=5) == made("b", seed=5)
    assert not set(made("c", seed=6)["image"]) & set(made("a2", seed=5)["image"])


def test_synth_any_number_of_shards(made):
    one = made("one", 50, true_digits=True)
    assert one == made("seven", 50, shards=7, true_digits=True)
    assert {len(digits) for digits in one["digits"]} == {3}
    assert {digit for digits in one["digits"] for digit in digits} == set(range(10))
    assert [sum(digits) for digits in one.pop("digits")] == one["digit_sum"]
    assert one == made("without", 50)


def test_synth_shorter_is_prefix(made):
    longer = made("longer", BLOCK_IMAGES + 50)
    for images in (1, 50, BLOCK_IMAGES, BLOCK_IMAGES + 1):
        shorter = made(f"first-{images}", images)
        assert shorter == {name: values[:images] for name, values in longer.items()}


def test_synth_images_differ(made):
    archive = made("a", 2 * BLOCK_IMAGES, digits=5, height=28, width=80)  # the smallest canvas
    assert len(set(archive["image"])) == 2 * BLOCK_IMAGES
    assert len(set(archive["image_id"])) == 2 * BLOCK_IMAGES


def test_synth_unlabelled(made):
    labelled = made("labelled")
    assert sorted(labelled) == ["digit_sum", "image", "image_id"]
    del labelled["digit_sum"]
    assert made("unlabelled", unlabelled=True) == labelled


def test_synth_splits_differ(made):
    splits = [made(split, split=split) for split in ("train", "val", "test")]
    assert len({image_id for split in splits for image_id in split["image_id"]}) == 60
    assert len({image for split in splits for image in split["image"]}) == 60


def one_tile(pixels: np.ndarray) -> bytes:
    """Return the 28x28 tile that holds an image's ink, moved to the upper left."""
    rows, columns = np.nonzero(pixels)
    tile = np.zeros((28, 28), np.uint8)
    ink = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    tile[: ink.shape[0], : ink.shape[1]] = ink
    return tile.tobytes()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_synth_shows_glyphs_of_split(split, made, glyph_file):
    glyphs = load_glyphs(glyph_file, split)
    tiles = {
        one_tile(pixels): digit
        for pixels, digit in zip(glyphs.pixels, glyphs.digits.tolist(), strict=True)
    }
    archive = made("a", 100, split=split, digits=1)
    for image, digit in zip(archive["image"], archive["digit_sum"], strict=True):
        assert tiles[one_tile(np.frombuffer(image, np.uint8).reshape(30, 80))] == digit


def test_compose_large_sums():
    nines = Glyphs(np.zeros((1, 28, 28), np.uint8), np.array([9], np.uint8))
    drawn = compose(nines, np.random.default_rng(0), 2, 40, ImageShape(28, min_width(40)))
    assert drawn.digit_sums.tolist() == [360, 360]


def test_compose_overlap_wraps():
    tile = Glyphs(np.full((1, 28, 28), 200, np.uint8), np.array([1], np.uint8))
    drawn = compose(tile, np.random.default_rng(0), 50, 2, ImageShape(28, min_width(2)))
    # On the narrowest canvas the tiles stand at x 0 and 13, at the only height there is.
    expected = np.full((28, 41), 200, np.uint8)
    expected[:, 13:28] = (200 + 200) % 256
    np.testing.assert_array_equal(drawn.pixels, np.broadcast_to(expected, (50, 28, 41)))


def test_compose_left_to_right():
    pixels = np.zeros((9, 28, 28), np.uint8)
    pixels[:, 0, 0] = range(1, 10)  # one pixel, as bright as the digit
    glyphs = Glyphs(pixels, np.arange(1, 10, dtype=np.uint8))
    drawn = compose(glyphs, np.random.default_rng(1), 300, 3, ImageShape(31, 168))
    heights = set()
    for image, digits in zip(drawn.pixels, drawn.digits, strict=True):
        rows, columns = np.nonzero(image)
        heights |= set(rows.tolist())
        order = np.argsort(columns)
        assert image[rows[order], columns[order]].tolist() == digits.tolist()
    assert heights == {0, 1, 2, 3}


@given(
    num_digits=st.integers(1, 12),
    spare=st.integers(0, 700),
    num_images=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_layout_x_bounds(num_digits, spare, num_images, seed):
    width = min_width(num_digits) + spare
    x = layout_x(np.random.default_rng(seed), num_images, num_digits, width)
    assert x.shape == (num_images, num_digits)
    assert x[:, 0].min() >= 0
    assert x[:, 0].max() <= 17
    assert x[:, -1].max() <= width - 28
    spacings = np.diff(x, axis=1)
    assert np.all((spacings >= 13) & (spacings <= 45))


def test_layout_x_covers_all_places():
    x = layout_x(np.random.default_rng(0), 5000, 4, 1000)
    assert set(x[:, 0].tolist()) == set(range(18))
    assert set(np.diff(x, axis=1).ravel().tolist()) == set(range(13, 46))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "--images"),
        ({"shards": 0}, "--shards"),
        ({"images": 3, "shards": 4}, "no more shards than images"),
        ({"unlabelled": True, "true_digits": True}, "--unlabelled --true-digits: .* give one"),
        ({"seed": -1}, "--seed -1"),
        ({"digits": 0}, "--digits 0"),
        ({"height": 27}, "--height is at least 28"),
        ({"digits": 5, "width": 79}, "and --width at least 80"),
    ],
    ids=str,
)
def test_synth_config_refused(options, message):
    with pytest.raises(InputError, match=message):
        SynthConfig(**{"out": "unused", "images": 10, **options})
