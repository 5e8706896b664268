"""Data in files that `datasets` reads: sets of the Hub or a folder, parquet (also Arrow) and WebDataset tar shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..errors.words import first_few
from .folders import VALIDATION_NAMES


# Ending -> how `datasets` calls the format.
FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".tgz": "webdataset", ".gz": "webdataset"}


def open_files(data_files, streaming: bool, **options) -> tuple[dict, int | None]:
    """The splits in files of one format.

    Args:
        data_files: patterns of files, such as "shards/train-*.tar": one or a list for `train`, or a dictionary by split.
        streaming: stream the training files; other splits are converted into the cache of `datasets`.
        options: for `datasets`, such as `cache_dir` and `token`.

    Returns:
        Data by split, a `datasets.Dataset` or `IterableDataset` each, and the number of training images where it is known.

    Raises:
        DataError: no such files, an ending that is not known, or several formats.
    """
    splits = dict(data_files) if isinstance(data_files, Mapping) else {"train": data_files}
    splits = {
        name: [files] if isinstance(files, str | Path) else list(files) for name, files in splits.items() if files
    }
    splits = {name: [str(file) for file in files] for name, files in splits.items()}
    form = format_of([file for files in splits.values() for file in files])
    opened, count = {}, None
    for name, files in splits.items():
        builder = _builder(form, {name: files}, options)
        streamed = streaming and name == "train"
        opened[name] = open_split(builder, name, streamed)
        if name == "train":
            count = count_images(builder, name) if streamed else len(opened[name])
    return opened, count


def format_of(files: list[str]) -> str:
    """One of "parquet", "arrow" and "webdataset", by the endings of the files.

    Raises:
        DataError: another ending, several formats, or no files.
    """
    forms = {FORMATS.get(Path(file).suffix.lower()) for file in files}
    if len(forms) != 1 or None in forms:
        raise DataError(
            f"Data files must all end in .parquet, all in .arrow, or all in .tar (WebDataset), got {first_few(files) or 'none'}."
        )
    return forms.pop()


def open_data_set(
    name: str, config_name: str | None, data_files, streaming: bool, **options
) -> tuple[dict, int | None]:
    """`train` and, if there is one, `validation`, of a data set of the Hub or in a local folder.

    Args:
        name, config_name, data_files, options: of `datasets.load_dataset`.
        streaming: stream the training images; only the files of the other split are downloaded then.

    Returns:
        As `open_files`.

    Raises:
        DataError: there is no such data set, it cannot be read, or has no split called train.
    """
    from datasets import load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetsError

    try:
        builder = load_dataset_builder(name, config_name, data_files=data_files, **options)
        found = list(builder.config.data_files or builder.info.splits or ())
        validation = next((split for split in VALIDATION_NAMES if split in found), None)
        if "train" not in found:
            raise DataError(f"{name} has no split called 'train'; it has {', '.join(map(str, found))}.")
        if not streaming:
            splits = load_dataset(name, config_name, data_files=data_files, **options)
            count = len(splits["train"])
        else:
            splits, count = {"train": open_split(builder, "train", streaming=True)}, count_images(builder, "train")
            if validation:
                files = {validation: [str(file) for file in builder.config.data_files[validation]]}
                options = {**options, "verification_mode": "no_checks"}  # for the other splits, which are not fetched
                splits[validation] = load_dataset(name, config_name, data_files=files, split=validation, **options)
        kept = {"train": splits["train"]}
        return ({**kept, "validation": splits[validation]} if validation else kept), count
    except DataError:
        raise
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"The data set {name} cannot be loaded: {error}") from error


def _builder(form: str, data_files: dict[str, list[str]], options: dict):
    listed = ", ".join(file for files in data_files.values() for file in files)
    try:
        if form == "webdataset":
            from .web_dataset import WebDataset

            builder = WebDataset(data_files=data_files, hash="sima_hf_1", **options)
        else:
            from datasets import load_dataset_builder

            builder = load_dataset_builder(form, data_files=data_files, **options)
    except FileNotFoundError as error:
        raise DataError(f"There are no data files {listed}.") from error
    if not all(builder.config.data_files.values()):
        raise DataError(f"There are no data files {listed}.")
    return builder


def open_builder(images: str | list[str], split: str, config_name: str | None = None, **options) -> tuple[Any, str]:
    """The builder of one split of anything that `datasets` reads, and the name of that split.

    Args:
        images: a list of files or patterns of one format; or the name of a data set, or a folder that holds one.
        split: of the data set; files are one.
        config_name, options: of `datasets.load_dataset_builder`.

    Raises:
        DataError: no such files or data set, several formats, or no such split.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    if not isinstance(images, str):
        return _builder(format_of(images), {split: images}, options), split
    try:
        builder = load_dataset_builder(images, config_name, **options)
    except (OSError, ValueError, DatasetsError) as error:
        here = "" if Path(images).is_dir() else f"There is no folder {images}. "
        raise DataError(f"{here}The data set {images} cannot be loaded: {error}") from error
    found = [str(one) for one in builder.config.data_files or builder.info.splits or ()]
    if split not in found:
        raise DataError(f"{images} has no split called {split!r}; it has {', '.join(found)}.")
    return builder, split


def open_split(builder, split: str, streaming: bool):
    """One split, a `datasets.Dataset` or, streamed, `IterableDataset`.

    Raises:
        DataError: its files cannot be read.
    """
    try:
        if streaming:
            return builder.as_streaming_dataset(split=split)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except MemoryError:
        raise
    except Exception as error:  # of tarfile, pyarrow, fsspec, the network ...
        cause = error.__cause__ or error
        files = [str(file) for file in builder.config.data_files[split]] if builder.config.data_files else []
        raise DataError(
            f"The split {split} ({first_few(files, 3)}) cannot be read: {type(cause).__name__}, {cause}"
        ) from error


def count_images(builder, split: str) -> int | None:
    """Rows of a split, from the data set's description or the footers of local parquet files; None where neither is there."""
    described = (builder.info.splits or {}).get(split)
    if described and described.num_examples:
        return described.num_examples
    files = [str(file) for file in builder.config.data_files[split]] if builder.config.data_files else []
    if not files or not all(file.endswith(".parquet") and Path(file).is_file() for file in files):
        return None
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
