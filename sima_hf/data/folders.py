"""Image classification data that is here already: scikit-learn's digits, and folders of images."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..errors import DataError, MissingDependencyError
from ..errors.words import first_few
from ..folders.local_paths import SPLITS
from .images import UnreadableImage, decode


if TYPE_CHECKING:
    from datasets import Dataset

# Names of the split to validate on, in the order of preference: the test split of some data sets, ImageNet's among them, has
# no labels.
VALIDATION_NAMES = ("validation", "valid", "val", "test")


def required(module: str):
    """A package that only training needs.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading this data needs {module.partition('.')[0]}: pip install 'sima-hf[train]'"
        ) from error


def digits() -> "Dataset":
    """1,797 handwritten digits, 8 x 8 pixels, bundled with scikit-learn: columns `image` and `label`.

    Raises:
        MissingDependencyError: scikit-learn or `datasets` is not installed.
    """
    datasets = required("datasets")
    bunch = required("sklearn.datasets").load_digits()
    images = [PILImage.fromarray((pixels * (255 / 16)).round().astype("uint8")) for pixels in bunch.images]
    classes = datasets.ClassLabel(names=[str(name) for name in bunch.target_names])
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    return datasets.Dataset.from_dict({"image": images, "label": bunch.target.tolist()}, features=features)


def files_of_images(directory: Path) -> list[Path]:
    """Image files in a folder and below it, by their extensions, in order of their paths.

    Hidden ones are not looked at: macOS leaves a `._x.jpg` beside `x.jpg`, which is no image.
    """
    extensions = {extension for extension, kind in PILImage.registered_extensions().items() if kind in PILImage.OPEN}
    # Not by rglob, which does not enter a class folder that is a link.
    return sorted(
        path
        for path in (*directory.glob("*"), *directory.glob("*/**/*"))
        if path.suffix.lower() in extensions
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
        and path.is_file()
    )


def image_folder(directory: str | Path) -> "Dataset":
    """A folder with one sub-folder of images per class, as columns `image` and `label`; hidden files are ignored.

    Raises:
        DataError: no folder, no images, or splits in the place of classes.
    """
    datasets = required("datasets")
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"There is {'a file, but ' if directory.exists() else ''}no folder {directory}.")
    found = files_of_images(directory)
    files = [path for path in found if path.parent != directory]
    if not files:
        if found:
            raise DataError(
                f"{directory} holds images, but has no sub-folders of classes: it needs one for each class, named after it, with "
                "the class's images in it."
            )
        raise DataError(f"{directory} holds no images: it needs one sub-folder per class, with image files in it.")
    _refuse_splits(directory, files)
    classes = [path.relative_to(directory).parts[0] for path in files]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(set(classes)))})
    labels = features["label"].str2int(classes)
    return datasets.Dataset.from_dict({"image": [str(path) for path in files], "label": labels}, features=features)


def _refuse_splits(directory: Path, files: list[Path]) -> None:
    """Raise DataError where the sub-folders are not classes but splits, which have the folders of the classes in them."""
    depths: dict[str, set[bool]] = {}
    for path in files:
        first, *more = path.relative_to(directory).parts
        depths.setdefault(first, set()).add(len(more) > 1)
    splits = [name for name, deeper in depths.items() if name.lower() in SPLITS and deeper == {True}]
    if len(splits) > 1 or (splits and len(depths) == 1):
        listed = " or ".join(str(directory / name) for name in splits)
        raise DataError(
            f"{directory} does not hold the folders of the classes, but splits that hold them: name the one that is meant, {listed}."
        )


def check_readable(files: list[Path], most: int = 10) -> None:
    """Raise DataError naming the files that are no readable images."""
    unreadable = []
    for path in tqdm(files, desc="checking images", unit="file", leave=False):
        try:
            decode(path)
        except MemoryError:
            raise
        except UnreadableImage as error:
            unreadable.append(f"{path} ({error})")
        except Exception as error:  # PIL's plugins raise whatever broken files make them meet
            unreadable.append(f"{path} ({type(error).__name__})")
    if unreadable:
        raise DataError(f"{len(unreadable)} of {len(files)} files cannot be read: {first_few(unreadable, most)}.")


def folder_splits(directory: str | Path) -> dict:
    """`train` and `validation` where these are the folders in `directory`, else all of it as `train`.

    Raises:
        DataError: no folder, or no images.
    """
    directory = Path(directory)
    validation = next((name for name in VALIDATION_NAMES if (directory / name).is_dir()), None)
    if validation is None or not (directory / "train").is_dir():
        return {"train": image_folder(directory)}
    return {
        "train": image_folder(directory / "train"),
        "validation": image_folder(directory / validation),
    }
