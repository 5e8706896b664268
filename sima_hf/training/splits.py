"""Splits of `datasets` as `SimATrainer` reads them: which columns, which classes, and the views that its arguments ask for."""

import re
import sys
from typing import Any

from transformers import PreTrainedModel

from ..data.columns import Classes, find_columns, is_number, standard
from ..data.images import EvalImages, TrainImages
from ..data.processors import view_size
from ..data.sources import labels_and_count
from ..data.streaming import StreamedImages
from ..data.views import EvalView, TrainView
from ..errors import DataError
from ..evaluation.classifiers import match_labels
from .arguments import RecipeArguments


SHUFFLE_BUFFER = 10_000  # images
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_NEW_HEAD = "Load the model with `num_labels`, `id2label` and `label2id` of the data, and `ignore_mismatched_sizes=True` for a new head."


def train_view(args: RecipeArguments, processor: Any, image_size: int | tuple[int, int]) -> TrainView:
    """The random view of a training image: crop and flip, or a shift, as the recipe says.

    Args:
        args: the recipe.
        processor: the image processor, whose resampling and order of channels the view has.
        image_size: side in pixels, or (height, width).
    """
    crops = args.train_view == "crop"
    return TrainView(
        image_size,
        interpolation=RESAMPLING.get(int(getattr(processor, "resample", 3) or 0), "bicubic"),
        scale=(args.min_crop_area, 1.0) if crops else None,
        flip=args.horizontal_flip if crops else 0.0,
        shift=args.max_shift,
        flip_channels=bool(getattr(processor, "do_flip_channel_order", False)),
    )


def train_images(
    data: Any,
    args: RecipeArguments,
    view: TrainView,
    num_images: int | None = None,
    max_unreadable: int = 0,
    buffer_size: int = SHUFFLE_BUFFER,
) -> TrainImages | StreamedImages:
    """Training images under random views, for this process.

    Args:
        data: `datasets.Dataset` or `IterableDataset` with columns `image` (not decoded) and `label`.
        args: the recipe.
        view: as `train_view` gives it.
        num_images: in an epoch of a stream.
        max_unreadable: unreadable images that the run passes over.
        buffer_size: images of a stream to draw from at random.

    Raises:
        DataError: a stream without a number of images, or too few for one batch.
    """
    if hasattr(data, "__len__"):
        return TrainImages(data, view, max_unreadable=max_unreadable)
    return StreamedImages(
        data,
        view,
        batch_size=args.per_device_train_batch_size,
        seed=args.seed,
        buffer_size=buffer_size,
        num_images=num_images,
        process_index=args.process_index,
        num_processes=args.world_size,
        repeats=args.repeated_augmentation,
        max_unreadable=max_unreadable,
    )


class Splits:
    """Turns splits of `datasets` into `TrainImages`, `StreamedImages` and `EvalImages`; lets everything else through.

    The classes are the model's, found by name, letter case aside, or by number. A model without names of its own (LABEL_0,
    LABEL_1, ...) takes those of the first split that is read.

    Args:
        model: an image classifier; its config may get the names of the classes.
        args: the recipe.
        processor: the image processor; needed for a split.
        image_column, label_column: where types and usual names do not tell.
        num_images: in an epoch of a stream that does not say.
        max_unreadable: unreadable training images to pass over.
        shuffle_buffer_size: images of a stream to draw from at random.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: RecipeArguments,
        processor: Any,
        image_column: str | None = None,
        label_column: str | None = None,
        num_images: int | None = None,
        max_unreadable: int = 0,
        shuffle_buffer_size: int = SHUFFLE_BUFFER,
    ):
        self.model, self.args, self.processor = model, args, processor
        self.image_column, self.label_column = image_column, label_column
        self.num_images, self.max_unreadable = num_images, max_unreadable
        self.shuffle_buffer_size = shuffle_buffer_size

    def for_training(self, data: Any) -> Any:
        """Random views of a split; what is none comes back as it is.

        Raises:
            DataError: no image processor, no usable columns, classes that are not the model's, images without a label, or a
                stream that does not say how many images it has.
        """
        if not _is_split(data, "train_dataset"):
            return data
        images, count = self._standard(data, "train_dataset")
        view = train_view(self.args, self.processor, view_size(self.processor))
        num_images = self.num_images or count
        return train_images(images, self.args, view, num_images, self.max_unreadable, self.shuffle_buffer_size)

    def for_evaluation(self, data: Any) -> Any:
        """The image processor's views of a split, or of each in a plain dictionary; what is none comes back as it is.

        Raises:
            DataError: as `for_training`, or a stream.
        """
        if type(data) is dict:
            return {name: self.for_evaluation(one) for name, one in data.items()}
        if not _is_split(data, "eval_dataset"):
            return data
        if not hasattr(data, "__len__"):
            raise DataError("eval_dataset must be a `datasets.Dataset`, which is read again and again, got a stream.")
        return EvalImages(self._standard(data, "eval_dataset")[0], EvalView(self.processor))

    def _standard(self, data: Any, source: str) -> tuple[Any, int | None]:
        if self.processor is None:
            raise DataError(
                f"{source} is a split of `datasets`, so `processing_class` must be the model's image processor, got None. "
                "`AutoImageProcessor.from_pretrained` loads one, `SimAImageProcessor.for_image_size` makes one."
            )
        data = data.with_format(None)
        columns = find_columns(data.features, source, self.image_column, self.label_column)
        classes, count = self._classes(data, columns, source)
        return standard(data, source, columns, classes), count

    def _classes(self, data: Any, columns: tuple[str, str, str | None], source: str) -> tuple[Classes, int | None]:
        """The model's classes in the data's spelling, and how many images a stream has, if it says so."""
        config = self.model.config
        own = [str(config.id2label[index]) for index in range(config.num_labels)]
        unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in own)
        described = (getattr(data.info, "splits", None) or {}).get(str(data.split))
        count = described.num_examples or None if described else None
        named = hasattr(data.features[columns[1]], "names")
        if not (named or unnamed or hasattr(data, "__len__")):
            return Classes(own, "The model"), count  # a stream need not be read for them
        names, count = labels_and_count(data, columns, count)
        if not unnamed and not named and all(map(is_number, names)):
            return Classes(own, "The model"), count
        if unnamed:
            if len(names) != len(own):
                raise DataError(
                    f"The model has {len(own)} classes, so {source} must have as many, got {len(names)}. {_NEW_HEAD}"
                )
            config.id2label = dict(enumerate(names))
            config.label2id = {name: index for index, name in enumerate(names)}
            return Classes(names, source), count
        spelled = list(own)
        for label, index in zip(names, match_labels(own, names, remedy=_NEW_HEAD), strict=True):
            spelled[index] = label
        return Classes(spelled, source), count


def _is_split(data: Any, name: str) -> bool:
    """Whether it is a `datasets.Dataset` or `IterableDataset`; a dictionary of splits is refused where one is wanted."""
    datasets = sys.modules.get("datasets")
    if datasets is None:
        return False
    if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        known = list(data)
        raise DataError(
            f"{name} must be one split, got all of {', '.join(known)}: give one, such as ds[{known[0]!r}]."
        )
    return isinstance(data, (datasets.Dataset, datasets.IterableDataset))
