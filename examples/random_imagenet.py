"""Random images of ImageNet's shape: 1,000 classes, 500 x 375 JPEG, parquet shards, to try a training command on.

    python examples/random_imagenet.py random-imagenet --images 2048
    python examples/run_image_classification.py examples/configs/sima_small_12_p16.json --dataset_name random-imagenet \\
        --output_dir dry-run --max_steps 3 --per_device_train_batch_size 4
"""

import argparse
import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm


CLASSES, SIZE = 1000, (500, 375)


def jpeg(generator: np.random.Generator) -> bytes:
    """A picture that costs about as much to store and decode as a photograph: colored noise of several sizes."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3))
    for cells in (4, 16, 64, 256):
        noise = generator.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        pixels += np.asarray(PILImage.fromarray(noise).resize(SIZE, PILImage.Resampling.BICUBIC), dtype=float) / 4
    stream = io.BytesIO()
    PILImage.fromarray(pixels.astype(np.uint8)).save(stream, format="jpeg", quality=90)
    return stream.getvalue()


def write(folder: Path, images: int, shards: int = 4, seed: int = 0) -> None:
    """`images` for training in several shards and a tenth of them for validation, as `datasets.load_dataset(folder)` takes it."""
    generator = np.random.default_rng(seed)
    features = Features({"image": Image(), "label": ClassLabel(names=[f"class {index}" for index in range(CLASSES)])})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, count, parts in (("train", images, shards), ("validation", max(1, images // 10), 1)):
        bar = tqdm(range(count), desc=split, unit="image")
        rows = [
            {"image": {"bytes": jpeg(generator), "path": None}, "label": int(generator.integers(CLASSES))} for _ in bar
        ]
        data = Dataset.from_list(rows, features=features)
        for part in range(parts):
            data.shard(parts, part).to_parquet(folder / "data" / f"{split}-{part:05}-of-{parts:05}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--images", type=int, default=2048, help="training images")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.images)


if __name__ == "__main__":
    main()
