"""RandAugment: each operation against Pillow's, the choices of each image, and the string of the recipe."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from sima_hf.data.randomness import combine_each, uniform
from sima_hf.errors import MissingDependencyError
from sima_hf.training.recipe import rand_augment
from sima_hf.training.recipe.rand_augment import OPERATIONS, RandAugment, apply_chosen, levels


FILL = (124, 116, 104)
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def affine(picture, *matrix):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


# What the field's RandAugment does with Pillow, by name, given the argument of the operation; geometry is bicubic, as the
# original asks for (train_interpolation).
PILLOW = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "Rotate": lambda picture, v: picture.rotate(v, Image.Resampling.BICUBIC, fillcolor=FILL),
    "Posterize": lambda picture, v: picture.point([level & ~(2 ** (8 - int(v)) - 1) for level in range(256)] * 3),
    "Solarize": lambda picture, v: ImageOps.solarize(picture, int(v)),
    "SolarizeAdd": lambda picture, v: picture.point([min(255, i + int(v)) if i < 128 else i for i in range(256)] * 3),
    "Color": lambda picture, v: ImageEnhance.Color(picture).enhance(v),
    "Contrast": lambda picture, v: ImageEnhance.Contrast(picture).enhance(v),
    "Brightness": lambda picture, v: ImageEnhance.Brightness(picture).enhance(v),
    "Sharpness": lambda picture, v: ImageEnhance.Sharpness(picture).enhance(v),
    "ShearX": lambda picture, v: affine(picture, 1, v, 0, 0, 1, 0),
    "ShearY": lambda picture, v: affine(picture, 1, 0, 0, v, 1, 0),
    "TranslateXRel": lambda picture, v: affine(picture, 1, 0, v * picture.size[0], 0, 1, 0),
    "TranslateYRel": lambda picture, v: affine(picture, 1, 0, 0, 0, 1, v * picture.size[1]),
}
EXACT = ("Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")

# The argument at magnitudes 0, 3.3, 9 and 10 and the sign +1, as the recipe's ranges give it.
ARGUMENTS = {
    "Rotate": (0, 9.9, 27, 30),
    "Posterize": (4, 3, 1, 0),
    "Solarize": (256, 256 - 84, 256 - 230, 0),
    "SolarizeAdd": (0, 36, 99, 110),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (1, 1.297, 1.81, 1.9)),
    **dict.fromkeys(("ShearX", "ShearY"), (0, 0.099, 0.27, 0.3)),
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), (0, 0.1485, 0.405, 0.45)),
}


def pictures(height, width):
    """Bytes (5, 3, height, width): noise over all levels, smooth ones with a narrow range, one with a flat channel."""
    made = torch.randint(0, 256, (5, 3, height, width), dtype=torch.uint8)
    smooth = torch.nn.functional.interpolate(255 * torch.rand(3, 3, 5, 4), (height, width), mode="bicubic")
    made[2:] = smooth.clamp(40, 200).to(torch.uint8)
    made[4, 1] = 77
    return made


def with_pillow(name, images, arguments):
    made = [
        np.asarray(PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), argument))
        for image, argument in zip(images, arguments.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).int()


def test_the_table_is_the_recipe_s_fifteen():
    assert BY_NAME.keys() == PILLOW.keys()
    assert len(OPERATIONS) == 15
    magnitudes, ones = torch.tensor([0.0, 3.3, 9.0, 10.0]).double(), torch.ones(4).double()
    for name, expected in ARGUMENTS.items():
        found = BY_NAME[name].argument(magnitudes, ones)
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-6)
        opposite = BY_NAME[name].argument(magnitudes, -ones)
        if name in ("Color", "Contrast", "Brightness", "Sharpness"):
            torch.testing.assert_close(opposite, 2 - found)
        elif name in ("Posterize", "Solarize", "SolarizeAdd"):
            assert torch.equal(opposite, found)
        else:
            torch.testing.assert_close(opposite, -found)


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize(("height", "width"), [(37, 23), (8, 8), (16, 41)])
def test_agrees_with_pillow_within_one_level(name, height, width):
    """Pillow cuts off fractions where the package rounds, hence one level; operations on whole levels agree exactly."""
    images, operation = pictures(height, width), BY_NAME[name]
    for magnitude in (0.0, 2.7, 9.0, 10.0):
        magnitudes = torch.tensor([magnitude, magnitude, 10.0, 8.6, 9.4]).double()
        arguments = operation.argument(magnitudes, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).double())
        made = operation.apply(images.float() / 255, arguments.float(), torch.tensor(FILL) / 255)
        found = (levels(made) * 255).round().int()
        difference = (found - with_pillow(name, images, arguments)).abs()
        assert difference.max() <= (0 if name in EXACT else 1), (name, magnitude)
        if magnitude == 0 and name in ARGUMENTS and name != "Posterize":
            assert torch.equal(found[:2], images[:2].int())


def test_autocontrast_is_exact_in_whole_numbers():
    """Where Pillow's own arithmetic in floats falls one level short, at whole numbers, the package does not."""
    images = pictures(24, 25).int()
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    expected = torch.where(high > low, (images - low) * 255 // (high - low).clamp(min=1), images)
    found = BY_NAME["AutoContrast"].apply(images / 255, torch.zeros(5), torch.zeros(3)) * 255
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PILLOW)
def test_each_image_has_its_own_argument(name):
    images, operation = pictures(9, 11).float() / 255, BY_NAME[name]
    arguments = operation.argument(torch.linspace(1, 10, 5).double(), torch.ones(5).double()).float()
    fill = torch.tensor(FILL) / 255
    alone = [
        operation.apply(image[None], argument[None], fill) for image, argument in zip(images, arguments, strict=True)
    ]
    torch.testing.assert_close(operation.apply(images, arguments, fill), torch.cat(alone), rtol=0, atol=1e-6)


