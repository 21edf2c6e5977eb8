"""Loss and accuracy over many images, and over all workers."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor

from digitsum.model.sum_network import SumNetwork


class Totals:
    """Sums over images, kept on the device until they are reduced over all workers."""

    def __init__(self, device: torch.device) -> None:
        # Loss, right sums, images; float64 counts images exactly up to 2**53.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, log_probs: Tensor, sums_b: Tensor, mean_loss: Tensor) -> None:
        """Add a batch: scores of the sums, (b, sums); the true sums, (b,); the batch's loss."""
        right = (log_probs.argmax(dim=1) == sums_b).sum()
        self._sums[0] += mean_loss * len(sums_b)
        self._sums[1] += right
        self._sums[2] += len(sums_b)

    def add_predicted(self, network: SumNetwork, logits: Tensor, sums_b: Tensor) -> None:
        """Add a batch as users will use the network: without knowing the count."""
        log_probs = network.predicted_log_probs(logits.double(), None)
        self.add(log_probs, sums_b, -log_probs.gather(1, sums_b.unsqueeze(1)).mean())

    def reduce(self) -> Totals:
        """Add the other workers' totals, where there are any; returns itself."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._sums)
        return self

    @property
    def num_images(self) -> int:
        """Images that were added."""
        return int(self._sums[2].item())

    @property
    def mean_loss(self) -> float:
        """Mean loss of an image, in nats."""
        return float(self._sums[0].item()) / max(self.num_images, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images whose most probable sum is right."""
        return float(self._sums[1].item()) / max(self.num_images, 1)
