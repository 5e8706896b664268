"""Splits of a dense run, and what is said of those that are not there."""

import pytest
from datasets import Dataset

from sima_hf.errors import DataError
from sima_hf.training.dense.data import DenseDataArguments, at_most, load_splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine numbers to train on, four to evaluate on."""
    place = tmp_path_factory.mktemp("numbers")
    for split, count in (("train", 9), ("validation", 4)):
        Dataset.from_dict({"image": list(range(count)), "label": list(range(count))}).to_parquet(
            place / f"{split}.parquet"
        )
    return place


def test_as_many_as_there_are_or_as_are_allowed(folder):
    args = DenseDataArguments(str(folder), max_train_images=5)
    train, validation = load_splits(args, ("image", "label"))
    assert validation["image"][:] == [0, 1, 2, 3]
    drawn = train["image"][:]
    assert len(set(drawn)) == 5
    assert drawn != sorted(drawn)
    assert at_most(train, None) is train
    assert load_splits(args, ())[0]["image"][:] == drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset_name": None}, "--dataset_name must name a data set or a folder, got none"),
        ({"validation_split": "test"}, "has no split 'test'; it has train, validation"),
        ({"max_train_images": 0}, "--max_train_images must be 1 or more, got 0"),
        ({"horizontal_flip": 1.5}, "--horizontal_flip must be from 0 to 1, got 1.5"),
    ],
    ids=["name", "split", "number", "share"],
)
def test_mistakes(folder, arguments, words):
    with pytest.raises(DataError, match=words):
        load_splits(DenseDataArguments(**{"dataset_name": str(folder), **arguments}), ())


def test_a_column_that_is_not_there(folder):
    with pytest.raises(DataError, match="has no column 'objects'; it has image, label"):
        load_splits(DenseDataArguments(str(folder)), ("image", "objects"))
