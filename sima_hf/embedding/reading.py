"""The images of a collection in batches that belong to parts: which batch holds which images does not depend on the processes."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.images import UnreadableImage, black, decode_labeled, rows_at
from ..data.loading import begin_worker, leaving_flag, with_plain_errors
from ..data.streaming import ROWS_AT_ONCE, groups_of_readers
from ..errors import DataError
from ..folders.local_paths import without_folders
from .collection import ImageCollection
from .parts import Part, PartFacts


# Upper bound on the pieces that a stream is read in: a data set of the Hub may have a shard for each image.
MOST_SHARDS = 4096
_END = object()


class Batch(NamedTuple):
    """Images of a part.

    Attributes:
        part: which.
        ends: whether it is the last batch of the part.
        last: whether the part is the last of its shard.
        pixel_values: `(B, 3, H, W)`, uint8 or float32; black where an image cannot be read.
        index: of the images, in the collection or in the shard.
        path: of each, or None.
        label: of each, or None.
        unreadable: name of each that cannot be read, "" of the others.
    """

    part: Part
    ends: bool
    last: bool
    pixel_values: torch.Tensor
    index: list[int]
    path: list[str | None]
    label: list[Any]
    unreadable: list[str]


class Reading(NamedTuple):
    """How a collection is read.

    Attributes:
        batch_size: images of a batch.
        part_size: images of a part.
        view: image -> tensor (3, H, W).
        num_workers: processes that decode.
        pin_memory: put batches where a GPU fetches them quickly.
    """

    batch_size: int
    part_size: int
    view: Any
    num_workers: int = 0
    pin_memory: bool = False


def batches_of(
    collection: ImageCollection,
    reading: Reading,
    finished: dict[Part, PartFacts],
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """This process's batches of all parts that are not finished; of one part in order, of several perhaps in turn.

    Args:
        collection: the images.
        reading: how they are read.
        finished: parts that are left out, the same on all processes.
        process, processes: which of how many this is.

    Raises:
        DataError: the stream cannot be read, or the images do not come out in one size.
    """
    options = {
        "num_workers": reading.num_workers,
        "pin_memory": reading.pin_memory,
        "worker_init_fn": functools.partial(begin_worker, leaving_flag()),
    }
    decode = functools.partial(_sample, reading.view, collection)
    if collection.streams:
        stream = _StreamedParts(collection, reading, decode, finished, process, processes)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, **options)
        yield from with_plain_errors(iter(loader))
        return
    todo = [part for part in parts_of(collection.num_images, reading.part_size) if part not in finished]
    mine = [
        (part, indices, end)
        for part in todo[process::processes]
        for indices, end in _cut(part, collection.num_images, reading)
    ]
    loader = torch.utils.data.DataLoader(
        _NumberedImages(collection, decode),
        batch_sampler=[indices for _, indices, _ in mine],
        collate_fn=_collated,
        **options,
    )
    loaded = with_plain_errors(iter(loader))
    for (part, _, end), collated in zip(mine, loaded, strict=True):
        yield Batch(part, end, False, *collated)


def parts_of(num_images: int, part_size: int) -> list[Part]:
    """The parts of a collection that is not streamed, in order."""
    return [Part(number) for number in range(-(-num_images // part_size))]


def _cut(part: Part, num_images: int, reading: Reading) -> Iterator[tuple[range, bool]]:
    """The numbers of the images in each batch of a part, and whether it is the last."""
    first = part.number * reading.part_size
    end = min(first + reading.part_size, num_images)
    for start in range(first, end, reading.batch_size):
        stop = min(start + reading.batch_size, end)
        yield range(start, stop), stop == end


def _sample(view: Any, collection: ImageCollection, index: int, row: dict) -> dict:
    """One image: its tensor, black if it cannot be read, and what is known of it."""
    image, label, unreadable = row["image"], row.get("label"), ""
    try:
        decoded, _ = decode_labeled(image, 0)
    except UnreadableImage as error:
        decoded, unreadable = black(), without_folders(str(error), collection.folder)  # others read it in the file
    if collection.label_key is not None and label is not None:
        label = label[collection.label_key]
    path = image.get("path") if isinstance(image, dict) else None
    if path and collection.folder:
        path = Path(path).relative_to(collection.folder).as_posix()
    return {"pixels": view(decoded), "index": index, "path": path, "label": label, "unreadable": unreadable}


def _collated(samples: list[dict]) -> tuple[torch.Tensor, list, list, list, list]:
    """What a batch holds, put together where it was decoded: a tensor costs a worker a file descriptor."""
    sizes = {tuple(sample["pixels"].shape) for sample in samples}
    if len(sizes) > 1:
        raise DataError(
            f"The image processor must make images of one size, got {', '.join(map(str, sorted(sizes)))}; take one that resizes "
            "to a fixed height and width, or crops."
        )
    told = ([sample[name] for sample in samples] for name in ("index", "path", "label", "unreadable"))
    return torch.stack([sample["pixels"] for sample in samples]), *told


class _NumberedImages(torch.utils.data.Dataset):
    """Images by their number."""

    def __init__(self, collection: ImageCollection, decode: Any):
        self.collection, self.decode = collection, decode

    def __len__(self) -> int:
        return self.collection.num_images

    def __getitems__(self, indices: range) -> list[dict]:
        rows = rows_at(self.collection.data, indices)
        return [self.decode(index, rows[index]) for index in indices]


class _StreamedParts(torch.utils.data.IterableDataset):
    """Whole batches of a stream; each reader, a process or a worker of one, has parts of its own."""

    def __init__(self, collection, reading, decode, finished, process, processes):
        self.collection, self.reading, self.decode, self.finished = collection, reading, decode, finished
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        reader, readers = self.process * workers + worker, self.processes * workers
        shards = shards_of(self.collection)
        groups = groups_of_readers(shards, readers)
        for shard in range(reader % groups, shards, groups):
            yield from self._shard(shard, shards, reader // groups, readers // groups)

    def _shard(self, shard: int, shards: int, member: int, members: int) -> Iterator[Batch]:
        """One of `members` readers' batches of a shard."""
        end = next((part.number for part, facts in self.finished.items() if part.shard == shard and facts.last), None)
        if end is not None and all(Part(number, shard) in self.finished for number in range(member, end + 1, members)):
            return
        size, waiting = self.reading.part_size, []
        for index, (row, last) in enumerate(_told_of_last(self._rows(shard, shards))):
            part = Part(index // size, shard)
            if part.number % members != member or part in self.finished:
                continue
            waiting.append(self.decode(index, row))
            ends = last or (index + 1) % size == 0
            if ends or len(waiting) == self.reading.batch_size:
                yield Batch(part, ends, last, *_collated(waiting))
                waiting = []

    def _rows(self, shard: int, shards: int) -> Iterator[dict]:
        try:
            # Iterating over examples would leave out what `datasets` thinks is other workers'; `iter` by batches does not.
            data = self.collection.data.shard(num_shards=shards, index=shard, contiguous=True)
            for found in data.iter(batch_size=ROWS_AT_ONCE):
                for values in zip(*found.values(), strict=True):
                    yield dict(zip(found, values, strict=True))
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of pyarrow, tarfile, fsspec, the network ...
            raise DataError(
                f"Shard {shard} of {shards} of {self.collection.source} cannot be read ({type(error).__name__}: {error}); mend or "
                "replace it, and run the same command again."
            ) from error


def shards_of(collection: ImageCollection) -> int:
    """In how many pieces a stream is read."""
    return min(collection.data.num_shards, MOST_SHARDS)


def _told_of_last(elements: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each with whether it is the last."""
    for before, after in itertools.pairwise(itertools.chain(elements, [_END])):
        yield before, after is _END
