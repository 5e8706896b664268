"""The augmentation of a batch: its order, what each switch does, and that nothing but the seeds decides."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from sima_hf.data.pixels import normalize
from sima_hf.data.randomness import combine_each, uniform
from sima_hf.errors import MissingDependencyError
from sima_hf.training.recipe.augmentation import JITTER, JITTER_ORDER, BatchAugmentation, color_jitter
from sima_hf.training.recipe.erasing import random_erasing
from sima_hf.training.recipe.mixup import draw_mix, mix_images, mix_targets, soft_targets
from sima_hf.training.recipe.rand_augment import RandAugment


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFF = {"rand_augment": None, "color_jitter": 0.0, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}


def batch(count=9, height=13, width=11):
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    return pixels, torch.arange(count) % 4, combine_each(torch.arange(count))


def literal(pixels):
    return (pixels.double() / 255 - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[
        :, None, None
    ]


def test_normalize_is_the_formula():
    pixels = batch()[0]
    found = normalize(pixels, MEAN, STD)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), literal(pixels), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalize(pixels[:, :1], [0.5], [0.25]), (pixels[:, :1].float() / 255 - 0.5) * 4)


def test_normalize_is_what_the_image_processor_does():
    from transformers import ViTImageProcessorPil

    pixels = batch(3, 8, 8)[0]
    processor = ViTImageProcessorPil(do_resize=False, image_mean=MEAN, image_std=STD)
    expected = processor([image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalize(pixels, MEAN, STD), expected, rtol=0, atol=2e-6)


def test_everything_off_is_normalization_and_smoothed_labels():
    pixels, labels, seeds = batch()
    for smoothing in (0.0, 0.1):
        images, targets = BatchAugmentation(MEAN, STD, 4, **OFF, label_smoothing=smoothing)(pixels, labels, seeds)
        assert torch.equal(images, normalize(pixels, MEAN, STD))
        assert torch.equal(targets, soft_targets(labels, 4, smoothing))


def test_the_order_is_that_of_the_recipe():
    pixels, labels, seeds = batch(24)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    images = RandAugment(9.0, 0.5, 2)(pixels.float() / 255, seeds, torch.tensor(MEAN))
    images = random_erasing((images - mean) / std, seeds, 0.25)
    mix = draw_mix(seeds, 13, 11, 0.8, 1.0, 0.5)
    found, targets = BatchAugmentation(MEAN, STD, 4)(pixels, labels, seeds)
    assert torch.equal(found, mix_images(images, mix))
    assert torch.equal(targets, mix_targets(soft_targets(labels, 4, 0.1), mix))
    assert found.dtype == targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(24))


def test_jitter_is_for_where_rand_augment_is_not_unless_asked_for():
    pixels, labels, seeds = batch()
    recipe = {**OFF, "color_jitter": 0.4}
    jittered = BatchAugmentation(MEAN, STD, 4, **recipe)(pixels, labels, seeds)[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    assert torch.equal(jittered, (color_jitter(pixels.float() / 255, seeds, 0.4) - mean) / std)
    recipe["rand_augment"] = "rand-m9-mstd0.5-inc1"
    without = BatchAugmentation(MEAN, STD, 4, **recipe)(pixels, labels, seeds)[0]
    assert torch.equal(
        without, BatchAugmentation(MEAN, STD, 4, **{**recipe, "color_jitter": 0})(pixels, labels, seeds)[0]
    )
    both = BatchAugmentation(MEAN, STD, 4, **recipe, color_jitter_with_rand_augment=True)(pixels, labels, seeds)[0]
    expected = RandAugment(9.0, 0.5)(color_jitter(pixels.float() / 255, seeds, 0.4), seeds, torch.tensor(MEAN))
    assert torch.equal(both, (expected - mean) / std)


def test_jitter_is_pillow_s_one_after_the_other_within_a_few_levels():
    """Each step may differ by one level, and a later one with factor 1.4 makes up to 1.8 of it: below 1 + 1.8 (1 + 1.8)."""
    pixels, _, seeds = batch(40, 9, 8)
    orders = uniform(seeds, JITTER_ORDER, count=3).argsort(1).tolist()
    factors = (0.6 + 0.8 * uniform(seeds, JITTER, count=3)).tolist()
    assert len({tuple(order) for order in orders}) == 6
    steps = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    expected = []
    for image, order, factor in zip(pixels, orders, factors, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for step in order:
            picture = steps[step](picture).enhance(factor[step])
        expected.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    difference = (color_jitter(pixels.float() / 255, seeds, 0.4) * 255 - torch.stack(expected)).abs()
    assert difference.max() <= 6.01
    assert difference.mean() < 1.6  # Pillow cuts off half a level at each step


def test_an_image_s_view_does_not_depend_on_its_batch():
    pixels, labels, seeds = batch(30)
    augment = BatchAugmentation(MEAN, STD, 4, mixup=0, cutmix=0, random_erasing=0.5)
    state = torch.get_rng_state()
    whole, targets = augment(pixels, labels, seeds)
    assert torch.equal(torch.get_rng_state(), state)
    again, _ = augment(pixels, labels, seeds)
    assert torch.equal(again, whole)
    parts = [augment(a, b, c) for a, b, c in zip(pixels.split(7), labels.split(7), seeds.split(7), strict=True)]
    difference = (torch.cat([images for images, _ in parts]) - whole).abs()
    # A level is worth 0.0175; one comes of sums in another order, as in the test of RandAugment.
    assert difference.max() < 0.018
    assert (difference > 1e-5).double().mean() < 1e-3
    assert torch.equal(torch.cat([rows for _, rows in parts]), targets)
    others, _ = augment(pixels, labels, seeds + 1)
    assert (others != whole).any(dim=(1, 2, 3)).double().mean() > 0.5


def test_the_whole_recipe_keeps_the_scale_of_normalised_images():
    pixels, labels, seeds = batch(200, 16, 16)
    images, targets = BatchAugmentation(MEAN, STD, 4)(pixels, labels, seeds)
    assert images.isfinite().all()
    assert images.abs().max() < 7
    assert targets.min() >= 0.1 / 4 - 1e-7


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"random_erasing": 1.5}, r"`random_erasing` must lie between 0 and 1, got 1\.5"),
        ({"label_smoothing": -0.1}, "`label_smoothing` must lie"),
        ({"mixup_switch_prob": 2}, "`mixup_switch_prob` must lie"),
        ({"mixup": -1}, "`mixup` must not be negative"),
        ({"cutmix": float("nan")}, "`cutmix` must not be negative"),
        ({"rand_augment": None, "color_jitter": -0.4}, "`color_jitter` must not be negative"),
        ({"rand_augment": "m9"}, "described as"),
    ],
)
def test_wrong_settings_are_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        BatchAugmentation(MEAN, STD, 4, **settings)


def test_wrong_batches_are_refused():
    pixels, labels, seeds = batch()
    augment = BatchAugmentation(MEAN, STD, 4, **OFF)
    with pytest.raises(TypeError, match=r"bytes .* got torch\.float32"):
        augment(pixels.float(), labels, seeds)
    with pytest.raises(ValueError, match="got 9 images, 9 labels and 8 seeds"):
        augment(pixels, labels, seeds[:8])
    with pytest.raises(ValueError, match=r"one number for each channel, got 3 and 3"):
        normalize(pixels[:, :1], MEAN, STD)


def test_kornia_matters_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    pixels, labels, seeds = batch()
    BatchAugmentation(MEAN, STD, 4, rand_augment="none", color_jitter=None)(pixels, labels, seeds)
    for settings in ({}, {"rand_augment": None}):
        with pytest.raises(MissingDependencyError, match=r"pip install 'sima-hf\[train\]'$"):
            BatchAugmentation(MEAN, STD, 4, **settings)


@pytest.mark.gpu
def test_a_gpu_agrees():
    pixels, labels, seeds = batch(100)
    augment = BatchAugmentation(MEAN, STD, 4, random_erasing=0.0)
    (here, targets), (there, other) = (
        augment(pixels, labels, seeds),
        augment(pixels.cuda(), labels.cuda(), seeds.cuda()),
    )
    assert there.is_cuda
    assert ((there.cpu() - here).abs() > 0.019).double().mean() < 1e-3
    torch.testing.assert_close(other.cpu(), targets)
