"""The model card that a training run leaves in its model."""

from __future__ import annotations

from collections.abc import Sequence

from digitsum.model.network import SumNetwork
from digitsum.model.saved_model import num_parameters
from digitsum.training.calibration import Calibration
from digitsum.training.config import TrainConfig
from digitsum.training.distillation import TAUGHT
from digitsum.training.metrics import Epoch


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
    return f"""# {config.network}: the sum of {_digits(config)} handwritten digits

Network `{config.network}`, {num_parameters(network):,} parameters, trained from {_learned(config)}.

| | |
|---|---|
| trained on | {_trained_on(config)}; {best.train_images:,} images an epoch |
| validated on | {_validated_on(config)}; {best.validation_images:,} images |
| validation accuracy | {best.validation_accuracy:.2%}, loss {best.validation_loss:.4f} nats |
| weights | of epoch {best.epoch} of {len(history)}, the {_chosen(config)}{_averaged(config)} |
| calibration | temperature {calibration.temperature:.3f}, {_calibrated_on(config, calibration)} |
| recipe | AdamW, step size {recipe.learning_rate:g}, {schedule}, batch {recipe.batch_size}, \
weight decay {recipe.weight_decay:g}, distortion {recipe.distortion:g}, pixels times \
{recipe.pixel_scale:.6g}, seed {config.seed}, workers {config.workers} |
| scoring | {_looks(recipe.cascade_below)} |
| run | {run_uri} |

Limits: the validation accuracy {_too_high(config)}. Images of another
layout, ink or number of digits than those it was trained on are not known to be read well; measure
with `digitsum evaluate` on labelled images of your own.
"""


def _learned(config: TrainConfig) -> str:
    if not config.teachers:
        return "sums alone"
    return f"sums and, for {TAUGHT:.0%} of the loss, from other networks' opinion of the images"


def _digits(config: TrainConfig) -> str:
    counts = config.digit_counts
    return f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts.stop - 1}"


def _trained_on(config: TrainConfig) -> str:
    begun = f", beginning with the weights of {config.start_from}" if config.start_from else ""
    if config.teachers:
        begun += f", taught by {', '.join(config.teachers)}"
    if config.archive is not None:
        return f"{config.archive}{begun}"
    return (
        f"images of {config.shape} pixels, composed anew for each epoch of {config.glyphs} "
        f"glyphs{begun}"
    )


def _validated_on(config: TrainConfig) -> str:
    if config.train_on_validation:
        return "images composed of glyphs that it was trained on too"
    if config.archive is None:
        return "images composed of glyphs that are not trained on"
    held = f"{config.validation_fraction:.0%} of the same archive, held out (seed {config.seed})"
    return config.validation or held


def _chosen(config: TrainConfig) -> str:
    return "last" if config.train_on_validation else "one of highest validation accuracy"


def _averaged(config: TrainConfig) -> str:
    return f", averaged with {' and '.join(config.average_with)}" if config.average_with else ""


def _looks(below: float) -> str:
    if not below:
        return "one look at each image"
    return f"a second look at images whose confidence is below {below:g}"


def _too_high(config: TrainConfig) -> str:
    if config.train_on_validation:
        return "is of handwriting that it was trained on, and too high for any other"
    return "chose the epoch, and so is a little too high"


def _calibrated_on(config: TrainConfig, calibration: Calibration) -> str:
    if config.train_on_validation:
        return f"that of {config.start_from}"
    strength = config.recipe.distortion
    of = (
        "of the validation images"
        if config.archive is not None or strength == 0
        else f"images of the validation glyphs, distorted by {strength:g}"
    )
    return f"fitted on {calibration.images:,} {of}"
