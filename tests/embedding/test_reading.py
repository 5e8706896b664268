"""Batches of parts: every image once, whoever reads; the same batches whatever the number of processes and workers."""

import io
import itertools

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from sima_hf.embedding.collection import open_collection
from sima_hf.embedding.parts import Part, PartFacts
from sima_hf.embedding.reading import Reading, batches_of, parts_of
from sima_hf.errors import DataError


def gray(index):
    buffer = io.BytesIO()
    PILImage.new("L", (4, 4), index).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": f"{index}.png"}


def view(image):
    return torch.full((3, 2, 2), image.getpixel((0, 0))[0], dtype=torch.uint8)


def collection(count=43, shards=None, broken=()):
    """Image i is of gray i; some shards are empty where there are many."""
    rows = [gray(index) for index in range(count)]
    for index in broken:
        rows[index]["bytes"] = b"broken"
    features = Features({"image": Image(), "label": Value("int64")})
    data = Dataset.from_dict({"image": rows, "label": list(range(count))}, features=features)
    return open_collection(data if shards is None else data.to_iterable_dataset(num_shards=shards))


def read(images, finished=None, processes=1, workers=0, batch_size=4, part_size=10):
    """Batches by part, of all processes; a part has its batches in order, whoever reads it."""
    found = {}
    for process in range(processes):
        for batch in batches_of(
            images, Reading(batch_size, part_size, view, workers), finished or {}, process, processes
        ):
            found.setdefault(batch.part, []).append(batch)
    return found


def told(batches):
    return [
        (one.index, one.path, one.label, one.pixel_values[:, 0, 0, 0].tolist(), one.ends, one.last) for one in batches
    ]


def test_parts_and_batches_of_numbered_images():
    found = read(collection())
    assert list(found) == parts_of(43, 10) == [Part(number) for number in range(5)]
    for part, batches in found.items():
        numbers = list(range(43))[part.number * 10 : part.number * 10 + 10]
        assert [one.index for one in batches] == [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
        assert [one.ends for one in batches] == [False] * (len(batches) - 1) + [True]
        for one in batches:
            assert one.pixel_values[:, 0, 0, 0].tolist() == one.label == one.index
            assert one.path == [f"{number}.png" for number in one.index]


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_a_stream_gives_every_image_once_and_says_where_a_shard_ends(shards):
    found = read(collection(shards=shards))
    labels = [
        label
        for part in sorted(found, key=lambda part: (part.shard, part.number))
        for one in found[part]
        for label in one.label
    ]
    assert labels == list(range(43))
    for part, batches in found.items():
        assert batches[-1].ends
        assert batches[-1].last == (Part(part.number + 1, part.shard) not in found)
        assert batches[0].index[0] == part.number * 10


@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (3, 0), pytest.param(2, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shards", [None, 1, 3, 8])
def test_the_batches_do_not_depend_on_who_reads(processes, workers, shards):
    alone, shared = read(collection(shards=shards)), read(collection(shards=shards), {}, processes, workers)
    assert {part: told(batches) for part, batches in alone.items()} == {
        part: told(one) for part, one in shared.items()
    }


@pytest.mark.parametrize("shards", [None, 1, 3])
def test_what_is_finished_is_left_out(shards):
    images = collection(shards=shards)
    alone = read(images)
    facts = {part: PartFacts("a", part, 10, [], batches[-1].last) for part, batches in alone.items()}
    for size in range(len(alone) + 1):
        for kept in itertools.islice(itertools.combinations(alone, size), 4):
            rest = read(images, {part: facts[part] for part in kept}, processes=2)
            assert {part: told(one) for part, one in rest.items()} == {
                part: told(one) for part, one in alone.items() if part not in kept
            }


def test_finished_shards_are_not_read_again():
    images = collection(shards=3)
    facts = {part: PartFacts("a", part, 10, [], batches[-1].last) for part, batches in read(images).items()}

    def refuse(row):
        raise AssertionError("read")

    unreadable = open_collection(images.data.map(refuse, features=images.data.features))
    assert read(unreadable, facts) == {}


def test_unreadable_images_keep_their_place():
    plain, broken = read(collection()), read(collection(broken=(3, 42)))
    for part in plain:
        for one, other in zip(plain[part], broken[part], strict=True):
            assert one.index == other.index
            assert [bool(name) for name in other.unreadable] == [index in (3, 42) for index in one.index]
    (name,) = [name for name in broken[Part(0)][0].unreadable if name]
    assert name.startswith("3.png (")


def test_images_of_several_sizes_are_refused():
    def own_size(image):
        side = 2 + (image.getpixel((0, 0))[0] == 6)
        return torch.zeros(3, side, side, dtype=torch.uint8)

    with pytest.raises(DataError, match=r"one size, got \(3, 2, 2\), \(3, 3, 3\)"):
        list(batches_of(collection(), Reading(4, 10, own_size), {}))


def test_a_shard_that_cannot_be_read_is_named():
    images = collection(shards=3)

    def fail(row):
        raise OSError("gone")

    with pytest.raises(DataError, match=r"Shard 0 of 3 .*OSError: gone"):
        read(open_collection(images.data.map(fail, features=images.data.features)))
