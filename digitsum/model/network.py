"""Networks as the rest of digitsum knows them: images in, the distribution of their sum out.

Suffixes in all networks give a tensor's dimensions:

    b  images                                  s  sums, from 0 up
    h, w  height and width, in pixels          k  numbers of digits ("counts"), from 0 up
    m  feature maps                            d  digits, 0..9
    c  columns that a network reads            y  symbols: blank, then the digits
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from torch import Tensor, nn

from digitsum.errors import InputError
from digitsum.model.model_validation import shown
from digitsum.model.outputs import Posterior
from digitsum.options import ImageShape

MAX_NUM_DIGITS = 64


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network, which a model records; a network adds its own."""

    height: int = 40
    width: int = 168
    num_digits: int = 4
    """Most digits in the images it is trained on."""

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it is trained on."""
        return ImageShape(self.height, self.width)

    @property
    def max_digits(self) -> int:
        """Most digits that it tells apart, by number and sum; it may err on images of more."""
        return self.num_digits

    def check_sizes(self, **bounds: tuple[float, float]) -> None:
        """Raise InputError if a field has another type than its default, or is out of bounds."""
        for field in fields(self):
            value, (least, most) = getattr(self, field.name), bounds[field.name]
            is_of_type = isinstance(value, type(field.default)) and not isinstance(value, bool)
            if not is_of_type or not least <= value <= most:
                kind = "a float" if isinstance(field.default, float) else "an integer"
                raise InputError(
                    f"the network's {field.name!r} is {shown(value)}; give {kind} from {least} to "
                    f"{most}."
                )


class SumNetwork(nn.Module, ABC):
    """A network from images, float (b, 1, h, w), to logits, float, in a shape of its own.

    `known_count` is how many digits each image holds, or None if the user does not know.
    """

    config: NetworkConfig

    @abstractmethod
    def sum_log_probs(self, logits: Tensor, min_digits: int, max_digits: int) -> Tensor:
        """Return log P(min_digits <= count <= max_digits, sum), float (b, sums), in nats.

        A network that does not count takes every count for the one it was built for.
        """

    def joint_log_probs(self, logits: Tensor, max_digits: int) -> Tensor:
        """Return log P(count, sum), float (b, n), in nats: all sums of each count to max_digits.

        -inf if an image cannot hold that many digits. Only the sums if the network does not count.
        """
        return self.sum_log_probs(logits, 0, max_digits)

    def predicted_log_probs(self, logits: Tensor, known_count: int | None) -> Tensor:
        """Return log P(sum | known_count), float (b, sums), in nats, normalized."""
        return self.sum_log_probs(logits, 0, self.config.max_digits)

    def pull(self, logits: Tensor, sums_b: Tensor, known_count: int | None) -> Tensor:
        """Return a loss that pulls an untrained network's expected sums to the true; 0 for none."""
        return logits.new_zeros(())

    def count_probs(self, logits: Tensor, known_count: int | None) -> Tensor | None:
        """Return P(count), float (b, counts), from 0 up; None if the network does not count."""
        return None

    def read_digits(
        self, logits: Tensor, sums_b: Tensor, known_count: int | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the most probable digits that add up to the sums, int64 (b,), and their pixels.

        Each int64 (b, k), from left to right, then -1. None if the network does not read digits.
        """
        return None

    def posterior(self, logits: Tensor, known_count: int | None) -> Posterior:
        """Return the distributions and the digits that follow from the logits."""
        return self.posterior_from_probs(
            logits,
            self.predicted_log_probs(logits, known_count),
            self.count_probs(logits, known_count),
            known_count,
        )

    def posterior_from_probs(
        self,
        logits: Tensor,
        sum_log_probs: Tensor,
        count_probs: Tensor | None,
        known_count: int | None,
    ) -> Posterior:
        """Return given distributions with the digits that the logits show for the likeliest sum.

        The distributions are what `predicted_log_probs` and `count_probs` return, or means of them.
        """
        read = self.read_digits(logits, sum_log_probs.argmax(dim=1), known_count)
        digits, digit_x = read or (None, None)
        return Posterior(logits, sum_log_probs, count_probs, digits, digit_x)

    @abstractmethod
    def check_shape(self, shape: ImageShape, where: str) -> None:
        """Raise InputError, naming `where`, unless it reads images of that shape."""

    @abstractmethod
    def check_known_count(self, known_count: int, shape: ImageShape) -> None:
        """Raise InputError unless images of a shape can hold a known number of digits."""
