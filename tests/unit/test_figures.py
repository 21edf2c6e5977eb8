import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from digitsum.archive.location import locate
from digitsum.archive.reading import read_chunk
from digitsum.archive.schema import ReadOptions
from digitsum.archive.scores import part_source
from digitsum.archive.shards import open_archive, plan_chunks
from digitsum.model.predictions import Predictions
from digitsum.report.confusion import draw_confusion
from digitsum.report.contact_sheet import NUM_IMAGES, draw_contact_sheet
from digitsum.report.curves import draw_curves
from digitsum.report.figures import DOTS_PER_INCH, publish_figure
from digitsum.scoring.commit import commit_part, scored_rows
from digitsum.scoring.metrics import Evaluation, count_pairs
from digitsum.scoring.sample import ScoredSample, first_scored
from digitsum.training.history import Epoch

MODEL = "a" * 64
READ = ReadOptions(height=16, width=24)
EPOCH = Epoch(1, 3.5, 0.1, 3.25, 0.125, 4800, 1200, 12.5, 640.0)


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


def sample_of(num_images: int, **score: object) -> ScoredSample:
    pixels = np.random.default_rng(0).integers(256, size=(num_images, 40, 168), dtype=np.uint8)
    scores = [
        {"image_id": f"i-{n}", "predicted_sum": n, "confidence": 0.5, "digits": None, "error": None}
        | score
        for n in range(num_images)
    ]
    return ScoredSample(pixels, scores)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize("num_epochs", [1, 2, 30])
def test_curves_show_loss_and_accuracy_of_every_epoch(published, num_epochs):
    history = [replace(EPOCH, epoch=n + 1, train_loss=3.5 / (n + 1)) for n in range(num_epochs)]
    figure = draw_curves(history, "baseline, run one")
    losses, accuracies = figure.axes
    drawn = {(line.get_label(), tuple(line.get_ydata())) for line in losses.lines}
    assert drawn == {
        ("training", tuple(epoch.train_loss for epoch in history)),
        ("validation", (3.25,) * num_epochs),
    }
    assert {tuple(line.get_ydata()) for line in accuracies.lines} == {
        (0.1,) * num_epochs,
        (0.125,) * num_epochs,
    }
    assert list(losses.lines[0].get_xdata()) == list(range(1, num_epochs + 1))
    assert_about(published(figure), 9, 3.6)


def test_curves_of_a_loss_that_is_no_number_are_drawn_too(published):
    history = [replace(EPOCH, train_loss=float("nan"), validation_loss=float("inf"))]
    assert_about(published(draw_curves(history, "diverged")), 9, 3.6)


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
def test_a_contact_sheet_shows_each_image_under_its_sum(published, num_images):
    sample = sample_of(num_images)
    figure = draw_contact_sheet(sample)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"{n}, 50%" for n in range(num_images)]
    for axes, pixels in zip(shown, sample.pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), pixels)
    num_rows = -(-num_images // 3)
    image = published(figure)
    assert 2 * DOTS_PER_INCH < image.width <= 9.5 * DOTS_PER_INCH
    assert 0.5 * num_rows * DOTS_PER_INCH < image.height < 1.5 * num_rows * DOTS_PER_INCH


@pytest.mark.parametrize(
    ("digits", "caption"),
    [([3, 0, 5], "8 = 3 + 0 + 5, 50%"), ([8], "8 = 8, 50%"), ([], "8, 50%")],
    ids=str,
)
def test_a_contact_sheet_says_which_digits_were_read(published, digits, caption):
    figure = draw_contact_sheet(sample_of(1, predicted_sum=8, digits=digits))
    assert titles(figure)[0] == caption
    published(figure)


@pytest.mark.parametrize("reason", ["image is null", r"not $\foo$, an image", "x" * 300])
def test_a_contact_sheet_of_rejected_images_says_why(published, reason):
    sample = sample_of(5, predicted_sum=None, confidence=None, error=reason)
    figure = draw_contact_sheet(sample)
    assert [title for title in titles(figure) if title] == [f"rejected: {reason}"] * 5
    image = published(figure)
    assert image.width > 2 * DOTS_PER_INCH


def test_a_sheet_is_of_the_first_images_of_a_committed_part(tmp_path, write_parquet, published):
    pixels = np.arange(5 * 16 * 24).reshape(5, 16, 24).astype(np.uint8)
    images = [image.tobytes() for image in pixels]
    write_parquet(
        tmp_path / "archive" / "a.parquet", {"image": [*images[:2], b"no image", *images[3:]]}
    )
    sample = scored_sample(tmp_path, num_images=4)
    np.testing.assert_array_equal(sample.pixels[[0, 1, 3]], pixels[[0, 1, 3]])
    assert [score["image_id"] for score in sample.scores] == [f"a.parquet#{n}" for n in range(4)]
    assert [score["predicted_sum"] for score in sample.scores] == [0, 1, None, 3]
    shown = titles(draw_contact_sheet(sample))
    assert shown[0] == "0, 25%"
    assert shown[2].startswith("rejected: image cannot be decoded")
    published(draw_contact_sheet(sample))


def scored_sample(tmp_path: Path, num_images: int) -> ScoredSample:
    """Commit scores of an archive of one chunk, row n of sum n, and return its first images."""
    archive = open_archive(str(tmp_path / "archive"), READ)
    (chunk,) = plan_chunks(archive.shards[0], 100)
    scores = locate(str(tmp_path / "scores"))
    tables = [
        scored_rows(
            rows,
            Predictions(
                np.arange(len(rows.pixels), dtype=np.int16),
                np.full(len(rows.pixels), 0.25, np.float32),
            ),
        )
        for rows in read_chunk(archive.root, chunk, READ)
    ]
    commit_part(scores, tables, part_source(chunk, MODEL))
    return first_scored(archive.root, scores, chunk, MODEL, READ, num_images)
