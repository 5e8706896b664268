"""Images without labels from all that images come from."""

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from sima_hf import SimAImageProcessor
from sima_hf.data.images import TrainImages
from sima_hf.data.sampling import Draw
from sima_hf.data.streaming import StreamedImages
from sima_hf.errors import DataError
from sima_hf.training.arguments import DataArguments
from sima_hf.training.self_supervision.arguments import DINOTrainingArguments
from sima_hf.training.self_supervision.data import multi_crop, open_images, unlabeled_images


def pictures(count=7):
    return [PILImage.new("RGB", (9, 8), (30 * index, 0, 0)) for index in range(count)]


def settings(**changes):
    given = {"per_device_train_batch_size": 2, "local_crop_size": 4, "local_crops": 1, "use_cpu": True}
    return DINOTrainingArguments("x", **{**given, **changes})


@pytest.mark.parametrize("place", ["{}.png", "deep/er/{}.png", "{}/one.png"])
def test_any_folder_of_images(tmp_path, place):
    for index, image in enumerate(pictures()):
        path = tmp_path / place.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    data, count, source = open_images(DataArguments(train_dir=str(tmp_path), max_train_images=5))
    assert (len(data), count, source) == (5, 5, str(tmp_path))
    assert data[:]["label"] == [0] * 5


def test_shards_are_streamed(tmp_path):
    rows = {"image": pictures(), "caption": list("abcdefg")}
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))
    data.to_parquet(tmp_path / "part.parquet")
    images, count, _ = open_images(DataArguments(train_files=[str(tmp_path / "part.parquet")], streaming=True))
    assert count == 7
    args = settings()
    crops = multi_crop(args, SimAImageProcessor.for_image_size(8, crop_pct=1.0))
    stream = unlabeled_images(images, args, crops, count)
    assert isinstance(stream, StreamedImages)
    samples = list(stream)
    assert len(samples) == 6
    assert {sample["pixel_values"].shape for sample in samples} == {(3, 2 * 64 + 16)}


def test_labels_and_other_columns_play_no_part():
    rows = {"picture": pictures(), "label": [None] * 7}
    data = Dataset.from_dict(rows, features=Features({"picture": Image(), "label": Value("string")}))
    args = settings()
    images = unlabeled_images(data, args, multi_crop(args, SimAImageProcessor.for_image_size(8)))
    assert isinstance(images, TrainImages)
    sample = images[Draw(3, 11)]
    assert sample["labels"] == 0
    assert sample["pixel_values"][0].unique().tolist() == [90]


def test_what_there_is_not():
    for given, words in (
        ({"validation_dir": "x"}, "--validation_dir has no use in self-supervision: .*--protocol knn"),
        ({"train_dir": "a", "dataset_name": "b"}, "Give one of --dataset_name, --train_dir, got all of them"),
        ({"train_dir": "/nowhere"}, "There is no folder /nowhere"),
    ):
        with pytest.raises(ValueError, match=words):
            open_images(DataArguments(**given))
    with pytest.raises(DataError, match="needs a column of images"):
        unlabeled_images(Dataset.from_dict({"text": ["a"]}), settings(), None)
