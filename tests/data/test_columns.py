"""Which column is what, and what the classes are called."""

import pytest
from datasets import ClassLabel, Dataset

from sima_hf.data.sources import load_image_data
from sima_hf.errors import DataError
from tests.helpers.digit_files import WORDS
from tests.helpers.small_data import folders_with_an_image, parquet_of


def test_classes_can_be_named_and_columns_too(root, tmp_path):
    files = {"train": str(root / "cls/train-*.tar"), "validation": str(root / "cls/validation-*.tar")}
    data = load_image_data(
        data_files=files, labels=list(WORDS), num_images=50, streaming=True, cache_dir=str(tmp_path)
    )
    assert data.labels == list(WORDS)
    assert data.num_train == 50
    assert next(iter(data.train))["label"] == 0  # a number stands for its name
    data = load_image_data(
        data_files=str(root / "named/train-*.parquet"),
        image_column="img",
        label_column="fine_label",
        cache_dir=str(tmp_path),
    )
    assert (len(data.train), len(data.validation)) == (40, 10)
    with pytest.raises(
        DataError, match=r"has no column picture; it has img \(Image\), fine_label \(ClassLabel\), note"
    ):
        load_image_data(data_files=str(root / "named/*.parquet"), image_column="picture", cache_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"needs a column of images and one of classes .* it has note \(string\)"):
        load_image_data(dataset=one_column(tmp_path))


def one_column(folder):
    (folder / "notes").mkdir()
    Dataset.from_dict({"note": ["x"] * 3}).to_parquet(folder / "notes" / "train.parquet")
    return str(folder / "notes")


@pytest.mark.parametrize("feature", [None, ClassLabel(names=["c", "b", "a"])])
def test_labels_of_the_validation_set_go_by_name(feature, tmp_path):
    labels = ["c", "a"] if feature is None else [0, 2]
    files = {
        "train": parquet_of(tmp_path, "train", [0, 1, 2, 1], ClassLabel(names=["a", "b", "c"])),
        "validation": parquet_of(tmp_path, "validation", labels, feature),
    }
    data = load_image_data(data_files=files, cache_dir=str(tmp_path))
    assert data.labels == ["a", "b", "c"]
    assert data.validation["label"][:] == [2, 0]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (["b", "a", "a"], ["a", "b"]),
        ([10, 9, 100], ["9", "10", "100"]),
        (["10", "9"], ["9", "10"]),
        ([1, -1, 1], ["-1", "1"]),
        (["10", "x"], ["10", "x"]),
    ],
)
def test_label_maps_are_sorted(train, names, tmp_path):
    data = load_image_data(data_files=parquet_of(tmp_path, "train", train), held_out=0, cache_dir=str(tmp_path))
    assert data.labels == names
    assert [names[label] for label in data.train["label"]] == [str(label) for label in train]


def test_a_class_is_the_same_however_its_accents_are_written(tmp_path):
    """Folders that were made on a Mac have "é" in two characters, those of other systems in one."""
    one, two = "caf\u00e9", "cafe\u0301"
    folders_with_an_image(
        tmp_path, f"train/{two}", "train/zoo", f"val/{one}", "val/zoo", f"both/{one}", f"both/{two}", "both/zoo"
    )
    data = load_image_data(train_dir=tmp_path / "train", validation_dir=tmp_path / "val")
    assert data.labels == [two, "zoo"]
    assert sorted(data.validation["label"][:]) == [0, 1]
    with pytest.raises(DataError, match=f"a name of its own, but {one} comes more than once"):
        load_image_data(train_dir=tmp_path / "both")
    column = load_image_data(
        data_files=parquet_of(tmp_path, "train", [one, two, "zoo", "zoo"]), held_out=0, cache_dir=str(tmp_path)
    )
    assert (column.labels, column.train["label"][:]) == ([one, "zoo"], [0, 0, 1, 1])


def test_classes_that_training_does_not_have(tmp_path):
    files = {
        "train": parquet_of(tmp_path, "train", ["a", "b"]),
        "validation": parquet_of(tmp_path, "validation", ["a", "z", "y"]),
    }
    with pytest.raises(
        DataError, match=r"\(validation\) has classes that the training set does not have: y, z\. .* 2, from a to b"
    ):
        load_image_data(data_files=files, cache_dir=str(tmp_path))
    data = load_image_data(
        data_files=files["train"], labels=["a", "c"], streaming=True, held_out=0, cache_dir=str(tmp_path)
    )
    with pytest.raises(DataError, match="of the class 'b', which is not among the 2"):
        list(data.train)


def test_images_without_a_label(tmp_path):
    named = ClassLabel(names=["0", "1"])
    files = parquet_of(tmp_path, "train", [0, 1, -1, None], named)
    with pytest.raises(DataError, match="2 of the 4 images of The set of data files have no label"):
        load_image_data(data_files=files, held_out=0, cache_dir=str(tmp_path))
    data = load_image_data(data_files=files, held_out=0, labels=["1", "0"], streaming=True, cache_dir=str(tmp_path))
    assert [row["label"] for row in data.train] == [1, 0, -1, -1]  # to be passed over as unreadable
