"""What is a place on somebody's disk, what is a name, and what is shown of a place."""

import pytest

from sima_hf.folders.local_paths import (
    data_and_split,
    is_place,
    shown_place,
    stays_in,
    without_folders,
    without_places,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/birds", "birds"),
        ("/home/alice/birds/", "birds"),
        ("~/secret/birds", "birds"),
        ("../secret/birds", "birds"),
        ("./birds", "birds"),
        ("C:\\Users\\alice\\birds", "birds"),
        ("C:/Users/alice/birds", "birds"),
        ("/a/my, own/birds", "birds"),
        ("/a/one.parquet, /b/two.parquet", "one.parquet, two.parquet"),
        ("org/name, /b/two", "org/name, two"),
        ("/data/photos/val", "photos, val"),
        ("/data/photos/train/", "photos, train"),
        ("../photos/Test", "photos, Test"),
        ("/x/birds/images", "birds, images"),
        ("/x/birds/data/images/val", "birds, val"),
        ("/x/birds/val/images", "birds, val"),
        ("C:\\Users\\alice\\birds\\val", "birds, val"),
        ("/data/train", "train"),
        ("/home/alice/val", "val"),
        ("/Users/alice/data", "data"),
        ("C:\\Users\\alice\\images", "images"),
        ("C:\\val", "val"),
        ("~/val", "val"),
        ("../val", "val"),
        ("/root/val", "val"),
        ("/a/train/one.parquet, /photos/val", "one.parquet, photos, val"),
        ("/", "a folder"),
        ("..", "a folder"),
    ],
)
def test_places_are_shown_by_their_last_part(text, shown):
    assert is_place(text) or ", /" in text
    assert shown_place(text) == shown


@pytest.mark.parametrize("text", ["org/name", "digits", "ImageNet, 1k classes", "...", "0.5 / 2", "https://hf.co/a/b"])
def test_names_stay(text):
    assert not is_place(text)
    assert shown_place(text) == text
    assert without_places([text]) == [text]


def test_a_name_that_is_a_folder_here_is_a_place(tmp_path, monkeypatch):
    (tmp_path / "secret" / "birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "secret" / "birds")
    assert shown_place(".", here=True) == "birds"
    monkeypatch.chdir(tmp_path)
    assert shown_place("secret/birds", here=True) == "birds"
    assert shown_place("secret/birds") == "secret/birds"
    assert shown_place("x" * 5000, here=True) == "x" * 5000  # longer than any file's name


def test_a_split_on_this_machine_is_shown_with_the_folder_above(tmp_path, monkeypatch):
    (tmp_path / "photos" / "val").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    assert shown_place("val", here=True) == shown_place("./val/", here=True) == "photos, val"
    assert shown_place("val") == "val"
    assert shown_place("photos, val") == "photos, val"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("photos, val", ("photos", "val")),
        ("photos, train, validation split", ("photos, train", "validation")),
        ("digits, 20% held out", ("digits", "20% held out")),
        ("birds, images", ("birds, images", None)),
        ("one.parquet, two.parquet", ("one.parquet, two.parquet", None)),
        ("val", ("val", None)),
        ("", ("", None)),
    ],
)
def test_data_and_its_split(text, found):
    assert data_and_split(text) == found


def test_paths_in_a_sentence():
    text = "cannot read '/home/alice/birds/one.png' (/x/y.png)"
    assert without_folders(text) == "cannot read 'one.png' (y.png)"
    assert without_folders("/home/al ice/birds/a/one.png: bad", "/home/al ice/birds") == "a/one.png: bad"
    assert without_folders("a / b, 3/4 and http://host/path/x") == "a / b, 3/4 and http://host/path/x"


def test_classes_may_begin_with_a_slash():
    content = {"per_class": [{"label": "/m/01g317"}], "model": "/m/run", "base_model": "/m/base", "n": 3}
    assert without_places(content) == {"per_class": [{"label": "/m/01g317"}], "model": "run", "n": 3}


def test_names_of_entries_are_scrubbed_and_none_is_lost():
    content = {
        "/home/alice/birds": 1,
        "/home/bob/birds": {"~/x/y": [2]},
        "birds (2)": 3,
        "loss": 4,
        "per_class": {"/m/0": 5},
    }
    assert without_places(content) == {
        "birds": 1,
        "birds (3)": {"y": [2]},
        "birds (2)": 3,
        "loss": 4,
        "per_class": {"/m/0": 5},
    }
    assert without_places({"one": 1, "/a/one": 2}) == {"one": 1, "one (2)": 2}


def test_links_in_the_hubs_cache(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("blobs", "other"):
        (snapshot.parents[2] / name).mkdir()
        (snapshot.parents[2] / name / "1").write_text(name)
        (snapshot / name).symlink_to(f"../../{name}/1")
    (snapshot / "here").symlink_to("blobs")
    assert stays_in(snapshot / "blobs", snapshot)
    assert stays_in(snapshot / "here", snapshot)
    assert not stays_in(snapshot / "other", snapshot)
    assert not stays_in(snapshot / "blobs", snapshot.parent)
