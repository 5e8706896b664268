"""Random numbers that are functions of integers: no state, no global generator, the same on every machine.

What is random about an image's view comes from the seed that its draw got, by the hash of splitmix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014). So it does not matter which worker or process makes the view,
in what order, or whether the run was interrupted in between. A salt (one or more integers) separates the uses of one seed.
"""

import math

import torch


# Increment and multipliers of splitmix64, as unsigned 64-bit numbers.
STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = (1 << 64) - 1


def combine(*numbers: int) -> int:
    """Hash of a sequence of integers; order and length matter.

    Args:
        numbers: integers of any size and sign; 64 bits of each count.

    Returns:
        A number in [0, 2^63), which fits into int64 and serves as a seed of torch and numpy alike.
    """
    state = 0
    for number in numbers:
        state = ((state ^ (number & WORD)) + STEP) & WORD
        state = ((state ^ (state >> 30)) * FIRST) & WORD
        state = ((state ^ (state >> 27)) * SECOND) & WORD
        state ^= state >> 31
    return state >> 1


def combine_each(seeds: torch.Tensor, *salt: int | torch.Tensor) -> torch.Tensor:
    """`combine(seed, *salt)` for many seeds at once.

    Args:
        seeds: int64 tensor of any shape.
        salt: integers, or int64 tensors that broadcast with `seeds`.

    Returns:
        int64 tensor of the broadcast shape, on the device of `seeds`, values in [0, 2^63).

    Raises:
        TypeError: the seeds are not int64.
    """
    _check(seeds)
    state = torch.zeros_like(seeds)
    for number in (seeds, *salt):
        # Products and sums wrap around in int64 as they do in uint64; only the shifts need care.
        state = (state ^ (number if isinstance(number, torch.Tensor) else _signed(number))) + _signed(STEP)
        state = (state ^ _shifted(state, 30)) * _signed(FIRST)
        state = (state ^ _shifted(state, 27)) * _signed(SECOND)
        state = state ^ _shifted(state, 31)
    return _shifted(state, 1)


def uniform(seeds: torch.Tensor, *salt: int, count: int) -> torch.Tensor:
    """Numbers evenly distributed in [0, 1), `count` for each seed.

    Entry `[i, j]` is made of the upper 53 bits of `combine(seeds[i], *salt, j)`: exact, so the same on every machine.

    Args:
        seeds: int64, (B,), on any device; one that is not the CPU is waited for.
        salt: integers that tell this use of the seeds from others.
        count: how many numbers each seed gives.

    Returns:
        float64, (B, count), on the CPU.

    Raises:
        TypeError: the seeds are not int64.
        ValueError: they are not of shape (B,).
    """
    _check(seeds)
    if seeds.ndim != 1:
        raise ValueError(f"Seeds must have shape (B,), one for each image, got {tuple(seeds.shape)}.")
    bits = combine_each(seeds.cpu()[:, None], *salt, torch.arange(count))
    return (bits >> 10).double() * 2.0**-53


def normal(seeds: torch.Tensor, *salt: int, count: int) -> torch.Tensor:
    """Numbers of the standard normal distribution, `count` for each seed, by the method of Box and Muller (1958).

    Rounded to multiples of 2^-32, because the last bits of logarithm and cosine differ between processors.

    Args, raises: those of `uniform`.

    Returns:
        float64, (B, count), on the CPU; magnitudes up to 8.6.
    """
    radius, angle = uniform(seeds, *salt, count=2 * count).chunk(2, dim=1)
    value = torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)
    return torch.round(value * 2.0**32) * 2.0**-32


def _check(seeds: torch.Tensor) -> None:
    if not isinstance(seeds, torch.Tensor) or seeds.dtype != torch.int64:
        came = seeds.dtype if isinstance(seeds, torch.Tensor) else type(seeds).__name__
        raise TypeError(f"Seeds must be a tensor of torch.int64, got {came}: make it with torch.tensor(seeds).")


def _signed(number: int) -> int:
    """The int64 with the lowest 64 bits of an integer."""
    number &= WORD
    return number - (1 << 64) if number >> 63 else number


def _shifted(value: torch.Tensor, places: int) -> torch.Tensor:
    """Shift to the right that fills up with zeros, where torch's own repeats the sign."""
    return (value >> places) & ((1 << (64 - places)) - 1)
