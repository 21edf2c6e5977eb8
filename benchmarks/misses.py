"""The packaged model's misses: `python benchmarks/misses.py [GLYPHS]`.

Of the 10,000 images of test glyphs in `make results`, it prints which glyphs are misread, how many
images are miscounted, and how many are right if digits stand close. GLYPHS is a directory of
MNIST's IDX files; without it, the glyphs are the embedded ones, and it draws the README's pictures,
docs/gallery.png and docs/sample.png.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from digitsum.archive.glyphs import EMBEDDED, Glyphs, load_glyphs
from digitsum.archive.reader import Rows
from digitsum.archive.synth import Composition, SynthConfig, compose_blocks
from digitsum.evaluation.examples import Examples
from digitsum.model.outputs import Predictions
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.model.torch_backend import TorchPredictor
from digitsum.report.figures import draw_contact_sheet, draw_gallery, score_caption, to_png

IMAGES, DIGITS = 10_000, 4
DOCS = Path(__file__).parent.parent / "docs"
CLOSE = 16
WORST = (2, 10)
SAMPLE = 12
RESAMPLES = 2000


def misses(source: str) -> None:
    """Measure, print, and draw."""
    test = SynthConfig(out="unused", images=IMAGES, digits=DIGITS, split="test", glyphs=source)
    glyphs = load_glyphs(source, test.split)
    images = _concatenate(list(compose_blocks(glyphs, test)))
    model = load_model(packaged_model())
    predictions = make_predictor(model, num_threads=2).predict(images.pixels)
    _print_misses(glyphs, images, predictions)
    if source == EMBEDDED:
        _draw(images, predictions, TorchPredictor(model, batch_size=64))


def _concatenate(blocks: list[Composition]) -> Composition:
    names = [field.name for field in fields(Composition)]
    return Composition(*(np.concatenate([getattr(b, name) for b in blocks]) for name in names))


def _print_misses(glyphs: Glyphs, images: Composition, predictions: Predictions) -> None:
    assert predictions.readings is not None  # the packaged model reads digits
    num_glyphs = len(glyphs)
    is_right = predictions.sums == images.digit_sums
    is_read = predictions.readings.digits >= 0
    is_counted = is_read.sum(axis=1) == DIGITS
    read = predictions.readings.digits[is_counted, :DIGITS]
    is_misread = read != images.digits[is_counted]
    misread = np.bincount(images.glyphs[is_counted][is_misread], minlength=num_glyphs)
    worst = np.argsort(-misread, kind="stable")
    digits = glyphs.digits[worst]
    low, high = _interval(num_glyphs, images.glyphs, is_right)
    print(f"{is_right.mean():.2%} of {IMAGES:,} images are right")
    print(f"of all such glyphs, {low:.1%} to {high:.1%} are (95% interval)")
    print(f"{misread.sum():,} digits are misread, of {np.count_nonzero(misread)} glyphs")
    for number in WORST:
        share = misread[worst[:number]].sum() / misread.sum()
        print(f"{number} glyphs ({digits[:number].tolist()}) make {share:.0%} of them")
    occurs = np.bincount(images.glyphs[is_counted].ravel(), minlength=num_glyphs)
    is_mostly = misread > occurs / 2
    share = misread[is_mostly].sum() / misread.sum()
    print(f"{is_mostly.sum()} glyphs, misread more often than not, make {share:.0%} of them")
    for glyph in worst[: WORST[0]]:
        times = f"{misread[glyph]} of {occurs[glyph]} times"
        print(f"glyph {glyph}, a {glyphs.digits[glyph]}: misread {times}")
    print(f"{np.mean(~is_counted[~is_right]):.0%} of the misses are miscounts")
    is_close = np.diff(images.left_x, axis=1).min(axis=1) < CLOSE
    print(f"with digits less than {CLOSE} px apart, {is_right[is_close].mean():.1%} are right")


def _interval(
    num_glyphs: int, glyphs_nk: npt.NDArray[np.int64], is_right: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the bounds of the 95% interval of the accuracy over all glyphs, not only these.

    Images share glyphs, so glyphs are drawn with replacement, and an image's weight is the product
    of how often its glyphs were drawn (Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1, 2007). Variation from image to image counts several times, so the interval is too
    wide rather than too narrow.
    """
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(num_glyphs, size=num_glyphs), minlength=num_glyphs)
        accuracies.append(np.average(is_right, weights=drawn[glyphs_nk].prod(axis=1)))
    low, high = np.quantile(accuracies, (0.025, 0.975))
    return float(low), float(high)


def _draw(images: Composition, predictions: Predictions, predictor: TorchPredictor) -> None:
    assert predictions.readings is not None
    ids = pa.array([f"{number:05d}" for number in range(len(images.pixels))])
    rows = Rows(0, ids, images.pixels, {}, images.digit_sums.astype(np.int64))
    examples = Examples.of(rows, predictions).explained(predictor.explain)
    gallery = draw_gallery(examples)
    (DOCS / "gallery.png").write_bytes(to_png(gallery))
    captions = [
        score_caption(
            {
                "predicted_sum": predictions.sums[number],
                "confidence": predictions.confidences[number],
                "digits": [digit for digit in predictions.readings.digits[number] if digit >= 0],
            }
        )
        for number in range(SAMPLE)
    ]
    sheet = draw_contact_sheet(list(zip(images.pixels[:SAMPLE], captions, strict=True)))
    (DOCS / "sample.png").write_bytes(to_png(sheet))


if __name__ == "__main__":
    misses(sys.argv[1] if len(sys.argv) > 1 else EMBEDDED)
