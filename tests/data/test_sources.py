"""Every source of images, here and streamed: the same digits come out, and streams are read whole by workers."""

import multiprocessing

import datasets
import numpy as np
import pytest
from datasets import Dataset, Image, IterableDataset

from sima_hf.data.images import decode
from sima_hf.data.loading import training_loader
from sima_hf.data.sources import load_image_data
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import TrainView
from sima_hf.errors import DataError
from tests.helpers.digit_files import WORDS, few_digits, write_digits


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def few():
    return few_digits()


@pytest.fixture(scope="module")
def root(few, tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_digits(few, root)
    return root


@pytest.fixture
def sources(root):
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


SOURCES = (
    "folders in one",
    "two folders",
    "parquet",
    "parquet with numbers",
    "parquet with text",
    "data set",
    "imagefolder",
    "tar with numbers",
    "tar with text",
    "tar with json",
    "tar with text in json",
    "tar and folder",
)
NUMBERED = ("parquet with numbers", "tar with numbers", "tar with json")
IN_ORDER = ("parquet", "data set")


def contents(rows, labels):
    """What a set holds, whatever its order: pixels and the name of the class."""
    return sorted((np.asarray(decode(row["image"])).tobytes(), labels[row["label"]]) for row in rows)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_images(name, streaming, sources, few, tmp_path):
    data = load_image_data(**sources[name], streaming=streaming, cache_dir=str(tmp_path))
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
def test_streams_are_read_by_workers(name, num_workers, sources, few, tmp_path):
    data = load_image_data(**sources[name], streaming=True, cache_dir=str(tmp_path))
    images = StreamedImages(data.train, TrainView(8, scale=None, flip=0, shift=0), 5, 0, 20, data.num_train)
    batches = list(training_loader(images, 5, num_workers))
    wanted = sorted(
        np.asarray(row["image"].convert("RGB")).transpose(2, 0, 1).tobytes() for row in few.select(range(50))
    )
    found = sorted(pixels.numpy().tobytes() for batch in batches for pixels in batch["pixel_values"])
    # Three shards do not divide evenly, so the workers take turns: every image is there once.
    assert found == wanted


def test_a_data_set_that_describes_itself(few, tmp_path):
    """As on the Hub: configurations, names of the classes and numbers of images stand in the README's head."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for name, rows in {"train-0": range(20), "train-1": range(20, 40), "test": range(40, 50)}.items():
        few.select(rows).to_parquet(folder / "data" / f"{name}.parquet")
    names = "".join(f"            '{index}': {word}\n" for index, word in enumerate(WORDS))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: data/train-*\n"
        "  - split: test\n    path: data/test*\n"
        "- config_name: half\n  data_files:\n  - split: train\n    path: data/train-0*\n"
        "dataset_info:\n- config_name: all\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"        class_label:\n          names:\n{names}"
        "  splits:\n  - name: train\n    num_bytes: 4000\n    num_examples: 40\n"
        "  - name: test\n    num_bytes: 1000\n    num_examples: 10\n---\n",
        encoding="utf-8",
    )
    for streaming in (False, True):
        data = load_image_data(dataset=str(folder), config_name="all", streaming=streaming)
        assert data.labels == list(WORDS)
        assert (data.num_train, len(data.validation)) == (40, 10)
        assert sorted(row["label"] for row in data.train) == sorted(few["label"][:40])
    assert load_image_data(dataset=str(folder), config_name="half", held_out=0).num_train == 20
    with pytest.raises(DataError, match=r"cannot be loaded: .*third"):
        load_image_data(dataset=str(folder), config_name="third")


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
