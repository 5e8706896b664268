"""For `measure_training_speed.py`: images of ImageNet's shape, and how fast they are loaded."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sima_hf.data.folders import required
from sima_hf.data.images import TrainImages, collate
from sima_hf.data.loading import TrainingLoader, training_loader
from sima_hf.data.sampling import Draw
from sima_hf.data.sources import load_image_data
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import TrainView


# ImageNet's usual size, and about its mean bytes for an image.
WIDTH, HEIGHT, BYTES = 500, 375, 110_000
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SHARDS = 8
# Batches that each worker has ready when nobody takes them; DataLoader's own default.
AHEAD = 2


class Sample(NamedTuple):
    """One measurement: how many images in how many seconds, of which the step waited for data in so many."""

    images: int
    seconds: float
    waited: float = 0.0


@dataclass
class Contestant:
    """Something to be measured: what its row says about it, and the measurement of a round, given its number."""

    about: dict
    measure: Callable[[int], Sample]


def write_images(folder: Path, count: int) -> float:
    """Write `count` JPEGs, in turn from two classes, and the same as parquet shards; returns their mean size in bytes.

    They are parts of scikit-learn's two photographs, 500 x 375 pixels, half of them mirrored, in the JPEG quality that comes
    nearest to 110 kB: a decoder's work grows with the bytes.
    """
    datasets, load_sample_image = required("datasets"), required("sklearn.datasets").load_sample_image
    datasets.disable_progress_bars()
    photographs = [Image.fromarray(load_sample_image(name)) for name in PHOTOGRAPHS]
    qualities = [_quality(photograph.crop((0, 0, WIDTH, HEIGHT))) for photograph in photographs]
    rng = np.random.default_rng(0)
    places = rng.random((count, 3))

    def encode(number: int) -> bytes:
        kind = number % len(photographs)
        photograph, (across, down, mirrored) = photographs[kind], places[number]
        left, top = (
            int(s * (size + 1)) for s, size in ((across, photograph.width - WIDTH), (down, photograph.height - HEIGHT))
        )
        image = photograph.crop((left, top, left + WIDTH, top + HEIGHT))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored < 0.5 else image
        return _jpeg(image, qualities[kind])

    with ThreadPoolExecutor() as pool:
        encoded = list(pool.map(encode, range(count)))
    labels = [number % len(photographs) for number in range(count)]
    names = [Path(name).stem for name in PHOTOGRAPHS]
    for number, (content, label) in enumerate(zip(encoded, labels, strict=True)):
        path = folder / "folder" / names[label] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": content, "path": None} for content in encoded], "label": labels}
    data = datasets.Dataset.from_dict(rows, features=features)
    (folder / "shards").mkdir()
    for index in range(SHARDS):
        data.shard(SHARDS, index).to_parquet(folder / "shards" / f"{index}.parquet")
    return sum(map(len, encoded)) / count


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _quality(image: Image.Image) -> int:
    return min(range(75, 101), key=lambda quality: abs(len(_jpeg(image, quality)) - BYTES))


def folder_images(folder: Path, image_size: int) -> TrainImages:
    """The JPEG files in the recipe's views. None is kept decoded: of a set as large as ImageNet, next to nothing could be."""
    data = load_image_data(train_dir=folder / "folder", held_out=0).train
    return TrainImages(data, TrainView(image_size))


def repeated(images: TrainImages, count: int) -> TrainImages:
    """The same images again and again, so that there are at least `count`."""
    datasets = required("datasets")
    data = datasets.concatenate_datasets([images.data] * -(-count // len(images)))
    return TrainImages(data, images.view)


def loading(images: TrainImages, batch: int, workers: int, repeats: int, batches: int) -> Contestant:
    """Reading files, decoding and random resized crops, in processes of their own or, with 0 workers, in this one.

    Args:
        images: as many as there are; an epoch gets longer by repeating them.
        batch: images in a batch.
        workers: processes.
        repeats: views of each image that is decoded.
        batches: how many to measure, of each worker.
    """
    longer = repeated(images, _needed(batch, workers, batches))
    loader = training_loader(longer, batch, num_workers=workers, repeats=repeats)
    return _loading("loading", loader, batch, repeats, batches)


def streaming(folder: Path, image_size: int, batch: int, workers: int, repeats: int, batches: int) -> Contestant:
    """The same from parquet shards, shuffled in a buffer that holds an eighth of the images."""
    data = load_image_data(data_files=str(folder / "shards" / "*.parquet"), streaming=True, held_out=0)
    images = StreamedImages(
        data.train,
        TrainView(image_size),
        batch_size=batch,
        seed=0,
        buffer_size=max(1, data.num_train // 8),
        num_images=_needed(batch, workers, batches),
        repeats=repeats,
    )
    loader = training_loader(images, batch, num_workers=workers, repeats=repeats)
    return _loading("streaming", loader, batch, repeats, batches)


def _needed(batch: int, workers: int, batches: int) -> int:
    """Images of an epoch in which workers are busy from before the clock starts until after it stops."""
    return batch * max(1, workers) * (batches + 2 * AHEAD)


def _loading(what: str, loader: TrainingLoader, batch: int, repeats: int, batches: int) -> Contestant:
    workers = max(1, loader.num_workers)

    def measure(number: int) -> Sample:
        loader.set_epoch(number)
        iterator = iter(loader)
        for _ in range(AHEAD * workers):  # workers have to start, and some would start with a lead
            next(iterator)
        start = time.perf_counter()
        count = sum(len(next(iterator)["labels"]) for _ in range(batches * workers))
        return Sample(count, time.perf_counter() - start)

    about = {"what": what, "workers": loader.num_workers, "repeats": repeats, "batch": batch}
    return Contestant({**about, "batches": batches * workers}, measure)


def bytes_batch(images: TrainImages, batch: int) -> dict:
    """A batch of real views: `pixel_values` uint8 (B, 3, H, W), `labels` and `seeds` int64 (B,)."""
    return collate(images.__getitems__([Draw(index % len(images), index) for index in range(batch)]))
