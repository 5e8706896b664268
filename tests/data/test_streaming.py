"""Streams: the order against a plain simulation, every image once, whole batches in turn, exact going on, broken images."""

import io
import itertools
import pickle
import random

import accelerate
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset
from PIL import Image as PILImage

from sima_hf.data.images import NO_LABEL
from sima_hf.data.loading import training_loader
from sima_hf.data.randomness import combine
from sima_hf.data.streaming import StreamedImages, groups_of_readers, interleaved, shuffled
from sima_hf.errors import DataError


FEATURES = Features({"image": Image(decode=False), "label": ClassLabel(names=["even", "odd"])})


def gray(index):
    buffer = io.BytesIO()
    PILImage.new("L", (4, 4), index).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": f"{index}.png"}


def stream(count=60, shards=4, broken=()):
    """Image i is of gray i; a shard holds images that follow one another."""
    rows = [gray(index) for index in range(count)]
    for index in broken:
        rows[index]["bytes"] = b"broken"
    labels = [index % 2 for index in range(count)]
    return Dataset.from_dict({"image": rows, "label": labels}, features=FEATURES).to_iterable_dataset(
        num_shards=shards
    )


class Record:
    """A view that shows the image and counts how many it was asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image, seed):
        self.calls += 1
        return torch.full((3, 2, 2), image.getpixel((0, 0))[0], dtype=torch.uint8)


def images(data, batch_size=5, seed=1, buffer_size=7, num_images=60, **settings):
    return StreamedImages(data, Record(), batch_size, seed, buffer_size, num_images, **settings)


def loader(streamed, num_workers=0):
    names = ("batch_size", "seed", "repeats", "process_index", "num_processes")
    return training_loader(streamed, num_workers=num_workers, **{name: getattr(streamed, name) for name in names})


def shown(batch):
    """A batch as numbers that can be compared: the images, and the seeds of their views."""
    return batch["pixel_values"][:, 0, 0, 0].tolist(), batch["seeds"].tolist(), batch["labels"].tolist()


def simulated(shards, seed, epoch, reader, readers, workers, buffer_size, count):
    """The images that a reader yields, with lists in place of iterators."""
    found, turn = [], 0
    while len(found) < count:
        common, turn = combine(seed, epoch, turn), turn + 1
        order = list(range(len(shards)))
        random.Random(common).shuffle(order)
        groups = groups_of_readers(len(shards), readers)
        waiting = [list(shards[index]) for place, index in enumerate(order) if place % groups == reader % groups]
        opened, together = [waiting.pop(0) for _ in range(min(4, len(waiting)))], []
        while opened:
            for place in range(len(opened)):
                if opened[place]:
                    together.append(opened[place].pop(0))
                elif waiting:
                    opened[place] = waiting.pop(0)
            opened = [one for one in opened if one or waiting]
        share = together[reader // groups :: readers // groups]
        rng, buffer = random.Random(combine(common, reader)), share[: buffer_size // workers]
        for one in share[buffer_size // workers :]:
            place = rng.randrange(len(buffer))
            found.append(buffer[place])
            buffer[place] = one
        rng.shuffle(buffer)
        found += buffer
    return found[:count]


@pytest.mark.parametrize(
    ("shards", "workers", "processes", "repeats"),
    [(4, 1, 1, 1), (4, 2, 1, 1), (4, 2, 2, 1), (3, 2, 1, 3), (1, 3, 1, 1), (5, 2, 2, 2), (9, 2, 1, 1), (20, 2, 2, 1)],
)
def test_the_order_is_the_one_of_the_definition(shards, workers, processes, repeats):
    data, epoch, size = stream(60, shards), 2, 3
    by_shard = np.array_split(range(60), shards)
    for process in range(processes):
        streamed = images(data, size, process_index=process, num_processes=processes, repeats=repeats)
        for worker in range(workers):
            mine = len(range(worker, 60 // (size * processes), workers)) * size
            found = list(itertools.islice(streamed._samples(epoch, 0, worker, workers), mine + 1))
            order = simulated(by_shard, 1, epoch, process * workers + worker, processes * workers, workers, 7, mine)
            assert [sample["pixel_values"][0, 0, 0].item() for sample in found] == [
                order[position // repeats] for position in range(mine)
            ]
            assert [sample["seeds"] for sample in found] == [
                combine(1, epoch, process, worker, position) for position in range(mine)
            ]


@pytest.mark.parametrize(("shards", "workers", "processes"), [(4, 0, 1), (4, 2, 2), (1, 2, 1), (3, 0, 2), (6, 2, 1)])
def test_an_epoch_has_every_image_once_where_the_shares_are_equal(shards, workers, processes):
    data, seen = stream(60, shards), []
    for process in range(processes):
        streamed = images(data, process_index=process, num_processes=processes)
        batches = list(loader(streamed, workers))
        assert len(batches) == len(loader(streamed, workers)) == 60 // (5 * processes)
        assert all(len(batch["labels"]) == 5 for batch in batches)
        seen += [index for batch in batches for index in shown(batch)[0]]
        assert all(label == index % 2 for batch in batches for index, _, label in zip(*shown(batch), strict=True))
    assert sorted(seen) == list(range(60))
    assert seen != sorted(seen)


def test_unequal_shares_change_neither_the_number_of_batches_nor_the_images_in_the_long_run():
    assert groups_of_readers(9, 2) == 2
    streamed, counts = images(stream(60, 9), batch_size=4), [0] * 60
    for epoch in range(20):
        streamed.set_epoch(epoch)
        found = [sample for worker in range(2) for sample in streamed._samples(epoch, 0, worker, 2)]
        assert len(found) == 60
        for sample in found:
            counts[sample["pixel_values"][0, 0, 0].item()] += 1
    assert min(counts) >= 14
    assert max(counts) <= 26


def test_a_stream_shorter_than_the_epoch_goes_round_again_in_another_order():
    found = [index for batch in loader(images(stream(20, 2), num_images=60)) for index in shown(batch)[0]]
    assert [sorted(found[start : start + 20]) for start in (0, 20, 40)] == [list(range(20))] * 3
    assert len({tuple(found[start : start + 20]) for start in (0, 20, 40)}) == 3


def test_epochs_differ_and_come_again():
    streamed = images(stream())
    one = [shown(batch) for batch in loader(streamed, 2)]
    batches = loader(streamed, 2)
    batches.set_epoch(1)  # reaches the workers
    two = [shown(batch) for batch in batches]
    batches.set_epoch(0)
    assert [shown(batch) for batch in batches] == one
    assert sorted(itertools.chain(*(indices for indices, _, _ in two))) == list(range(60))
    assert not {seed for _, seeds, _ in one for seed in seeds} & {seed for _, seeds, _ in two for seed in seeds}


def test_repeats_are_views_of_one_image_after_another():
    batches = [shown(batch) for batch in loader(images(stream(), batch_size=6, repeats=3))]
    indices = [index for indices, _, _ in batches for index in indices]
    assert indices[0::3] == indices[1::3] == indices[2::3]
    assert len(set(indices)) == 20
    assert len({seed for _, seeds, _ in batches for seed in seeds}) == 60


@pytest.mark.parametrize(
    ("num_workers", "repeats", "done"),
    [(0, 1, 1), (0, 1, 6), (0, 1, 11), (0, 3, 1), (0, 3, 5), (0, 3, 6), (2, 1, 5), (2, 3, 6)],
)
def test_going_on_in_the_middle_is_as_if_nothing_had_been(num_workers, repeats, done):
    whole = [shown(batch) for batch in loader(images(stream(), repeats=repeats), num_workers).batches(3)]
    assert len(whole) == 12
    resumed = images(stream(), repeats=repeats)
    assert [shown(batch) for batch in loader(resumed, num_workers).batches(3, start=done)] == whole[done:]
    assert [shown(batch) for batch in loader(resumed, num_workers).batches(3)] == whole  # once only


@pytest.mark.parametrize("num_workers", [0, 2])
def test_going_on_as_the_trainer_does(num_workers):
    whole = loader(images(stream()), num_workers)
    wanted = {epoch: [shown(batch) for batch in whole.batches(epoch)] for epoch in (2, 3)}
    streamed = images(stream())
    batches = loader(streamed, num_workers)
    streamed.start_at(2, 5)
    skipping = accelerate.skip_first_batches(batches, 5)
    assert len(skipping) == 7
    assert [shown(batch) for batch in skipping] == wanted[2][5:]
    batches.set_epoch(3)
    assert [shown(batch) for batch in batches] == wanted[3]


def test_what_is_passed_over_is_neither_decoded_nor_augmented():
    streamed = images(stream())
    streamed.start_at(0, 9)
    batches = list(loader(streamed))
    assert streamed.view.calls == 15
    assert len(batches) == 12
    assert batches[8]["pixel_values"].shape == (5, 3, 1, 1)
    assert batches[8]["labels"].tolist() == [NO_LABEL] * 5
    assert batches[9]["pixel_values"].shape == (5, 3, 2, 2)
    assert batches[8].keys() == batches[9].keys()
    streamed.start_at(0, 100)
    assert all(batch["pixel_values"].shape[-1] == 1 for batch in loader(streamed))


def test_another_epoch_forgets_where_to_start():
    streamed = images(stream())
    streamed.start_at(4, 3)
    streamed.set_epoch(4)  # as accelerate's loaders do before they begin
    assert next(iter(streamed))["labels"] == NO_LABEL
    streamed.set_epoch(5)
    assert next(iter(streamed))["labels"] != NO_LABEL


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_replaced_by_the_next_and_named(num_workers):
    broken = (3, 17, 18, 40)
    data = stream(broken=broken)
    batches = list(loader(images(data, max_unreadable=5), num_workers))
    indices = [index for batch in batches for index in shown(batch)[0]]
    assert len(indices) == 60
    assert set(indices) == set(range(60)) - set(broken)
    named = {name.partition(" (")[0] for batch in batches for name in batch["unreadable"]}
    assert named == {f"{index}.png" for index in broken}
    resumed = [shown(batch) for batch in loader(images(data, max_unreadable=5), num_workers).batches(0, start=4)]
    assert resumed == [shown(batch) for batch in batches[4:]]


def test_more_broken_images_than_allowed_end_in_a_sample_without_a_label():
    streamed = images(stream(broken=range(60)), max_unreadable=2)
    sample = next(iter(streamed))
    assert sample["labels"] == NO_LABEL
    assert len(sample["unreadable"]) == 3


def test_a_shard_that_cannot_be_read():
    def rows(shards):
        for shard in shards:
            yield {"image": gray(shard), "label": 0}
            if shard == 1:
                raise OSError("unexpected end of data")

    data = IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 1, 2]}, features=FEATURES)
    with pytest.raises(DataError, match=r"Shard 1 of 3 .* \(OSError: unexpected end of data\); remove or replace it"):
        list(images(data, batch_size=1, num_images=3))


def test_more_readers_than_images():
    with pytest.raises(DataError, match=r"4 readers .* are too many for this stream of 1 shards"):
        list(images(stream(3, 1), batch_size=1)._samples(0, 0, 3, 4))


def test_the_number_of_images_must_be_known():
    with pytest.raises(DataError, match=r"`num_images` \(--num_train_images"):
        images(stream(), num_images=None)
    with pytest.raises(DataError, match="do not fill one batch"):
        images(stream(), num_images=4)


def test_a_copy_for_another_process_is_the_same_stream():
    streamed = images(stream())
    streamed.start_at(1, 2)
    copy = pickle.loads(pickle.dumps(streamed))
    assert [sample["seeds"] for sample in copy] == [sample["seeds"] for sample in streamed]


@pytest.mark.parametrize("readers", range(1, 13))
def test_readers_share_no_more_than_they_must(readers):
    for shards in (1, 2, 3, 5, 8, 12, 24, 47, 48, 294):
        groups = groups_of_readers(shards, readers)
        fair = [g for g in range(1, readers + 1) if readers % g == 0 and (shards % g == 0 or shards >= 4 * g)]
        assert groups == max(fair)


def test_interleaving_and_shuffling_lose_nothing():
    parts = [
        [f"{name}{number}" for number in range(length)]
        for name, length in zip("abcdefg", (3, 0, 5, 1, 4, 0, 2), strict=True)
    ]
    mixed = list(interleaved(iter(parts), 3))
    assert sorted(mixed) == sorted(itertools.chain(*parts))
    assert mixed[:2] == ["a0", "c0"]
    for size in (1, 4, 15, 40):
        assert sorted(shuffled(range(15), size, 3)) == list(range(15))
    assert list(shuffled(range(15), 1, 3)) == list(range(15))
    places = [list(shuffled(range(40), 10, seed)).index(0) for seed in range(300)]
    assert 6 < sum(places) / 300 < 14  # a geometric wait in a buffer of ten, cut at the end
    assert min(places) == 0
