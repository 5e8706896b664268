"""Files that `datasets` reads: what is missing, broken or of another format is named."""

import pytest

from sima_hf.data.sources import load_image_data
from sima_hf.errors import DataError
from tests.helpers.digit_files import WORDS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "a", "train_dir": "b"}, "`dataset` and `train_dir`"),
        ({"train_dir": "b", "data_files": "x.parquet"}, "`train_dir` and `data_files`"),
        ({"validation_dir": "b"}, "`validation_dir`"),
        ({"data_files": "nothing/*.parquet"}, "There are no data files nothing/"),
        ({"data_files": "nothing/*.tar"}, "There are no data files nothing/"),
        ({"data_files": ["x.parquet", "y.tar"]}, r"all end in \.parquet, all in \.arrow, or all in \.tar"),
        ({"data_files": "x.csv"}, "got x.csv"),
        ({"data_files": {}, "dataset": "no/such/data set"}, "cannot be loaded"),
        ({"dataset": "sima-hf/no-such-set"}, "The data set sima-hf/no-such-set cannot be loaded"),
        ({"dataset": "sima-hf/no-such-set", "streaming": True}, "The data set sima-hf/no-such-set cannot be loaded"),
    ],
)
def test_bad_sources(arguments, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load_image_data(**arguments, cache_dir=str(tmp_path))


def test_broken_shards_are_named(root, tmp_path):
    broken = tmp_path / "train-0.tar"
    broken.write_bytes((root / "cls/train-0.tar").read_bytes()[:3000])
    (tmp_path / "x.parquet").write_bytes(b"broken")
    for files in (str(broken), str(tmp_path / "x.parquet")):
        with pytest.raises(DataError, match=rf"\({files}\) cannot be read: (ReadError|ArrowInvalid), \w+"):
            load_image_data(data_files=files, held_out=0, cache_dir=str(tmp_path))


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
