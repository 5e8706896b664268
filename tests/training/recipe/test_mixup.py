"""Mixup, CutMix and soft targets against the literal formulas, pixel by pixel."""

import math

import pytest
import torch

from sima_hf.training.recipe.mixup import Mix, draw_mix, mix_images, mix_targets, soft_targets


def draws(count, *arguments, height=20, width=31):
    return [draw_mix(torch.tensor([number, number + 1]), height, width, *arguments) for number in range(count)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_are_those_of_label_smoothing(smoothing):
    labels = torch.tensor([0, 6, 3])
    found = soft_targets(labels, 7, smoothing)
    expected = (1 - smoothing) * torch.nn.functional.one_hot(labels, 7).double() + smoothing / 7
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_mixup_mixes_image_and_target_alike(count):
    images, targets, mix = torch.randn(count, 3, 5, 4), soft_targets(torch.arange(count), 5, 0.1), Mix(0.3, None)
    mixed, mixed_targets = mix_images(images.clone(), mix), mix_targets(targets, mix)
    for i in range(count):
        j = count - 1 - i
        torch.testing.assert_close(
            mixed[i].double(), 0.3 * images[i].double() + 0.7 * images[j].double(), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(mixed_targets[i], 0.3 * targets[i] + 0.7 * targets[j])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(count))


@pytest.mark.parametrize("count", [2, 5])
def test_cutmix_takes_the_box_from_the_partner(count):
    images, mix = torch.randn(count, 3, 5, 7), Mix(1 - 3 * 4 / 35, (1, 4, 2, 6))
    mixed = mix_images(images.clone(), mix)
    for i in range(count):
        for row in range(5):
            for column in range(7):
                source = count - 1 - i if 1 <= row < 4 and 2 <= column < 6 else i
                assert torch.equal(mixed[i, :, row, column], images[source, :, row, column])


def test_cutmix_share_is_that_of_the_pixels():
    for mix in draws(500, 0.0, 1.0):
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 31
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 620)
    boxes = [mix.box for mix in draws(500, 0.0, 1.0)]
    assert min(box[0] for box in boxes) == 0
    assert max(box[1] for box in boxes) == 20
    assert max(box[3] for box in boxes) == 31


def test_the_share_of_mixup_has_the_beta_distribution():
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)); 4,000 draws, and for alpha 1 the uniform distribution's quarters."""
    for alpha in (0.8, 1.0, 0.2):
        shares = torch.tensor([mix.share for mix in draws(4000, alpha, 0.0)]).double()
        variance = 1 / (4 * (2 * alpha + 1))
        assert shares.mean() == pytest.approx(0.5, abs=5 * math.sqrt(variance / 4000))
        assert shares.var() == pytest.approx(variance, rel=0.08)
        if alpha == 1.0:
            assert torch.histc(shares.float(), 4, 0, 1).sub(1000).abs().max() < 5 * 28


def test_the_two_are_switched_with_the_probability():
    for probability in (0.0, 0.5, 0.8, 1.0):
        cut = sum(mix.box is not None for mix in draws(2000, 0.8, 1.0, probability)) / 2000
        assert cut == pytest.approx(probability, abs=0.06 * (0 < probability < 1))
    assert all(mix.box is None for mix in draws(50, 0.8, 0.0, 1.0))
    assert all(mix.box is not None for mix in draws(50, 0.0, 1.0, 0.0))


def test_off_is_nothing():
    images, mix = torch.randn(3, 3, 4, 4), draw_mix(torch.tensor([1]), 4, 4, 0.0, 0.0)
    assert mix == Mix(1.0, None)
    assert mix_images(images, mix) is images


def test_the_draw_follows_from_the_seeds():
    seeds = torch.tensor([5, 7, 11])
    state = torch.get_rng_state()
    first = draw_mix(seeds, 8, 8, 0.8, 1.0)
    assert first == draw_mix(seeds.clone(), 8, 8, 0.8, 1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({draw_mix(seeds + number, 8, 8, 0.8, 0.0).share for number in range(20)}) == 20
