import itertools
from functools import partial

import numpy as np
import pytest
import torch

from digitsum.training.augmentation import distort

distort_glyphs = partial(distort, keeps_places=False)
distort_images = partial(distort, keeps_places=True)
BOTH = pytest.mark.parametrize("distort", [distort_glyphs, distort_images])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(n: int, width: int = 28, centres: tuple[int, ...] = (14,)) -> torch.Tensor:
    """Return images, uint8 (n, 28, width), of soft discs of radius 5 about the given columns."""
    y, x = torch.meshgrid(torch.arange(28), torch.arange(width), indexing="ij")
    nearest = torch.stack([((y - 14) ** 2 + (x - c) ** 2).float().sqrt() for c in centres])
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
def test_distort_keeps_shape_and_input(distort, strength):
    images = discs(5, 60)
    distorted = distort(images, strength, generator())
    assert distorted.dtype == torch.uint8
    assert distorted.shape == (5, 28, 60)
    assert torch.equal(images, discs(5, 60))
    assert distort(discs(0), strength, generator()).shape == (0, 28, 28)


@BOTH
def test_distort_by_0_changes_nothing(distort, real):
    assert torch.equal(distort(real[:100], 0, generator()), real[:100])


@BOTH
def test_distort_follows_generator(distort):
    one, same, other = (distort(discs(600), 1.0, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    used = generator(5)
    distort(discs(600), 1.0, used)
    assert not torch.equal(distort(discs(600), 1.0, used), one)


@BOTH
def test_distort_is_different_for_each_image(distort):
    # More than one part, so that the parts must differ from each other too.
    distorted = distort(discs(1100), 1.0, generator()).numpy()
    assert len(np.unique(distorted.reshape(1100, -1), axis=0)) == 1100
    assert not (distorted == discs(1).numpy()).all(axis=(1, 2)).any()


@BOTH
@pytest.mark.parametrize("num", [1, 511, 512, 513, 1100])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_distort_keeps_order_and_empty_images(distort, num, strength):
    images = discs(num)
    images[::3] = 0
    distorted = distort(images, strength, generator())
    assert distorted.shape == images.shape
    assert torch.equal(ink(distorted) == 0, ink(images) == 0)


@BOTH
def test_distort_changes_strokes_but_keeps_ink(distort, real):
    kept = ink(distort(real, 1.0, generator())) / ink(real)
    assert 0.8 < kept.mean() < 1.3
    assert ((kept > 0.35) & (kept < 2.6)).double().mean() > 0.98
    assert kept.min() > 0.1
    assert min((kept < 0.9).double().mean(), (kept > 1.1).double().mean()) > 0.2


def test_distort_glyphs_moves_a_few_pixels(real):
    moves = centres(distort_glyphs(real, 1.0, generator())) - centres(real)
    distance = moves.norm(dim=1)
    assert distance.max() < 6
    assert 0.5 < distance.mean() < 2
    assert moves.mean(dim=0).abs().max() < 0.2


def test_distort_glyphs_grows_with_strength(real):
    changes = [
        (distort_glyphs(real, strength, generator()).int() - real.int()).abs().double().mean()
        for strength in (0.01, 0.25, 0.5, 1.0)
    ]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 10


def test_distort_images_keeps_digits_in_place():
    images = discs(300, 168, (14, 60, 110, 150))
    distorted = distort_images(images, 1.0, generator())
    edges = [0, 37, 85, 130, 168]
    for left, right in itertools.pairwise(edges):
        moves = centres(distorted[:, :, left:right]) - centres(images[:, :, left:right])
        assert moves.norm(dim=1).max() < 4
        assert moves.mean(dim=0).abs().max() < 0.25
    for gap in edges[1:-1]:
        assert not distorted[:, :, gap - 2 : gap + 2].any()


def test_distort_images_bends_ends_differently():
    distorted = distort_images(discs(200, 168, (14, 150)), 1.0, generator())
    left = centres(distorted[:, :, :80])[:, 1] - 14
    right = centres(distorted[:, :, 80:])[:, 1] - (150 - 80)
    correlation = torch.corrcoef(torch.stack([left, right]))[0, 1]
    assert min(left.std(), right.std()) > 0.2
    assert correlation.abs() < 0.4
