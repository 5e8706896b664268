"""Loading of image classification data, for the example scripts."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def image_data(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import image_data

    return image_data


def parquet(folder, splits, **features):
    """A data set as `load_dataset` finds it on the Hub, but in a local folder."""
    features = features or {"img": Image(), "fine_label": ClassLabel(names=["cat", "dog"]), "note": Value("string")}
    for split, count in splits.items():
        rows = {
            "img": [PILImage.new("RGB", (8, 8), (index, 0, 0)) for index in range(count)],
            "fine_label": [index % 2 for index in range(count)],
            "note": ["x"] * count,
        }
        rows = {name: rows[name] for name in features}
        (folder / "data").mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=Features(features)).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return str(folder)


def test_digits_are_split_alike_every_time(image_data):
    one, two = image_data.load_images(), image_data.load_images()
    assert (len(one["train"]), len(one["test"])) == (1437, 360)
    assert one["test"]["label"][:] == two["test"]["label"][:]
    counts = [one["test"]["label"][:].count(digit) for digit in range(10)]
    assert max(counts) - min(counts) <= 2
    assert one["train"].features["label"].names == [str(digit) for digit in range(10)]


def test_a_data_set_with_a_test_split_and_other_column_names(image_data, tmp_path):
    splits = image_data.load_images(dataset=parquet(tmp_path, {"train": 20, "test": 6}))
    assert (len(splits["train"]), len(splits["test"])) == (20, 6)
    assert set(splits["train"].features) == {"image", "label"}
    assert splits["test"][3]["image"].getpixel((0, 0)) == (3, 0, 0)


def test_a_data_set_without_one_is_split(image_data, tmp_path):
    splits = image_data.load_images(dataset=parquet(tmp_path, {"train": 20}), held_out=0.25)
    assert (len(splits["train"]), len(splits["test"])) == (15, 5)


def test_a_data_set_without_classes(image_data, tmp_path):
    path = parquet(tmp_path, {"train": 4}, img=Image(), note=Value("string"))
    with pytest.raises(
        image_data.DataError, match=r"needs an Image and a ClassLabel column; it has img \(Image\), note"
    ):
        image_data.load_images(dataset=path)


def test_a_data_set_without_a_training_split(image_data, tmp_path):
    with pytest.raises(image_data.DataError, match="no split called 'train'; it has test"):
        image_data.load_images(dataset=parquet(tmp_path, {"test": 4}))


def test_a_data_set_that_is_not_there(image_data, tmp_path):
    with pytest.raises((FileNotFoundError, ConnectionError)):
        image_data.load_images(dataset=str(tmp_path / "nothing"))


def test_both_sources_at_once(image_data, tmp_path):
    with pytest.raises(image_data.DataError, match="either a data set or a folder"):
        image_data.load_images(dataset="a", train_dir="b")


def test_too_small_a_share_is_refused(image_data):
    with pytest.raises(image_data.DataError, match="leaves no image of some classes"):
        image_data.load_images(held_out=0.001)
