"""Images without labels, as `SimATrainer` reads them: labels that there are play no part."""

from typing import Any

from ...data.images import TrainImages
from ...data.processors import view_size
from ...data.streaming import StreamedImages
from ...embedding.collection import ImageCollection, open_collection
from ..arguments import DataArguments, RecipeArguments
from ..splits import RESAMPLING, SHUFFLE_BUFFER, train_images
from .arguments import DINOTrainingArguments
from .multi_crop import MultiCrop


def open_images(data_args: DataArguments, token: str | None = None) -> tuple[Any, int | None, str]:
    """The images that the arguments name: any folder, shards, a data set of the Hub, or scikit-learn's digits.

    Returns:
        `datasets.Dataset` or `IterableDataset` with the columns `image` and `label`, 0 throughout; how many there are, None where
        nothing says it; and what they are called.

    Raises:
        ValueError: images to validate on, or two sources.
        DataError, MissingDependencyError: as `open_collection`.
    """
    for name in ("validation_dir", "validation_files", "max_validation_images"):
        if getattr(data_args, name):
            raise ValueError(f"--{name} has no use in self-supervision: measure by sima-hf evaluate --protocol knn.")
    given = [name for name in ("dataset_name", "train_dir", "train_files") if getattr(data_args, name)]
    if len(given) > 1:
        raise ValueError(f"Give one of {', '.join('--' + name for name in given)}, got all of them.")
    images = getattr(data_args, given[0]) if given else "digits"
    found = open_collection(
        images,
        config_name=data_args.dataset_config_name,
        streaming=data_args.streaming,
        image_column=data_args.image_column,
        **({"token": token} if token else {}),
    )
    data, count, most = _labeled(found), found.num_images, data_args.max_train_images
    if most and not found.streams and most < len(data):
        data = data.shuffle(seed=0).select(range(most))
        count = most
    elif most and found.streams:
        count = min(count or most, most)
    return data, data_args.num_train_images or count, found.source


def multi_crop(args: DINOTrainingArguments, processor: Any) -> MultiCrop:
    """The crops that the arguments ask for, the global ones of the image processor's size."""
    return MultiCrop(
        view_size(processor),
        args.local_crop_size,
        args.local_crops,
        args.crop_split,
        args.min_crop_area,
        interpolation=RESAMPLING.get(int(getattr(processor, "resample", 3) or 0), "bicubic"),
        flip=args.horizontal_flip,
        flip_channels=bool(getattr(processor, "do_flip_channel_order", False)),
    )


def unlabeled_images(
    data: Any,
    args: RecipeArguments,
    crops: MultiCrop,
    num_images: int | None = None,
    max_unreadable: int = 0,
    buffer_size: int = SHUFFLE_BUFFER,
) -> TrainImages | StreamedImages:
    """Multi-crops of a split with a column of images, for this process.

    Args:
        data: `datasets.Dataset` or `IterableDataset`; columns but that of the images are not read.
        args: the recipe.
        crops: as `multi_crop` gives them.
        num_images: in an epoch of a stream.
        max_unreadable: unreadable images that the run passes over.
        buffer_size: images of a stream to draw from at random.

    Raises:
        DataError: no column of images, a stream without a number of images, or too few for one batch.
    """
    found = open_collection(data)
    return train_images(_labeled(found), args, crops, num_images or found.num_images, max_unreadable, buffer_size)


def _labeled(found: ImageCollection) -> Any:
    """The images with one label for all of them: who reads training images asks for labels."""
    from datasets import Features, Image, Value

    images, features = found.data.select_columns(["image"]), {"image": Image(decode=False), "label": Value("int64")}
    if found.streams:
        return images.map(_with_label, features=Features(features))
    return images.add_column("label", [0] * len(images))


def _with_label(row: dict) -> dict:
    return {**row, "label": 0}
