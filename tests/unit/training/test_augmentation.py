import itertools
import warnings

import numpy as np
import pytest
import torch

from digitsum.training.augmentation import distort_glyphs, distort_images

BOTH = pytest.mark.parametrize("distort", [distort_glyphs, distort_images])
DISC_Y, DISC_X = 14, 14


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(n: int, width: int = 28, centres: tuple[int, ...] = (DISC_X,)) -> torch.Tensor:
    """Return images, uint8 (n, 28, width), of soft discs of radius 5 about the given columns."""
    y, x = torch.meshgrid(torch.arange(28), torch.arange(width), indexing="ij")
    nearest = torch.stack([((y - DISC_Y) ** 2 + (x - c) ** 2).float().sqrt() for c in centres])
    ink = (6 - nearest.min(dim=0).values).clamp(0, 1) * 255
    return ink.to(torch.uint8).repeat(n, 1, 1)


@pytest.fixture(scope="session")
def real(embedded_train) -> torch.Tensor:
    return torch.from_numpy(embedded_train.pixels[::4].copy())


def ink(images: torch.Tensor) -> torch.Tensor:
    return images.double().sum(dim=(1, 2)) / 255


def centres(images: torch.Tensor) -> torch.Tensor:
    """Return the centre of each image's ink, (n, 2), row and column."""
    weight = images.double() / images.double().sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.arange(images.shape[1]), torch.arange(images.shape[2])
    return torch.stack(
        [(weight.sum(dim=2) * rows).sum(dim=1), (weight.sum(dim=1) * columns).sum(dim=1)], dim=1
    )


@BOTH
@pytest.mark.parametrize("strength", [0, 0.1, 1, 2])
def test_images_stay_uint8_of_their_shape_and_what_was_given_is_not_changed(distort, strength):
    images = discs(5, 60)
    distorted = distort(images, strength, generator())
    assert distorted.dtype == torch.uint8
    assert distorted.shape == (5, 28, 60)
    assert torch.equal(images, discs(5, 60))


@BOTH
def test_at_strength_0_images_stay_as_they_are(distort, real):
    assert torch.equal(distort(real[:100], 0, generator()), real[:100])
    assert torch.equal(distort(real[:100], 0.0, generator()), real[:100])


@BOTH
def test_the_same_seed_distorts_likewise_and_another_seed_otherwise(distort):
    one, same, other = (distort(discs(600), 1.0, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@BOTH
def test_a_generator_that_goes_on_distorts_otherwise(distort):
    going_on = generator()
    assert not torch.equal(
        distort(discs(3), 1.0, going_on),
        distort(discs(3), 1.0, going_on),
    )


@BOTH
def test_every_image_is_distorted_in_its_own_way(distort):
    # More than are distorted at once, so that the parts differ from each other too.
    distorted = distort(discs(1100), 1.0, generator()).numpy()
    assert len(np.unique(distorted.reshape(1100, -1), axis=0)) == 1100
    assert not (distorted == discs(1).numpy()).all(axis=(1, 2)).any()


@BOTH
@pytest.mark.parametrize("num", [1, 511, 512, 513, 1100])
def test_any_number_of_images_comes_back_in_order(distort, num):
    images = discs(num)
    images[::3] = 0
    distorted = distort(images, 1.0, generator())
    assert distorted.shape == images.shape
    assert torch.equal(ink(distorted) == 0, ink(images) == 0)


@BOTH
def test_no_images_come_back_as_none(distort):
    for strength in (0.0, 1.0):
        assert distort(discs(0), strength, generator()).shape == (0, 28, 28)


@BOTH
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_empty_images_stay_empty(distort, strength):
    assert not distort(torch.zeros(700, 28, 90, dtype=torch.uint8), strength, generator()).any()


@BOTH
def test_ink_is_mostly_kept(distort, real):
    kept = ink(distort(real, 1.0, generator())) / ink(real)
    assert 0.8 < kept.mean() < 1.3
    assert ((kept > 0.35) & (kept < 2.6)).double().mean() > 0.98
    assert kept.min() > 0.1


@BOTH
def test_strokes_become_thinner_and_thicker(distort, real):
    kept = ink(distort(real, 1.0, generator())) / ink(real)
    assert (kept < 0.9).double().mean() > 0.2
    assert (kept > 1.1).double().mean() > 0.2


def test_glyphs_move_by_less_than_a_few_pixels_and_on_average_not_at_all(real):
    moved = centres(distort_glyphs(real, 1.0, generator())) - centres(real)
    distance = moved.norm(dim=1)
    assert distance.max() < 6
    assert 0.5 < distance.mean() < 2
    assert moved.mean(dim=0).abs().max() < 0.2


def test_less_strength_changes_less(real):
    changes = [
        (distort_glyphs(real, strength, generator()).int() - real.int()).abs().double().mean()
        for strength in (0.01, 0.25, 0.5, 1.0)
    ]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 10


def test_in_whole_images_the_digits_stay_in_place():
    places = (14, 60, 110, 150)
    images = discs(300, 168, places)
    distorted = distort_images(images, 1.0, generator())
    edges = [0, 37, 85, 130, 168]
    for left, right in itertools.pairwise(edges):
        before, after = images[:, :, left:right], distorted[:, :, left:right]
        moved = centres(after) - centres(before)
        assert moved.norm(dim=1).max() < 4
        assert moved.mean(dim=0).abs().max() < 0.25
    for gap in edges[1:-1]:
        assert not distorted[:, :, gap - 2 : gap + 2].any()


def test_whole_images_are_bent_differently_at_their_ends():
    distorted = distort_images(discs(200, 168, (14, 150)), 1.0, generator())
    left = centres(distorted[:, :, :80])[:, 1] - 14
    right = centres(distorted[:, :, 80:])[:, 1] - (150 - 80)
    correlation = torch.corrcoef(torch.stack([left, right]))[0, 1]
    assert left.std() > 0.2
    assert right.std() > 0.2
    assert correlation.abs() < 0.4


def test_pixels_that_cannot_be_written_can_be_distorted():
    pixels = discs(2).numpy()
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        # torch warns of it once in a process.
        warnings.simplefilter("ignore")
        images = torch.from_numpy(pixels)
    assert distort_images(images, 1.0, generator()).shape == (2, 28, 28)
