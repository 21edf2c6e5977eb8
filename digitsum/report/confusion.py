"""The confusion matrix of an evaluation."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from digitsum.scoring.metrics import Evaluation


def draw_confusion(evaluation: Evaluation, title: str) -> Figure:
    """Return the matrix: true sums down, predicted sums across, each row as fractions of itself."""
    counts = evaluation.confusion
    largest = int(np.argwhere(counts).max(initial=0))  # the model may know greater sums than occur
    counts = counts[: largest + 1, : largest + 1]
    per_true_sum = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, per_true_sum, out=np.zeros(counts.shape), where=per_true_sum > 0)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="magma", vmin=0, vmax=1)
    axes.set_xlabel("predicted sum")
    axes.set_ylabel("true sum")
    axes.set_title(
        f"{title}\n{evaluation.accuracy:.1%} right, {evaluation.accuracy_within_1:.1%} within 1, "
        f"mean error {evaluation.mean_absolute_error:.2f}, {evaluation.num_images:,} images",
        parse_math=False,  # a path may hold any sign
    )
    figure.colorbar(image, label="fraction of the images of a true sum")
    return figure
