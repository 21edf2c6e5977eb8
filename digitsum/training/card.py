"""The model card that a training run leaves in its bundle."""

from __future__ import annotations

from collections.abc import Sequence

from digitsum.training.config import TrainConfig
from digitsum.training.history import Epoch


def model_card(
    config: TrainConfig, history: Sequence[Epoch], best: Epoch, num_parameters: int, run_uri: str
) -> str:
    """Return the Markdown card: what was trained, on what, how, and what it came to."""
    validated_on = (
        config.validation
        or f"{config.validation_fraction:.0%} of the same archive, held out (seed {config.seed})"
    )
    return f"""# {config.model}: the sum of {config.digits} handwritten digits

Network `{config.model}`, {num_parameters:,} parameters, trained from sums alone.

| | |
|---|---|
| trained on | {config.archive}, {best.train_images:,} images |
| validated on | {validated_on}, {best.validation_images:,} images |
| validation accuracy | {best.validation_accuracy:.2%}, loss {best.validation_loss:.4f} nats |
| weights | of epoch {best.epoch} of {len(history)}, the one of highest validation accuracy |
| recipe | Adam, step size {config.learning_rate:g}, batch {config.batch_size}, pixels times \
{config.pixel_scale:g}, seed {config.seed} |
| run | {run_uri} |

Limits: the validation accuracy chose the epoch, and so is a little too high. Images of another
layout, ink or number of digits than those it was trained on are not known to be read well; measure
with `digitsum evaluate` on labelled images of your own.
"""
