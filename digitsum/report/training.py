"""The report of a training run: curves, and the evaluation of its model on validation images."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from digitsum.evaluation.metrics import Evaluation
from digitsum.manifest import Manifest, from_python
from digitsum.report.evaluation import evaluation_facts, evaluation_sections
from digitsum.report.page import Page, Section, Table, draw_chart, origin_section
from digitsum.storage.location import Location
from digitsum.training.metrics import CURVES_FILE, Epoch, TrainOutcome, history_from_json

_CURVE_COLOURS = {"train": "#2f7ed8", "validation": "#c8741a"}


def train_page(run: Location, manifest: Manifest, validation: Evaluation | None) -> Page:
    """Return the page of a run; `validation` evaluates its model on the validation images."""
    outcome = from_python(TrainOutcome, manifest.outcome, manifest.run)
    history = history_from_json(run.join(CURVES_FILE).read_bytes())
    config, best = manifest.config, outcome.best
    others = config["advanced"]["average_with"]
    averaged = f", averaged with {len(others)} others" if others else ""
    facts = [
        ("weights of epoch", f"{best.epoch} of {len(history)}{averaged}"),
        ("validation accuracy", f"{best.validation_accuracy:.2%}"),
        ("images trained on", f"{sum(epoch.train_images for epoch in history):,}"),
        ("images a second", f"{history[-1].train_images_per_s:,.0f}"),
        ("of the time waiting for images", f"{history[-1].data_wait:.1%}"),
        ("minutes of training", f"{sum(epoch.seconds for epoch in history) / 60:,.1f}"),
        ("workers", f"{config['workers']}"),
    ]
    sections = [Section("Curves", charts=[_curve(history, "loss"), _curve(history, "accuracy")])]
    if validation is not None:
        facts += evaluation_facts(validation.metrics)[2:5]
        sections += evaluation_sections(
            validation.metrics, validation.examples, "images that were validated on"
        )
    else:
        text = ["Only the curves can be shown: the model was not evaluated after the run."]
        sections.append(Section("What it is worth", text=text))
    return Page(
        title=f"Training run {manifest.run}",
        summary=(
            f"{config['network']}, trained on {config['archive'] or 'composed images'}, into "
            f"{outcome.model}. The figures are of images that it was validated on, which chose "
            "the epoch: on others it does a little worse."
        ),
        facts=facts,
        sections=[
            *sections,
            _epochs(history),
            origin_section(manifest.origin, outcome.model_digest),
        ],
    )


def _curve(history: Sequence[Epoch], quantity: str) -> Markup:
    def draw(axes: Axes) -> None:
        epochs = [epoch.epoch for epoch in history]
        for part, colour in _CURVE_COLOURS.items():
            values = [getattr(epoch, f"{part}_{quantity}") for epoch in history]
            axes.plot(epochs, values, "o-", markersize=3, color=colour, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("cross entropy (nats)" if quantity == "loss" else "right sums")
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend()

    return draw_chart(
        draw,
        f"{quantity.capitalize()} of training and of validation over {len(history)} epochs; "
        f"validation ends at {getattr(history[-1], f'validation_{quantity}'):.3f}.",
    )


def _epochs(history: Sequence[Epoch]) -> Section:
    columns = (
        "epoch",
        "training loss",
        "training accuracy",
        "validation loss",
        "validation accuracy",
        "images/s",
        "seconds",
    )
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
    return Section("Epochs", table=Table(columns, rows))
