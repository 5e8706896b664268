"""Files of embeddings: what `datasets` reads, what they say of themselves, the same bytes for the same content."""

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from sima_hf.embedding.parts import Part, PartFacts, columns, finished_parts, read_facts, remove_leftovers, write_part
from sima_hf.errors import DataError


LABEL = ClassLabel(names=["ant", "bee"])


def write(folder, part, count=5, run="a", size=3, streams=False, label=LABEL):
    numbers = list(range(part.number * 5, part.number * 5 + count))
    rows = {
        "index": numbers,
        "path": [None if number % 3 == 0 else f"ä/{number}.png" for number in numbers],
        "label": [number % 2 for number in numbers],
        "shard": [part.shard] * count,
    }
    matrix = np.random.default_rng(part.number).standard_normal((count, size)).astype("float32")
    facts = PartFacts(run, part, count, ["x.png (broken)"], last=True)
    write_part(folder, facts, columns(size, label, streams), rows, matrix)
    return facts, matrix


def test_datasets_reads_what_was_written(tmp_path):
    (one, first), (two, second) = (write(tmp_path, Part(number), count) for number, count in ((0, 5), (1, 2)))
    data = load_dataset(
        "parquet", data_files=str(tmp_path / "part-*.parquet"), split="train", cache_dir=tmp_path / "c"
    )
    assert data["label"][:] == [0, 1, 0, 1, 0, 1, 0]
    assert data.features["label"].names == ["ant", "bee"]
    assert data["index"][:] == list(range(7))
    assert data["path"][:4] == [None, "ä/1.png", "ä/2.png", None]
    assert np.array_equal(data.with_format("numpy")["embedding"][:], np.concatenate([first, second]))
    assert finished_parts(tmp_path, "a") == {one.part: one, two.part: two}


def test_streams_have_the_number_of_the_shard_and_labels_may_be_missing(tmp_path):
    write(tmp_path, Part(1, shard=0), streams=True, label=None)
    data = load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", cache_dir=tmp_path / "c")
    assert data.column_names == ["shard", "index", "path", "embedding"]
    assert data["shard"][:] == [0] * 5
    assert (tmp_path / "part-00000-00001.parquet").is_file()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, Part(0))
        contents.append((tmp_path / name / "part-00000.parquet").read_bytes())
    assert contents[0] == contents[1]


def test_damaged_and_foreign_files(tmp_path):
    write(tmp_path, Part(0))
    write(tmp_path, Part(1))
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / ".part-00001.parquet-0123456789abcdef").write_bytes(b"half")
    assert read_facts(path) is None
    assert set(finished_parts(tmp_path, "a")) == {Part(1)}
    with pytest.raises(DataError, match=r"part-00001\.parquet holds embeddings that were made with other settings"):
        finished_parts(tmp_path, "b")
    remove_leftovers(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]


def test_a_part_of_which_nothing_could_be_read(tmp_path):
    write(tmp_path, Part(0))
    write(tmp_path, Part(1), count=0)
    data = load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", cache_dir=tmp_path / "c")
    assert len(data) == 5
    assert finished_parts(tmp_path, "a")[Part(1)].rows == 0
