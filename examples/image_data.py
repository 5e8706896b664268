"""Image classification data for the example scripts: scikit-learn's digits, a folder of images, or a Hub data set."""

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from sklearn.datasets import load_digits
from tqdm.auto import tqdm


SPLIT_SEED = 0
HELD_OUT_NAMES = ("test", "validation", "valid", "val")


class DataError(ValueError):
    """Data that nothing can be trained on; the text names what is wrong and where."""


def digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels, bundled with scikit-learn: columns `image` and `label`."""
    bunch = load_digits()
    images = [PILImage.fromarray((pixels * (255 / 16)).round().astype("uint8")) for pixels in bunch.images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in bunch.target_names])})
    return Dataset.from_dict({"image": images, "label": bunch.target.tolist()}, features=features)


def image_folder(directory: str | Path) -> Dataset:
    """A folder with one sub-folder of images per class, as columns `image` and `label`; every file is checked first."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"There is no folder {directory}.")
    extensions = {extension for extension, kind in PILImage.registered_extensions().items() if kind in PILImage.OPEN}
    files = sorted(path for path in directory.glob("*/**/*") if path.suffix.lower() in extensions and path.is_file())
    if not files:
        raise DataError(f"{directory} holds no images: it needs one sub-folder per class, with image files in it.")
    check_readable(files)
    names = sorted({path.relative_to(directory).parts[0] for path in files})
    labels = [names.index(path.relative_to(directory).parts[0]) for path in files]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": [str(path) for path in files], "label": labels}, features=features)


def check_readable(files: list[Path], most: int = 10) -> None:
    """Raise DataError naming the files that are no readable images."""
    unreadable = []
    for path in tqdm(files, desc="checking images", unit="file", leave=False):
        try:
            with PILImage.open(path) as image:
                image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            unreadable.append(f"{path} ({type(error).__name__})")
    if unreadable:
        more = f" and {len(unreadable) - most} more" if len(unreadable) > most else ""
        raise DataError(
            f"{len(unreadable)} of {len(files)} files cannot be read: {', '.join(unreadable[:most])}{more}."
        )


def load_images(dataset: str | None = None, train_dir: str | None = None, held_out: float = 0.2) -> DatasetDict:
    """Splits `train` and `test` with columns `image` and `label` (a ClassLabel), stratified where we split ourselves.

    Args:
        dataset: name of a Hub data set, or anything `datasets.load_dataset` takes.
        train_dir: folder with one sub-folder per class. Without either, the bundled digits.
        held_out: share of the images that goes to `test`, where the data comes without such a split.

    Raises:
        DataError: no images, one class only, unreadable files (by name), no image or label column, too few of a class.
    """
    if dataset and train_dir:
        raise DataError("Give either a data set or a folder, not both.")
    if dataset:
        splits = load_dataset(dataset)
        splits = splits if isinstance(splits, dict) else {"train": splits}
        splits = {name: with_standard_columns(split, dataset) for name, split in splits.items()}
    else:
        splits = {"train": image_folder(train_dir) if train_dir else digits()}
    if "train" not in splits:
        raise DataError(f"{dataset} has no split called 'train'; it has {', '.join(splits)}.")
    source = dataset or train_dir or "digits"
    names = splits["train"].features["label"].names
    if len(names) < 2:
        raise DataError(
            f"{source} has one class only ({names[0] if names else 'none'}); a classifier needs two or more."
        )
    test = next((name for name in HELD_OUT_NAMES if name in splits), None)
    if test:
        return DatasetDict(train=splits["train"], test=splits[test])
    return stratified_split(splits["train"], held_out, str(source))


def stratified_split(data: Dataset, held_out: float, source: str) -> DatasetDict:
    """Split by a fixed seed, every class in proportion."""
    counts = [data["label"].count(index) for index in range(len(data.features["label"].names))]
    few = [name for name, count in zip(data.features["label"].names, counts, strict=True) if count < 2]
    if few:
        raise DataError(f"{source} has fewer than two images of: {', '.join(few)}. Each class needs some to hold out.")
    if int(len(data) * held_out) < len(counts):
        raise DataError(
            f"{source} has {len(data)} images of {len(counts)} classes; holding out {held_out:.0%} of them leaves no image "
            "of some classes. Add images, or raise the share held out."
        )
    return data.train_test_split(test_size=held_out, stratify_by_column="label", seed=SPLIT_SEED)


def with_standard_columns(data: Dataset, source: str) -> Dataset:
    """Rename the image column to `image` and the class column to `label`, and drop the others."""
    images = [name for name, feature in data.features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in data.features.items() if isinstance(feature, ClassLabel)]
    if not images or not labels:
        found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in data.features.items())
        raise DataError(f"{source} needs an Image and a ClassLabel column; it has {found}.")
    label = "label" if "label" in labels else labels[0]
    image = "image" if "image" in images else images[0]
    return data.select_columns([image, label]).rename_columns({image: "image", label: "label"})
