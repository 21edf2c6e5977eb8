import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, Glyphs, load_glyphs, load_training_glyphs
from digitsum.options import ImageShape, ReadOptions
from digitsum.training import synthetic
from digitsum.training.config import TrainConfig
from digitsum.training.synthetic import composed_images, validation_images

SHAPE = ImageShape(30, 100)
BLOCK = 64


@pytest.fixture(scope="session")
def dots() -> Glyphs:
    """Return a glyph for each digit: one pixel, whose brightness is 1 more than the digit."""
    pixels = np.zeros((10, 28, 28), np.uint8)
    pixels[:, 3, 3] = range(1, 11)
    return Glyphs(pixels, np.arange(10, dtype=np.uint8))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_IMAGES", BLOCK)


def blocks(glyphs, num, *, counts=range(2, 3), distortion=lambda _: 0.0, seed=(1, 2, 3)) -> list:
    return list(composed_images(glyphs, SHAPE, counts, num, distortion, seed))


def joined(made: list) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([block[0] for block in made]), np.concatenate([b[1] for b in made])


def dots_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many digits are on images of dots, and their sums, each (n,)."""
    counts = (pixels > 0).sum(axis=(1, 2))
    return counts, pixels.sum(axis=(1, 2), dtype=np.int64) - counts


@pytest.mark.parametrize("distortion", [0.0, 1.0])
def test_composed_images_follow_seed(distortion, embedded_train):
    before = embedded_train.pixels.copy()

    def make(*seed: int) -> tuple[np.ndarray, np.ndarray]:
        return joined(blocks(embedded_train, 100, distortion=lambda _: distortion, seed=seed))

    one, same = make(1, 2, 0), make(1, 2, 0)
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    for other in (make(2, 2, 0), make(1, 3, 0), make(1, 2, 1)):
        assert not (one[0] == other[0]).all(axis=(1, 2)).any()
    np.testing.assert_array_equal(embedded_train.pixels, before)


@pytest.mark.parametrize("counts", [range(1, 2), range(4, 5), range(1, 6)], ids=str)
def test_composed_images_have_true_sums(counts, dots):
    pixels, sums = joined(blocks(dots, 300, counts=counts))
    assert (pixels.dtype, pixels.shape, sums.dtype) == (np.uint8, (300, 30, 100), np.int64)
    num_digits, true_sums = dots_of(pixels)
    np.testing.assert_array_equal(true_sums, sums)
    assert set(num_digits.tolist()) == set(counts)


def test_composed_images_counts_are_equal(dots):
    for pixels, _ in blocks(dots, 3 * BLOCK, counts=range(1, 6)):
        num_digits, _ = dots_of(pixels)
        frequencies = np.bincount(num_digits, minlength=6)[1:]
        assert frequencies.sum() == BLOCK
        assert frequencies.max() - frequencies.min() <= 1


def test_composed_images_counts_are_mixed(dots, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_IMAGES", 8192)
    [(pixels, _)] = blocks(dots, 4000, counts=range(1, 5))
    num_digits, _ = dots_of(pixels)
    for part in np.split(num_digits, 10):
        assert abs(part.mean() - 2.5) < 5 * np.sqrt(1.25 / len(part))


@pytest.mark.parametrize(
    ("num", "sizes"),
    [
        (1, [1]),
        (BLOCK - 1, [BLOCK - 1]),
        (BLOCK, [BLOCK]),
        (BLOCK + 1, [BLOCK, 1]),
        (3 * BLOCK, [BLOCK] * 3),
        (0, []),
    ],
    ids=str,
)
def test_composed_images_block_sizes(num, sizes, dots):
    made = blocks(dots, num, counts=range(1, 4), distortion=lambda _: 1.0)
    assert [(len(pixels), len(sums)) for pixels, sums in made] == [(n, n) for n in sizes]


def test_composed_images_are_unique(embedded_train):
    pixels, _ = joined(blocks(embedded_train, 4 * BLOCK))
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == 4 * BLOCK


def test_composed_images_shorter_epoch(dots):
    shorter, longer = blocks(dots, 2 * BLOCK), blocks(dots, 3 * BLOCK)
    for one, other in zip(shorter, longer[:2], strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_composed_images_distortion(dots, monkeypatch):
    """Each block asks for the strength when it is made, and its glyphs get it."""
    asked, given = [], []

    def distortion(num_images: int) -> float:
        asked.append(num_images)
        return num_images / 100

    def record(glyphs, strength, generator):
        given.append(strength)
        return glyphs

    monkeypatch.setattr(synthetic, "distort_glyphs", record)
    made = composed_images(dots, SHAPE, range(2, 3), 2 * BLOCK + 5, distortion, (0,))
    assert asked == []
    assert [len(pixels) for pixels, _ in made] == [BLOCK, BLOCK, 5]
    assert asked == [0, BLOCK, 2 * BLOCK]
    assert given == [0, BLOCK / 100, 2 * BLOCK / 100]


def test_composed_images_tenth_undistorted(dots, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_IMAGES", 8192)
    monkeypatch.setattr(synthetic, "distort_glyphs", lambda glyphs, *_: torch.zeros_like(glyphs))
    pixels, _ = joined(blocks(dots, 4000, counts=range(1, 2), distortion=lambda _: 1.0))
    share = pixels.any(axis=(1, 2)).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 4000)


@pytest.fixture
def config(glyph_file, monkeypatch):
    """Make a configuration of few validation images."""
    monkeypatch.setattr(synthetic, "VALIDATION_IMAGES", 300)

    def make(**options) -> TrainConfig:
        read = ReadOptions(height=30, width=100)
        return TrainConfig(**{"out": "b", "glyphs": glyph_file, "read": read, **options})

    return make


def test_validation_images_ignore_options(config):
    pixels, sums = validation_images(config())
    assert (pixels.shape, sums.shape) == ((300, 30, 100), (300,))
    for again in (config(), config(seed=7), config(distortion=2.0), config(preset="quick")):
        np.testing.assert_array_equal(validation_images(again)[0], pixels)
        np.testing.assert_array_equal(validation_images(again)[1], sums)


def test_validation_images_digit_counts(config):
    _, sums = validation_images(config(digits=1))
    assert sums.max() <= 9
    _, sums = validation_images(config(digits=3, min_digits=1))
    assert 9 < sums.max() <= 27


def test_validation_images_distorted(config):
    pixels, sums = validation_images(config())
    distorted, same_sums = validation_images(config(), 1.0)
    more_distorted, _ = validation_images(config(), 2.0)
    np.testing.assert_array_equal(same_sums, sums)
    assert (distorted != pixels).any(axis=(1, 2)).mean() > 0.9
    change, larger = (
        np.abs(images.astype(int) - pixels).mean() for images in (distorted, more_distorted)
    )
    assert larger > change
    glyphs = load_glyphs(config().glyphs, "val")
    as_trained = composed_images(glyphs, SHAPE, range(4, 5), 300, lambda _: 1.0, (0,))
    np.testing.assert_array_equal(distorted, joined(list(as_trained))[0])


def one_tile(pixels: np.ndarray) -> bytes:
    """Return the 28x28 tile that holds an image's ink, moved to the upper left."""
    rows, columns = np.nonzero(pixels)
    tile = np.zeros((28, 28), np.uint8)
    inked = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    tile[: inked.shape[0], : inked.shape[1]] = inked
    return tile.tobytes()


def test_validation_images_show_validation_glyphs(config, glyph_file):
    glyphs = load_glyphs(glyph_file, "val")
    tiles = {
        one_tile(pixels): digit
        for pixels, digit in zip(glyphs.pixels, glyphs.digits.tolist(), strict=True)
    }
    pixels, sums = validation_images(config(digits=1))
    for image, digit_sum in zip(pixels, sums.tolist(), strict=True):
        assert tiles[one_tile(image)] == digit_sum


def test_training_glyphs_with_validation():
    train, val = (load_glyphs(EMBEDDED, split) for split in ("train", "val"))
    both = load_training_glyphs(EMBEDDED, with_validation=True)
    assert np.array_equal(both.pixels, np.concatenate([train.pixels, val.pixels]))
    assert np.array_equal(both.digits, np.concatenate([train.digits, val.digits]))
    alone = load_training_glyphs(EMBEDDED, with_validation=False)
    assert np.array_equal(alone.pixels, train.pixels)
