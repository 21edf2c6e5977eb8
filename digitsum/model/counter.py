"""The counter: a small network that reads an image column by column and counts what it reads.

    image (b, 1, h, w) -> body (b, m, h / 8, w / 4) -> columns (b, m, 1, c) -> logits (b, c, y)

Each of about w / 4 columns emits one symbol: blank, or a digit. `sum_distribution.py` turns that
into the exact distribution of the number of digits and of their sum, so the network learns to read
from sums alone, without a label for any digit or its place. As in connectionist temporal
classification (Graves et al., ICML 2006) there is a blank, but a repeated digit counts twice.
network.py explains the suffixes of names.
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
from digitsum.model.decoding import NO_DIGIT, most_probable_digits
from digitsum.model.network import MAX_NUM_DIGITS, NetworkConfig, SumNetwork
from digitsum.model.sum_distribution import NUM_SYMBOLS
from digitsum.options import ImageShape

COLUMN_STRIDE = 4
"""Pixels from one column to the next; column c is centred on pixel 4 c."""

# Odds of e^4.5 to 1 against each digit make about 4 digits of 42 columns, a typical number.
_INITIAL_BLANK_LOGIT = 4.5
_PULL_ON_SUM, _PULL_ON_COUNT = 0.02, 0.3

_MAX_CHANNELS = 1024
_MAX_MIXERS = 16


@dataclass(frozen=True)
class CounterConfig(NetworkConfig):
    """Sizes of the network; the defaults are the preset `full`."""

    max_digits: int = 8
    stem_channels: int = 16
    body_channels: int = 32
    row_channels: int = 56
    column_channels: int = 128
    num_mixers: int = 3
    digit_offset: int = 0
    """Pixels from a digit's centre to the column that emits it, which lies right of it."""

    def __post_init__(self) -> None:
        channels = (1, _MAX_CHANNELS)
        self.check_sizes(
            height=(8, MAX_SIDE),
            width=(self.height, MAX_SIDE),
            num_digits=(1, MAX_NUM_DIGITS),
            max_digits=(self.num_digits, MAX_NUM_DIGITS),
            stem_channels=channels,
            body_channels=channels,
            row_channels=channels,
            column_channels=channels,
            num_mixers=(0, _MAX_MIXERS),
            digit_offset=(-MAX_SIDE, MAX_SIDE),
        )


class CounterNetwork(SumNetwork):
    """Strided convolutions, then one vector a column, mixed with its neighbours."""

    def __init__(self, config: CounterConfig) -> None:
        super().__init__()
        self.config: CounterConfig = config
        body, rows, columns = config.body_channels, config.row_channels, config.column_channels
        self.body = nn.Sequential(
            # Not normalized: this layer has the most values and needs it least.
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
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias = nn.Parameter(_INITIAL_BLANK_LOGIT * torch.eye(NUM_SYMBOLS)[0])

    def forward(self, x_b1hw: Tensor) -> Tensor:
        """Return the logits of the symbols, float (b, columns, 11), blank first."""
        x_bm1c = self.mixers(self.to_columns(self.body(x_b1hw)))
        logits_byc: Tensor = self.head(x_bm1c).squeeze(2)
        return logits_byc.transpose(1, 2)

    def sum_log_probs(self, logits: Tensor, min_digits: int, max_digits: int) -> Tensor:
        """Return log P(min_digits <= count <= max_digits, sum), float (b, 9 * max_digits + 1)."""
        return sum_distribution.sum_log_probs(
            _log_probs_by_count(logits, max_digits), min_digits, max_digits
        )

    def joint_log_probs(self, logits: Tensor, max_digits: int) -> Tensor:
        """Return log P(count, sum), float (b, n), in nats: of 0 digits, 1, to max_digits."""
        return torch.cat(_log_probs_by_count(logits, max_digits), dim=1)

    def pull(self, logits: Tensor, sums_b: Tensor, known_count: int | None) -> Tensor:
        """Return the weighted mean squared errors of the expected sum and of a known count."""
        probs_bcd = logits.float().softmax(dim=2)[:, :, 1:]
        expected_sums_b = (probs_bcd @ torch.arange(10.0, device=logits.device)).sum(dim=1)
        loss = _PULL_ON_SUM * F.mse_loss(expected_sums_b, sums_b.float())
        if known_count is None:
            return loss
        excess_b = probs_bcd.sum(dim=(1, 2)) - known_count
        return loss + _PULL_ON_COUNT * excess_b.square().mean()

    def predicted_log_probs(self, logits: Tensor, known_count: int | None) -> Tensor:
        """Return log P(sum | known_count), float (b, sums), in nats, normalized.

        Without a known count, all sums up to 9 * max_digits.
        """
        symbols_bcy = logits.log_softmax(dim=2)
        if known_count is not None:
            return sum_distribution.known_count_log_probs(symbols_bcy, known_count)
        probs_bs = sum_distribution.sum_probs(symbols_bcy, max_sum(self.config.max_digits))
        return probs_bs.clamp(min=torch.finfo(probs_bs.dtype).eps).log().log_softmax(dim=1)

    def count_probs(self, logits: Tensor, known_count: int | None) -> Tensor:
        """Return P(count), float (b, max_digits + 1): certainty if the count is known."""
        if known_count is None:
            return sum_distribution.count_probs(logits.log_softmax(dim=2), self.config.max_digits)
        known_k = F.one_hot(torch.tensor(known_count, device=logits.device), known_count + 1)
        return known_k.to(logits.dtype).expand(len(logits), -1)

    def read_digits(
        self, logits: Tensor, sums_b: Tensor, known_count: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return the digits that add up to the sums, and their pixels, int64 (b, columns)."""
        digits, columns = most_probable_digits(logits.log_softmax(dim=2), sums_b, known_count)
        digit_x = (columns * COLUMN_STRIDE - self.config.digit_offset).clamp(min=0)
        return digits, torch.where(columns < 0, NO_DIGIT, digit_x)

    def check_shape(self, shape: ImageShape, where: str) -> None:
        """Raise InputError unless images have its own height and are at least as wide as high."""
        if shape.height != self.config.height or not shape.height <= shape.width <= MAX_SIDE:
            raise InputError(
                f"{where}: images are {shape}, but the model reads images {self.config.height} "
                f"pixels high and {self.config.height} to {MAX_SIDE} wide; scale them or train one."
            )

    def check_known_count(self, known_count: int, shape: ImageShape) -> None:
        """Raise InputError unless the columns of an image can hold that many digits."""
        most = min(-(-shape.width // COLUMN_STRIDE), MAX_NUM_DIGITS)
        if not 1 <= known_count <= most:
            raise InputError(
                f"--known-count {known_count}: images of {shape} hold 1 to {most} digits."
            )


class _ColumnMixer(nn.Module):
    """Lets each column see two neighbours on either side.

    A convolution across columns, map by map, then one within them (Chollet, "Xception", CVPR
    2017), added to the input (He et al., "Deep residual learning", CVPR 2016).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.within = _convolution(channels, channels, 1)

    def forward(self, x_bm1c: Tensor) -> Tensor:
        return torch.add(x_bm1c, self.within(self.across(x_bm1c)))


def _convolution(
    inputs: int, outputs: int, size: int, stride: int | tuple[int, int] = 1
) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _log_probs_by_count(logits: Tensor, max_digits: int) -> list[Tensor]:
    return sum_distribution.log_probs_by_count(logits.float().log_softmax(dim=2), max_digits)
