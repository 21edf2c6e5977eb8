"""How far a training run has come: what step size, distortion and pull follow."""

from __future__ import annotations


class EpochProgress:
    """Counts the images of one epoch, of all workers together.

    `epoch` is from 1, `epoch_images` what an epoch has; each worker counts its own images, and
    takes the others to be as far.
    """

    def __init__(self, epoch: int, epochs: int, epoch_images: int, workers: int) -> None:
        self._before = (epoch - 1) * epoch_images
        self._all = epochs * epoch_images
        self._workers = workers
        self._seen = 0

    def advance(self, num_images: int) -> None:
        """Count a worker's images as seen."""
        self._seen += num_images

    @property
    def num_seen(self) -> int:
        """Images seen since training began."""
        return self._before + self._seen * self._workers

    @property
    def fraction(self) -> float:
        """Part of the whole training that is done, 0..1."""
        return min(1.0, self.num_seen / self._all)
