"""What the model that comes with digitsum misses: `python benchmarks/misses.py`.

Of 10,000 images composed of the test glyphs, those of `make results`: which glyphs are misread, how
many images are miscounted, and how many are right where digits stand close. Draws the README's
pictures, docs/gallery.png and docs/sample.png.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from digitsum.archive.glyphs import EMBEDDED, SPLIT_PERCENT, load_glyphs
from digitsum.archive.reading import Rows
from digitsum.archive.schema import DEFAULT_SHAPE
from digitsum.archive.synth import BLOCK_IMAGES, Composition, compose
from digitsum.model.bundle import load_bundle, packaged_bundle
from digitsum.model.explain import explain
from digitsum.model.predictions import Predictions
from digitsum.model.predictor import make_predictor
from digitsum.model.torch_predictor import TorchPredictor
from digitsum.report.captions import score_caption
from digitsum.report.contact_sheet import draw_contact_sheet
from digitsum.report.figures import to_png
from digitsum.report.gallery import draw_gallery
from digitsum.scoring.examples import hits, worst_misses

TEST_IMAGES, NUM_DIGITS = 10_000, 4
DOCS = Path(__file__).parent.parent / "docs"
CLOSE = 16
WORST = (2, 10)
SAMPLE = 12
# As `digitsum synth --split test` draws them.
_SEED, _SPLIT = 0, list(SPLIT_PERCENT).index("test")


def misses() -> None:
    """Measure, say, and draw."""
    images = _test_images()
    bundle = load_bundle(packaged_bundle())
    predictions = make_predictor(bundle, num_threads=2).predict(images.pixels)
    _say(images, predictions)
    _draw(images, predictions, TorchPredictor(bundle, batch_size=64))


def _test_images() -> Composition:
    glyphs = load_glyphs(EMBEDDED, "test")
    blocks = [
        compose(
            glyphs,
            np.random.default_rng((_SEED, _SPLIT, block)),
            BLOCK_IMAGES,
            NUM_DIGITS,
            DEFAULT_SHAPE,
        )
        for block in range(-(-TEST_IMAGES // BLOCK_IMAGES))
    ]
    fields = ("pixels", "digits", "glyphs", "left_x")
    whole = (np.concatenate([getattr(block, field) for block in blocks]) for field in fields)
    return Composition(*(values[:TEST_IMAGES] for values in whole))


def _say(images: Composition, predictions: Predictions) -> None:
    assert predictions.readings is not None  # the packaged model reads digits
    is_right = predictions.sums == images.digit_sums
    is_read = predictions.readings.digits >= 0
    is_counted = is_read.sum(axis=1) == NUM_DIGITS
    read = predictions.readings.digits[is_counted, :NUM_DIGITS]
    is_misread = read != images.digits[is_counted]
    misread = np.bincount(images.glyphs[is_counted][is_misread], minlength=images.glyphs.max() + 1)
    worst = np.argsort(-misread, kind="stable")
    digits = load_glyphs(EMBEDDED, "test").digits[worst]
    print(f"{is_right.mean():.2%} of {TEST_IMAGES:,} images are right")
    print(f"{misread.sum():,} digits are misread, of {np.count_nonzero(misread)} glyphs")
    for number in WORST:
        share = misread[worst[:number]].sum() / misread.sum()
        print(f"{number} glyphs ({digits[:number].tolist()}) make {share:.0%} of them")
    for number in range(WORST[0]):
        occurs = np.count_nonzero(images.glyphs[is_counted] == worst[number])
        times = misread[worst[number]]
        print(f"glyph {worst[number]}, a {digits[number]}: misread {times} of {occurs} times")
    print(f"{np.mean(~is_counted[~is_right]):.0%} of the misses are miscounts")
    is_close = np.diff(images.left_x, axis=1).min(axis=1) < CLOSE
    print(f"where two digits stand less than {CLOSE} px apart, {is_right[is_close].mean():.1%}")


def _draw(images: Composition, predictions: Predictions, predictor: TorchPredictor) -> None:
    assert predictions.readings is not None
    is_right = predictions.sums == images.digit_sums
    ids = pa.array([f"{number:05d}" for number in range(len(images.pixels))])
    rows = Rows(0, ids, images.pixels, {}, images.digit_sums.astype(np.int64))
    gallery = draw_gallery(
        hits(rows, predictions, is_right),
        worst_misses(rows, predictions, ~is_right),
        partial(explain, predictor),
    )
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
    misses()
