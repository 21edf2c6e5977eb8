"""Two pictures of what a model's confidence is worth: calibration, and accuracy by coverage."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitsum.scoring.certainty import CALIBRATION_BINS, Certainty


def draw_certainty(certainty: Certainty) -> Figure:
    """Return, side by side, accuracy against confidence and accuracy against coverage."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_calibration(left, certainty)
    _draw_coverage(right, certainty)
    return figure


def _draw_calibration(axes: Axes, certainty: Certainty) -> None:
    images, num_right, confidence = certainty.bins.T
    some = images > 0
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
    axes.bar(
        (np.arange(CALIBRATION_BINS)[some] + 0.5) / CALIBRATION_BINS,
        num_right[some] / images[some],
        width=0.9 / CALIBRATION_BINS,
        color="#7aa6d1",
    )
    axes.plot(confidence[some] / images[some], num_right[some] / images[some], "o", color="#1f4e79")
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {certainty.calibration_error:.2%}")


def _draw_coverage(axes: Axes, certainty: Certainty) -> None:
    coverage, accuracy = certainty.curve()
    axes.plot(coverage, accuracy, color="#1f4e79")
    axes.set_xlabel("coverage: the most confident fraction of the images")
    axes.set_ylabel("accuracy of these")
    axes.set_xlim(0, 1)
    axes.set_title(f"the most confident 80%: {certainty.accuracy_at(0.8):.2%} right")
    axes.grid(alpha=0.3)
