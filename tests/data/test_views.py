"""Views: crops against the formula, pixels against PIL and numpy step by step, evaluation against the image processor."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from sima_hf import SimAImageProcessor
from sima_hf.data.randomness import uniform
from sima_hf.data.views import SALT, EvalView, TrainView, crop_box


def picture(width=61, height=47, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def array(tensor):
    return tensor.permute(1, 2, 0).numpy()


def test_crops_follow_the_formula():
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    late = 0
    for width, height in [(61, 47), (16, 200), (5, 5), (300, 40)]:
        for _ in range(200):
            numbers = rng.random(22)
            areas = width * height * (scale[0] + (scale[1] - scale[0]) * numbers[0:20:2])
            shapes = np.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * numbers[1:20:2])
            wide, tall = np.rint(np.sqrt(areas * shapes)).astype(int), np.rint(np.sqrt(areas / shapes)).astype(int)
            fitting = np.flatnonzero((wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height))
            left, top, w, h = crop_box(width, height, numbers.tolist().__getitem__, scale, ratio)
            assert left >= 0
            assert top >= 0
            assert left + w <= width
            assert top + h <= height
            if len(fitting):
                late += fitting[0] > 0
                assert (w, h) == (wide[fitting[0]], tall[fitting[0]])
                assert left == math.floor(numbers[20] * (width - w + 1))
                assert top == math.floor(numbers[21] * (height - h + 1))
            else:
                assert abs(left - (width - w) / 2) < 1
                assert abs(top - (height - h) / 2) < 1
                assert (w == width and w / h <= 3 / 4 + 0.1) or (h == height and w / h >= 4 / 3 - 0.1)
    assert late > 50


def test_the_place_of_a_crop_is_evenly_distributed_up_to_both_edges():
    scale, ratio = (0.25, 0.25), (1.0, 1.0)
    lefts = [
        crop_box(8, 8, ([0.5] * 20 + [number, 0.0]).__getitem__, scale, ratio)[0] for number in np.arange(1000) / 1000
    ]
    assert [lefts.count(left) for left in range(5)] == [200] * 5


@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize(
    ("name", "method"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
def test_view_is_crop_then_resize_then_flip(size, name, method):
    view, image = TrainView(size, name), picture()
    height, width = (size, size) if isinstance(size, int) else size
    flips = 0
    for seed in range(20):
        numbers = uniform(torch.tensor([seed]), SALT, count=23)[0].tolist()
        left, top, w, h = crop_box(61, 47, numbers[:22].__getitem__, (0.08, 1.0), (3 / 4, 4 / 3))
        reference = np.asarray(image)[top : top + h, left : left + w]
        reference = np.asarray(Image.fromarray(reference).resize((width, height), method))
        if numbers[22] < 0.5:
            flips += 1
            reference = reference[:, ::-1]
        made = view(image, seed)
        assert made.dtype == torch.uint8
        assert made.shape == (3, height, width)
        assert np.array_equal(array(made), reference)
    assert 3 < flips < 17


def test_a_view_is_a_function_of_its_seed():
    view, image = TrainView(16), picture()
    torch.manual_seed(1)
    one = view(image, 5)
    torch.manual_seed(2)
    assert torch.equal(one, view(image, 5))
    assert torch.equal(one, pickle.loads(pickle.dumps(view))(image, 5))
    assert not torch.equal(one, view(image, 6))


def test_small_symbols_are_moved_not_cropped():
    view, image = TrainView(8, scale=None, flip=0.0, shift=0.25), picture(8, 8)
    seen = set()
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = {(y, x): padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
    for seed in range(400):
        made = array(view(image, seed))
        seen |= {place for place, window in windows.items() if np.array_equal(window, made)}
        assert any(np.array_equal(window, made) for window in windows.values())
    assert len(seen) == 25  # every move, up to two pixels each way
    still = TrainView(16, scale=None, flip=0.0, shift=0.0)(image, 3)
    assert np.array_equal(array(still), np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flips_never_and_always(flip):
    image = picture(20, 20)
    view = TrainView(20, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)
    for seed in range(5):
        reference = np.asarray(image)[:, ::-1] if flip else np.asarray(image)
        assert np.array_equal(array(view(image, seed)), reference)


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("size", [(61, 47), (30, 90)])
def test_evaluation_pixels_are_the_processors(crop_pct, size):
    processor = SimAImageProcessor.for_image_size(32, crop_pct)
    made = EvalView(processor)(picture(*size))
    assert made.dtype == torch.uint8
    mean, std = (np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    normalized = (made.numpy().astype(np.float64) / 255 - mean) / std
    wanted = processor(picture(*size), return_tensors="pt").pixel_values[0].double().numpy()
    assert np.abs(normalized - wanted).max() < 1e-6


def test_a_processor_that_gives_no_bytes_is_refused():
    class Halves:
        def __call__(self, image, **kwargs):
            return {"pixel_values": torch.full((1, *shape), 0.5)}

    shape = (3, 4, 4)
    with pytest.raises(ValueError, match=r"Halves gives torch\.float32 that are not whole numbers"):
        EvalView(Halves())(picture())
    shape = (1, 4, 4)
    with pytest.raises(ValueError, match=r"tensors \(3, H, W\), got \(1, 4, 4\)"):
        EvalView(Halves())(picture())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"interpolation": "cubic"}, "one of nearest, bilinear, bicubic, lanczos, got 'cubic'"),
        ({"scale": (0.5, 0.1)}, "0 < least <= greatest <= 1"),
        ({"scale": (0.0, 1.0)}, "0 < least"),
        ({"ratio": (2.0, 1.0)}, "`ratio` must be two numbers"),
        ({"flip": 1.5}, r"`flip` must be in \[0, 1\]"),
        ({"shift": 1.0}, r"`shift` in \[0, 1\)"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainView(16, **settings)
