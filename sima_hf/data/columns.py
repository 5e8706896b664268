"""Which columns of a data set are the image and its class, and what the classes are called."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from ..errors import DataError
from ..errors.words import first_few


IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "target", "category", "class_id", "class_name")


class Classes:
    """The classes of a training set, and which of them a value of the label column means.

    Args:
        names: in the order of their indices.

    Raises:
        DataError: fewer than two, or one of them twice.
    """

    def __init__(self, names: Iterable, source: str):
        self.names = [str(name) for name in names]
        if len(self.names) < 2:
            raise DataError(
                f"{source} has one class only ({', '.join(self.names) or 'none'}); a classifier needs two or more."
            )
        twice = [name for name, count in Counter(map(composed, self.names)).items() if count > 1]
        if twice:
            raise DataError(f"Every class must have a name of its own, but {', '.join(twice)} comes more than once.")
        self._index = {composed(name): index for index, name in enumerate(self.names)}
        self._numbered = all(map(is_number, self.names))

    def index(self, value: int | str | None) -> int | None:
        """The index of a class by its name or, where names are no numbers, by its number; -1 if unlabeled, None if unknown."""
        if value is None:
            return -1
        name = composed(value).strip()
        if name in self._index:
            return self._index[name]
        if self._numbered or not is_number(name):
            return None
        return int(name) if -1 <= int(name) < len(self.names) else None


def names_of(values: Iterable[int | str | None]) -> list[str]:
    """The classes that occur, sorted: as numbers where all are, else as text. Unlabeled images (None) do not count."""
    found = {composed(value).strip() for value in values if value is not None}
    return sorted(found, key=int) if all(map(is_number, found)) else sorted(found)


def is_number(name: str) -> bool:
    """Whether a class is called by a whole number."""
    return name.removeprefix("-").isdecimal()


def find_columns(
    features, source: str, image: str | None = None, label: str | None = None
) -> tuple[str, str, str | None]:
    """Names of the image column and the label column; third, if the latter is a dictionary, the key in it, else None.

    Args:
        features: of the data set, `datasets.Features`.
        source: what to call the data in a message.
        image, label: names that were asked for; by default what the types and the usual names tell.

    Raises:
        DataError: there are none; it says which columns there are.
    """
    image, label, key = find_image_and_label(features, source, image, label)
    if image is None or label is None:
        raise DataError(
            f"{source} needs a column of images and one of classes (a ClassLabel; or numbers or text, called "
            f"{', '.join(LABEL_NAMES)}, or in a dictionary under such a name); it has {_listed(features)}. Name them with "
            "`image_column` and `label_column`."
        )
    return image, label, key


def find_image_and_label(
    features, source: str, image: str | None = None, label: str | None = None
) -> tuple[str | None, str | None, str | None]:
    """As `find_columns`, but None where there is no column of images, or none of classes.

    Raises:
        DataError: a column that was asked for is not there, or the labels are neither numbers nor text.
    """
    from datasets import ClassLabel

    for name in (image, label):
        if name is not None and name not in features:
            raise DataError(f"{source} has no column {name}; it has {_listed(features)}.")
    image = image or _preferred([name for name, feature in features.items() if is_image(feature)], IMAGE_NAMES)
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    plain = [name for name in LABEL_NAMES if is_plain(features.get(name))]
    inside = [name for name, feature in features.items() if isinstance(feature, dict) and _key_in(feature)]
    label = label or _preferred(classes, LABEL_NAMES) or next(iter([*plain, *inside]), None)
    if label is None:
        return image, None, None
    key = _key_in(features[label]) if isinstance(features[label], dict) else None
    if key is None and not (is_plain(features[label]) or isinstance(features[label], ClassLabel)):
        raise DataError(f"The column {label} of {source} must be numbers or text, got {described(features[label])}.")
    return image, label, key


def _listed(features) -> str:
    return ", ".join(f"{name} ({described(feature)})" for name, feature in features.items())


def _preferred(found: list[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in found), found[0] if found else None)


def _key_in(feature: dict) -> str | None:
    return next((name for name in LABEL_NAMES if is_plain(feature.get(name))), None)


def is_image(feature) -> bool:
    """Whether a column holds images: of the type of that name, or encoded ones as bytes."""
    from datasets import Image, Value

    bare = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(feature, Image) or (isinstance(bare, Value) and bare.dtype in ("binary", "large_binary"))


def is_plain(feature) -> bool:
    """Whether a column holds whole numbers or text."""
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.removeprefix("large_").removeprefix("u").startswith(
        ("int", "string")
    )


def described(feature) -> str:
    """The type of a column for a message."""
    return (
        getattr(feature, "dtype", "dictionary")
        if type(feature).__name__ in ("Value", "dict")
        else type(feature).__name__
    )


class ToStandardRow:
    """From a row of a stream to one with `image` and `label`.

    Args:
        columns: image, label, key of the label or None: what `find_columns` gives.
        classes: of the training set.
        names: of the label's own numbers, if it is a ClassLabel.

    Raises:
        DataError: when called, for a class that is not among them.
    """

    def __init__(self, columns: tuple[str, str, str | None], classes: Classes, names: list[str] | None):
        self.columns, self.classes, self.names = columns, classes, names

    def __call__(self, row: dict) -> dict:
        """The row's image, and the number of its class."""
        image, label, key = self.columns
        value = row[label]
        if key is not None and value is not None:
            value = value[key]
        index = self.classes.index(_named(value, self.names))
        if index is None:
            raise DataError(
                f"The stream has an image of the class {value!r}, which is not among the {len(self.classes.names)}."
            )
        return {"image": row[image], "label": index}


