"""A small dense data set of real images, made without a download: scikit-learn's digits on its photographs, masks and boxes known.

    python examples/digits_on_photos.py digits-on-photos
    python examples/run_semantic_segmentation.py examples/configs/dense/digits_segmentation.json \\
        --dataset_name digits-on-photos --output_dir segmented

The folder holds parquet files as `datasets.load_dataset(folder)` reads them, with the columns of Transformers' own examples:
`image`, `label` (a mask: 0 is background, 1 + d the digit d, as `id2label.json` has it), and `objects` (COCO boxes `x, y, width,
height` in pixels, their `area` and `category`). Digits and parts of the photographs that are validated on are never trained on.
The same seed gives the same files.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits, load_sample_image
from tqdm.auto import tqdm


DIGITS = [str(digit) for digit in range(10)]
TRAINED_DIGITS = 1300  # of 1,797; the rest is validated on
TRAINED_WIDTH = 0.7  # of a photograph, from the left; the rest is validated on
DIMMED = 0.5  # photographs, so that light digits stand out from them
FEATURES = Features(
    {
        "image_id": Value("int64"),
        "image": Image(),
        "label": Image(),
        "width": Value("int64"),
        "height": Value("int64"),
        "objects": {
            "id": Sequence(Value("int64")),
            "area": Sequence(Value("int64")),
            "bbox": Sequence(Sequence(Value("float32"), length=4)),
            "category": Sequence(ClassLabel(names=DIGITS)),
        },
    }
)


def background(photo: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """A random square `(size,size,3)` of a photograph, at a random scale, perhaps mirrored."""
    side = int(generator.integers(min(photo.shape[:2]) // 3, min(photo.shape[:2]) + 1))
    top = generator.integers(photo.shape[0] - side + 1)
    left = generator.integers(photo.shape[1] - side + 1)
    part = PILImage.fromarray(photo[top : top + side, left : left + side]).resize((size, size), PILImage.BICUBIC)
    pixels = np.asarray(part, dtype=float) * DIMMED
    return pixels[:, ::-1].copy() if generator.random() < 0.5 else pixels


def ink(glyph: np.ndarray, height: int) -> np.ndarray:
    """A digit's strokes `(h,w)`, opacity 0 to 1, enlarged from 8 x 8 to a height, cut to what it covers."""
    large = PILImage.fromarray((glyph / 16 * 255).astype(np.uint8)).resize((height, height), PILImage.BICUBIC)
    opacity = np.clip(np.asarray(large, dtype=float) / 255 * 2.2 - 0.5, 0, 1)
    rows, columns = np.where((opacity > 0.5).any(axis=1))[0], np.where((opacity > 0.5).any(axis=0))[0]
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(pixels: np.ndarray, opacity: np.ndarray, top: int, left: int, generator: np.random.Generator) -> None:
    """Put strokes on the pixels, in place, in a random light color."""
    window = pixels[top : top + opacity.shape[0], left : left + opacity.shape[1]]
    window += opacity[..., None] * (generator.uniform(160, 255, 3) - window)


def compose(number: int, photos: list, digits: tuple, size: int, generator: np.random.Generator) -> dict:
    """A row of the data set: a photograph with one to three digits that do not overlap."""
    glyphs, classes = digits
    pixels = background(photos[generator.integers(len(photos))], size, generator)
    mask, taken, objects = np.zeros((size, size), np.uint8), np.zeros((size, size), bool), []
    for _ in range(int(generator.integers(1, 4))):
        index = generator.integers(len(glyphs))
        opacity = ink(glyphs[index], int(generator.integers(size * 9 // 20, size * 3 // 4)))
        height, width = opacity.shape
        top, left = generator.integers(size - height + 1), generator.integers(size - width + 1)
        place = slice(top, top + height), slice(left, left + width)
        if taken[place].any():
            continue
        taken[place] = True
        paint(pixels, opacity, top, left, generator)
        mask[place][opacity > 0.5] = 1 + classes[index]
        objects.append(([left, top, width, height], int((opacity > 0.5).sum()), int(classes[index])))
    return {
        "image_id": number,
        "image": PILImage.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8)),
        "label": PILImage.fromarray(mask),
        "width": size,
        "height": size,
        "objects": {
            "id": list(range(len(objects))),
            "area": [area for _, area, _ in objects],
            "bbox": [box for box, _, _ in objects],
            "category": [category for _, _, category in objects],
        },
    }


def write(folder: Path, images: int = 2000, validation_images: int = 300, size: int = 64, seed: int = 0) -> None:
    """Write the data set, whole or not at all.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: no images, or images smaller than 32 pixels, in which strokes are too thin to be told apart.
    """
    if min(images, validation_images) < 1 or size < 32:
        raise ValueError(
            f"Give at least 1 image of each kind and a size of 32 pixels or more, got {images} and {validation_images} images of "
            f"{size} pixels."
        )
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; name a new folder.")
    glyphs, classes = load_digits(return_X_y=True)
    glyphs = glyphs.reshape(-1, 8, 8)
    order = np.random.default_rng(0).permutation(len(glyphs))
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        made = Path(aside, "made")
        made.mkdir()
        for stream, (split, count) in enumerate({"train": images, "validation": validation_images}.items()):
            trains = split == "train"
            generator = np.random.default_rng([seed, stream])
            chosen = order[:TRAINED_DIGITS] if trains else order[TRAINED_DIGITS:]
            cuts = [int(photo.shape[1] * TRAINED_WIDTH) for photo in photos]
            parts = [photo[:, :cut] if trains else photo[:, cut:] for photo, cut in zip(photos, cuts, strict=True)]
            digits = glyphs[chosen], classes[chosen]
            bar = tqdm(range(count), desc=split, unit="image", disable=None)
            rows = [compose(number, parts, digits, size, generator) for number in bar]
            Dataset.from_list(rows, features=FEATURES).to_parquet(made / f"{split}.parquet")
        names = {str(index): name for index, name in enumerate(["background", *DIGITS])}
        (made / "id2label.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
        shutil.move(made, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--validation_images", type=int, default=300, help="images to validate on")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0, help="which digits, where, on what")
    arguments = parser.parse_args()
    try:
        write(arguments.folder, arguments.images, arguments.validation_images, arguments.size, arguments.seed)
    except (ValueError, FileExistsError) as error:
        parser.exit(1, f"digits_on_photos: {error}\n")


if __name__ == "__main__":
    main()