def test_each_function_runs_once_on_those_that_chose_it():
    images, calls = torch.rand(6, 3, 2, 2), []

    def function(number):
        def apply(images, arguments, fill):
            calls.append((number, arguments.tolist()))
            return images * 0 + arguments[:, None, None, None]

        return apply

    chosen, arguments = torch.tensor([2, -1, 0, 2, -1, 2]), torch.tensor([0.2, 0.9, 0.4, 0.6, 0.8, 1.0]).double()
    made = apply_chosen(images, chosen, arguments, [function(i) for i in range(3)], torch.zeros(3))
    assert [number for number, _ in calls] == [0, 2]
    assert calls[1][1] == pytest.approx([0.2, 0.6, 1.0])
    for i in range(6):
        expected = images[i] if chosen[i] < 0 else torch.full((3, 2, 2), arguments[i].item())
        torch.testing.assert_close(made[i], expected)


def spy(monkeypatch):
    """Replace the operations by ones that write down what they were called with, image by image."""
    seen = []

    def apply(name):
        def write(images, arguments, fill):
            identities = (images[:, 0, 0, 0] * 255).round().int().tolist()
            seen.extend(zip(identities, [name] * len(images), arguments.tolist(), strict=True))
            return images

        return write

    rows = [rand_augment.Operation(row.name, lambda m, s: m * s, apply(row.name)) for row in OPERATIONS]
    monkeypatch.setattr(rand_augment, "OPERATIONS", tuple(rows))
    return seen


def numbered(count):
    return (torch.arange(count).float() / 255)[:, None, None, None].expand(count, 3, 2, 2).clone()


def test_images_choose_for_themselves(monkeypatch):
    """Two offers for each image, each taken with probability 1/2, all operations alike, magnitudes around 9 up to 10."""
    seen, draws = spy(monkeypatch), RandAugment.parse("rand-m9-mstd0.5-inc1")
    for start in range(0, 4000, 250):
        draws(numbered(250), torch.arange(start, start + 250), torch.zeros(3))
    assert len(seen) == pytest.approx(4000, abs=5 * 45)  # binomial of 8000 with p = 1/2
    counts = [sum(name == row.name for _, name, _ in seen) for row in OPERATIONS]
    assert all(abs(count - len(seen) / 15) < 5 * 16 for count in counts)
    strengths = np.array([argument for _, _, argument in seen])
    assert abs((strengths > 0).mean() - 0.5) < 0.05
    assert np.abs(strengths).mean() == pytest.approx(9, abs=0.05)
    assert np.abs(strengths).std() == pytest.approx(0.49, abs=0.03)  # a little less than 0.5: cut at 10
    assert np.abs(strengths).max() == 10


