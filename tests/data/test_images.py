"""Decoding when asked for: every format, broken files passed over by name, batches."""

import io
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from sima_hf.data import images as images_module
from sima_hf.data.folders import check_readable
from sima_hf.data.images import (
    NO_LABEL,
    EvalImages,
    TrainImages,
    UnreadableImage,
    collate,
    decode,
    decode_labeled,
    name_of,
    rows_at,
)
from sima_hf.data.sampling import Draw
from sima_hf.errors import DataError


def pixels_of(image, seed=0):
    """A view that keeps all pixels and shows its seed in none of them."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def with_seed(image, seed):
    return (pixels_of(image).long() + seed).to(torch.uint8)


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def dataset(count=10, broken=(), unlabeled=()):
    """Image i is 4 x 4, of gray i."""
    rows = [encoded(PILImage.new("L", (4, 4), index)) for index in range(count)]
    for index in broken:
        rows[index] = {"bytes": rows[index]["bytes"][:20], "path": f"folder/{index}.png"}
    labels = [None if index in unlabeled else index % 3 for index in range(count)]
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"image": rows, "label": labels}, features=features)


def gray(sample):
    assert sample["pixel_values"].unique().numel() == 1
    return sample["pixel_values"][0, 0, 0].item()


KINDS = {
    "png": ("RGB", "L", "RGBA", "P", "1"),
    "jpeg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "L", "RGBA", "P"),
    "tiff": ("RGB", "L", "RGBA", "P", "CMYK", "1"),
    "gif": ("RGB", "L", "RGBA", "P"),
    "bmp": ("RGB", "L", "P", "1"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in KINDS.items() for mode in modes])
@pytest.mark.parametrize("from_file", [False, True])
def test_formats(kind, mode, from_file, tmp_path):
    row = encoded(PILImage.linear_gradient("L").resize((9, 7)).convert("RGB").convert(mode), kind)
    wanted = np.asarray(PILImage.open(io.BytesIO(row["bytes"])).convert("RGB"))
    if from_file:
        (tmp_path / f"x.{kind}").write_bytes(row["bytes"])
        row = {"bytes": None, "path": str(tmp_path / f"x.{kind}")}
    made = decode(row)
    assert made.mode == "RGB"
    assert np.array_equal(np.asarray(made), wanted)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_images_are_turned_as_their_exif_data_say(kind):
    image = PILImage.new("RGB", (16, 8), (250, 0, 0))
    exif = PILImage.Exif()
    exif[0x0112] = 6  # the camera was held upright
    row = encoded(image, kind, exif=exif)
    assert decode(row).size == (8, 16)
    assert np.array_equal(np.asarray(decode(row)), np.asarray(Image().decode_example(row).convert("RGB")))


def test_samples_are_views_of_the_draws():
    images = TrainImages(dataset(), with_seed)
    draws = [Draw(4, 10), Draw(4, 20), Draw(7, 30), Draw(4, 40)]
    samples = images.__getitems__(draws)
    assert [gray(sample) for sample in samples] == [14, 24, 37, 44]
    assert [sample["labels"] for sample in samples] == [1, 1, 1, 1]
    assert [sample["seeds"] for sample in samples] == [10, 20, 30, 40]
    assert all(sample["unreadable"] == [] for sample in samples)
    assert gray(images[Draw(9, 1)]) == 10
    assert len(images) == 10


def test_an_unreadable_image_is_replaced_by_the_next_and_named():
    images = TrainImages(dataset(broken=(3, 4, 9)), with_seed, max_unreadable=5)
    sample = images[Draw(3, 100)]
    assert gray(sample) == 105
    assert sample["labels"] == 5 % 3
    assert sample["seeds"] == 100
    assert [name.partition(" (")[0] for name in sample["unreadable"]] == ["folder/3.png", "folder/4.png"]
    assert gray(images[Draw(9, 0)]) == 0  # behind the last comes the first
    assert gray(images[Draw(2, 0)]) == 2


def test_nothing_readable_gives_a_black_sample_with_as_many_names_as_it_takes_to_end_the_run():
    images = TrainImages(dataset(4, broken=range(4)), pixels_of, max_unreadable=1)
    sample = images[Draw(2, 0)]
    assert sample["labels"] == NO_LABEL
    assert not sample["pixel_values"].any()
    assert len(sample["unreadable"]) == 2
    images = TrainImages(dataset(4, broken=range(4)), pixels_of, max_unreadable=100)
    assert len(images[Draw(2, 0)]["unreadable"]) == 4


def test_an_image_is_decoded_once_for_its_views(monkeypatch):
    decoded = []
    monkeypatch.setattr(images_module, "decode", lambda image: decoded.append(1) or decode(image))
    TrainImages(dataset(), pixels_of).__getitems__([Draw(1, seed) for seed in range(3)] + [Draw(2, 0)])
    assert len(decoded) == 2


def test_evaluation_keeps_unreadable_images_in_their_place():
    images = EvalImages(dataset(6, broken=(2,), unlabeled=(4,)), pixels_of_eval)
    samples = images.__getitems__(list(range(6)))
    assert [sample["labels"] for sample in samples] == [0, 1, NO_LABEL, 0, NO_LABEL, 2]
    assert [gray(sample) for sample in samples] == [0, 1, 0, 3, 0, 5]
    assert [len(sample["unreadable"]) for sample in samples] == [0, 0, 1, 0, 1, 0]
    assert "has no label" in samples[4]["unreadable"][0]
    assert images[3]["labels"] == 0
    assert len(images) == 6


def pixels_of_eval(image):
    return pixels_of(image.resize((4, 4)))


def test_reasons_name_the_file_and_what_is_wrong(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(PILImage.effect_noise((50, 50), 90))["bytes"][:700])
    (tmp_path / "text.jpg").write_text("not an image")
    for name, words in {
        "cut.png": "truncated",
        "text.jpg": "cannot identify image file",
        "no.png": "No such file",
    }.items():
        with pytest.raises(UnreadableImage) as caught:
            decode_labeled({"path": str(tmp_path / name), "bytes": None}, 0)
        assert str(caught.value).startswith(f"{tmp_path / name} (")
        assert str(caught.value).count(name) == 1
        assert str(caught.value).count("'") % 2 == 0
        assert words in str(caught.value)
        with pytest.raises(UnreadableImage) as caught_by_path:
            decode_labeled(tmp_path / name, 0)
        assert str(caught_by_path.value) == str(caught.value)
    for image in (None, {"path": None, "bytes": None}):
        with pytest.raises(UnreadableImage, match="there is no image"):
            decode_labeled(image, 0)
    with pytest.raises(UnreadableImage, match="has no label"):
        decode_labeled(encoded(PILImage.new("RGB", (5, 5))), -1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("transparency "), "transparency"),
        (OSError("bad 'IHDR'"), "bad 'IHDR'"),
        (ValueError("'a' and 'b'"), "'a' and 'b'"),
        (ValueError(), "ValueError"),
    ],
    ids=repr,
)
def test_quotes_of_a_reason_are_whole(error, words, monkeypatch):
    def fail(image):
        raise error

    monkeypatch.setattr(images_module, "decode", fail)
    with pytest.raises(UnreadableImage) as caught:
        decode_labeled({"path": "x.png", "bytes": None}, 0)
    assert str(caught.value) == f"x.png ({words})"


def test_images_without_a_name_are_told_apart():
    one, two = (encoded(PILImage.new("L", (4, 4), value)) for value in (1, 2))
    assert name_of(one) != name_of(two)
    assert f"{len(one['bytes'])} bytes" in name_of(one)


def test_running_out_of_memory_is_no_broken_image(monkeypatch):
    def full(image):
        raise MemoryError

    monkeypatch.setattr(images_module, "decode", full)
    with pytest.raises(MemoryError):
        decode_labeled(encoded(PILImage.new("RGB", (5, 5))), 0)


def test_batches():
    images = TrainImages(dataset(broken=(1,)), with_seed, max_unreadable=3)
    batch = collate(images.__getitems__([Draw(index, index + 2**62) for index in range(3)]))
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].shape == (3, 3, 4, 4)
    assert batch["labels"].tolist() == [0, 2, 2]
    assert batch["seeds"].tolist() == [2**62, 2**62 + 1, 2**62 + 2]
    assert batch["labels"].dtype == batch["seeds"].dtype == torch.int64
    assert [name.partition(" (")[0] for name in batch["unreadable"]] == ["folder/1.png"]
    assert next(iter(batch)) == "pixel_values"  # Trainer takes the batch size from the first entry
    batch = collate(EvalImages(dataset(), pixels_of_eval).__getitems__([0, 1]))
    assert "seeds" not in batch


def test_images_of_several_sizes_make_no_batch():
    samples = [{"pixel_values": torch.zeros(3, 4, size), "labels": 0, "unreadable": []} for size in (4, 5)]
    with pytest.raises(DataError, match=r"must have one size, got \(3, 4, 4\), \(3, 4, 5\)"):
        collate(samples)


def test_rows_come_by_index_whatever_the_columns():
    data = Dataset.from_dict({"x": [10, 11, 12]}, features=Features({"x": Value("int64")}))
    assert rows_at(data, [2, 0, 2]) == {2: {"x": 12}, 0: {"x": 10}}
    assert rows_at(data, []) == {}


def test_sixteen_bits_are_scaled_not_cut_off():
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    stream = io.BytesIO()
    PILImage.fromarray(levels).save(stream, format="png")
    found = np.asarray(decode({"bytes": stream.getvalue(), "path": None}))
    assert found.shape == (64, 64, 3)
    assert np.abs(found[..., 0].astype(float) - levels / 257).max() <= 0.5


def saved(pixels, path, format="png"):
    PILImage.fromarray(pixels).save(path, format=format)
    return {"path": str(path), "bytes": None}


def test_images_of_sixteen_bits_are_said_once(tmp_path, caplog, monkeypatch):
    """Of a sensor of 12 bits: dark here, white in a pipeline, so that whoever trains on them has to know."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    images_module.logger.warning_once.cache_clear()
    levels = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    for name in ("one", "two"):
        found = np.asarray(decode(saved(levels, tmp_path / f"{name}.png")))
        assert np.abs(found[..., 0].astype(float) - levels / 257).max() <= 0.5
    assert sum("16 bits" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), "floating point numbers, whose range no file says"),
        (np.linspace(0, 70000, 64).astype(np.int32), "its pixels go from 0 to 70000, beyond 16 bits"),
        (np.linspace(-5, 5, 64).astype(np.int32), "its pixels go from -5 to 5, beyond 16 bits"),
    ],
    ids=["float", "long", "negative"],
)
def test_images_without_a_range_are_named_and_not_made_black(pixels, reason, tmp_path):
    image = saved(pixels.reshape(8, 8), tmp_path / "x.tiff", "tiff")
    with pytest.raises(UnreadableImage, match=rf"x\.tiff \(.*{reason}"):
        decode_labeled(image, 0)
    (tmp_path / "train" / "a").mkdir(parents=True)
    saved(pixels.reshape(8, 8), tmp_path / "train" / "a" / "y.tiff", "tiff")
    with pytest.raises(DataError, match=rf"y\.tiff \(.*{reason}"):
        check_readable([tmp_path / "train" / "a" / "y.tiff"])
