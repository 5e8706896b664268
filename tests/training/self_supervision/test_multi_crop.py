"""Crops of an image: their sizes, their parts of the image, what they depend on, how they lie in one tensor."""

import numpy as np
import pytest
import torch
from PIL import Image

from sima_hf.data.randomness import combine
from sima_hf.data.views import TrainView
from sima_hf.training.self_supervision.multi_crop import CROP, MultiCrop


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 29, 3), dtype=np.uint8))


def test_each_crop_is_a_view_of_its_own_seed():
    crops = MultiCrop((12, 10), 6, 3, split=0.5, min_area=0.1)
    packed = crops(picture(), 5)
    assert packed.shape == (3, crops.num_pixels) == (3, 2 * 120 + 3 * 36)
    assert packed.dtype == torch.uint8
    large, small = crops.split(packed[None])
    assert large.shape == (2, 3, 12, 10)
    assert small.shape == (3, 3, 6, 6)
    for number, crop in enumerate([*large, *small]):
        view = TrainView((12, 10), scale=(0.5, 1.0)) if number < 2 else TrainView(6, scale=(0.1, 0.5))
        assert torch.equal(crop, view(picture(), combine(5, CROP, number)))
    assert torch.equal(packed, crops(picture(), 5))
    assert not torch.equal(packed, crops(picture(), 6))


@pytest.mark.parametrize("local", [0, 1, 3])
def test_split_goes_crop_by_crop_and_is_undone(local):
    crops = MultiCrop((5, 4), 3, local)
    packed = torch.arange(2 * 3 * crops.num_pixels).view(2, 3, -1)
    groups = crops.split(packed)
    assert [len(group) for group in groups] == ([4, 2 * local] if local else [4])
    assert torch.equal(groups[0][1], packed[1, :, :20].view(3, 5, 4))  # the second image's first crop
    assert torch.equal(groups[0][2], packed[0, :, 20:40].view(3, 5, 4))
    assert torch.equal(crops.join(groups), packed)


def test_shares_out_of_range():
    with pytest.raises(ValueError, match="`scale` must be two shares"):
        MultiCrop((8, 8), split=0.4, min_area=0.5)
