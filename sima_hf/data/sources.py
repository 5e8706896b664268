"""Image classification data: scikit-learn's digits, folders, parquet and WebDataset shards, data sets of the Hub, streams."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from ..errors import DataError
from .columns import Classes, find_columns, label_values, names_of, standard
from .folders import VALIDATION_NAMES, check_readable, digits, folder_splits, image_folder, required
from .shards import open_data_set, open_files
from .streaming import ROWS_AT_ONCE


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

logger = logging.get_logger(__name__)

SPLIT_SEED = 0
# Shards at most of a local data set that is streamed to try things out.
STREAM_SHARDS = 64


@dataclass
class ImageData:
    """Data for training and validation.

    Attributes:
        train: `datasets.Dataset` or, streamed, `IterableDataset`, with columns `image` (`Image(decode=False)`: opened when it
            is needed) and `label` (a `ClassLabel`).
        validation: such a `Dataset`, never a stream, because it is read again and again; None without one.
        labels: names of the classes by index.
        num_train: images in `train`; None if nothing says how many.
        source: what the data is called.
        max_unreadable: as given, for the reader of the images.
        held_out: whether the images for validation were held out of those for training.
    """

    train: "Dataset | IterableDataset"
    validation: "Dataset | None"
    labels: list[str]
    num_train: int | None
    source: str
    max_unreadable: int = 0
    held_out: bool = False


def load_image_data(
    dataset: str | None = None,
    train_dir: str | Path | None = None,
    validation_dir: str | Path | None = None,
    data_files=None,
    config_name: str | None = None,
    streaming: bool = False,
    held_out: float = 0.2,
    max_unreadable: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str] | None = None,
    num_images: int | None = None,
    read: tuple[list[str], int | None] | None = None,
    **options,
) -> ImageData:
    """Data for training, from one source; no image is opened before it is needed.

    Args:
        dataset: a Hub data set, a local folder that `datasets.load_dataset` takes, or "digits", which is the default.
        train_dir: folder with one sub-folder of images per class; or with folders `train` and `validation` (or `val`, `valid`,
            `test`) that have these.
        validation_dir: folder with one sub-folder of images per class, for validation, whatever the training images come from.
        data_files: patterns of parquet files or WebDataset tar shards, for `train` alone or as a dictionary with `train` and
            `validation`. With `dataset`, files of that data set.
        config_name: configuration of the data set.
        streaming: stream the training images instead of downloading them.
        held_out: share of the training images for validation, where there is no such split; 0: no validation then.
        max_unreadable: unreadable training images that the run will skip; only kept here.
        image_column, label_column: where the usual names and types do not tell. A label may be a class, a number or text.
        labels: names of the classes by index; by default those that the data has, or the sorted values of the label column,
            for which a stream is read once.
        num_images: in the training stream, where it does not say.
        read: names of the classes and number of images that an earlier reading of this stream found, where it says neither.
        options: for `datasets.load_dataset`: `token`, `revision`, `cache_dir` and so on.

    Raises:
        DataError: no such data, no images, no usable columns, one class only, unknown classes in the validation set, no split
            called train, nothing to validate on in a stream. The text says which.
        MissingDependencyError: `datasets` or, for the digits, scikit-learn is not installed.
    """
    datasets = required("datasets")
    splits, count, source = _open_splits(
        dataset, train_dir, validation_dir, data_files, config_name, streaming, options
    )
    train, validation = splits["train"], splits.get("validation")
    splits_off = validation is None and bool(held_out)
    columns = find_columns(train.features, source, image_column, label_column)
    count = num_images or count
    if labels is None:
        labels, count = labels_and_count(train, columns, count, read)
    if count == 0:
        raise DataError(f"{source} holds no images.")
    classes = Classes(labels, source)
    train = standard(train, source if validation is None else f"{source} (train)", columns, classes)
    if validation is not None:
        called = f"{validation_dir or source} (validation)"
        columns = find_columns(validation.features, called, image_column, label_column)
        validation = standard(validation, called, columns, classes)
    elif held_out and not isinstance(train, datasets.Dataset):
        raise DataError(
            f"{source} has no validation split, and no images can be held out from a stream: give a split "
            "(`validation_dir`, `data_files`), or set `held_out` to 0."
        )
    elif held_out:
        train, validation = stratified_split(train, held_out, source).values()
    if isinstance(train, datasets.Dataset):
        count = len(train)
        if streaming:
            # In the order of the classes' names, a buffer would hold few of them.
            shards = min(STREAM_SHARDS, math.ceil(count / ROWS_AT_ONCE))
            train = train.shuffle(seed=SPLIT_SEED).to_iterable_dataset(num_shards=shards)
    return ImageData(train, validation, classes.names, count, source, max_unreadable, splits_off)


def load_folder(directory: str | Path, image_column: str | None = None, label_column: str | None = None) -> ImageData:
    """All images of a folder with one sub-folder per class, as `train`; whatever the sub-folders are called, no split is chosen.

    Raises:
        DataError: no folder, no images, one class only, splits in the place of classes, or no columns of these names.
    """
    images, source = image_folder(directory), str(directory)
    classes = Classes(images.features["label"].names, source)
    images = standard(images, source, find_columns(images.features, source, image_column, label_column), classes)
    return ImageData(images, None, classes.names, len(images), source)


def _open_splits(dataset, train_dir, validation_dir, data_files, config_name, streaming, options):
    """`train` and perhaps `validation` with the columns they come with, the number of training images, the data's name."""
    if dataset and train_dir:
        raise DataError("`dataset` and `train_dir` exclude each other; give one of them.")
    if train_dir and data_files:
        raise DataError("`train_dir` and `data_files` exclude each other; give one of them.")
    if validation_dir and not (dataset or train_dir or data_files):
        raise DataError(
            f"`validation_dir` ({validation_dir}) needs training images beside it: `dataset`, `train_dir` or `data_files`."
        )
    if train_dir:
        splits, source = folder_splits(train_dir), str(train_dir)
        count = len(splits["train"])
    elif data_files and not dataset:
        opened, count = open_files(data_files, streaming, **options)
        source = "The set of data files"
        if "train" not in opened:
            raise DataError(f"`data_files` must have an entry 'train', got {', '.join(opened)}.")
        validation = next((name for name in VALIDATION_NAMES if name in opened), None)
        splits = {"train": opened["train"], **({"validation": opened[validation]} if validation else {})}
    elif dataset in (None, "digits"):
        splits, count, source = {"train": digits()}, None, "digits"
    else:
        splits, count = open_data_set(dataset, config_name, data_files, streaming, **options)
        source = dataset
    if validation_dir:
        splits["validation"] = image_folder(validation_dir)
    return splits, count, source


