"""The model card that a training run leaves in its bundle."""

from __future__ import annotations

from collections.abc import Sequence

from digitsum.model.bundle import num_parameters
from digitsum.model.sum_network import SumNetwork
from digitsum.training.calibration import Calibration
from digitsum.training.config import TrainConfig
from digitsum.training.history import Epoch


def model_card(
    config: TrainConfig,
    history: Sequence[Epoch],
    best: Epoch,
    calibration: Calibration,
    network: SumNetwork,
    run_uri: str,
) -> str:
    """Return the Markdown card: what was trained, on what, how, and what it came to."""
    recipe = config.recipe
    schedule = "rising and falling once" if recipe.one_cycle else "constant"
    return f"""# {config.model}: the sum of {_digits(config)} handwritten digits

Network `{config.model}`, {num_parameters(network):,} parameters, trained from sums alone.

| | |
|---|---|
| trained on | {_trained_on(config)}; {best.train_images:,} images an epoch |
| validated on | {_validated_on(config)}; {best.validation_images:,} images |
| validation accuracy | {best.validation_accuracy:.2%}, loss {best.validation_loss:.4f} nats |
| weights | of epoch {best.epoch} of {len(history)}, the one of highest validation accuracy |
| calibration | temperature {calibration.temperature:.3f}, fitted on {calibration.images:,} \
{_calibrated_on(config)} |
| recipe | AdamW, step size {recipe.learning_rate:g}, {schedule}, batch {recipe.batch_size}, \
weight decay {recipe.weight_decay:g}, distortion {recipe.distortion:g}, pixels times \
{recipe.pixel_scale:.6g}, seed {config.seed}, workers {config.workers} |
| run | {run_uri} |

Limits: the validation accuracy chose the epoch, and so is a little too high. Images of another
layout, ink or number of digits than those it was trained on are not known to be read well; measure
with `digitsum evaluate` on labelled images of your own.
"""


def _digits(config: TrainConfig) -> str:
    counts = config.digit_counts
    return f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts.stop - 1}"


def _trained_on(config: TrainConfig) -> str:
    if config.archive is not None:
        return config.archive
    return (
        f"images of {config.shape} pixels, composed anew for each epoch of {config.glyphs} glyphs"
    )


def _calibrated_on(config: TrainConfig) -> str:
    strength = config.recipe.distortion_at(1.0)
    if config.archive is not None or strength == 0:
        return "of the validation images"
    return f"images of the validation glyphs, distorted by {strength:g}"


def _validated_on(config: TrainConfig) -> str:
    if config.archive is None:
        return "images composed of glyphs that are not trained on"
    held = f"{config.validation_fraction:.0%} of the same archive, held out (seed {config.seed})"
    return config.validation or held
