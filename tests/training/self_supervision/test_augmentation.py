"""Augmentation of crops against Pillow and torch in float64, and what it depends on."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sima_hf.data.randomness import combine_each, uniform
from sima_hf.training.self_supervision import augmentation
from sima_hf.training.self_supervision.augmentation import CHOICES, JITTERED, MultiCropAugmentation, hue
from sima_hf.training.self_supervision.multi_crop import CROP, MultiCrop


CROPS = MultiCrop((13, 11), 7, 3)
PLAIN = {"color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
SEEDS = torch.arange(6) * 1009 + 3


def batch():
    return torch.randint(256, (len(SEEDS), 3, CROPS.num_pixels), generator=torch.Generator().manual_seed(0)).byte()


def augmented(**changes):
    """Crops on bytes' scale, crop by crop, so that normalization does not show."""
    made = MultiCropAugmentation(CROPS, [0.0] * 3, [1.0] * 3, **{**PLAIN, **changes})
    pixels, labels = made(batch(), torch.zeros(len(SEEDS)).long(), SEEDS)
    assert pixels.shape == batch().shape
    assert pixels.dtype == torch.float32
    assert not labels.any()
    return CROPS.split(255 * pixels)


def draws(number, column):
    return uniform(combine_each(SEEDS, CROP, number), CHOICES, count=4)[:, column]


def test_without_anything_it_normalizes():
    made = MultiCropAugmentation(CROPS, [0.5, 0.4, 0.3], [0.2, 0.25, 0.3], **PLAIN)
    pixels, _ = made(batch(), SEEDS, SEEDS)
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.25, 0.3]], dtype=torch.float64)[:, :, None]
    torch.testing.assert_close(pixels.double(), (batch().double() / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_gray_and_solarization_are_pillows():
    before, (gray, _) = CROPS.split(batch()), augmented(grayscale=1.0)
    for crop, found in zip(before[0], gray, strict=True):
        wanted = np.asarray(Image.fromarray(crop.permute(1, 2, 0).numpy()).convert("L"), dtype=np.float64)
        assert np.abs(found.numpy() - wanted).max() <= 1
    solarized, local = augmented(solarize=1.0)
    second = before[0].chunk(2)[1]
    for crop, found in zip(second, solarized.chunk(2)[1], strict=True):
        wanted = np.asarray(ImageOps.solarize(Image.fromarray(crop.permute(1, 2, 0).numpy()), 128))
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), wanted, atol=1e-3)
    torch.testing.assert_close(solarized.chunk(2)[0], before[0].chunk(2)[0].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(local, before[1].float(), atol=1e-3, rtol=0)


def test_the_blur_is_a_gaussian_of_the_crops_own_width(monkeypatch):
    monkeypatch.setattr(augmentation, "BLURRED", (1.0, 0.0, 0.0))
    before, (large, small) = CROPS.split(batch()), augmented(blur=0.9)
    torch.testing.assert_close(small, before[1].float(), atol=1e-3, rtol=0)
    first, second = large.chunk(2)
    torch.testing.assert_close(second, before[0].chunk(2)[1].float(), atol=1e-3, rtol=0)
    widths = 0.1 + 0.8 * uniform(combine_each(SEEDS, CROP, 0), augmentation.SIGMA, count=1)[:, 0]
    for crop, found, width in zip(before[0].chunk(2)[0].double(), first, widths, strict=True):
        places = torch.arange(-3, 4).double()
        kernel = (-(places**2) / (2 * width**2)).exp()
        kernel = (kernel[:, None] * kernel[None]) / kernel.sum() ** 2
        padded = torch.nn.functional.pad(crop[:, None], (3, 3, 3, 3), mode="reflect")
        wanted = torch.nn.functional.conv2d(padded, kernel[None, None])[:, 0]
        assert (found.double() - wanted).abs().max() <= 0.51  # rounded to bytes


def test_colors_change_where_the_draw_says_so():
    before, after = CROPS.split(batch()), augmented(color_jitter=0.4)
    for number, (crop, found) in enumerate(zip(before[0].chunk(2), after[0].chunk(2), strict=True)):
        changed = (found - crop.float()).abs().amax((1, 2, 3)) > 0.01
        assert torch.equal(changed, draws(number, 0) < JITTERED)


def test_a_turn_by_a_third_of_the_hues_takes_red_to_green():
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1
    turned = hue(red, torch.tensor([1 / 3]))
    torch.testing.assert_close(turned[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_a_crop_does_not_depend_on_its_batch():
    settings = {"color_jitter": 0.4, "grayscale": 0.2, "blur": 0.7, "solarize": 0.5}
    made = MultiCropAugmentation(CROPS, [0.5] * 3, [0.2] * 3, **settings)
    together, _ = made(batch(), SEEDS, SEEDS)
    for index in (0, 4):
        alone, _ = made(batch()[index : index + 1], SEEDS[index : index + 1], SEEDS[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-5)


def test_a_blur_wider_than_a_crop_is_cut():
    assert all(group.isfinite().all() for group in augmented(blur=4.0))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_probabilities_of_gray(share):
    gray = [(group - group[:, :1]).abs().amax((1, 2, 3)) < 1e-3 for group in augmented(grayscale=share)]
    assert torch.cat(gray).double().mean() == share
