"""A collection of images, labeled or not, to be read once from its beginning to its end: folder, shards, data set of the Hub."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.calibration_images import image_files
from ..data.columns import find_image_and_label
from ..data.folders import digits, image_folder, required
from ..data.shards import FORMATS, count_images, open_builder, open_split
from ..errors import DataError


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True)
class ImageCollection:
    """Images in an order that is always the same.

    Attributes:
        data: with the column `image`, not decoded, and perhaps `label`.
        source: what it is called.
        num_images: None if nothing says how many.
        label: type of the labels, of `datasets`; None without.
        label_key: where a label is a dictionary, the key in it.
        fingerprint: of what it holds, by names and sizes of files or by the commit on the Hub; other images, another one.
        folder: that the paths are to be relative to.
    """

    data: "Dataset | IterableDataset"
    source: str
    num_images: int | None
    label: Any
    label_key: str | None
    fingerprint: str
    folder: Path | None = None

    @property
    def streams(self) -> bool:
        """Whether it is read as it comes, without a number for each image."""
        return not hasattr(self.data, "__len__")


def open_collection(
    images: Any,
    split: str = "train",
    config_name: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    **options: Any,
) -> ImageCollection:
    """Find a collection; no image is opened.

    Args:
        images: a folder of image files, in it or in folders below; where all are in sub-folders, these are the classes. Or a
            file or pattern of parquet, Arrow or WebDataset shards, or several of them; "digits"; the name of a data set on the
            Hub, or a folder that `datasets.load_dataset` takes; or a `datasets.Dataset` or `IterableDataset`.
        split, config_name: of a data set; not of files and folders.
        streaming: read shards as they come, instead of downloading or converting them first. A folder of images is as it is.
        image_column, label_column: where types and usual names do not tell.
        options: for `datasets`: `token`, `revision`, `cache_dir` and so on.

    Raises:
        DataError: no such data, no images, no column of images, no such split, or splits in the place of classes.
        MissingDependencyError: `datasets` or, for the digits, scikit-learn is not installed.
    """
    datasets = required("datasets")
    if isinstance(images, (datasets.Dataset, datasets.IterableDataset)):
        count = len(images) if isinstance(images, datasets.Dataset) else None
        fingerprint = images._fingerprint if isinstance(images, datasets.Dataset) else ""
        return _collection(images.with_format(None), "The data set", count, fingerprint, image_column, label_column)
    if images == "digits":
        data = digits()
        return _collection(data, "digits", len(data), "digits", image_column, label_column)
    if isinstance(images, (str, Path)) and Path(images).is_dir() and not _holds_shards(Path(images)):
        return _folder(Path(images))
    files = [str(one) for one in ([images] if isinstance(images, (str, Path)) else images)]
    if not files:
        raise DataError("`images` must be a folder, shards or the name of a data set, got none.")
    shards = all(Path(file).suffix.lower() in FORMATS for file in files)
    if not shards and (len(files) > 1 or Path(files[0]).is_file()):
        raise DataError(
            f"Images must be a folder, shards that end in {', '.join(FORMATS)}, or the name of a data set, got {files[0]}."
        )
    if not shards and files[0].startswith(("/", ".", "~")) and not Path(files[0]).exists():
        raise DataError(f"There is no folder {files[0]} with images.")
    builder, split = open_builder(files if shards else files[0], split, config_name, **options)
    data = open_split(builder, split, streaming)
    count = count_images(builder, split) if streaming else len(data)
    source = ", ".join(files)
    return _collection(data, source, count, _fingerprint(builder, split), image_column, label_column)


def _collection(data, source, count, fingerprint, image_column, label_column, folder=None) -> ImageCollection:
    """With the standard names of columns."""
    from datasets import Image

    if count == 0:
        raise DataError(f"{source} holds no images.")
    if data.features is None:
        raise DataError(f"{source} does not say what columns it has; give its `features`.")
    image, label, key = find_image_and_label(data.features, source, image_column, label_column)
    if image is None:
        raise DataError(
            f"{source} needs a column of images; it has {', '.join(data.features)}. Name it with `image_column`."
        )
    kind = data.features[label] if label else None
    names = {image: "image", **({label: "label"} if label else {})}
    data = data.cast_column(image, Image(decode=False)).select_columns(list(names))
    changed = {old: new for old, new in names.items() if old != new}
    data = data.rename_columns(changed) if changed else data
    return ImageCollection(data, source, count, kind[key] if key else kind, key, fingerprint, folder)


def _holds_shards(folder: Path) -> bool:
    """Whether it is a data set that was saved as files of one, not a folder of images."""
    return any(path.suffix in (".parquet", ".arrow", ".tar") for path in (*folder.glob("*"), *folder.glob("*/*")))


def _folder(folder: Path) -> ImageCollection:
    """A folder of images; with classes where each of them is in a sub-folder."""
    from datasets import Dataset, Features, Image

    files = image_files(folder)
    lines = (f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files)
    if all(path.parent != folder for path in files):
        data = image_folder(folder)  # in the same order
    else:
        data = Dataset.from_dict({"image": [str(path) for path in files]}, features=Features({"image": Image()}))
    return _collection(data, str(folder), len(files), _hash(lines), None, None, folder)


def _fingerprint(builder, split: str) -> str:
    """Names and sizes of local files, or names and revision of those on the Hub."""
    found = builder.config.data_files[split] if builder.config.data_files else []
    lines = [
        f"{Path(file).name} {Path(file).stat().st_size}" if Path(file).is_file() else str(file).split("?")[0]
        for file in map(str, found)
    ]
    return _hash(lines or [f"{builder.dataset_name} {builder.config.name} {builder.hash} {split}"])


def _hash(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode())
    return found.hexdigest()
