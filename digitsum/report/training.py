"""The report of a training run: how it went, and how good the model is on what it was tried on."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, PercentFormatter

from digitsum.evaluation.metrics import Evaluation
from digitsum.manifest import Manifest
from digitsum.report.evaluation import evaluation_facts, evaluation_sections
from digitsum.report.page import (
    Chart,
    Page,
    Section,
    Table,
    chart_style,
    new_figure,
    origin_section,
    to_chart,
)
from digitsum.training.metrics import Epoch

_COLOURS = {"train": "#2f7ed8", "validation": "#c8741a"}


def train_page(
    manifest: Manifest,
    history: Sequence[Epoch],
    validation: Evaluation | None,
) -> Page:
    """Return the page of a run; `validation` evaluates its model on the validation images."""
    config, best = manifest.config, manifest.outcome["best"]
    averaged = (
        f", averaged with {len(others)} others" if (others := config.get("average_with")) else ""
    )
    seconds = sum(epoch.seconds for epoch in history)
    facts = [
        ("weights of epoch", f"{best['epoch']} of {len(history)}{averaged}"),
        ("validation accuracy", f"{best['validation_accuracy']:.2%}"),
        ("images trained on", f"{sum(epoch.train_images for epoch in history):,}"),
        ("images a second", f"{history[-1].train_images_per_s:,.0f}"),
        ("of the time waiting for images", f"{history[-1].data_wait:.1%}"),
        ("minutes of training", f"{seconds / 60:,.1f}"),
        ("workers", f"{config['workers']}"),
    ]
    sections = [
        Section("Curves", charts=[_curve(history, "loss"), _curve(history, "accuracy")]),
    ]
    if validation is not None:
        facts += evaluation_facts(validation.metrics)[2:5]
        sections += evaluation_sections(
            validation.metrics, validation.examples, "images that were validated on"
        )
    else:
        text = ["Only the curves can be shown: the model was not evaluated after the run."]
        sections.append(Section("What it is worth", text=text))
    sections += [
        _epochs(history),
        origin_section(manifest.origin, manifest.outcome["model_digest"]),
    ]
    return Page(
        title=f"Training run {manifest.run}",
        summary=(
            f"{config['model']}, trained on {config['archive'] or 'composed images'}, into "
            f"{config['model']}. The figures are of images that it was validated on, which chose "
            "the epoch: on others it does a little worse."
        ),
        facts=facts,
        sections=sections,
    )


def _curve(history: Sequence[Epoch], quantity: str) -> Chart:
    epochs = [epoch.epoch for epoch in history]
    with chart_style():
        figure = new_figure()
        axes = figure.subplots()
        for part, colour in _COLOURS.items():
            values = [getattr(epoch, f"{part}_{quantity}") for epoch in history]
            axes.plot(epochs, values, "o-", markersize=3, color=colour, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("cross entropy (nats)" if quantity == "loss" else "right sums")
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend()
        last = getattr(history[-1], f"validation_{quantity}")
        return to_chart(
            figure,
            f"{quantity.capitalize()} of training and of validation over {len(history)} epochs; "
            f"validation ends at {last:.3f}.",
        )


def _epochs(history: Sequence[Epoch]) -> Section:
    rows = [
        (
            epoch.epoch,
            f"{epoch.train_loss:.4f}",
            f"{epoch.train_accuracy:.2%}",
            f"{epoch.validation_loss:.4f}",
            f"{epoch.validation_accuracy:.2%}",
            round(epoch.train_images_per_s),
            epoch.seconds,
        )
        for epoch in history
    ]
    columns = (
        "epoch",
        "training loss",
        "training accuracy",
        "validation loss",
        "validation accuracy",
        "images/s",
        "seconds",
    )
    return Section("Epochs", table=Table(columns, rows))
