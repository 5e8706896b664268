"""Random numbers from integers: the published hash, the vectorized form, and the distributions."""

import math

import pytest
import torch

from sima_hf.data.randomness import combine, combine_each, normal, uniform


EXTREMES = [0, 1, -1, 12345, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]


def splitmix64(state):
    """One number of the generator as its authors publish it, literally, with unsigned 64-bit arithmetic."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z // 2**30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z // 2**27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z // 2**31)


def test_the_hash_is_splitmix64():
    # The first numbers that the published generator gives for the seed 0.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4
    for number in EXTREMES:
        assert combine(number) == splitmix64(number % 2**64) // 2
        assert combine(number, 7) == splitmix64(splitmix64(number % 2**64) ^ 7) // 2


def test_the_vectorized_form_is_the_same():
    seeds = torch.tensor(EXTREMES)
    for salt in ((), (3,), (-1, 2**63 - 1), (5, 0, -(2**63))):
        assert combine_each(seeds, *salt).tolist() == [combine(seed, *salt) for seed in EXTREMES]
    pairs = combine_each(seeds[:, None], 4, seeds)
    assert pairs.tolist() == [[combine(a, 4, b) for b in EXTREMES] for a in EXTREMES]


def test_order_and_length_matter_and_neighbors_differ():
    hashes = {combine(*numbers) for numbers in ((), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (3,), (0, 3))}
    assert len(hashes) == 8
    assert len({combine(seed, epoch) for seed in range(50) for epoch in range(50)}) == 2500
    assert all(0 <= combine(number) < 2**63 for number in EXTREMES)


def test_uniform_numbers_are_the_upper_bits_of_the_hash():
    seeds = torch.tensor(EXTREMES)
    found = uniform(seeds, 9, 8, count=3)
    assert found.shape == (len(EXTREMES), 3)
    assert found.dtype == torch.float64
    assert found.tolist() == [[(combine(seed, 9, 8, j) >> 10) / 2**53 for j in range(3)] for seed in EXTREMES]


def test_uniform_numbers_are_uniform():
    """Chi-squared of 64 bins for 64,000 numbers: mean 63, standard deviation 11."""
    for numbers in (uniform(torch.arange(64000), count=1), uniform(torch.tensor([11]), count=64000)):
        counts = torch.bincount((numbers.flatten() * 64).long(), minlength=64).double()
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert 63 - 50 < ((counts - 1000).square() / 1000).sum() < 63 + 50


def test_neighboring_seeds_salts_and_positions_are_independent():
    """Correlations of 20,000 independent pairs have a standard deviation of 0.007."""
    seeds = torch.arange(20000)
    numbers = [uniform(seeds, count=2)[:, 0], uniform(seeds, count=2)[:, 1], uniform(seeds + 1, count=2)[:, 0]]
    numbers += [uniform(seeds, 1, count=1)[:, 0], uniform(2 * seeds, count=1)[:, 0], normal(seeds, count=1)[:, 0]]
    correlations = torch.corrcoef(torch.stack(numbers))
    assert (correlations - torch.eye(6)).abs().max() < 0.035
    # The seeds' shift by one is a shift of the numbers, no more.
    assert torch.equal(numbers[2][:-1], numbers[0][1:])


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    numbers = normal(torch.arange(20000), 2, count=3)
    assert numbers.shape == (20000, 3)
    flat = numbers.flatten()
    for power, moment, deviation in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
        assert abs(flat.pow(power).mean() - moment) < 5 * deviation / math.sqrt(60000)
    assert abs((flat.abs() < 1).double().mean() - math.erf(1 / math.sqrt(2))) < 0.01
    assert torch.equal(flat * 2**32, (flat * 2**32).round())


def test_normal_numbers_are_those_of_box_and_muller():
    seeds = torch.tensor(EXTREMES)
    found = normal(seeds, 5, count=2)
    for row, numbers in zip(found.tolist(), uniform(seeds, 5, count=4).tolist(), strict=True):
        for j in range(2):
            expected = math.sqrt(-2 * math.log(1 - numbers[j])) * math.cos(2 * math.pi * numbers[2 + j])
            assert row[j] == pytest.approx(expected, abs=2**-32)


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_batch_gets_what_its_parts_get(draw):
    seeds = combine_each(torch.arange(101))
    whole = draw(seeds, 3, count=7)
    for size in (1, 2, 13):
        assert torch.equal(torch.cat([draw(part, 3, count=7) for part in seeds.split(size)]), whole)
    state = torch.get_rng_state()
    draw(seeds, count=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_more_numbers_begin_with_the_same_ones():
    seeds = torch.arange(5)
    assert torch.equal(uniform(seeds, 1, count=9)[:, :4], uniform(seeds, 1, count=4))


def test_wrong_seeds_are_refused():
    with pytest.raises(TypeError, match=r"torch\.int64, got torch\.int32"):
        uniform(torch.tensor([1], dtype=torch.int32), count=1)
    with pytest.raises(TypeError, match="got list"):
        normal([1, 2], count=1)
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        uniform(torch.zeros(2, 2, dtype=torch.int64), count=1)


@pytest.mark.gpu
def test_the_hash_is_the_same_on_a_gpu():
    seeds = torch.tensor(EXTREMES)
    assert torch.equal(combine_each(seeds.cuda(), 3, -4).cpu(), combine_each(seeds, 3, -4))
    assert torch.equal(uniform(seeds.cuda(), 3, count=2), uniform(seeds, 3, count=2))
