import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from digitsum.evaluation.metrics import Evaluation, count_pairs
from digitsum.report.figures import (
    DOTS_PER_INCH,
    NUM_IMAGES,
    draw_confusion,
    draw_contact_sheet,
    publish_figure,
    score_caption,
)
from digitsum.storage.location import locate


@pytest.fixture
def published(tmp_path) -> Callable[[Figure], Image.Image]:
    """Publish a figure and read the PNG that appeared, whole, where it was to appear."""

    def published(figure: Figure) -> Image.Image:
        publish_figure(figure, locate(str(tmp_path / "report" / "figure.png")))
        assert [path.name for path in (tmp_path / "report").iterdir()] == ["figure.png"]
        data = (tmp_path / "report" / "figure.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        image = Image.open(io.BytesIO(data))
        image.load()
        assert image.format == "PNG"
        return image

    return published


def assert_about(image: Image.Image, width_inches: float, height_inches: float) -> None:
    """Check the size to a fifth, for the margins are cut to what is drawn, and that it is drawn."""
    assert image.width == pytest.approx(width_inches * DOTS_PER_INCH, rel=0.2)
    assert image.height == pytest.approx(height_inches * DOTS_PER_INCH, rel=0.2)
    assert len(np.unique(np.asarray(image.convert("L")))) > 10


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_a_confusion_matrix_shows_fractions_of_each_true_sum_up_to_the_largest(published):
    confusion = count_pairs(np.array([0, 0, 0, 0, 18]), np.array([0, 0, 1, 5, 18]), 37)
    figure = draw_confusion(Evaluation(confusion, 1), "archive")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    expected = np.zeros((19, 19))
    expected[0, [0, 1, 5]] = [0.5, 0.25, 0.25]
    expected[18, 18] = 1
    np.testing.assert_allclose(shown, expected)
    assert titles(figure)[0] == ("archive\n50.0% right, 66.7% within 1, mean error 1.20, 6 images")
    assert_about(published(figure), 7, 6)


@pytest.mark.parametrize("num_rejected", [0, 5])
def test_a_confusion_matrix_without_a_scored_image_is_drawn_too(published, num_rejected):
    figure = draw_confusion(Evaluation(np.zeros((37, 37), np.int64), num_rejected), "archive")
    assert not np.asarray(figure.axes[0].images[0].get_array()).any()
    assert f"{num_rejected} images" in titles(figure)[0]
    assert_about(published(figure), 7, 6)


@pytest.mark.parametrize("path", ["/data/a$b", r"/data/$\foo$", "/data/$^$/_x_", "s3://b/a_b%20c"])
def test_an_archive_of_any_name_can_be_a_title(published, path):
    evaluation = Evaluation(np.eye(19, dtype=np.int64), 0)
    assert_about(published(draw_confusion(evaluation, path)), 7, 6)


@pytest.mark.parametrize("num_images", [1, 2, 4, NUM_IMAGES])
def test_a_contact_sheet_shows_each_image_under_its_caption(published, num_images):
    pixels = np.random.default_rng(0).integers(256, size=(num_images, 40, 168), dtype=np.uint8)
    figure = draw_contact_sheet([(image, f"{n}, 50%") for n, image in enumerate(pixels)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"{n}, 50%" for n in range(num_images)]
    for axes, image in zip(shown, pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), image)
    num_rows = -(-num_images // 3)
    png = published(figure)
    assert 2 * DOTS_PER_INCH < png.width <= 9.5 * DOTS_PER_INCH
    assert 0.5 * num_rows * DOTS_PER_INCH < png.height < 1.5 * num_rows * DOTS_PER_INCH


@pytest.mark.parametrize("caption", ["image is null", r"not $\foo$, an image", "x" * 300])
def test_a_caption_may_hold_anything(published, caption):
    figure = draw_contact_sheet([(np.zeros((40, 168), np.uint8), caption)] * 5)
    assert [title for title in titles(figure) if title] == [caption] * 5
    assert published(figure).width > 2 * DOTS_PER_INCH


@pytest.mark.parametrize(
    ("score", "caption"),
    [
        ({"digits": [3, 0, 5]}, "8 = 3 + 0 + 5, 50.0%"),
        ({"digits": [8]}, "8 = 8, 50.0%"),
        ({"digits": []}, "8, 50.0%"),
        ({"digits": None}, "8, 50.0%"),
        ({"predicted_sum": None, "error": "image is null"}, "rejected: image is null"),
    ],
    ids=str,
)
def test_a_caption_says_what_was_read(score, caption):
    of = {"predicted_sum": 8, "confidence": 0.5, "digits": None, "error": None}
    assert score_caption({**of, **score}) == caption
