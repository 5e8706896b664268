"""Data sets of a few images: a parquet file, folders."""

from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage


def parquet_of(folder, split, labels, feature=None):
    """A parquet file of gray images with these labels."""
    folder.mkdir(exist_ok=True)
    images = [PILImage.new("L", (4, 4), index) for index in range(len(labels))]
    feature = feature or Value("string" if isinstance(labels[0], str) else "int64")
    data = Dataset.from_dict(
        {"image": images, "label": labels}, features=Features({"image": Image(), "label": feature})
    )
    data.to_parquet(folder / f"{split}.parquet")
    return str(folder / f"{split}.parquet")


def folders_with_an_image(folder, *names):
    """Folders with an image each, and what macOS leaves beside images."""
    for name in names:
        (folder / name).mkdir(parents=True)
        PILImage.new("RGB", (8, 8)).save(folder / name / "0.png")
        (folder / name / "._0.png").write_bytes(b"\x00\x05\x16\x07")
