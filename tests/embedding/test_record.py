"""The folder of a run: whose it is, what is refused, what --overwrite replaces."""

import json

import pytest

from sima_hf.embedding.record import open_folder, run_of, write_record
from sima_hf.errors import DataError


SETTINGS = {"model": "a", "pooling": "cls", "images": 50}


def test_a_new_folder_gets_a_record_and_the_same_settings_find_it(tmp_path):
    folder = tmp_path / "not" / "yet"
    record = open_folder(folder, SETTINGS)
    assert record == {"complete": False, "settings": SETTINGS, "sessions": []}
    write_record(folder, record | {"complete": True})
    assert open_folder(folder, dict(reversed(SETTINGS.items())))["complete"]
    assert run_of(SETTINGS) == run_of(dict(reversed(SETTINGS.items()))) != run_of(SETTINGS | {"images": 51})


def test_other_settings_are_refused_by_name_and_replaced_on_request(tmp_path):
    open_folder(tmp_path, SETTINGS)
    (tmp_path / "part-00000.parquet").write_bytes(b"theirs")
    (tmp_path / "notes.txt").write_text("mine")
    other = SETTINGS | {"model": "b", "images": 51}
    with pytest.raises(
        DataError, match=r"model is 'a' there and 'b' here, images is 50 there and 51 here.*--overwrite"
    ):
        open_folder(tmp_path, other)
    with pytest.raises(DataError, match="another run: its images are other files, or of other sizes"):
        open_folder(tmp_path, SETTINGS | {"fingerprint": "1"})
    assert (tmp_path / "part-00000.parquet").is_file()
    assert open_folder(tmp_path, other, overwrite=True)["settings"] == other
    assert sorted(one.name for one in tmp_path.iterdir()) == ["embedding.json", "notes.txt"]


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "embedding.json").write_text('{"settings": ')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "embedding.json").write_text(json.dumps({"settings": 3}))
    for name, words in (
        ("full", "is not empty and holds no embedding.json"),
        ("file", "must be a folder, got the file"),
        ("half", "cannot be read as JSON"),
        ("odd", "is not as `sima-hf embed` leaves it"),
    ):
        with pytest.raises(DataError, match=words):
            open_folder(tmp_path / name, SETTINGS, overwrite=True)
