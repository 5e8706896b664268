"""Files of JSON: what they hold, or a sentence that names the file."""

import pytest

from sima_hf.errors import PublishError
from sima_hf.folders.json_files import parse_json, read_json


def test_what_a_file_holds(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": [1, NaN]}')
    assert list(read_json(path)) == ["a"]
    path.write_text("[1, 2]")
    assert parse_json(path) == [1, 2]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"half', "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[1]", "list"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 9**5, ""),
    ],
)
def test_what_is_refused(tmp_path, content, word):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PublishError, match=rf"config\.json.*{word}"):
        read_json(path, finite=True)


def test_a_copy_is_named_as_its_original(tmp_path):
    (tmp_path / "copy.json").write_text("{")
    with pytest.raises(PublishError, match="original"):
        parse_json(tmp_path / "copy.json", copy_of=tmp_path / "original.json")
