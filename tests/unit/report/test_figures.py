import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from digitsum.evaluation.calibration import CALIBRATION_BINS, ConfidenceCounts
from digitsum.evaluation.examples import Example, Examples
from digitsum.evaluation.metrics import SumMetrics, count_pairs
from digitsum.model.outputs import Explanation
from digitsum.report.figures import (
    NUM_IMAGES,
    draw_calibration,
    draw_confusion,
    draw_contact_sheet,
    draw_gallery,
    score_caption,
    to_png,
)

HEIGHT, WIDTH = 40, 168
NOTHING_READ = Explanation(np.eye(11, dtype=np.float32)[[0] * 42], (), ())


def drawn(figure: Figure) -> Image.Image:
    """Return a figure's PNG, decoded; it must show something."""
    image = Image.open(io.BytesIO(to_png(figure)))
    image.load()
    assert image.format == "PNG"
    assert image.width > 100
    assert len(np.unique(np.asarray(image.convert("L")))) > 10
    return image


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def pixels_of(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_draw_confusion_fractions_of_true_sums():
    confusion = count_pairs(np.array([0, 0, 0, 0, 18]), np.array([0, 0, 1, 5, 18]), 37)
    figure = draw_confusion(SumMetrics(confusion, 1), "archive")
    expected = np.zeros((19, 19))  # up to the largest sum
    expected[0, [0, 1, 5]] = [0.5, 0.25, 0.25]
    expected[18, 18] = 1
    np.testing.assert_allclose(pixels_of(figure.axes[0]), expected)
    assert titles(figure) == ["archive\n50.0% right, 66.7% within 1, mean error 1.20, 6 images"]
    drawn(figure)


@pytest.mark.parametrize(
    ("title", "num_rejected"), [(r"/data/a$b/$\foo$/$^$/_x_", 0), ("s3://b/a_b%20c", 5)]
)
def test_draw_confusion_nothing_scored(title, num_rejected):
    figure = draw_confusion(SumMetrics(np.zeros((37, 37), np.int64), num_rejected), title)
    assert not pixels_of(figure.axes[0]).any()
    assert titles(figure)[0].startswith(title)
    assert f"{num_rejected} images" in titles(figure)[0]
    drawn(figure)


@pytest.mark.parametrize(
    ("num_images", "caption"),
    [(1, "image is null"), (4, r"not $\foo$, an image"), (5, "x" * 300), (NUM_IMAGES, "8, 50%")],
)
def test_contact_sheet_captions(num_images, caption):
    pixels = np.random.default_rng(0).integers(256, size=(num_images, 40, 168), dtype=np.uint8)
    figure = draw_contact_sheet([(image, f"{n}: {caption}") for n, image in enumerate(pixels)])
    assert titles(figure) == [f"{n}: {caption}" for n in range(num_images)]
    for axes, image in zip(figure.axes, pixels, strict=False):
        np.testing.assert_array_equal(pixels_of(axes), image)
    drawn(figure)


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
def test_score_caption(score, caption):
    whole = {"predicted_sum": 8, "confidence": 0.5, "digits": None, "error": None}
    assert score_caption({**whole, **score}) == caption


def make_example(n: int, *, is_hit: bool, width: int = WIDTH) -> Example:
    """Make an image with two digits, in places that depend on the image."""
    pixels = np.random.default_rng(n).integers(256, size=(HEIGHT, width), dtype=np.uint8)
    num_columns = -(-width // 4)
    first = int(pixels[0, 0]) % (num_columns - 1)
    probs = np.full((num_columns, 11), 0.01, np.float32)
    probs[[first, -1], [1 + 3, 1 + 7]] = 0.8, 0.7
    explanation = Explanation(probs, (3, 7), (4 * first, 4 * (num_columns - 1)))
    return Example("a", pixels, n, n if is_hit else n + 1, 0.995 - 0.01 * n, explanation)


def make_examples(num_hits: int, num_misses: int, width: int = WIDTH) -> Examples:
    hits = [make_example(n, is_hit=True, width=width) for n in range(num_hits)]
    misses = [make_example(n, is_hit=False, width=width) for n in range(num_misses)]
    return Examples(tuple(hits), tuple(misses))


def images_of(figure: Figure) -> list[Axes]:
    """Return the axes that show an image of the archive: those with a title."""
    return [axes for axes in figure.axes if axes.get_title()]


def columns_of(figure: Figure) -> list[Axes]:
    """Return the axes that show what columns emit: an image without a title."""
    return [axes for axes in figure.axes if axes.images and not axes.get_title()]


@pytest.mark.parametrize(
    ("num_hits", "num_misses", "num_rows"),
    [(8, 8, 4), (1, 1, 2), (5, 3, 3), (0, 3, 1), (3, 0, 1), (0, 0, 1)],
)
def test_gallery_rows_of_four(num_hits, num_misses, num_rows):
    figure = draw_gallery(make_examples(num_hits, num_misses))
    assert len(figure.axes) == 2 * num_rows * 4
    shown = images_of(figure)
    assert len(shown) == len(columns_of(figure)) == num_hits + num_misses
    assert titles(figure) == [f"{n} ({99.5 - n:.1f}%), right" for n in range(num_hits)] + [
        f"{n + 1} ({99.5 - n:.1f}%), but is {n}" for n in range(num_misses)
    ]
    assert figure.get_suptitle() == (
        f"Hits ({num_hits}), and the most confident misses ({num_misses})"
    )
    places = [axes.get_subplotspec() for axes in shown]
    numbers = [*range(num_hits), *range(num_misses)]
    assert [place.colspan.start for place in places] == [n % 4 for n in numbers]
    first_rows = [0] * num_hits + [-(-num_hits // 4)] * num_misses
    assert [place.rowspan.start for place in places] == [
        2 * (first + n // 4) for first, n in zip(first_rows, numbers, strict=True)
    ]


def test_gallery_image_digits_and_columns():
    examples = make_examples(3, 3)
    figure = draw_gallery(examples)
    for image, columns, example in zip(
        images_of(figure), columns_of(figure), examples.hits + examples.misses, strict=True
    ):
        explanation = example.explanation
        np.testing.assert_array_equal(pixels_of(image), example.pixels)
        texts = [(text.get_text(), text.get_position()[0]) for text in image.texts]
        assert texts == list(zip(map(str, explanation.digits), explanation.digit_x, strict=True))
        assert all(0 <= text.get_position()[1] <= HEIGHT for text in image.texts)
        assert all(text.get_horizontalalignment() == "center" for text in image.texts)
        np.testing.assert_array_equal(pixels_of(columns), explanation.column_probs[:, 1:].T)
        _, _, bottom, top = columns.images[0].get_extent()
        assert bottom > top  # digit 0 is at the top
        assert columns.get_xlim() == image.get_xlim() == (0, WIDTH)
        above, below = image.get_subplotspec(), columns.get_subplotspec()
        assert below.rowspan.start == above.rowspan.start + 1
        assert below.colspan == above.colspan
    colours = [axes.title.get_color() for axes in images_of(figure)]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]
    image = drawn(figure)
    assert image.width > image.height


@pytest.mark.parametrize("width", [168, 165, 41, 42])
def test_gallery_columns_under_pixels(width):
    """Column c is centred on pixel 4 c, of images of any width."""
    (axes,) = columns_of(draw_gallery(make_examples(1, 0, width=width)))
    left, right, _, _ = axes.images[0].get_extent()
    num_columns = -(-width // 4)
    centres = left + (np.arange(num_columns) + 0.5) * (right - left) / num_columns
    np.testing.assert_allclose(centres, 4 * np.arange(num_columns), atol=0.6)


@pytest.mark.parametrize("explanation", [None, NOTHING_READ], ids=["none", "nothing read"])
def test_gallery_without_digits(explanation):
    figure = draw_gallery(make_examples(1, 2).explained(lambda pixels: explanation))
    assert len(images_of(figure)) == 3
    assert len(columns_of(figure)) == (3 if explanation else 0)
    assert not any(axes.texts for axes in figure.axes)
    drawn(figure)


def counts_of(*groups: tuple[float, int, int]) -> ConfidenceCounts:
    """Count images in groups of one confidence: the confidence, how many, how many right."""
    total = ConfidenceCounts.empty()
    for confidence, num_images, num_right in groups:
        confidences = np.full(num_images, confidence, np.float32)
        total += ConfidenceCounts.of(confidences, np.arange(num_images) < num_right)
    return total


def test_draw_calibration_bins():
    left, right = draw_calibration(counts_of((0.95, 80, 72), (0.5, 20, 5))).axes
    assert left.get_title() == "calibration error 9.00%"  # (80 * 0.05 + 20 * 0.25) / 100
    bars = {(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in left.patches}
    expected = [(7.5 / CALIBRATION_BINS, 0.25), (14.5 / CALIBRATION_BINS, 0.9)]
    np.testing.assert_allclose(sorted(bars), expected)
    dots = next(line for line in left.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), [0.5, 0.95], rtol=1e-6)
    np.testing.assert_allclose(dots.get_ydata(), [0.25, 0.9])
    assert (left.get_xlabel(), left.get_ylabel()) == ("confidence", "accuracy")
    # The 80 most confident images of 100 are all those of the first group.
    assert right.get_title() == "the most confident 80%: 90.00% right"
    assert right.get_xlim() == (0, 1)


def test_draw_calibration_coverage():
    figure = draw_calibration(counts_of((0.95, 50, 50), (0.9, 30, 15), (0.5, 20, 5)))
    (line,) = figure.axes[1].lines
    coverage, accuracy = line.get_data()
    assert (np.diff(coverage) >= 0).all()
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(0.7)
    for covered, right in ((0.5, 1.0), (0.8, 65 / 80)):
        assert accuracy[coverage == covered] == pytest.approx(right)


@pytest.mark.parametrize(
    "groups",
    [[], [(1.0, 1, 1)], [(0.0, 1, 0)], [(1.0, 3, 0), (0.25, 2, 2)]],
    ids=["no images", "one right", "one wrong", "wrong and more confident"],
)
def test_draw_calibration_few_images(groups):
    drawn(draw_calibration(counts_of(*groups)))
