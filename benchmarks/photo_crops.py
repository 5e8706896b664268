"""Crops of the two photographs that scikit-learn brings, as a folder of PNGs: images to read the ranges of int8 off, for timing.

python benchmarks/photo_crops.py build/photos
"""

import argparse
from pathlib import Path

import numpy
from PIL import Image
from sklearn.datasets import load_sample_images


SMALLEST = 160  # pixels of a crop's side


def crops(count: int, seed: int) -> list[Image.Image]:
    """`count` square crops, the photographs in turn, of random place and size."""
    draw, photos, found = numpy.random.default_rng(seed), load_sample_images().images, []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(draw.integers(SMALLEST, min(photo.shape[:2]) + 1))
        top, left = (int(draw.integers(0, length - side + 1)) for length in photo.shape[:2])
        found.append(Image.fromarray(photo[top : top + side, left : left + side]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for index, crop in enumerate(crops(arguments.count, arguments.seed)):
        crop.save(arguments.folder / f"{index:03d}.png")


if __name__ == "__main__":
    main()
