"""Loss and accuracy of a training run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from digitsum.training.history import Epoch


def draw_curves(history: Sequence[Epoch], title: str) -> Figure:
    """Return the curves, loss on the left and accuracy on the right, training and validation."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    for axes, quantity in ((losses, "loss"), (accuracies, "accuracy")):
        for part, style in (("train", "o-"), ("validation", "s--")):
            values = [getattr(epoch, f"{part}_{quantity}") for epoch in history]
            axes.plot(epochs, values, style, label="training" if part == "train" else part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set_ylabel("cross entropy (nats)")
    accuracies.set_ylabel("accuracy of the sum")
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title, parse_math=False)
    return figure
