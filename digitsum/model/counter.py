"""The counter: a small network that reads an image column by column and counts what it reads.

A convolutional body brings an image of w pixels to about w / 4 columns. Each column says what it
emits: nothing, or one digit. `sum_distribution` turns that into the exact distribution of the
number of digits and of their sum, and so the network learns to read from sums alone: nobody tells
it which digits there are, or where.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digitsum.archive.images import MAX_SIDE
from digitsum.archive.schema import max_sum
from digitsum.errors import InputError
from digitsum.model import sum_distribution
from digitsum.model.baseline import MAX_NUM_DIGITS
from digitsum.model.decoding import NOTHING, most_probable_digits
from digitsum.model.network import SumNetwork
from digitsum.model.sum_distribution import NUM_SYMBOLS
from digitsum.options import ImageShape

COLUMN_STRIDE = 4
"""Pixels from one column to the next; column c is centred on pixel 4 c."""

# e^4.5 : 1 against each digit makes, of 42 columns, some 4 digits: about as many as there are.
_INITIAL_BLANK_LOGIT = 4.5
_PULL_ON_SUM, _PULL_ON_COUNT = 0.02, 0.3


class CounterNetwork(SumNetwork):
    """Convolutions from (h, w) to (h / 8, w / 4), then one vector a column, mixed with others."""

    def __init__(self, config: CounterConfig) -> None:
        super().__init__()
        self.config: CounterConfig = config
        body, rows, columns = config.body_channels, config.row_channels, config.column_channels
        self.body = nn.Sequential(
            # Not normalized: of all layers it has the most values, and the least use of it.
            nn.Conv2d(1, config.stem_channels, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            _convolution(config.stem_channels, body, 3, stride=2),
            _convolution(body, rows, 3, stride=(2, 1)),
        )
        num_rows = -(-config.height // 8)
        self.to_columns = nn.Sequential(
            nn.Conv2d(rows, columns, (num_rows, 1), bias=False),
            nn.BatchNorm2d(columns),
            nn.ReLU(inplace=True),
        )
        self.mixers = nn.Sequential(*(_ColumnMixer(columns) for _ in range(config.num_mixers)))
        self.head = nn.Conv2d(columns, NUM_SYMBOLS, 1)
        blank_first = _INITIAL_BLANK_LOGIT * torch.eye(NUM_SYMBOLS)[0]
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias = nn.Parameter(blank_first)

    def forward(self, x_b1hw: Tensor) -> Tensor:
        """Return the logits of what the columns emit, float (b, columns, 11), blank first."""
        x_bchw = self.mixers(self.to_columns(self.body(x_b1hw)))
        logits_byc: Tensor = self.head(x_bchw).squeeze(2)
        return logits_byc.transpose(1, 2)

    def sum_log_probs(self, logits: Tensor, min_digits: int, max_digits: int) -> Tensor:
        """Return log P(min_digits <= count <= max_digits, sum), float (b, 9 * max_digits + 1)."""
        symbols = logits.float().log_softmax(dim=2)
        by_count = sum_distribution.log_probs_by_count(symbols, max_digits)
        return sum_distribution.sum_log_probs(by_count, min_digits, max_digits)

    def joint_log_probs(self, logits: Tensor, max_digits: int) -> Tensor:
        """Return log P(count, sum), float (b, n), in nats: of 0 digits, 1, to max_digits."""
        symbols = logits.float().log_softmax(dim=2)
        by_count = sum_distribution.log_probs_by_count(symbols, max_digits)
        return torch.cat(by_count, dim=1)

    def pull(self, logits: Tensor, sums_b: Tensor, num_digits: int | None) -> Tensor:
        """Return the mean squared error of the expected sum and, where it is known, the count."""
        digits_bcd = logits.float().softmax(dim=2)[:, :, 1:]
        expected_sums = (digits_bcd @ torch.arange(10.0, device=logits.device)).sum(dim=1)
        loss = _PULL_ON_SUM * F.mse_loss(expected_sums, sums_b.float())
        if num_digits is None:
            return loss
        excess = digits_bcd.sum(dim=(1, 2)) - num_digits
        return loss + _PULL_ON_COUNT * excess.square().mean()

    def predicted_log_probs(self, logits: Tensor, num_digits: int | None) -> Tensor:
        """Return log P(sum | num_digits digits, or any number), float (b, sums), normalized.

        Of any number of digits, sums to 9 * max_digits are told apart.
        """
        symbols = logits.log_softmax(dim=2)
        if num_digits is not None:
            return sum_distribution.known_count_log_probs(symbols, num_digits)
        probs = sum_distribution.sum_probs(symbols, max_sum(self.config.max_digits))
        return probs.clamp(min=torch.finfo(probs.dtype).eps).log().log_softmax(dim=1)

    def count_probs(self, logits: Tensor, num_digits: int | None) -> Tensor:
        """Return the probability of each number of digits, float (b, max_digits + 1)."""
        if num_digits is None:
            return sum_distribution.count_probs(logits.log_softmax(dim=2), self.config.max_digits)
        known = F.one_hot(torch.tensor(num_digits, device=logits.device), num_digits + 1)
        return known.to(logits.dtype).expand(len(logits), -1)

    def read_digits(
        self, logits: Tensor, sums_b: Tensor, num_digits: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return the digits that add up to the sums, and where they stand, int64 (b, columns)."""
        symbols = logits.log_softmax(dim=2)
        digits, columns = most_probable_digits(symbols, sums_b, num_digits)
        places = (columns * COLUMN_STRIDE - self.config.digit_offset).clamp(min=0)
        return digits, torch.where(columns < 0, NOTHING, places)

    def check_shape(self, shape: ImageShape, where: str) -> None:
        """Raise InputError unless the height is its own and the width no less."""
        if shape.height != self.config.height or not shape.height <= shape.width <= MAX_SIDE:
            raise InputError(
                f"{where}: images are {shape}, but the model reads images {self.config.height} "
                f"pixels high and {self.config.height} to {MAX_SIDE} wide; scale them or train one."
            )

    def check_num_digits(self, num_digits: int, shape: ImageShape) -> None:
        """Raise InputError unless the columns of such an image can hold that many digits."""
        most = min(-(-shape.width // COLUMN_STRIDE), MAX_NUM_DIGITS)
        if not 1 <= num_digits <= most:
            raise InputError(
                f"--known-count {num_digits}: images of {shape} hold 1 to {most} digits."
            )


class _ColumnMixer(nn.Module):
    """Lets each column see two neighbours on either side; added to what it was."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.within = _convolution(channels, channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return torch.add(x_bchw, self.within(self.across(x_bchw)))


def _convolution(
    inputs: int, outputs: int, size: int, stride: int | tuple[int, int] = 1
) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


MAX_CHANNELS = 1024
MAX_MIXERS = 16


@dataclass(frozen=True)
class CounterConfig:
    """Sizes of the network; the defaults are the preset `full`."""

    height: int = 40
    width: int = 168
    num_digits: int = 4
    max_digits: int = 8
    stem_channels: int = 16
    body_channels: int = 32
    row_channels: int = 56
    column_channels: int = 128
    num_mixers: int = 3
    digit_offset: int = 0
    """Pixels by which the column that emits a digit lies right of the digit's centre."""

    def __post_init__(self) -> None:
        if not 8 <= self.height <= self.width <= MAX_SIDE:
            raise InputError(
                "the counter takes images of at least 8 pixels in height, at least as wide and at "
                f"most {MAX_SIDE} pixels wide, not {self.height}x{self.width}."
            )
        if not 1 <= self.num_digits <= self.max_digits <= MAX_NUM_DIGITS:
            raise InputError(
                f"the counter counts 1 to {MAX_NUM_DIGITS} digits, and no fewer than it is trained "
                f"on; not {self.max_digits}, trained on {self.num_digits}."
            )
        for name in ("stem_channels", "body_channels", "row_channels", "column_channels"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise InputError(f"{name} {getattr(self, name)}: give 1 to {MAX_CHANNELS}.")
        if not -MAX_SIDE <= self.digit_offset <= MAX_SIDE:
            raise InputError(f"digit_offset {self.digit_offset}: give at most {MAX_SIDE} pixels.")
        if not 0 <= self.num_mixers <= MAX_MIXERS:
            raise InputError(f"num_mixers {self.num_mixers}: give 0 to {MAX_MIXERS}.")

    @property
    def shape(self) -> ImageShape:
        """Shape of the images it is trained on; it reads others of the same height."""
        return ImageShape(self.height, self.width)
