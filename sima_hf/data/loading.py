"""The training loader: batches that are a function of (seed, epoch, number), however they are loaded."""

import contextlib
import functools
import multiprocessing.util
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

import torch
from transformers.utils import logging

from ..errors import DataError, TrainingError
from ..errors.words import first_few
from .images import TrainImages, collate
from .sampling import EpochBatches
from .streaming import StreamedImages


logger = logging.get_logger(__name__)

# After SIGTERM, which schedulers send to every process, workers serve for so long, so that the main process can finish its
# step and save.
GRACE_SECONDS = 10
# How long after a worker's last sign DataLoader may report its death.
SECONDS_TO_REPORT = 2.0
_DEATH = "DataLoader worker (pid"
# How a pipe or a socket ends whose other end is gone. Other errors on the way, such as too many open files, are no death.
_BREAKS = (EOFError, ConnectionError, FileNotFoundError)


class TrainingLoader(torch.utils.data.DataLoader):
    """A `DataLoader` of training batches with `set_epoch`; see `training_loader`.

    It draws nothing from torch's global generator. With `accelerate.skip_first_batches` it goes on in the middle of an epoch;
    a stream wants `StreamedImages.start_at` besides, or decodes what is thrown away.
    """

    def __iter__(self) -> Iterator[dict]:
        # Started at once, not with the first `next`: the workers get the epoch that is set now.
        return with_plain_errors(super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration; workers hear of it too."""
        (self.dataset if self.streams else self.batch_sampler).set_epoch(epoch)

    @property
    def streams(self) -> bool:
        """Whether the images come from a stream."""
        return isinstance(self.dataset, torch.utils.data.IterableDataset)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict]:
        """The batches of an epoch from number `start` on, as they are in the whole epoch; what is before is not decoded."""
        self.set_epoch(epoch)
        if self.streams:
            self.dataset.start_at(epoch, start)
            iterator = iter(self)
            self.dataset.start_at(epoch, 0)
            for _ in range(start):
                next(iterator, None)
        else:
            self.batch_sampler.first = start
            iterator = iter(self)
            self.batch_sampler.first = 0
        yield from iterator


def training_loader(
    images: TrainImages | StreamedImages,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    repeats: int = 1,
    process_index: int = 0,
    num_processes: int = 1,
    pin_memory: bool = False,
    prefetch_factor: int | None = None,
    persistent_workers: bool = False,
    num_images: int | None = None,
) -> TrainingLoader:
    """The batches of one process, as `collate` makes them.

    Args:
        images: `TrainImages`, or `StreamedImages`, whose own settings must then be the same as those given here.
        batch_size: images of this process in each batch.
        num_workers: processes that decode; 0: this one does.
        seed: of the run.
        repeats: views of each image that is drawn (repeated augmentation).
        process_index, num_processes: which of how many processes this is; each gets its own part of the same global batches.
        pin_memory: put batches where a GPU fetches them quickly.
        prefetch_factor: batches that each worker prepares ahead; by default 2.
        persistent_workers: keep the workers from one epoch to the next; not for streams.
        num_images: images of an epoch, where not all of the data set, from its beginning.

    Raises:
        DataError: too few images for one global batch, or a stream of other settings.
    """
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "repeats": repeats,
        "process_index": process_index,
        "num_processes": num_processes,
    }
    options = {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "prefetch_factor": prefetch_factor if num_workers else None,
        "persistent_workers": persistent_workers and num_workers > 0,
        "collate_fn": collate,
        "worker_init_fn": functools.partial(begin_worker, leaving_flag()),
        "generator": torch.Generator(),  # else every epoch draws from the global one
    }
    if isinstance(images, StreamedImages):
        settings["num_images"] = images.num_images if num_images is None else num_images
        other = {name: value for name, value in settings.items() if getattr(images, name) != value}
        if other:
            listed = ", ".join(f"{name}={value} for {getattr(images, name)}" for name, value in other.items())
            raise DataError(f"A loader must have the settings of its stream, got {listed}.")
        if options["persistent_workers"]:
            raise DataError(
                "`persistent_workers` must be False for a stream, whose workers start anew with each epoch."
            )
        return TrainingLoader(images, batch_size=batch_size, drop_last=True, **options)
    sampler = EpochBatches(len(images) if num_images is None else min(num_images, len(images)), **settings)
    return TrainingLoader(images, batch_sampler=sampler, **options)


def with_plain_errors(batches: Iterator[dict]) -> Iterator[dict]:
    """The batches; a DataError from a worker comes as the sentence it is, without the traceback that DataLoader puts into it."""
    try:
        yield from batches
        return
    except DataError as error:
        sentence = str(error).rpartition("DataError: ")[2].strip()
        traceback.clear_frames(error.__traceback__)
    # Nothing holds on to the workers now, neither those frames nor this one: they end at once. Left to the garbage collector,
    # DataLoader waits five seconds for each.
    del batches
    raise DataError(sentence)


@contextlib.contextmanager
def lost_workers_as_errors(what_next: Callable[[], str]) -> Iterator[None]:
    """Turn DataLoader's report of a worker that died into a TrainingError that ends in `what_next()`."""
    try:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if _DEATH in str(error) or not _broke_off(error):
                raise
            # The break comes before the report, which DataLoader raises from a signal's handler: it may interrupt any line from the
            # break on, and is waited for, else it would come where nobody expects it.
            time.sleep(SECONDS_TO_REPORT)
            lost: Exception = error
        else:
            return
    except RuntimeError as report:
        if _DEATH not in str(report):
            raise
        lost = report
    words = [*str(lost).splitlines(), type(lost).__name__][0].strip()  # an EOFError may have no text
    raise TrainingError(
        f"A process that loads images died ({words}); it may have run out of memory: lower "
        f"--dataloader_num_workers or --dataloader_prefetch_factor. {what_next()}"
    ) from lost


def _broke_off(error: Exception) -> bool:
    """Whether a worker was handing something over when it came to its end."""
    between = any("multiprocessing" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return between and isinstance(error, _BREAKS)


class Unreadable:
    """Counts the images that could not be read, each once, and ends the run where they are too many.

    Every process counts those that it met.

    Args:
        most: how many the run skips.
    """

    def __init__(self, most: int = 0):
        self.most, self.names, self.passed_over = most, [], []

    def note(self, names: Iterable[str]) -> None:
        """Log a warning for each name that is new.

        Raises:
            DataError: there are more than `most` now; it names them.
        """
        for name in names:
            if name not in self.names:
                self.names.append(name)
                if len(self.names) <= self.most:
                    logger.warning(f"Left out: {name} cannot be read ({len(self.names)} of at most {self.most}).")
        if len(self.names) > self.most:
            raise DataError(
                f"{len(self.names)} images cannot be read, but at most {self.most} may be left out: {first_few(self.names)}. Mend "
                "or remove them, or allow more (--max_unreadable_images in the scripts)."
            )

    def pass_over(self, names: Iterable[str]) -> None:
        """Log a warning for each name that is new, without counting it: validation images, which no metric counts either."""
        for name in names:
            if name not in self.passed_over:
                self.passed_over.append(name)
                logger.warning(f"Not measured: {name} cannot be read.")


def begin_worker(leaving, worker: int) -> None:
    """Start of a process that decodes images: one thread; the main process alone answers Ctrl-C and a scheduler's SIGTERM.

    Args:
        leaving: shared number, not 0 when the main process is at its end; then SIGTERM, which it sends, is obeyed.
        worker: number of the worker.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "SIGALRM"):
        return

    def serve_a_little_longer(number: int, frame) -> None:
        # `alarm` returns the seconds left since an earlier SIGTERM: a second one ends the worker at once.
        if leaving.value or signal.alarm(GRACE_SECONDS):
            os._exit(0)

    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, serve_a_little_longer)


def leaving_flag():
    """The shared number by which this process tells its workers that it is at its end."""
    return _leaving_flag_of(os.getpid())


@functools.cache
def _leaving_flag_of(process: int):
    flag = multiprocessing.RawValue("b", 0)
    # Run before multiprocessing ends the workers that are left over.
    multiprocessing.util.Finalize(None, setattr, args=(flag, "value", 1), exitpriority=100)
    return flag
