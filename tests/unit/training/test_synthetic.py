import numpy as np
import pytest
import torch

from digitsum.archive.glyphs import Glyphs, load_glyphs
from digitsum.options import ImageShape, ReadOptions
from digitsum.training import synthetic
from digitsum.training.config import TrainConfig
from digitsum.training.synthetic import calibration_images, composed_images, validation_images

SHAPE = ImageShape(30, 100)
BLOCK = 64


@pytest.fixture(scope="session")
def dots() -> Glyphs:
    """Return a glyph for each digit: one pixel, brighter by 1 than the digit is great."""
    pixels = np.zeros((10, 28, 28), np.uint8)
    pixels[:, 3, 3] = range(1, 11)
    return Glyphs(pixels, np.arange(10, dtype=np.uint8))


@pytest.fixture
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
def test_the_same_seed_gives_the_same_images_and_another_seed_others(
    distortion, embedded_train, small_blocks
):
    def make(*seed: int) -> tuple[np.ndarray, np.ndarray]:
        return joined(blocks(embedded_train, 100, distortion=lambda _: distortion, seed=seed))

    one, same = make(1, 2, 0), make(1, 2, 0)
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    for other in (make(2, 2, 0), make(1, 3, 0), make(1, 2, 1)):
        assert not (one[0] == other[0]).all(axis=(1, 2)).any()


@pytest.mark.parametrize("counts", [range(1, 2), range(4, 5), range(1, 6)], ids=str)
def test_sums_are_those_of_the_digits_on_the_images(counts, dots, small_blocks):
    pixels, sums = joined(blocks(dots, 300, counts=counts))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (300, 30, 100)
    assert sums.dtype == np.int64
    found, found_sums = dots_of(pixels)
    np.testing.assert_array_equal(found_sums, sums)
    assert set(found.tolist()) == set(counts)


def test_each_number_of_digits_is_as_frequent_in_every_block(dots, small_blocks):
    for pixels, _ in blocks(dots, 3 * BLOCK, counts=range(1, 6)):
        found, _ = dots_of(pixels)
        frequencies = np.bincount(found, minlength=6)[1:]
        assert frequencies.sum() == BLOCK
        assert frequencies.max() - frequencies.min() <= 1


def test_images_of_different_numbers_of_digits_come_mixed(dots):
    (pixels, _), *_ = blocks(dots, 4000, counts=range(1, 5))
    found, _ = dots_of(pixels)
    for part in np.split(found, 10):
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
def test_images_come_in_blocks_of_which_the_last_holds_what_is_left(num, sizes, dots, small_blocks):
    made = blocks(dots, num, counts=range(1, 4), distortion=lambda _: 1.0)
    assert [len(pixels) for pixels, _ in made] == sizes
    assert [len(sums) for _, sums in made] == sizes


def test_no_image_is_made_twice(embedded_train, small_blocks):
    pixels, _ = joined(blocks(embedded_train, 4 * BLOCK))
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == 4 * BLOCK


def test_a_shorter_epoch_begins_with_the_same_blocks(dots, small_blocks):
    shorter, longer = blocks(dots, 2 * BLOCK), blocks(dots, 3 * BLOCK)
    for one, other in zip(shorter, longer[:2], strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_distortion_follows_the_images_that_were_composed_before(dots, small_blocks):
    asked = []

    def distortion(num_images: int) -> float:
        asked.append(num_images)
        return 0.0

    made = composed_images(dots, SHAPE, range(2, 3), 2 * BLOCK + 5, distortion, (0,))
    assert asked == []
    assert [len(pixels) for pixels, _ in made] == [BLOCK, BLOCK, 5]
    assert asked == [0, BLOCK, 2 * BLOCK]


def test_glyphs_are_distorted_by_the_strength_that_was_asked_for(dots, small_blocks, monkeypatch):
    given = []

    def record(glyphs, strength, generator):
        given.append(strength)
        return glyphs

    monkeypatch.setattr(synthetic, "distort_glyphs", record)
    strengths = iter([0.25, 0.75])
    blocks(dots, 2 * BLOCK, distortion=lambda _: next(strengths))
    assert given == [0.25, 0.75]


def test_a_tenth_of_the_glyphs_is_left_undistorted(dots, monkeypatch):
    monkeypatch.setattr(synthetic, "distort_glyphs", lambda glyphs, *_: torch.zeros_like(glyphs))
    pixels, _ = joined(blocks(dots, 4000, counts=range(1, 2), distortion=lambda _: 1.0))
    share = pixels.any(axis=(1, 2)).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 4000)


def test_the_glyphs_that_are_given_are_not_changed(embedded_train):
    before = embedded_train.pixels.copy()
    blocks(embedded_train, 500, distortion=lambda _: 1.0)
    np.testing.assert_array_equal(embedded_train.pixels, before)


@pytest.fixture
def config(glyph_file, monkeypatch):
    """Make a configuration of few validation images."""
    monkeypatch.setattr(synthetic, "VALIDATION_IMAGES", 300)

    def make(**options) -> TrainConfig:
        read = ReadOptions(height=30, width=100)
        return TrainConfig(**{"out": "b", "glyphs": glyph_file, "read": read, **options})

    return make


def test_validation_images_are_the_same_at_each_call_and_for_every_seed(config):
    pixels, sums = validation_images(config())
    assert pixels.shape == (300, 30, 100)
    assert sums.shape == (300,)
    for again in (config(), config(seed=7), config(distortion=2.0), config(preset="quick")):
        np.testing.assert_array_equal(validation_images(again)[0], pixels)
        np.testing.assert_array_equal(validation_images(again)[1], sums)


def test_validation_images_hold_as_many_digits_as_those_that_are_trained_on(config):
    _, sums = validation_images(config(digits=1))
    assert sums.max() <= 9
    _, sums = validation_images(config(digits=3, min_digits=1))
    assert 9 < sums.max() <= 27


def test_calibration_images_are_the_validation_images_distorted_as_in_training(config):
    pixels, sums = validation_images(config())
    distorted, same_sums = calibration_images(config(distortion=1.0))
    np.testing.assert_array_equal(same_sums, sums)
    changed = (distorted != pixels).any(axis=(1, 2)).mean()
    assert changed > 0.9
    farther, _ = calibration_images(config(distortion=2.0))

    def change(images):
        return np.abs(images.astype(int) - pixels).mean()

    assert change(farther) > change(distorted)
    np.testing.assert_array_equal(calibration_images(config(distortion=0.0))[0], pixels)
    [(as_trained, _)] = composed_images(
        load_glyphs(config().glyphs, "val"), SHAPE, range(4, 5), 300, lambda _: 1.0, (0,)
    )
    np.testing.assert_array_equal(distorted, as_trained)


def one_tile(pixels: np.ndarray) -> bytes:
    """Return the 28x28 tile that holds an image's ink, moved to the upper left."""
    rows, columns = np.nonzero(pixels)
    tile = np.zeros((28, 28), np.uint8)
    inked = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    tile[: inked.shape[0], : inked.shape[1]] = inked
    return tile.tobytes()


def test_validation_images_show_undistorted_validation_glyphs_only(config, glyph_file):
    glyphs = load_glyphs(glyph_file, "val")
    tiles = {
        one_tile(pixels): digit
        for pixels, digit in zip(glyphs.pixels, glyphs.digits.tolist(), strict=True)
    }
    pixels, sums = validation_images(config(digits=1))
    for image, digit_sum in zip(pixels, sums.tolist(), strict=True):
        assert tiles[one_tile(image)] == digit_sum
