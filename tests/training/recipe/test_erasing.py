"""Random erasing: where rectangles lie, how often, how large, and what they are filled with."""

import math

import pytest
import torch

from sima_hf.data.randomness import combine_each, uniform
from sima_hf.training.recipe.erasing import PLACE, draw_boxes, random_erasing


SEEDS = combine_each(torch.arange(20000))


def test_boxes_lie_within_the_image_and_have_its_shares():
    boxes = draw_boxes(SEEDS, 37, 53, 1.0)
    top, left, height, width = boxes.unbind(1)
    assert boxes.dtype == torch.int64
    assert (height > 0).all()
    for start, length, most in ((top, height, 37), (left, width, 53)):
        assert start.min() == 0
        assert (start + length).max() == most
        assert (length < most).all()
    share = (height * width).double() / (37 * 53)
    # Whole pixels: sides are rounded by up to half a pixel.
    assert share.min() > 0.01
    assert share.max() < 0.36
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    aspect = torch.log(height.double() / width)
    assert aspect.abs().max() < math.log(1 / 0.3) + 0.35
    # The longest shapes do not fit when they are large, tall ones sooner than wide ones in a wide image.
    assert -0.2 < aspect.mean() < 0.05


def test_places_are_uniform():
    """Given its height, a box's upper edge is uniform over all rows that it may have."""
    top, _, height, _ = draw_boxes(SEEDS, 32, 32, 1.0).unbind(1)
    position = (top + 0.5) / (33 - height)
    assert position.mean() == pytest.approx(0.5, abs=0.01)
    assert position.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_probability_holds(probability):
    boxes = draw_boxes(SEEDS, 32, 32, probability)
    erased = (boxes[:, 2] > 0).double().mean().item()
    assert erased == pytest.approx(probability, abs=0.0 if probability in (0, 1) else 5 * 0.0031)
    assert (boxes[boxes[:, 2] == 0] == 0).all()


def test_where_ten_attempts_do_not_fit_the_image_stays():
    """In an image of 2 pixels only a box of 1 x 1 is smaller both ways, and no area and aspect give it in 1 x N."""
    assert (draw_boxes(SEEDS, 1, 9, 1.0) == 0).all()
    boxes = draw_boxes(SEEDS, 2, 2, 1.0)
    assert ((boxes[:, 2:] == 1).all(1) | (boxes[:, 2:] == 0).all(1)).all()


def test_the_first_attempt_that_fits_counts():
    """The literal loop over attempts, on the numbers that the seeds give."""
    found = draw_boxes(SEEDS[:300], 11, 40, 0.8).tolist()
    for row, box in zip(uniform(SEEDS[:300], PLACE, count=23).tolist(), found, strict=True):
        expected = [0, 0, 0, 0]
        for attempt in range(10):
            area = (0.02 + row[3 + attempt] * (1 / 3 - 0.02)) * 11 * 40
            aspect = math.exp(math.log(0.3) + row[13 + attempt] * math.log(1 / 0.09))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if row[0] < 0.8 and 0 < height < 11 and 0 < width < 40:
                expected = [int(row[1] * (12 - height)), int(row[2] * (41 - width)), height, width]
                break
        assert box == expected
    assert any(box[2] == 0 for box in found)


def test_boxes_are_filled_with_standard_normal_noise_and_the_rest_is_left():
    images = torch.full((400, 3, 17, 19), 7.5)
    boxes = draw_boxes(SEEDS[:400], 17, 19, 0.5).tolist()
    made = random_erasing(images, SEEDS[:400], 0.5)
    assert made is images
    noise = []
    for image, (top, left, height, width) in zip(made, boxes, strict=True):
        inside = torch.zeros(17, 19, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert (image[:, ~inside] == 7.5).all()
        noise.append(image[:, inside].flatten())
    noise = torch.cat(noise)
    assert len(noise) > 20000
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert len(noise.unique()) > 0.99 * len(noise)


def test_an_image_is_erased_by_its_own_seed_alone():
    images, seeds = torch.randn(31, 3, 16, 16), SEEDS[:31]
    state = torch.get_rng_state()
    whole = random_erasing(images.clone(), seeds, 0.7)
    assert torch.equal(torch.get_rng_state(), state)
    order = torch.randperm(31)
    shuffled = torch.cat([random_erasing(images[part], seeds[part], 0.7) for part in order.split(4)])
    assert torch.equal(shuffled, whole[order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    made = random_erasing(torch.full((50, 3, 9, 9), 5.0, dtype=dtype), SEEDS[:50], 1.0)
    assert made.dtype == dtype
    assert ((made != 5).any(dim=(1, 2, 3))).all()


def test_a_wrong_probability_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        random_erasing(torch.zeros(1, 3, 4, 4), SEEDS[:1], 1.5)


@pytest.mark.gpu
def test_a_gpu_erases_the_same_places():
    images = torch.zeros(50, 3, 16, 16)
    there = random_erasing(images.cuda(), SEEDS[:50], 0.5).cpu()
    assert torch.equal(there != 0, random_erasing(images, SEEDS[:50], 0.5) != 0)
