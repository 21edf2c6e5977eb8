import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import EMBEDDED, Glyphs, load_glyphs, load_training_glyphs
from digitsum.options import ReadOptions
from digitsum.training import synthetic
from digitsum.training.config import TrainConfig
from digitsum.training.synthetic import composed_images, validation_images

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


def config(fewest: int = 2, most: int = 2, **options) -> TrainConfig:
    read = ReadOptions(height=30, width=100)
    return TrainConfig(out="unused", read=read, min_digits=fewest, digits=most, **options)


def blocks(glyphs, num, *, counts=(2, 2), distortion=lambda _: 0.0, seed=(1, 2, 3)) -> list:
    return list(composed_images(config(*counts), glyphs, num, distortion, seed))


def joined(made: list) -> tuple[np.ndarray, np.ndarray]:
    pixels, sums = zip(*made, strict=True)
    return np.concatenate(pixels), np.concatenate(sums)


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


@pytest.mark.parametrize("counts", [(1, 1), (3, 3), (1, 3)], ids=str)
def test_composed_images_have_true_sums(counts, dots):
    pixels, sums = joined(blocks(dots, 300, counts=counts))
    assert (pixels.dtype, pixels.shape, sums.dtype) == (np.uint8, (300, 30, 100), np.int64)
    num_digits, true_sums = dots_of(pixels)
    np.testing.assert_array_equal(true_sums, sums)
    assert set(num_digits.tolist()) == set(range(counts[0], counts[1] + 1))


def test_composed_images_counts_are_equal(dots):
    for pixels, _ in blocks(dots, 3 * BLOCK, counts=(1, 3)):
        frequencies = np.bincount(dots_of(pixels)[0], minlength=4)[1:]
        assert frequencies.sum() == BLOCK
        assert np.ptp(frequencies) <= 1


def test_composed_images_counts_are_mixed(dots, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_IMAGES", 8192)
    [(pixels, _)] = blocks(dots, 4000, counts=(1, 3))
    for part in np.split(dots_of(pixels)[0], 10):
        assert abs(part.mean() - 2) < 5 * np.sqrt(2 / 3 / len(part))


@pytest.mark.parametrize(
    ("num", "sizes"),
    [(0, []), (1, [1]), (BLOCK, [BLOCK]), (BLOCK + 1, [BLOCK, 1]), (3 * BLOCK, [BLOCK] * 3)],
    ids=str,
)
def test_composed_images_block_sizes(num, sizes, dots):
    made = blocks(dots, num, counts=(1, 3), distortion=lambda _: 1.0)
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

    def record(glyphs, strength, generator, *, keeps_places):
        given.append((strength, keeps_places))
        return glyphs

    monkeypatch.setattr(synthetic, "distort", record)
    made = composed_images(config(), dots, 2 * BLOCK + 5, distortion, (0,))
    assert asked == []
    assert [len(pixels) for pixels, _ in made] == [BLOCK, BLOCK, 5]
    assert asked == [0, BLOCK, 2 * BLOCK]
    assert given == [(0, False), (BLOCK / 100, False), (2 * BLOCK / 100, False)]


def test_composed_images_tenth_undistorted(dots, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_IMAGES", 8192)
    monkeypatch.setattr(synthetic, "distort", lambda glyphs, *_, **__: torch.zeros_like(glyphs))
    pixels, _ = joined(blocks(dots, 4000, counts=(1, 1), distortion=lambda _: 1.0))
    share = pixels.any(axis=(1, 2)).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 4000)


@pytest.fixture
def validation(glyph_file, monkeypatch):
    """Compose few validation images of 800 glyphs."""
    monkeypatch.setattr(synthetic, "VALIDATION_IMAGES", 300)

    def compose(strength=0.0, counts=(2, 2), **options) -> tuple[np.ndarray, np.ndarray]:
        return validation_images(config(*counts, glyphs=glyph_file, **options), strength)

    return compose


def test_validation_images_ignore_options(validation):
    pixels, sums = validation()
    assert (pixels.shape, sums.shape) == ((300, 30, 100), (300,))
    for options in ({}, {"seed": 7}, {"distortion": 2.0}, {"preset": "quick"}):
        again = validation(**options)
        np.testing.assert_array_equal(again[0], pixels)
        np.testing.assert_array_equal(again[1], sums)


def test_validation_images_digit_counts(validation):
    assert validation(counts=(1, 1))[1].max() <= 9
    assert 9 < validation(counts=(1, 3))[1].max() <= 27


def test_validation_images_distorted(validation, glyph_file):
    (pixels, sums), (distorted, same_sums) = validation(), validation(1.0)
    np.testing.assert_array_equal(same_sums, sums)
    assert (distorted != pixels).any(axis=(1, 2)).mean() > 0.9
    changes = [np.abs(made.astype(int) - pixels).mean() for made in (distorted, validation(2.0)[0])]
    assert changes == sorted(changes)
    as_trained = blocks(load_glyphs(glyph_file, "val"), 300, distortion=lambda _: 1.0, seed=(0,))
    np.testing.assert_array_equal(distorted, joined(as_trained)[0])


def tile_of(pixels: np.ndarray) -> bytes:
    """Return the 28x28 tile that holds an image's ink, at its upper left."""
    rows, columns = np.nonzero(pixels)
    inked = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.pad(inked, [(0, 28 - size) for size in inked.shape]).tobytes()


def test_validation_images_show_validation_glyphs(validation, glyph_file):
    glyphs = load_glyphs(glyph_file, "val")
    digits = dict(zip(map(tile_of, glyphs.pixels), glyphs.digits.tolist(), strict=True))
    pixels, sums = validation(counts=(1, 1))
    assert [digits[tile_of(image)] for image in pixels] == sums.tolist()


def test_training_glyphs_with_validation():
    train, val = (load_glyphs(EMBEDDED, split) for split in ("train", "val"))
    both = load_training_glyphs(EMBEDDED, with_validation=True)
    assert np.array_equal(both.pixels, np.concatenate([train.pixels, val.pixels]))
    assert np.array_equal(both.digits, np.concatenate([train.digits, val.digits]))
    alone = load_training_glyphs(EMBEDDED, with_validation=False)
    assert np.array_equal(alone.pixels, train.pixels)
