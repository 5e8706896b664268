"""Every source of images, here and streamed: the same digits come out, and streams are read whole by workers."""

import ast
import itertools
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset

from sima_hf import SimAImageProcessor
from sima_hf.data import sources as data_module
from sima_hf.data.images import EvalImages, TrainImages, collate, decode
from sima_hf.data.loading import training_loader
from sima_hf.data.sampling import Draw
from sima_hf.data.sources import load_image_data, load_images, stratified_split
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import EvalView, TrainView
from sima_hf.errors import DataError
from tests.helpers.digit_files import WORDS
from tests.helpers.small_data import parquet_of


def sources_in(root):
    """Name -> arguments of `load_image_data`."""

    def files(kind, ending):
        return {"data_files": {split: str(root / kind / f"{split}-*.{ending}") for split in ("train", "validation")}}

    return {
        "folders in one": {"train_dir": root / "folder"},
        "two folders": {"train_dir": str(root / "folder/train"), "validation_dir": str(root / "folder/val")},
        "parquet": files("named", "parquet"),
        "parquet with numbers": files("int", "parquet"),
        "parquet with text": files("text", "parquet"),
        "data set": {"dataset": str(root / "named")},
        "imagefolder": {"dataset": str(root / "folder")},
        "tar with numbers": files("cls", "tar"),
        "tar with text": files("cls-text", "tar"),
        "tar with json": files("json", "tar"),
        "tar with text in json": files("json-text", "tar"),
        "tar and folder": {
            "data_files": [str(root / f"cls-text/train-{number}.tar") for number in range(3)],
            "validation_dir": root / "folder/val",
        },
    }


SOURCES = tuple(sources_in(Path()))
NUMBERED = ("parquet with numbers", "tar with numbers", "tar with json")
IN_ORDER = ("parquet", "data set")


def contents(rows, labels):
    """What a set holds, whatever its order: pixels and the name of the class."""
    return sorted((np.asarray(decode(row["image"])).tobytes(), labels[row["label"]]) for row in rows)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_images(name, streaming, root, few, tmp_path):
    data = load_image_data(**sources_in(root)[name], streaming=streaming, cache_dir=str(tmp_path))
    names = [str(number) for number in range(10)] if name in NUMBERED else list(WORDS)
    assert data.labels == (names if name in NUMBERED or name in IN_ORDER else sorted(names))
    assert isinstance(data.train, IterableDataset if streaming else Dataset)
    assert isinstance(data.validation, Dataset)
    for split in (data.train, data.validation):
        assert split.features["image"] == Image(decode=False)
        assert split.features["label"].names == data.labels
        assert set(split.features) == {"image", "label"}
    wanted = [(np.asarray(row["image"].convert("RGB")).tobytes(), names[row["label"]]) for row in few]
    assert contents(data.train, data.labels) == sorted(wanted[:50])
    assert contents(data.validation, data.labels) == sorted(wanted[50:])
    assert data.num_train == (None if name == "imagefolder" and streaming else 50)


@pytest.mark.parametrize(
    ("name", "num_workers"),
    [
        ("two folders", 0),
        ("parquet with text", 0),
        ("parquet with text", 2),
        ("tar with json", 0),
        ("tar with json", 2),
    ],
)
def test_streams_are_read_by_workers(name, num_workers, root, few, tmp_path):
    data = load_image_data(**sources_in(root)[name], streaming=True, cache_dir=str(tmp_path))
    images = StreamedImages(data.train, TrainView(8, scale=None, flip=0, shift=0), 5, 0, 20, data.num_train)
    batches = list(training_loader(images, 5, num_workers))
    wanted = sorted(
        np.asarray(row["image"].convert("RGB")).transpose(2, 0, 1).tobytes() for row in few.select(range(50))
    )
    found = sorted(pixels.numpy().tobytes() for batch in batches for pixels in batch["pixel_values"])
    # Three shards do not divide evenly, so the workers take turns: every image is there once.
    assert found == wanted


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_that_breaks_off_ends_the_run_with_a_sentence(num_workers, root, tmp_path):
    for number in range(3):
        content = (root / f"cls/train-{number}.tar").read_bytes()
        (tmp_path / f"train-{number}.tar").write_bytes(content[: 20000 if number == 1 else None])
    names = [str(number) for number in range(10)]
    data = load_image_data(data_files=str(tmp_path / "*.tar"), streaming=True, held_out=0, labels=names, num_images=50)
    images = StreamedImages(data.train, TrainView(8), 5, 0, 3, data.num_train)
    with pytest.raises(
        DataError, match=r"^Shard 1 of 3 of the training stream cannot be read \(ReadError: unexpected end of data\)"
    ):
        list(training_loader(images, 5, num_workers))
    assert not multiprocessing.active_children()  # the other worker has ended, too


