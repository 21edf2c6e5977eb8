import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from digitsum.archive.images import Uint8Array
from digitsum.evaluation.calibration import CALIBRATION_BINS, Certainty
from digitsum.evaluation.examples import Example
from digitsum.model.explain import Explanation
from digitsum.report.figures import draw_certainty, draw_gallery, publish_figure
from digitsum.storage.location import locate

HEIGHT, WIDTH = 40, 168
ODD_IDS = ["a$b", r"$\foo$", "ä/日本", "", "x" * 300, "%s {0}\n"]


def example(n: int, *, hit: bool, width: int = WIDTH, image_id: str | None = None) -> Example:
    pixels = np.random.default_rng(n).integers(256, size=(HEIGHT, width), dtype=np.uint8)
    image_id = f"image-{n}" if image_id is None else image_id
    return Example(image_id, pixels, n, n if hit else n + 1, 0.995 - 0.01 * n)


def explanation_of(pixels: Uint8Array) -> Explanation:
    """Two digits, in places that depend on the image."""
    num_columns = -(-pixels.shape[1] // 4)
    column_probs = np.full((num_columns, 11), 0.01, np.float32)
    column_probs[:, 0] = 0.9
    first = int(pixels[0, 0]) % (num_columns - 1)
    column_probs[first, 1 + 3] = 0.8
    column_probs[-1, 1 + 7] = 0.7
    return Explanation(column_probs, (3, 7), (4 * first, 4 * (num_columns - 1)))


def published(figure: Figure, directory: Path) -> Image.Image:
    publish_figure(figure, locate(str(directory / "figure.png")))
    image = Image.open(io.BytesIO((directory / "figure.png").read_bytes()))
    image.load()
    assert image.format == "PNG"
    return image


def images_of(figure: Figure) -> list[Axes]:
    """The axes that show an image of the archive: those with a title."""
    return [axes for axes in figure.axes if axes.get_title()]


def columns_of(figure: Figure) -> list[Axes]:
    """The axes that show what columns emit: an image without a title."""
    return [axes for axes in figure.axes if axes.images and not axes.get_title()]


def gallery(num_hits: int, num_misses: int, explain=explanation_of, **changes) -> Figure:
    return draw_gallery(
        [example(n, hit=True, **changes) for n in range(num_hits)],
        [example(n, hit=False, **changes) for n in range(num_misses)],
        explain,
    )


@pytest.mark.parametrize(
    ("num_hits", "num_misses", "num_rows"),
    [(8, 8, 4), (1, 1, 2), (5, 3, 3), (4, 4, 2), (0, 3, 1), (3, 0, 1), (0, 0, 1)],
)
def test_hits_stand_above_misses_in_rows_of_four(num_hits, num_misses, num_rows):
    figure = gallery(num_hits, num_misses)
    assert len(figure.axes) == 2 * num_rows * 4
    shown = images_of(figure)
    assert len(shown) == len(columns_of(figure)) == num_hits + num_misses
    titles = [axes.get_title() for axes in shown]
    assert titles == [f"{n} ({99.5 - n:.1f}%), right" for n in range(num_hits)] + [
        f"{n + 1} ({99.5 - n:.1f}%), but is {n}" for n in range(num_misses)
    ]
    assert f"Hits ({num_hits})" in figure.get_suptitle()
    assert f"confidence ({num_misses})" in figure.get_suptitle()
    rows = [axes.get_subplotspec().rowspan.start for axes in shown]
    columns = [axes.get_subplotspec().colspan.start for axes in shown]
    assert columns == [n % 4 for n in range(num_hits)] + [n % 4 for n in range(num_misses)]
    assert rows[:num_hits] == [2 * (n // 4) for n in range(num_hits)]
    num_hit_rows = -(-num_hits // 4)
    assert rows[num_hits:] == [2 * (num_hit_rows + n // 4) for n in range(num_misses)]


def test_hits_and_misses_are_of_two_colours():
    shown = images_of(gallery(3, 3))
    colours = [axes.title.get_color() for axes in shown]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]


def test_every_image_is_shown_with_the_digits_that_were_read_over_their_places():
    figure = gallery(2, 1)
    examples = [example(0, hit=True), example(1, hit=True), example(0, hit=False)]
    for axes, shown in zip(images_of(figure), examples, strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), shown.pixels)
        explanation = explanation_of(shown.pixels)
        texts = [(text.get_text(), text.get_position()[0]) for text in axes.texts]
        assert texts == list(zip(map(str, explanation.digits), explanation.digit_x, strict=True))
        assert all(0 <= text.get_position()[1] <= HEIGHT for text in axes.texts)
        assert all(text.get_horizontalalignment() == "center" for text in axes.texts)


def test_under_it_stands_what_its_columns_emit_digits_from_the_top():
    figure = gallery(2, 1)
    shown = [example(0, hit=True), example(1, hit=True), example(0, hit=False)]
    for axes, image, of in zip(columns_of(figure), images_of(figure), shown, strict=True):
        probs = explanation_of(of.pixels).column_probs
        drawn = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(drawn, probs[:, 1:].T)
        _, _, bottom, top = axes.images[0].get_extent()
        assert bottom > top
        assert axes.get_xlim() == image.get_xlim() == (0, of.pixels.shape[1])
        rows = [where.get_subplotspec().rowspan.start for where in (image, axes)]
        assert rows[1] == rows[0] + 1
        assert axes.get_subplotspec().colspan == image.get_subplotspec().colspan


@pytest.mark.parametrize("width", [168, 165, 41, 42])
def test_a_columns_probabilities_stand_under_its_pixel(width):
    """Column c is centred on pixel 4 c, of images of any width."""
    figure = gallery(1, 0, width=width)
    (axes,) = columns_of(figure)
    left, right, _, _ = axes.images[0].get_extent()
    num_columns = -(-width // 4)
    centres = left + (np.arange(num_columns) + 0.5) * (right - left) / num_columns
    np.testing.assert_allclose(centres, 4 * np.arange(num_columns), atol=0.6)


@pytest.mark.parametrize(("num_hits", "num_misses"), [(2, 2), (0, 1), (1, 0)])
def test_images_of_a_network_that_explains_nothing_are_shown_alone(tmp_path, num_hits, num_misses):
    figure = gallery(num_hits, num_misses, explain=lambda pixels: None)
    shown = images_of(figure)
    assert len(shown) == num_hits + num_misses
    assert not columns_of(figure)
    assert not any(axes.texts for axes in figure.axes)
    assert published(figure, tmp_path).width > 100


def test_an_image_on_which_nothing_was_read_has_no_digits_written_over_it(tmp_path):
    nothing = Explanation(np.eye(11, dtype=np.float32)[[0] * 42], (), ())
    figure = gallery(1, 0, explain=lambda pixels: nothing)
    assert not any(axes.texts for axes in figure.axes)
    assert len(columns_of(figure)) == 1
    published(figure, tmp_path)


def test_only_images_that_are_shown_are_explained_and_each_once():
    seen = []

    def explain(pixels: Uint8Array) -> Explanation:
        seen.append(pixels)
        return explanation_of(pixels)

    gallery(3, 2, explain=explain)
    assert len(seen) == 5
    assert all(pixels.shape == (HEIGHT, WIDTH) for pixels in seen)


def test_images_of_any_id_can_be_shown(tmp_path):
    hits = [example(n, hit=True, image_id=image_id) for n, image_id in enumerate(ODD_IDS[:4])]
    misses = [example(n, hit=False, image_id=image_id) for n, image_id in enumerate(ODD_IDS[4:])]
    assert published(draw_gallery(hits, misses, explanation_of), tmp_path).height > 100


def test_a_gallery_without_any_image_is_a_picture_too(tmp_path):
    assert published(gallery(0, 0), tmp_path).width > 100


def test_a_gallery_shows_the_images_it_is_given(tmp_path):
    image = published(gallery(4, 4), tmp_path)
    assert image.width > image.height
    assert len(np.unique(np.asarray(image.convert("L")))) > 100


def certainty_of(*groups: tuple[float, int, int]) -> Certainty:
    """Images in groups of equal confidence: the confidence, how many, and how many are right."""
    total = Certainty.empty()
    for confidence, num_images, num_right in groups:
        total += Certainty.of(
            np.full(num_images, confidence, np.float32), np.arange(num_images) < num_right
        )
    return total


def test_calibration_is_drawn_as_accuracy_against_confidence():
    figure = draw_certainty(certainty_of((0.95, 80, 72), (0.5, 20, 5)))
    left, right = figure.axes
    assert left.get_title() == "calibration error 9.00%"  # (80 * 0.05 + 20 * 0.25) / 100
    bars = {
        (round(bar.get_x() + bar.get_width() / 2, 4), round(bar.get_height(), 4))
        for bar in left.patches
    }
    assert bars == {
        (round(7.5 / CALIBRATION_BINS, 4), 0.25),
        (round(14.5 / CALIBRATION_BINS, 4), 0.9),
    }
    dots = next(line for line in left.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), [0.5, 0.95], rtol=1e-6)
    np.testing.assert_allclose(dots.get_ydata(), [0.25, 0.9])
    assert (left.get_xlabel(), left.get_ylabel()) == ("confidence", "accuracy")
    # The 80 most confident images of 100 are all those of the first group.
    assert right.get_title() == "the most confident 80%: 90.00% right"
    assert right.get_xlim() == (0, 1)


def test_accuracy_is_drawn_against_the_fraction_of_the_most_confident():
    figure = draw_certainty(certainty_of((0.95, 50, 50), (0.9, 30, 15), (0.5, 20, 5)))
    (line,) = figure.axes[1].lines
    coverage, accuracy = line.get_data()
    assert (np.diff(coverage) >= 0).all()
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(0.7)
    for covered, right in ((0.5, 1.0), (0.8, 65 / 80)):
        assert accuracy[coverage == covered] == pytest.approx(right)


@pytest.mark.parametrize(
    "certainty",
    [
        Certainty.empty(),
        certainty_of((1.0, 1, 1)),
        certainty_of((0.0, 1, 0)),
        certainty_of((1.0, 3, 0), (0.25, 2, 2)),
    ],
    ids=["no images", "one right", "one wrong", "wrong the surer"],
)
def test_certainty_of_few_images_or_none_is_a_picture_too(tmp_path, certainty):
    figure = draw_certainty(certainty)
    assert len(figure.axes) == 2
    image = published(figure, tmp_path)
    assert image.width > image.height > 100
