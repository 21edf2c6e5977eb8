"""The baseline: three convolutions and two linear layers that classify the sum.

It is the network of a course project, "digit sum prediction", whose authors report a validation
accuracy of 13.5%. network.py explains the suffixes of names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from digitsum.archive.images import MAX_SIDE
from digitsum.archive.schema import max_sum
from digitsum.errors import InputError
from digitsum.model.network import MAX_NUM_DIGITS, NetworkConfig, SumNetwork
from digitsum.options import ImageShape

# Bytes as they are reach the paper's accuracy; pixels of 0..1 reach half of it, at the paper's step
# size and number of epochs.
PIXEL_SCALE = 1.0
_POOLED = 8  # three 2x2 max pools


@dataclass(frozen=True)
class BaselineConfig(NetworkConfig):
    """Sizes of the network; the defaults are the paper's."""

    dropout: float = 0.7

    def __post_init__(self) -> None:
        self.check_sizes(
            height=(_POOLED, MAX_SIDE),
            width=(_POOLED, MAX_SIDE),
            num_digits=(1, MAX_NUM_DIGITS),
            dropout=(0.0, 0.99),
        )


class BaselineNetwork(SumNetwork):
    """3x3 convolutions to 32, 64 and 128 maps, each with ReLU and 2x2 max pool; 256; the sums.

    The layers have the names of the paper's notebook, so that its weights load as they are.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3, padding=1)
        num_features = 128 * (config.height // _POOLED) * (config.width // _POOLED)
        self.fc1 = nn.Linear(num_features, 256)
        self.dropout = nn.Dropout(config.dropout)
        self.fc2 = nn.Linear(256, max_sum(config.num_digits) + 1)

    def forward(self, x_b1hw: Tensor) -> Tensor:
        """Return the logits of the sums, float (b, sums), of images float (b, 1, h, w)."""
        x_bmhw = x_b1hw
        for convolution in (self.conv1, self.conv2, self.conv3):
            x_bmhw = F.max_pool2d(F.relu(convolution(x_bmhw)), kernel_size=2)
        x_bm = self.dropout(F.relu(self.fc1(x_bmhw.flatten(start_dim=1))))
        logits_bs: Tensor = self.fc2(x_bm)
        return logits_bs

    def sum_log_probs(self, logits: Tensor, min_digits: int, max_digits: int) -> Tensor:
        """Return log P(sum), float (b, sums), whatever the count."""
        return logits.float().log_softmax(dim=1)

    def check_shape(self, shape: ImageShape, where: str) -> None:
        """Raise InputError unless images have the one shape it was built for."""
        if shape != self.config.shape:
            raise InputError(
                f"{where}: images are {shape}, but the model was trained on {self.config.shape}; "
                "give a model of that shape, or train one."
            )

    def check_known_count(self, known_count: int, shape: ImageShape) -> None:
        """Raise InputError unless images hold the number of digits it was built for."""
        if known_count != self.config.num_digits:
            raise InputError(
                f"--known-count {known_count}: the model adds up {self.config.num_digits} digits "
                "and no other number; leave the option out."
            )
