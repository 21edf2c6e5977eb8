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
| scoring | {_cascade(recipe.cascade_below)} |
| run | {run_uri} |

Limits: the validation accuracy {_optimism(config)}. How well it reads images of another layout,
ink or number of digits than those it was trained on is unknown; measure it with `digitsum evaluate`
on labelled images of your own.
"""


def _learned(config: TrainConfig) -> str:
    if not config.advanced.teachers:
        return "sums alone"
    return f"sums and, for {DISTILLED:.0%} of the loss, from other networks' predictions"


def _digits(config: TrainConfig) -> str:
    counts = config.digit_counts
    return f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts.stop - 1}"


def _trained_on(config: TrainConfig) -> str:
    origin = f", starting with the weights of {config.start_from}" if config.start_from else ""
    if config.advanced.teachers:
        origin += f", taught by {', '.join(config.advanced.teachers)}"
    if config.archive is not None:
        return f"{config.archive}{origin}"
    return (
        f"images of {config.shape} pixels, newly composed for each epoch of {config.glyphs} "
        f"glyphs{origin}"
    )


def _validated_on(config: TrainConfig) -> str:
    if config.advanced.train_on_validation:
        return "images composed of glyphs that it was trained on too"
    if config.archive is None:
        return "images composed of glyphs that are not trained on"
    part = f"{config.validation_fraction:.0%} of the same archive, held out (seed {config.seed})"
    return config.validation or part


def _chosen(config: TrainConfig) -> str:
    train_on_validation = config.advanced.train_on_validation
    return "last" if train_on_validation else "one of highest validation accuracy"


def _averaged(config: TrainConfig) -> str:
    others = config.advanced.average_with
    return f", averaged with {' and '.join(others)}" if others else ""


def _cascade(below: float) -> str:
    if not below:
        return "one pass over each image"
    return f"a second pass over images whose confidence is below {below:g}"


def _optimism(config: TrainConfig) -> str:
    if config.advanced.train_on_validation:
        return "is of handwriting that it was trained on, and too high for any other"
    return "chose the epoch, and so is a little too high"


def _calibrated_on(config: TrainConfig, calibration: Calibration) -> str:
    if config.advanced.train_on_validation:
        return f"that of {config.start_from}"
    strength = config.recipe.distortion
    if config.archive is not None or strength == 0:
        return f"fitted on {calibration.images:,} of the validation images"
    return (
        f"fitted on {calibration.images:,} images of the validation glyphs, distorted by "
        f"{strength:g}"
    )
