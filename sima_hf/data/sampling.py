"""Which image comes when, and with which seed: a function of (seed, epoch, position), whatever the number of processes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..errors import DataError
from .randomness import combine, combine_each


class Draw(NamedTuple):
    """One image to load.

    Attributes:
        index: of the image in the data set.
        seed: of its view; everything random about the view follows from it.
    """

    index: int
    seed: int


class EpochBatches(torch.utils.data.Sampler[list[Draw]]):
    """Batches of one process, for a map-style data set: a `batch_sampler` of `DataLoader`.

    All processes see one order: the images permuted by `combine(seed, epoch)`, each `repeats` times in a row (repeated
    augmentation, Hoffer et al., "Augment your batch", CVPR 2020), cut to `num_images`. With G = batch_size * num_processes the
    global batch t holds the positions [tG, (t+1)G) of it, of which process p takes every `num_processes`-th from p on. So a
    global batch has the same images with the same seeds however many processes share it. What does not fill a global batch is
    left out of the epoch.

    Args:
        num_images: in the data set.
        batch_size: images of this process in each batch.
        seed: of the run.
        repeats: views of each image that is drawn.
        process_index, num_processes: which of how many processes this is.

    Raises:
        DataError: too few images for one global batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int = 0,
        repeats: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self.num_images, self.batch_size, self.seed, self.repeats = num_images, batch_size, seed, repeats
        self.process_index, self.num_processes = process_index, num_processes
        self.num_batches = count_batches(num_images, batch_size, num_processes)
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        # No generator itself, so that epoch and start are those of this call and not of the first `next`.
        return self._batches(self.epoch, self.first)

    def _batches(self, epoch: int, first: int) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(combine(self.seed, epoch))
        order = torch.randperm(self.num_images, generator=generator)
        together = self.batch_size * self.num_processes
        for start in range(first * together, self.num_batches * together, together):
            positions = torch.arange(start + self.process_index, start + together, self.num_processes)
            seeds = combine_each(torch.tensor(self.seed), epoch, positions)
            yield [Draw(*pair) for pair in zip(order[positions // self.repeats].tolist(), seeds.tolist(), strict=True)]


def count_batches(num_images: int, batch_size: int, num_processes: int) -> int:
    """Whole global batches in an epoch.

    Raises:
        DataError: there is none.
    """
    batches = num_images // (batch_size * num_processes)
    if batches < 1:
        raise DataError(
            f"{num_images} images do not fill one batch of {batch_size} on each of {num_processes} processes; lower the batch "
            "size, or add images."
        )
    return batches
