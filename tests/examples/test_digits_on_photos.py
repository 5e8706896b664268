"""The small dense data set: masks and boxes that agree, nothing in both splits, the same files from the same seed."""

import json
import sys

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from tests.helpers.script_runs import EXAMPLES


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import digits_on_photos

        yield digits_on_photos


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    place = tmp_path_factory.mktemp("dense") / "digits-on-photos"
    script.write(place, images=30, validation_images=11, size=64, seed=3)
    return place


def test_masks_and_boxes_say_the_same(folder, tmp_path):
    """Each box is the extent of its digit's pixels in the mask, and its area their number; boxes do not overlap."""
    data = load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 30, "validation": 11}
    assert isinstance(data["train"].features["objects"]["category"].feature, ClassLabel)
    counts = set()
    for rows in data.values():
        for row in rows:
            mask, left_over = np.asarray(row["label"]), np.asarray(row["label"]).copy()
            assert row["image"].size == row["label"].size == (row["width"], row["height"]) == (64, 64)
            assert row["image"].mode == "RGB"
            objects = row["objects"]
            counts.add(len(objects["id"]))
            for (x, y, width, height), area, category in zip(
                objects["bbox"], objects["area"], objects["category"], strict=True
            ):
                window = mask[int(y) : int(y + height), int(x) : int(x + width)]
                inside = window == 1 + category
                assert inside.sum() == area == (window > 0).sum()
                assert inside.any(axis=0)[[0, -1]].all()
                assert inside.any(axis=1)[[0, -1]].all()
                left_over[int(y) : int(y + height), int(x) : int(x + width)] = 0
            assert not left_over.any()
    assert counts >= {1, 2}


def test_names_of_the_classes(folder):
    names = json.loads((folder / "id2label.json").read_text(encoding="utf-8"))
    assert names == {"0": "background", **{str(1 + digit): str(digit) for digit in range(10)}}


def test_same_seed_same_files(script, folder, tmp_path):
    for seed, same in ((3, True), (4, False)):
        script.write(tmp_path / str(seed), images=30, validation_images=11, size=64, seed=seed)
        for split in ("train.parquet", "validation.parquet"):
            assert ((tmp_path / str(seed) / split).read_bytes() == (folder / split).read_bytes()) is same


def test_it_leaves_what_is_there_and_nothing_half_done(script, folder, tmp_path, monkeypatch):
    with pytest.raises(FileExistsError, match="is there already; name a new folder"):
        script.write(folder)
    with pytest.raises(ValueError, match="size of 32 pixels or more, got 4 and 2 images of 16 pixels"):
        script.write(tmp_path / "new", images=4, validation_images=2, size=16)

    def breaks(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "paint", breaks)
    with pytest.raises(KeyboardInterrupt):
        script.write(tmp_path / "new", images=4, validation_images=2, size=32)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_sentences(script, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["digits_on_photos.py", str(folder)])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("digits_on_photos: ")