def labels_and_count(
    train, columns: tuple[str, str, str | None], count: int | None, read: tuple[list[str], int | None] | None = None
) -> tuple[list[str], int | None]:
    """The names of the classes, and the number of images where it is known or was found on the way."""
    from datasets import ClassLabel, Dataset

    _, label, key = columns
    feature = train.features[label]
    if isinstance(train, Dataset):
        count = len(train)
    if isinstance(feature, ClassLabel):
        return feature.names, count
    if isinstance(train, Dataset):
        return names_of(label_values(train, columns)), count
    if read and (count or read[1]):
        return read[0], count or read[1]
    logger.warning("The stream has no class names: it is read once for them. Pass `labels` to save the time.")
    values = Counter()
    for rows in train.select_columns([label]).iter(batch_size=1000):
        values.update(rows[label] if key is None else (row and row[key] for row in rows[label]))
    return names_of(values), count or values.total()


def load_images(dataset: str | None = None, train_dir: str | None = None, held_out: float = 0.2) -> "DatasetDict":
    """Splits `train` and `test` of small data: files of a folder are opened first, to name broken ones, and images come decoded.

    Args:
        dataset: name of a Hub data set, or anything `datasets.load_dataset` takes.
        train_dir: folder with one sub-folder per class. Without either, the bundled digits.
        held_out: share of the images that goes to `test`, where the data comes without a split to validate on.

    Raises:
        DataError: as `load_image_data`, or files that cannot be read.
        MissingDependencyError: a package of the training extra is not installed.
    """
    data = load_image_data(dataset, train_dir, held_out=held_out)
    splits = {"train": data.train, "test": data.validation}
    if train_dir:
        check_readable([Path(image["path"]) for split in splits.values() for image in split["image"]])
    datasets = required("datasets")
    return datasets.DatasetDict(splits).cast_column("image", datasets.Image())


def stratified_split(data: "Dataset", held_out: float, source: str) -> "DatasetDict":
    """Split into `train` and `test` by a fixed seed, every class in proportion.

    Raises:
        DataError: no share, a class of fewer than two images, or the share leaves none of some classes.
    """
    if not 0 < held_out < 1:
        raise DataError(f"`held_out` must be between 0 and 1, got {held_out}.")
    names, count_of = data.features["label"].names, Counter(data["label"][:])
    few = [name for index, name in enumerate(names) if count_of[index] < 2]
    if few:
        raise DataError(f"{source} has fewer than two images of: {', '.join(few)}. Each class needs some to hold out.")
    if int(len(data) * held_out) < len(names):
        raise DataError(
            f"{source} has {len(data)} images of {len(names)} classes; `held_out` = {held_out:g} of them leaves no image "
            "of some classes. Add images, or raise it."
        )
    return data.train_test_split(test_size=held_out, stratify_by_column="label", seed=SPLIT_SEED)
