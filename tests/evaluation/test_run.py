"""An evaluation from its options to its report: digits, folders and files, any resolution, either weights, two processes, bad input."""

import json
import multiprocessing
import os
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.data.images import decode
from sima_hf.data.sources import load_image_data
from sima_hf.errors import CheckpointError, DataError
from sima_hf.evaluation.report import report_text, write_report
from sima_hf.evaluation.run import EvaluationOptions, run_evaluation
from sima_hf.loading.saved_class import load_saved_class


pytestmark = pytest.mark.slow
NAMES = {index: str(index) for index in range(10)}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
CLASSES = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}


def evaluated(model, output_dir=None, **options) -> tuple[dict, str]:
    """The report of an evaluation, and its text."""
    found = run_evaluation(EvaluationOptions(str(model), **options))
    if output_dir is not None:
        write_report(found, output_dir)
    return found.report, report_text(found.report)


@pytest.fixture(scope="module")
def everything(digits_model) -> dict:
    """What is found for the averaged weights on all held-out digits."""
    return evaluated(digits_model, weights="ema")[0]


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory) -> Path:
    """A small SimA model after a few steps on digits, in a training checkpoint: averaged weights inside, raw ones ruined."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "checkpoint-60"
    config = SimAConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_class_attention_layers=1,
        patch_size=8,
        image_size=32,
        attention_gain="tokens",
        **CLASSES,
    )
    model, processor = SimAForImageClassification(config), SimAImageProcessor.for_image_size(32, 1.0)
    bunch = load_digits()
    images = [Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).convert("RGB") for pixels in bunch.images]
    pixel_values, labels = processor(images, return_tensors="pt").pixel_values, torch.tensor(bunch.target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        drawn = torch.randint(0, len(labels), (64,))
        model(pixel_values[drawn], labels=labels[drawn]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "ema")
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(torch.nn.functional.one_hot(torch.tensor(3), 10))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def swapped_vit(tmp_path_factory) -> Path:
    """An untrained ViT with SimA, made for 32 pixels, whose answers are spread over the classes."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("swapped")
    config = ViTConfig(
        **TINY,
        initializer_range=0.4,
        **CLASSES,
    )
    sima_hf.patch_model(ViTForImageClassification(config).eval()).save_pretrained(folder)
    SimAImageProcessor.for_image_size(32, image_mean=[0.5] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def held_out() -> tuple[list[Image.Image], list[int]]:
    data = load_image_data().validation
    return [decode(row["image"]) for row in data], data["label"][:]


@pytest.fixture(scope="module")
def photos(held_out, tmp_path_factory) -> Path:
    """Some digits as files, in folders whose alphabetical order is not that of the model's classes."""
    folder = tmp_path_factory.mktemp("photos")
    for index, (image, label) in enumerate(zip(*held_out, strict=True)):
        if label in (2, 5, 7):
            (folder / NAMES[label]).mkdir(exist_ok=True)
            image.save(folder / NAMES[label] / f"{index}.png")
    return folder


def test_digits_agree_with_the_pipeline_image_by_image(digits_model, held_out, tmp_path):
    found, printed = evaluated(digits_model, tmp_path / "new" / "out", weights="ema", batch_size=50)
    images, labels = held_out
    classifier = pipeline(
        "image-classification",
        model=str(digits_model / "ema"),
        image_processor=AutoImageProcessor.from_pretrained(digits_model),
    )
    answers = [int(found[0]["label"]) for found in classifier(images, top_k=1, batch_size=60)]
    right = [answer == label for answer, label in zip(answers, labels, strict=True)]
    assert found["accuracy"] == sum(right) / len(labels) > 0.6
    assert found["num_images"] == len(labels) == 360
    for row in found["per_class"]:
        of_class = [hit for hit, label in zip(right, labels, strict=True) if label == int(row["label"])]
        assert (row["correct"], row["images"]) == (sum(of_class), len(of_class))
    assert [row["accuracy"] for row in found["per_class"]] == sorted(row["accuracy"] for row in found["per_class"])
    assert sum(row["count"] for row in found["most_confused"]) == len(labels) - sum(right)
    for words in (
        f"top-1 accuracy  {found['accuracy']:.2%}",
        f"top-5 accuracy  {found['top_5_accuracy']:.2%}",
        "images          360",
        "resolution      32 px",
        "weights         ema",
        f"{found['per_class'][0]['correct']} of {found['per_class'][0]['images']}",
    ):
        assert words in printed
    assert found["settings"]["parameters"] == classifier.model.num_parameters()
    assert found["versions"]["torch"] == torch.__version__
    assert json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    with Image.open(tmp_path / "new" / "out" / "confusion.png") as picture:
        assert picture.width > 1000


def test_raw_weights_are_the_default_and_another_thing(digits_model):
    raw, _ = evaluated(digits_model)
    assert raw["settings"]["weights"] == "raw"
    assert raw["accuracy"] == pytest.approx(36 / 360, abs=0.01)  # everything is a 3
    assert next(row for row in raw["per_class"] if row["label"] == "3")["accuracy"] == 1.0


@pytest.mark.parametrize(("size", "crop"), [(40, 0.875), (None, 1.0)])
def test_swapped_vit_at_another_resolution_and_crop(size, crop, swapped_vit, held_out):
    found, printed = evaluated(swapped_vit, eval_crop_pct=crop, image_size=size)
    size = size or 32
    processor = SimAImageProcessor.for_image_size(size, crop, image_mean=[0.5] * 3, image_std=[0.3] * 3)
    model = load_saved_class(str(swapped_vit))
    images, labels = held_out
    pixel_values = processor(images, return_tensors="pt").pixel_values
    assert pixel_values.shape[-1] == size
    with torch.no_grad():
        logits = model(pixel_values, interpolate_pos_encoding=True).logits
    five = logits.topk(5).indices == torch.tensor(labels)[:, None]
    assert found["accuracy"] == five[:, 0].double().mean().item()
    assert found["top_5_accuracy"] == five.any(-1).double().mean().item()
    assert found["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item(), rel=1e-4
    )
    assert len(set(logits.argmax(-1).tolist())) > 3
    assert f"resolution      {size} px" in printed
    assert f"crop            {'full (1.0)' if crop == 1 else crop}" in printed
    assert found["settings"]["class"] == "SimAViTForImageClassification"


def test_a_folder_with_some_of_the_classes_is_matched_by_name(digits_model, photos, everything):
    found, printed = evaluated(digits_model, weights="ema", validation_dir=str(photos))
    expected = {row["label"]: row for row in everything["per_class"] if row["label"] in ("2", "5", "7")}
    assert {row["label"]: row for row in found["per_class"]} == expected
    assert found["num_images"] == sum(row["images"] for row in expected.values())
    assert found["settings"]["data"] == photos.name
    assert found["settings"]["model"] == digits_model.name
    assert str(photos.parent) not in json.dumps(found) + printed


def test_the_folder_that_was_read_is_named_and_splits_are_not_taken_for_it(digits_model, photos, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(photos, tmp_path / "set" / split)
    shutil.rmtree(tmp_path / "set" / "val" / "7")
    with pytest.raises(DataError, match=f"{tmp_path / 'set' / 'train'} or {tmp_path / 'set' / 'val'}"):
        evaluated(digits_model, validation_dir=str(tmp_path / "set"))
    found, printed = evaluated(digits_model, validation_dir=str(tmp_path / "set" / "val"))
    assert found["settings"]["data"] == "set, val"
    assert re.search(r"^  data +set, val$", printed, flags=re.MULTILINE)
    found, _ = evaluated(digits_model, train_dir=str(tmp_path / "set"))
    assert found["settings"]["data"] == "set, validation split"
    assert {row["label"] for row in found["per_class"]} == {"2", "5"}
    found, _ = evaluated(digits_model, train_dir=str(photos), held_out=0.25)
    assert found["settings"]["data"] == f"{photos.name}, 25% held out"


def test_unreadable_images_are_left_out_by_name(digits_model, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    files = sorted(folder.glob("5/*.png"))
    files[0].write_bytes(files[0].read_bytes()[:60])
    found, printed = evaluated(digits_model, weights="ema", validation_dir=str(folder))
    assert found["num_images"] == len(list(folder.glob("*/*.png"))) - 1
    assert found["left_out"] == 1
    assert files[0].name in found["unreadable"][0]
    assert str(tmp_path) not in json.dumps(found)
    assert re.search(rf"left out +1; unreadable: .*{files[0].name}", printed)


def test_parquet_files_and_names_that_are_missing(digits_model, everything, tmp_path):
    """Numbers for labels, and a model whose classes are called LABEL_0 and so on."""
    data = load_image_data().validation
    for part in range(2):
        data.shard(2, part).to_parquet(tmp_path / f"part-{part}.parquet")
    shutil.copytree(digits_model, tmp_path / "unnamed")
    config = json.loads((tmp_path / "unnamed" / "config.json").read_text())
    config["id2label"] = {index: f"LABEL_{index}" for index in range(10)}
    config["label2id"] = {name: index for index, name in config["id2label"].items()}
    for place in ("config.json", "ema/config.json"):
        (tmp_path / "unnamed" / place).write_text(json.dumps(config))
    found, _ = evaluated(tmp_path / "unnamed", weights="ema", data_files=[str(tmp_path / "part-*.parquet")])
    assert found["accuracy"] == everything["accuracy"]
    assert found["settings"]["data"] == "part-*.parquet"
    assert found["num_images"] == 360
    assert found["per_class"][0]["label"].startswith("LABEL_")


def _one_of_two(rank, port, model, folder):
    """What `accelerate launch --num_processes 2` does with `sima-hf evaluate`."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests in this process left
    GradientState._reset_state()
    found = run_evaluation(EvaluationOptions(str(model), weights="ema", batch_size=50))
    assert (found is None) == bool(rank)
    if found is not None:
        write_report(found, folder)
    torch.distributed.destroy_process_group()


def test_two_processes_find_the_same_and_one_of_them_reports(digits_model, everything, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    arguments = (port, digits_model, tmp_path / "two")
    processes = [context.Process(target=_one_of_two, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert two["settings"]["processes"] == 2
    for key in ("accuracy", "top_5_accuracy", "num_images", "per_class", "most_confused"):
        assert everything[key] == two[key], key
    assert everything["loss"] == pytest.approx(two["loss"], rel=1e-6)


def test_bad_input_is_explained(digits_model, photos, tmp_path):
    names = tmp_path / "animals"
    for name in ("ant", "bee"):
        (names / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(names / name / "one.png")
    for model, options, error, words in (
        ("./nowhere", {}, CheckpointError, "nowhere"),
        (digits_model, {"image_size": 0}, DataError, "got 0"),
        (digits_model, {"eval_crop_pct": 1.5}, DataError, "got 1.5"),
        (digits_model, {"batch_size": 0}, ValueError, "got 0"),
        (digits_model, {"device": "cudo"}, ValueError, "cudo"),
        (digits_model, {"validation_dir": str(tmp_path / "missing")}, DataError, "missing"),
        (digits_model, {"validation_dir": str(names)}, DataError, "'ant', 'bee'"),
        (digits_model, {"dataset": "digits", "validation_dir": str(photos)}, DataError, "one source of images"),
        (digits_model, {"held_out": 0}, DataError, "nothing to evaluate on"),
    ):
        with pytest.raises(error, match=words):
            evaluated(model, **options)


def test_a_backend_is_for_sima_alone(digits_model, swapped_vit, tmp_path):
    assert evaluated(swapped_vit, backend="reference")[0]["settings"]["backend"] == "reference"
    ViTForImageClassification(ViTConfig(**TINY, **CLASSES)).save_pretrained(tmp_path)
    SimAImageProcessor.for_image_size(32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has softmax"):
        evaluated(tmp_path, backend="eager")
