"""The model card that a training run writes into its model."""

from __future__ import annotations

from collections.abc import Sequence

from digitsum.model.network import SumNetwork
from digitsum.model.saved_model import num_parameters
from digitsum.training.calibration import Calibration
from digitsum.training.config import TrainConfig
from digitsum.training.distillation import DISTILLED
from digitsum.training.metrics import Epoch


def model_card(
    config: TrainConfig,
    history: Sequence[Epoch],
    best: Epoch,
    calibration: Calibration,
    network: SumNetwork,
    run_uri: str,
) -> str:
    """Return the Markdown card: what was trained, on what, how, and with what result."""
    recipe, advanced = config.recipe, config.advanced
    counts = config.digit_counts
    digits = f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts.stop - 1}"
    learned = "sums alone"
    if advanced.teachers:
        learned = f"sums and, for {DISTILLED:.0%} of the loss, from other networks' predictions"
    schedule = "rising and falling once" if recipe.one_cycle else "constant"
    passes = "one pass over each image"
    if recipe.cascade_below:
        passes = f"a second pass over images whose confidence is below {recipe.cascade_below:g}"
    chosen = "one of highest validation accuracy"
    limit = "chose the epoch, and so is a little too high"
    if advanced.train_on_validation:
        chosen = "last"
        limit = "is of handwriting that it was trained on, and too high for any other"
    if advanced.average_with:
        chosen += f", averaged with {' and '.join(advanced.average_with)}"
    return f"""# {config.network}: the sum of {digits} handwritten digits

Network `{config.network}`, {num_parameters(network):,} parameters, trained from {learned}.

| | |
|---|---|
| trained on | {_trained_on(config)}; {best.train_images:,} images an epoch |
| validated on | {_validated_on(config)}; {best.validation_images:,} images |
| validation accuracy | {best.validation_accuracy:.2%}, loss {best.validation_loss:.4f} nats |
| weights | of epoch {best.epoch} of {len(history)}, the {chosen} |
| calibration | temperature {calibration.temperature:.3f}, {_calibrated_on(config, calibration)} |
| recipe | AdamW, step size {recipe.learning_rate:g}, {schedule}, batch {recipe.batch_size}, \
weight decay {recipe.weight_decay:g}, distortion {recipe.distortion:g}, pixels times \
{recipe.pixel_scale:.6g}, seed {config.seed}, workers {config.workers} |
| scoring | {passes} |
| run | {run_uri} |

Limits: the validation accuracy {limit}. How well it reads images of another layout,
ink or number of digits than those it was trained on is unknown; measure it with `digitsum evaluate`
on labelled images of your own.
"""


def _trained_on(config: TrainConfig) -> str:
    source = config.archive or (
        f"images of {config.shape} pixels, newly composed for each epoch of {config.glyphs} glyphs"
    )
    origin = f", starting with the weights of {config.start_from}" if config.start_from else ""
    if config.advanced.teachers:
        origin += f", taught by {', '.join(config.advanced.teachers)}"
    return source + origin


def _validated_on(config: TrainConfig) -> str:
    if config.advanced.train_on_validation:
        return "images composed of glyphs that it was trained on too"
    if config.archive is None:
        return "images composed of glyphs that are not trained on"
    part = f"{config.validation_fraction:.0%} of the same archive, held out (seed {config.seed})"
    return config.validation or part


def _calibrated_on(config: TrainConfig, calibration: Calibration) -> str:
    if config.advanced.train_on_validation:
        return f"that of {config.start_from}"
    fitted, strength = f"fitted on {calibration.images:,}", config.recipe.distortion
    if config.archive is not None or strength == 0:
        return f"{fitted} of the validation images"
    return f"{fitted} images of the validation glyphs, distorted by {strength:g}"
