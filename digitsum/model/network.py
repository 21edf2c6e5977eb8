"""What the rest of digitsum knows of a network: images in, the distribution of their sum out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn

from digitsum.model.outputs import Posterior
from digitsum.options import ImageShape


class NetworkConfig(Protocol):
    """Sizes of a network: a frozen dataclass of numbers, which a model records."""

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it is trained on."""

    @property
    def num_digits(self) -> int:
        """Digits, at the most, in the images it is trained on."""

    @property
    def max_digits(self) -> int:
        """Digits, at the most, that it tells apart, by number and sum; of more it may err."""


class SumNetwork(nn.Module, ABC):
    """A network from images, float (b, 1, h, w), to logits, float, of a shape of its own."""

    config: NetworkConfig

    @abstractmethod
    def sum_log_probs(self, logits: Tensor, min_digits: int, max_digits: int) -> Tensor:
        """Return log P(min_digits <= count <= max_digits, sum), float (b, sums), in nats.

        A network that counts no digits takes any count for the one it was built for.
        """

    @abstractmethod
    def joint_log_probs(self, logits: Tensor, max_digits: int) -> Tensor:
        """Return log P(count, sum), float (b, n), in nats, of all counts to max_digits.

        Of each count all its sums; -inf where there cannot be so many. Of a network that counts no
        digits, of the sums alone.
        """

    @abstractmethod
    def predicted_log_probs(self, logits: Tensor, num_digits: int | None) -> Tensor:
        """Return the log probability of each sum from 0 up, float (b, sums), in nats, normalized.

        Given that there are `num_digits` digits, or, where that is None, whatever their number.
        """

    @abstractmethod
    def pull(self, logits: Tensor, sums_b: Tensor, num_digits: int | None) -> Tensor:
        """Return a loss, a number, that brings an untrained network near: what is expected to true.

        `num_digits` is how many digits each image holds, where that is known.
        """

    def count_probs(self, logits: Tensor, num_digits: int | None) -> Tensor | None:
        """Return the probability of each number of digits from 0 up, float (b, counts).

        None where the network does not count.
        """
        return None

    def read_digits(
        self, logits: Tensor, sums_b: Tensor, num_digits: int | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return the most probable digits that add up to sums, int64 (b,), and where they stand.

        Each int64 (b, k), from left to right, then -1. None where the network does not read.
        """
        return None

    def posterior(self, logits: Tensor, num_digits: int | None) -> Posterior:
        """Return what the logits say; `num_digits` is how many digits are known to be there."""
        return self.posterior_of(
            logits,
            self.predicted_log_probs(logits, num_digits),
            self.count_probs(logits, num_digits),
            num_digits,
        )

    def posterior_of(
        self,
        logits: Tensor,
        sum_log_probs: Tensor,
        count_probs: Tensor | None,
        num_digits: int | None,
    ) -> Posterior:
        """Return what given probabilities of sums and counts say; the logits only read digits.

        The probabilities are what `predicted_log_probs` and `count_probs` say, or a mean of such.
        """
        read = self.read_digits(logits, sum_log_probs.argmax(dim=1), num_digits)
        digits, digit_x = read or (None, None)
        return Posterior(logits, sum_log_probs, count_probs, digits, digit_x)

    @abstractmethod
    def check_shape(self, shape: ImageShape, where: str) -> None:
        """Raise InputError, naming `where`, unless it reads images of that shape."""

    @abstractmethod
    def check_num_digits(self, num_digits: int, shape: ImageShape) -> None:
        """Raise InputError unless it can be told that images of a shape hold that many digits."""
