"""The splits of a dense run: loaded, checked for their columns, cut down to what the arguments allow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError


def _help(text: str) -> dict:
    return {"help": text}


@dataclass
class DenseDataArguments:
    """Which images."""

    dataset_name: str | None = field(
        default=None, metadata=_help("Data set on the Hub or a local folder that `datasets.load_dataset` takes.")
    )
    dataset_config_name: str | None = field(default=None, metadata=_help("Configuration of that data set."))
    train_split: str = field(default="train", metadata=_help("Split to train on."))
    validation_split: str = field(default="validation", metadata=_help("Split to evaluate on."))
    max_train_images: int | None = field(default=None, metadata=_help("Use this many training images at most."))
    max_validation_images: int | None = field(default=None, metadata=_help("The same for validation."))
    horizontal_flip: float = field(default=0.5, metadata=_help("Probability of a flip."))


def at_most(data: Any, count: int | None) -> Any:
    """At most so many images of a split, drawn at random; all for None."""
    return data if count is None or len(data) <= count else data.shuffle(seed=0).select(range(count))


def load_splits(args: DenseDataArguments, columns: Sequence[str], token: str | None = None) -> tuple[Any, Any]:
    """The images to train on and those to evaluate on, as `datasets.Dataset`.

    Args:
        args: which.
        columns: that both need.
        token: of the Hub.

    Raises:
        DataError: no name, a split or a column that is not there, or a number or share that has no meaning.
        OSError: there is no such data set.
    """
    from datasets import load_dataset

    if args.dataset_name is None:
        raise DataError("--dataset_name must name a data set or a folder, got none.")
    for name in ("max_train_images", "max_validation_images"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise DataError(f"--{name} must be 1 or more, got {getattr(args, name)}.")
    if not 0 <= args.horizontal_flip <= 1:
        raise DataError(f"--horizontal_flip must be from 0 to 1, got {args.horizontal_flip}.")
    data = load_dataset(args.dataset_name, args.dataset_config_name, token=token)
    for wanted in (args.train_split, args.validation_split):
        if wanted not in data:
            raise DataError(f"{args.dataset_name} has no split {wanted!r}; it has {', '.join(data)}.")
        for column in columns:
            if column not in data[wanted].column_names:
                raise DataError(
                    f"{args.dataset_name} has no column {column!r}; it has {', '.join(data[wanted].column_names)}."
                )
    train, validation = data[args.train_split], data[args.validation_split]
    return at_most(train, args.max_train_images), at_most(validation, args.max_validation_images)
