"""Training images read as they come, from shards that may be larger than the disk: shuffled, split, resumed exactly."""

import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator

import torch

from ..errors import DataError
from .images import NO_LABEL, UnreadableImage, black, decode_labeled
from .randomness import combine
from .sampling import count_batches


# Shards that a reader draws from at the same time, so that the classes of sorted shards mix.
OPEN_SHARDS = 4
# Shards per reader from which uneven shares are accepted; with fewer, readers share shards and take turns.
FEWEST_SHARDS = 4
# Upper bound on shards per reader: one shard per image file would be too slow.
MOST_SHARDS = 64
ROWS_AT_ONCE = 16


class StreamedImages(torch.utils.data.IterableDataset):
    """Views of the images of a stream; every worker yields the samples of whole batches, and always as many.

    The readers (processes times workers) divide the shards among them; where there are too few, some read the same shards and
    take every n-th image each. Every reader shuffles in a buffer. An epoch has num_images // (batch_size * num_processes)
    batches in each process: a reader whose share is used up begins it anew, in another order, and one that has not come to the
    end of its share leaves the rest; who gets which shards changes with each epoch.

    The order is a function of (seed, epoch, process, worker), and so are the views; a run that goes on with the same numbers
    of processes and workers gets the batches that it would have got (`start_at`). An image that cannot be read is replaced by
    the next one and named, as in `TrainImages`.

    Args:
        data: `datasets.IterableDataset` with columns `image` (not decoded) and `label`.
        view: (image, seed) -> uint8 (3, H, W), such as `TrainView`.
        batch_size: images of this process in each batch.
        seed: of the run.
        buffer_size: encoded images to draw from at random, of each process; its workers divide them.
        num_images: in an epoch.
        process_index, num_processes: which of how many processes this is.
        repeats: views of each image, one after the other (repeated augmentation).
        max_unreadable: unreadable images that the run skips.

    Raises:
        DataError: `num_images` is None, or too few images for one batch of each process.
    """

    def __init__(
        self,
        data,
        view,
        batch_size: int,
        seed: int,
        buffer_size: int,
        num_images: int | None,
        process_index: int = 0,
        num_processes: int = 1,
        repeats: int = 1,
        max_unreadable: int = 0,
    ):
        if num_images is None:
            raise DataError(
                "The stream does not say how many images it has, which an epoch's length follows from; give `num_images` "
                "(--num_train_images)."
            )
        self.data, self.view, self.batch_size, self.seed = data, view, batch_size, seed
        self.buffer_size, self.num_images, self.repeats, self.max_unreadable = (
            buffer_size,
            num_images,
            repeats,
            max_unreadable,
        )
        self.process_index, self.num_processes = process_index, num_processes
        self.num_batches = count_batches(num_images, batch_size, num_processes)
        self.epoch, self._start = 0, (0, 0)

    def __len__(self) -> int:
        """Samples of this process in an epoch."""
        return self.num_batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self.epoch = epoch

    def start_at(self, epoch: int, batches: int) -> None:
        """Go on in the middle of an epoch: its first `batches` batches are neither decoded nor augmented.

        They are yielded nonetheless, as batches of the same keys with tiny images of zeros, because who resumes (such as
        `accelerate.skip_first_batches`) throws them away. All that follows is as in a run without interruption.
        """
        self.epoch, self._start = epoch, (epoch, batches)

    def __iter__(self) -> Iterator[dict]:
        # No generator itself, so that epoch and start are those of this call and not of the first `next`.
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        skipped = self._start[1] if self._start[0] == self.epoch else 0
        return self._samples(self.epoch, min(skipped, self.num_batches), worker, workers)

    def _samples(self, epoch: int, skipped: int, worker: int, workers: int) -> Iterator[dict]:
        # DataLoader asks its workers in turn for a batch each.
        first, last = (self.batch_size * len(range(worker, end, workers)) for end in (skipped, self.num_batches))
        placeholder = {"pixel_values": torch.zeros(3, 1, 1, dtype=torch.uint8), "labels": NO_LABEL, "seeds": 0}
        for _ in range(first):
            yield {**placeholder, "unreadable": []}
        if first == last:
            return
        images = self._readable(itertools.islice(self._encoded(epoch, worker, workers), first // self.repeats, None))
        previous = None
        for position in range(first, last):
            if position // self.repeats != previous:
                previous, (image, label, failed) = position // self.repeats, next(images)
            seed = combine(self.seed, epoch, self.process_index, worker, position)
            yield {"pixel_values": self.view(image, seed), "labels": label, "seeds": seed, "unreadable": failed}

    def _readable(self, encoded: Iterator[tuple]) -> Iterator[tuple]:
        """(image, label, names that failed) for each one of the stream.

        The stand-in for an unreadable image is the next in the stream, which also keeps its own place: so what comes at some
        position never depends on what was found unreadable before it.
        """
        ahead = deque()
        while True:
            failed, found = [], None
            for step in itertools.count():
                if step == len(ahead):
                    ahead.append(next(encoded))
                try:
                    found = decode_labeled(*ahead[step])
                except UnreadableImage as error:
                    failed.append(str(error))
                if found or len(failed) > self.max_unreadable:
                    break
            ahead.popleft()
            yield (*(found or (black(), NO_LABEL)), failed)

    def _encoded(self, epoch: int, worker: int, workers: int) -> Iterator[tuple]:
        """(image as it is stored, label), without an end: this reader's share, shuffled, again and again."""
        reader, readers = self.process_index * workers + worker, self.num_processes * workers
        for turn in itertools.count():
            seed = combine(self.seed, epoch, turn)  # all readers divide the same order of shards
            mixed = shuffled(
                self._share(seed, reader, readers), max(1, self.buffer_size // workers), combine(seed, reader)
            )
            read_any = False
            for row in mixed:
                read_any = True
                yield row
            if not read_any:
                raise DataError(
                    f"{readers} readers ({self.num_processes} processes with {workers} workers each) are too many for this "
                    f"stream of {self.data.num_shards} shards: one of them gets no image. Use fewer workers."
                )

    def _share(self, seed: int, reader: int, readers: int) -> Iterator[tuple]:
        """One reader's part of the stream, in the order of the seed."""
        shards = min(self.data.num_shards, MOST_SHARDS * readers)
        groups = groups_of_readers(shards, readers)
        order = list(range(shards))
        random.Random(seed).shuffle(order)
        mine = order[reader % groups :: groups]
        together = interleaved((self._shard(index, shards) for index in mine), OPEN_SHARDS)
        return itertools.islice(together, reader // groups, None, readers // groups)

    def _shard(self, index: int, shards: int) -> Iterator[tuple]:
        try:
            # Iterating over examples would leave out what `datasets` thinks is other workers'; `iter` by batches does not.
            data = self.data.shard(num_shards=shards, index=index, contiguous=False)
            for columns in data.iter(batch_size=ROWS_AT_ONCE):
                yield from zip(columns["image"], columns["label"], strict=True)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of pyarrow, tarfile, fsspec, the network ...
            raise DataError(
                f"Shard {index} of {shards} of the training stream cannot be read ({type(error).__name__}: {error}); remove "
                "or replace it."
            ) from error


def groups_of_readers(shards: int, readers: int) -> int:
    """Into how many groups the readers fall, each with shards of its own that its members read in turns.

    As many as possible, so that nothing is read twice, as long as the shares are equal or nearly so.
    """
    for members in range(1, readers + 1):
        groups, rest = divmod(readers, members)
        if not rest and (shards % groups == 0 or shards // groups >= FEWEST_SHARDS):
            return groups
    return 1


def interleaved(iterables: Iterator[Iterable], most: int) -> Iterator:
    """One element of each in turn, of at most `most` at a time; the next takes the place of one that has ended."""
    active = [iter(one) for one in itertools.islice(iterables, most)]
    while active:
        for place, one in enumerate(active):
            try:
                yield next(one)
            except StopIteration:
                active[place] = next((iter(other) for other in iterables), None)
        active = [one for one in active if one is not None]


def shuffled(elements: Iterable, buffer_size: int, seed: int) -> Iterator:
    """All elements once, each drawn at random from a buffer of `buffer_size` that is filled up again."""
    rng, buffer = random.Random(seed), []
    for element in elements:
        if len(buffer) < buffer_size:
            buffer.append(element)
            continue
        place = rng.randrange(buffer_size)
        yield buffer[place]
        buffer[place] = element
    rng.shuffle(buffer)
    yield from buffer
