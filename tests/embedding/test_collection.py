"""Collections, labeled or not: every source, what is no collection, and fingerprints that tell one from another."""

import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from sima_hf.data.images import decode
from sima_hf.embedding.collection import open_collection
from sima_hf.errors import DataError
from tests.helpers.digit_files import WORDS


@pytest.fixture
def root(images):
    return images


def pixels(collection):
    return sorted(np.asarray(decode(row["image"])).tobytes() for row in collection.data)


def test_every_source_gives_the_same_images(root, tmp_path):
    known = open_collection(root / "folder" / "train")
    assert (known.num_images, known.streams, known.label.names) == (50, False, sorted(WORDS))
    for images, options, names in (
        (str(root / "named/train-*.parquet"), {}, list(WORDS)),
        ([str(root / f"int/train-{number}.parquet") for number in range(3)], {"streaming": True}, None),
        (str(root / "json-text/train-*.tar"), {"streaming": True}, None),
        (str(root / "cls/train-*.tar"), {}, None),
        (str(root / "named"), {"split": "train"}, list(WORDS)),
    ):
        found = open_collection(images, cache_dir=str(tmp_path), **options)
        assert pixels(found) == pixels(known), images
        assert found.streams == options.get("streaming", False)
        assert found.label.names == names if names else isinstance(found.label, Value)
        assert found.num_images == (None if "tar" in str(images) and found.streams else 50)
    assert open_collection(str(root / "named"), "validation", cache_dir=str(tmp_path)).num_images == 10
    assert open_collection(str(root / "json/train-*.tar"), cache_dir=str(tmp_path)).label_key == "label"
    assert open_collection("digits").num_images == 1797
    assert isinstance(open_collection("digits").label, ClassLabel)


def test_folders_without_classes_and_data_sets_at_hand(root, tmp_path):
    folder = tmp_path / "photos"
    (folder / "2024" / "may").mkdir(parents=True)
    for place in (folder, folder / "2024" / "may"):
        PILImage.new("RGB", (5, 4)).save(place / "a.png")
    found = open_collection(folder)
    assert (found.num_images, found.label, found.folder) == (2, None, folder)
    data = Dataset.from_dict({"picture": [PILImage.new("RGB", (5, 4))]}, features=Features({"picture": Image()}))
    found = open_collection(data)
    assert (found.num_images, found.label, found.data.column_names) == (1, None, ["image"])
    assert open_collection(data.to_iterable_dataset()).streams


def test_other_images_have_another_fingerprint(root, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(root / "folder" / "train", folder)
    first = open_collection(folder).fingerprint
    assert first == open_collection(root / "folder" / "train").fingerprint
    next(folder.glob("*/*.png")).rename(folder / "one" / "moved.png")
    assert open_collection(folder).fingerprint != first
    files = [str(root / f"named/train-{number}.parquet") for number in range(3)]
    one, two = (open_collection(found, cache_dir=str(tmp_path)).fingerprint for found in (files, files[:2]))
    assert one != two
    assert one == open_collection(files, streaming=True).fingerprint


def test_what_is_no_collection_is_explained(root, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a,b")
    Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "bare" / "a.parquet")
    for images, options, words in (
        (tmp_path / "empty", {}, "holds no images"),
        (tmp_path / "nowhere", {}, "There is no folder .*nowhere with images"),
        ("nowhere", {}, "There is no folder nowhere. The data set nowhere cannot be loaded"),
        (str(tmp_path / "a.csv"), {}, r"a folder, shards that end in .parquet, .*, got .*a.csv"),
        (root / "folder", {}, "does not hold the folders of the classes, but splits"),
        (str(tmp_path / "none-*.parquet"), {}, "There are no data files .*none-"),
        (str(tmp_path / "bare" / "a.parquet"), {}, "needs a column of images; it has a"),
        (str(root / "named"), {"split": "test"}, "no split called 'test'; it has train, validation"),
        (str(root / "int/train-*.parquet"), {"label_column": "kind"}, "has no column kind; it has image"),
        ([], {}, "got none"),
    ):
        with pytest.raises(DataError, match=words):
            open_collection(images, **options)