def test_digits_are_the_default_and_are_split_alike_every_time():
    one, two = load_image_data(), load_image_data(dataset="digits", streaming=True)
    assert (len(one.train), len(one.validation), one.num_train, two.num_train) == (1437, 360, 1437, 1437)
    assert one.source == two.source == "digits"
    assert one.labels == [str(digit) for digit in range(10)]
    assert one.validation["label"][:] == two.validation["label"][:]
    images = itertools.islice(two.train, 300)
    assert len({row["label"] for row in images}) == 10
    assert load_image_data(held_out=0).validation is None
    assert len(load_image_data(held_out=0).train) == 1797
    assert load_image_data(max_unreadable=7).max_unreadable == 7


def test_files_are_not_opened_before_they_are_needed(root, tmp_path):
    folder = tmp_path / "photos"
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            (folder / name / f"{index}.jpg").write_bytes(b"broken")
    data = load_image_data(train_dir=folder, max_unreadable=1)
    assert (len(data.train), len(data.validation)) == (16, 4)
    batch = collate(EvalImages(data.validation, EvalView(SimAImageProcessor.for_image_size(16))).__getitems__([0, 1]))
    assert batch["labels"].tolist() == [-100, -100]
    assert batch["unreadable"][0].startswith(f"{folder}/")
    sample = TrainImages(data.train, TrainView(16), data.max_unreadable)[Draw(3, 0)]
    assert len(sample["unreadable"]) == 2


def test_a_stream_that_does_not_say_how_many_images_it_has(root, tmp_path):
    files = {"data_files": {split: str(root / f"cls/{split}-*.tar") for split in ("train", "validation")}}
    data = load_image_data(
        **files, labels=[str(number) for number in range(10)], streaming=True, cache_dir=str(tmp_path)
    )
    assert data.num_train is None
    with pytest.raises(DataError, match="does not say how many images it has"):
        StreamedImages(data.train, TrainView(8), 4, 0, 10, data.num_train)


def test_no_training_images_or_nothing_to_validate_on(root, tmp_path):
    with pytest.raises(DataError, match="no split called 'train'; it has test"):
        load_image_data(
            dataset=str(Path(parquet_of(tmp_path / "only", "test", ["a", "b"])).parent), cache_dir=str(tmp_path)
        )
    with pytest.raises(DataError, match="must have an entry 'train', got validation"):
        load_image_data(data_files={"train": None, "validation": str(root / "int/*.parquet")}, cache_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"no images can be held out from a stream"):
        load_image_data(data_files=str(root / "int/*.parquet"), streaming=True, cache_dir=str(tmp_path))
    empty = parquet_of(tmp_path, "train", [0], ClassLabel(names=["a", "b"]))
    Dataset.from_parquet(empty, cache_dir=str(tmp_path)).select([]).to_parquet(empty)
    with pytest.raises(DataError, match="holds no images"):
        load_image_data(data_files=empty, streaming=True, held_out=0, cache_dir=str(tmp_path))


def test_splits_of_small_data_are_checked_and_decoded(root, few, tmp_path):
    splits = load_images()
    assert (len(splits["train"]), len(splits["test"])) == (1437, 360)
    assert splits["test"].features["label"].names == [str(digit) for digit in range(10)]
    splits = load_images(dataset=str(root / "named"))
    assert (len(splits["train"]), len(splits["test"])) == (50, 10)
    assert set(splits["train"].features) == {"image", "label"}
    assert np.array_equal(np.asarray(splits["test"][3]["image"]), np.asarray(few[53]["image"]))
    splits = load_images(train_dir=str(root / "folder/train"), held_out=0.3)
    assert (len(splits["train"]), len(splits["test"])) == (35, 15)
    shutil.copytree(root / "folder/train", tmp_path / "train")
    broken = next((tmp_path / "train").glob("*/*.png"))
    broken.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"1 of 50 files cannot be read: {broken}"):
        load_images(train_dir=str(tmp_path / "train"), held_out=0.3)


@pytest.mark.parametrize(
    ("share", "words"),
    [(2, "got 2"), (-0.1, "got -0.1"), (float("nan"), "got nan"), (0.001, "no image of some classes")],
)
def test_shares_that_cannot_be_held_out(share, words):
    with pytest.raises(DataError, match=words):
        load_image_data(held_out=share)


def test_a_split_is_stratified():
    names = ClassLabel(names=["a", "b"])
    data = Dataset.from_dict({"label": [0] * 30 + [1] * 10}, features=Features({"label": names}))
    parts = stratified_split(data, 0.2, "x")
    assert [sorted(part["label"][:]) for part in parts.values()] == [[0] * 24 + [1] * 8, [0] * 6 + [1] * 2]


def test_the_modules_need_no_extra_to_be_imported():
    modules = [path for path in Path(data_module.__file__).parent.glob("*.py") if path.stem != "web_dataset"]
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {one.partition(".")[0] for one in found} & {"datasets", "sklearn", "pyarrow", "accelerate"}
