"""Folders of images: which files count, what is a class and what a split, what is said of bad ones."""

import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage

from sima_hf.data.folders import check_readable, files_of_images
from sima_hf.data.sources import load_folder, load_image_data
from sima_hf.errors import DataError, MissingDependencyError
from tests.helpers.small_data import folders_with_an_image


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nothing"):
        load_image_data(train_dir=tmp_path / "nothing")
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="holds no images: it needs one sub-folder per class"):
        load_image_data(train_dir=tmp_path)
    for index in range(9):
        PILImage.new("RGB", (8, 8)).save(tmp_path / "cats" / f"{index}.png")
    with pytest.raises(DataError, match=r"one class only \(cats\)"):
        load_image_data(train_dir=tmp_path)
    (tmp_path / "dogs").mkdir()
    PILImage.new("RGB", (8, 8)).save(tmp_path / "dogs" / "0.PNG")
    with pytest.raises(DataError, match="fewer than two images of: dogs"):
        load_image_data(train_dir=tmp_path)
    assert load_image_data(train_dir=tmp_path, held_out=0).num_train == 10


def test_hidden_files_are_passed_over_and_links_followed(tmp_path):
    folders_with_an_image(tmp_path, "there/cats", "photos/dogs", "photos/.thumbnails")
    (tmp_path / "photos" / "cats").symlink_to(tmp_path / "there" / "cats")
    data = load_folder(tmp_path / "photos")
    assert data.labels == ["cats", "dogs"]
    assert [Path(row["path"]).name for row in data.train["image"]] == ["0.png", "0.png"]


def test_splits_are_no_classes(tmp_path):
    folders_with_an_image(tmp_path, "photos/train/cats", "photos/train/dogs", "photos/val/cats", "photos/val/dogs")
    with pytest.raises(DataError, match=r"is meant, \S+photos/train or \S+photos/val\.$"):
        load_folder(tmp_path / "photos")
    assert len(load_image_data(train_dir=tmp_path / "photos").validation) == 2
    assert load_folder(tmp_path / "photos" / "val").labels == ["cats", "dogs"]
    folders_with_an_image(tmp_path, "alone/Train/cats", "alone/Train/dogs")
    with pytest.raises(DataError, match=r"is meant, \S+alone/Train\.$"):
        load_image_data(train_dir=tmp_path / "alone")


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    folders_with_an_image(tmp_path, "toys/train", "toys/train/wooden", "toys/car")
    folders_with_an_image(tmp_path, "more/train/steam", "more/car")
    folders_with_an_image(tmp_path, "both/train", "both/val")
    assert load_folder(tmp_path / "toys").labels == load_folder(tmp_path / "more").labels == ["car", "train"]
    assert load_folder(tmp_path / "both").labels == ["train", "val"]


def test_unreadable_files_are_named(tmp_path):
    folders_with_an_image(tmp_path, "cats", "dogs")
    broken = tmp_path / "dogs" / "1.jpg"
    broken.write_bytes(b"broken")
    with pytest.raises(DataError, match=rf"1 of 3 files cannot be read: {broken} \(UnidentifiedImageError\)"):
        check_readable(files_of_images(tmp_path))


@pytest.mark.parametrize(("module", "package"), [("datasets", "datasets"), ("sklearn.datasets", "sklearn")])
def test_packages_that_are_not_installed(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}: pip install 'sima-hf\[train\]'$"):
        load_image_data()