def _named(value: int | str | None, names: list[str] | None) -> int | str | None:
    """What a ClassLabel's number stands for: a name, or None (unlabeled) for -1; other values as they are."""
    if names is None or value is None:
        return value
    return names[value] if value >= 0 else None


def label_values(data, columns: tuple[str, str, str | None]) -> list:
    """The label column of a `datasets.Dataset` as it is stored: numbers, text or None."""
    _, label, key = columns
    values = data[label][:]
    return values if key is None else [None if row is None else row[key] for row in values]


def standard(data, source: str, columns: tuple[str, str, str | None], classes: Classes):
    """A data set, or a stream, with columns `image` (not decoded) and `label` (of the training set's classes) only.

    Raises:
        DataError: it has classes that training does not have, or images without a label; a stream shows this when it is read.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    image, label, _ = columns
    feature = data.features[label]
    own_names = feature.names if isinstance(feature, ClassLabel) else None
    target = Features({"image": Image(decode=False), "label": ClassLabel(names=classes.names)})
    data = data.cast_column(image, Image(decode=False))
    if own_names == classes.names:
        data = _renamed(data.select_columns([image, label]), {image: "image", label: "label"})
        if isinstance(data, Dataset):
            check_labeled(data["label"][:], source)
        return data
    if not isinstance(data, Dataset):
        return data.map(
            ToStandardRow(columns, classes, own_names), remove_columns=list(data.features), features=target
        )
    values = label_values(data, columns)
    values = [_named(value, own_names) for value in values]
    indices = [classes.index(value) for value in values]
    strange = sorted({str(value) for value, index in zip(values, indices, strict=True) if index is None})
    if strange:
        raise DataError(
            f"{source} has classes that the training set does not have: {first_few(strange)}. The training set has "
            f"{len(classes.names)}, from {classes.names[0]} to {classes.names[-1]}."
        )
    check_labeled(indices, source)
    data = _renamed(data.select_columns([image]), {image: "image"})
    return data.add_column("label", indices, feature=target["label"])


def _renamed(data, names: dict[str, str]):
    """As `rename_columns`, which for a stream refuses a name that stays as it is."""
    changed = {old: new for old, new in names.items() if old != new}
    return data.rename_columns(changed) if changed else data


def check_labeled(labels: list[int | None], source: str) -> None:
    """Raise DataError if there are images without a label."""
    without = sum(label is None or label < 0 for label in labels)
    if without:
        raise DataError(f"{without} of the {len(labels)} images of {source} have no label; leave them out.")


def composed(name: object) -> str:
    """A name with its accents composed (NFC), as it is compared: macOS hands out "é" as two characters, others as one."""
    return unicodedata.normalize("NFC", str(name))


def plain_name(name: object) -> str:
    """A name regardless of letter case, of `_` for a space and of spaces around it, too."""
    return composed(" ".join(composed(name).replace("_", " ").casefold().split()))
