"""The order of images: against the formula spelled out, and the same global batches on any number of processes."""

import itertools

import pytest
import torch

from sima_hf.data.randomness import combine
from sima_hf.data.sampling import Draw, EpochBatches
from sima_hf.errors import DataError


def expected(num_images, batch_size, seed, epoch, repeats, process, processes):
    """Position by position, from the definition."""
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(combine(seed, epoch))).tolist()
    repeated = [index for index in order for _ in range(repeats)][:num_images]
    draws = [Draw(index, combine(seed, epoch, position)) for position, index in enumerate(repeated)]
    together = batch_size * processes
    whole = [draws[start : start + together] for start in range(0, num_images - together + 1, together)]
    return [batch[process::processes] for batch in whole]


@pytest.mark.parametrize("num_images", [7, 24, 101])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_against_the_definition(num_images, repeats, processes):
    for process in range(processes):
        batches = EpochBatches(num_images, 2, 5, repeats, process, processes)
        for epoch in (0, 3):
            batches.set_epoch(epoch)
            found = list(batches)
            assert found == expected(num_images, 2, 5, epoch, repeats, process, processes)
            assert len(found) == len(batches) == num_images // (2 * processes)
            assert all(len(batch) == 2 for batch in found)


@pytest.mark.parametrize("repeats", [1, 3])
def test_any_number_of_processes_shares_the_same_global_batches(repeats):
    def global_batches(processes):
        parts = [list(EpochBatches(100, 8 // processes, 1, repeats, p, processes)) for p in range(processes)]
        return [set(itertools.chain(*batch)) for batch in zip(*parts, strict=True)]

    assert global_batches(1) == global_batches(2) == global_batches(4)
    assert len(global_batches(4)) == 12
    assert all(len(batch) == 8 for batch in global_batches(4))


def test_an_epoch_has_every_image_once_and_another_order_than_the_next():
    batches = EpochBatches(60, 5)
    one = [draw.index for batch in batches for draw in batch]
    batches.set_epoch(1)
    two = [draw.index for batch in batches for draw in batch]
    assert sorted(one) == sorted(two) == list(range(60))
    assert one != two
    assert len({draw.seed for batch in batches for draw in batch}) == 60


def test_repeats_draw_fewer_images_with_other_seeds():
    draws = [draw for batch in EpochBatches(60, 5, repeats=3) for draw in batch]
    assert len({draw.index for draw in draws}) == 20
    assert len({draw.seed for draw in draws}) == 60


def test_an_iterator_keeps_the_epoch_it_was_made_for():
    batches = EpochBatches(20, 4)
    whole = list(batches)
    iterator = iter(batches)
    batches.set_epoch(7)
    assert list(iterator) == whole


@pytest.mark.parametrize(("num_images", "batch_size", "processes"), [(0, 1, 1), (7, 8, 1), (15, 8, 2)])
def test_too_few_images(num_images, batch_size, processes):
    with pytest.raises(
        DataError, match=f"{num_images} images do not fill one batch of {batch_size} on each of {processes}"
    ):
        EpochBatches(num_images, batch_size, num_processes=processes)