def test_the_choice_follows_from_the_image_s_seed_alone(monkeypatch):
    seen, draws, seeds = spy(monkeypatch), RandAugment.parse("m9-mstd0.5-inc1"), combine_each(torch.arange(90))
    draws(numbered(90), seeds, torch.zeros(3))
    whole = sorted(seen)
    seen.clear()
    for part in torch.randperm(90).split(7):
        draws(numbered(90)[part], seeds[part], torch.zeros(3))
    assert sorted(seen) == whole


def test_a_batch_is_augmented_as_its_parts_are():
    images, seeds, fill = pictures(13, 15).repeat(8, 1, 1, 1).float() / 255, torch.arange(40), torch.tensor(FILL) / 255
    draws = RandAugment.parse("m9-mstd0.5-inc1")
    whole = draws(images, seeds, fill)
    parts = [draws(a, b, fill) for a, b in zip(images.split(3), seeds.split(3), strict=True)]
    # Sums over pixels may be taken in another order in another batch; one level at most comes of it.
    difference = (whole - torch.cat(parts)).abs() * 255
    assert difference.max() < 1.01
    assert (difference > 0.5).double().mean() < 1e-3
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole * 255, (whole * 255).round(), rtol=0, atol=1e-4)
    assert ((whole - images).abs().amax((1, 2, 3)) > 0).sum() > 20
    assert torch.equal(whole, draws(images, seeds, fill))


def test_two_layers_are_one_operation_after_the_other():
    """Found by trying: the image whose layers are Invert and Invert, and one whose second layer is nothing."""
    seeds = torch.arange(4000)
    chosen = []
    for layer in range(2):
        taken, choice, _ = uniform(seeds, rand_augment.CHOICE, layer, count=3).unbind(1)
        chosen.append(torch.where(taken < 0.5, (choice * 15).long(), -1))
    inverts = [row.name for row in OPERATIONS].index("Invert")
    twice = seeds[(chosen[0] == inverts) & (chosen[1] == inverts)][:1]
    once = seeds[(chosen[0] == inverts) & (chosen[1] == -1)][:1]
    images, draws = pictures(5, 7)[:1].float() / 255, RandAugment.parse("m9-mstd0.5-inc1")
    torch.testing.assert_close(draws(images, twice, torch.zeros(3)), images)
    torch.testing.assert_close(draws(images, once, torch.zeros(3)), 1 - images)


def test_the_string_of_the_recipe_is_read():
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(9.0, 0.5, 2)
    assert RandAugment.parse("m7-inc1-n3") == RandAugment(7.0, 0.0, 3)
    assert RandAugment.parse("rand-n1-m4.5-mstd1-inc1") == RandAugment(4.5, 1.0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rand",
        "m9-mstd0.5",
        "m9-inc0",
        "m11-inc1",
        "m9-inc1-n0",
        "m9-inc1-n1.5",
        "m9-inc1-x2",
        "m9 inc1",
        "m-inc1",
        "mstd0.5-inc1",
        "augmix-m3",
        "m9-m8-inc1",
    ],
)
def test_another_string_is_refused(text):
    with pytest.raises(ValueError, match=r"described as 'rand-m9-mstd0\.5-inc1'.*got"):
        RandAugment.parse(text)


def test_without_kornia_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(MissingDependencyError, match=r"kornia: pip install 'sima-hf\[train\]'$"):
        rand_augment.enhance()


@pytest.mark.gpu
def test_a_gpu_agrees():
    images, seeds, fill = (
        pictures(16, 17).repeat(20, 1, 1, 1).float() / 255,
        torch.arange(100),
        torch.tensor(FILL) / 255,
    )
    draws = RandAugment.parse("m9-mstd0.5-inc1")
    difference = (draws(images.cuda(), seeds, fill.cuda()).cpu() - draws(images, seeds, fill)).abs() * 255
    assert (difference > 1.01).double().mean() < 1e-3
