"""The scripts for segmentation and detection, on the small set: what they train, measure, leave behind and say."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import pipeline

from sima_hf import certify
from sima_hf.errors import DataError, MissingDependencyError
from sima_hf.training.command_line import parse
from sima_hf.training.dense.model import DenseModelArguments, build_dense_model
from sima_hf.training.dense.trainer import DenseTrainingArguments
from tests.helpers.script_runs import EXAMPLES, Run, command, run


CONFIGS = EXAMPLES / "configs" / "dense"
SEGMENT, DETECT = "run_semantic_segmentation.py", "run_object_detection.py"
SHORT = {
    "max_train_images": 24,
    "max_validation_images": 8,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "disable_tqdm": True,
    "report_to": "none",
}


def loaded(script):
    spec = importlib.util.spec_from_file_location(script.removesuffix(".py"), EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("data") / "digits-on-photos"
    loaded("digits_on_photos.py").write(place, images=40, validation_images=13, size=64)
    return place


@pytest.fixture(scope="module")
def rows(folder):
    return load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


def test_mean_iou_is_the_formula():
    """Over batches of different sizes, without pixels of 255, over the classes that occur in either."""
    pytest.importorskip("torchmetrics")
    compute = loaded(SEGMENT).mean_iou(5)
    generator = torch.Generator().manual_seed(0)
    found, true = [], []
    for number, last in ((3, False), (1, True)):
        guess = torch.randint(4, (number, 7, 5), generator=generator)
        label = torch.randint(4, (number, 7, 5), generator=generator)  # the fifth class never comes
        label[:, 2] = 255
        found.append(guess.flatten())
        true.append(label.flatten())
        prediction = type("Prediction", (), {"predictions": guess, "label_ids": label})
        metrics = compute(prediction, compute_result=last)
    found, true = torch.cat(found), torch.cat(true)
    found, true = found[true != 255], true[true != 255]
    shares = [((found == c) & (true == c)).sum() / ((found == c) | (true == c)).sum() for c in range(4)]
    assert metrics["mean_iou"] == pytest.approx(torch.stack(shares).mean().item(), rel=1e-6)
    assert metrics["pixel_accuracy"] == pytest.approx((found == true).double().mean().item(), rel=1e-6)
    again = compute(type("Prediction", (), {"predictions": true[None], "label_ids": true[None]}), compute_result=True)
    assert again == {"mean_iou": pytest.approx(1.0), "pixel_accuracy": pytest.approx(1.0)}


def test_views_keep_image_and_mask_together():
    """A picture whose red is its mask's class still is after every random view; what is beyond it has no class."""
    module = loaded(SEGMENT)
    columns = np.repeat(np.arange(0, 200, 25, dtype=np.uint8), 6)[None].repeat(40, axis=0)
    picture = Image.merge("RGB", [Image.fromarray(columns)] * 3)
    mask = Image.fromarray(columns // 25)

    class Plain:
        size = {"height": 48, "width": 64}  # noqa: RUF012

        def __call__(self, images, segmentation_maps, return_tensors):
            pixels = torch.from_numpy(np.array(images)).permute(2, 0, 1)[None].float()
            return {"pixel_values": pixels, "labels": torch.from_numpy(np.array(segmentation_maps))[None]}

    args = module.DataArguments(min_scale=0.5, max_scale=2.0, horizontal_flip=0.5)
    views = module.Views([{"image": picture, "label": mask}], Plain(), args, seed=1)
    borders = 0
    for epoch in range(40):
        views.set_epoch(epoch)
        shown = views[0]
        assert shown["pixel_values"].shape[1:] == shown["labels"].shape == (48, 64)
        inside = shown["labels"] != 255
        wrong = (shown["pixel_values"][0] - 25 * shown["labels"]).abs()[inside] > 13
        assert wrong.float().mean() < 0.02  # at the edges between classes, which the image's are blurred
        borders += not inside.all()
        assert torch.equal(views[0]["labels"], shown["labels"])
    assert 0 < borders < 40


def test_average_precision_of_perfect_and_of_misplaced_boxes(rows):
    pytest.importorskip("pycocotools")
    module, data = loaded(DETECT), rows["validation"]
    names = [str(digit) for digit in range(10)]
    arguments = DenseModelArguments(
        config_name=str(CONFIGS / "models" / "rt_detr_sima_pvt_v2_digits.json"), image_size=64
    )
    processor = build_dense_model(arguments, module.AutoModelForObjectDetection, names).image_processor
    shown = [module.Views(data, processor)[index]["labels"] for index in range(len(data))]
    compute = module.coco_map(data, names, processor)

    def measured(move):
        for start in range(0, len(shown), 5):
            labels = shown[start : start + 5]
            logits, boxes = torch.full((len(labels), 3, 10), -9.0), torch.full((len(labels), 3, 4), 0.01)
            for row, label in enumerate(labels):
                for query, (category, box) in enumerate(zip(label["class_labels"], label["boxes"], strict=True)):
                    logits[row, query, category], boxes[row, query] = 9.0, box + torch.tensor([move, 0, 0, 0])
            prediction = type("Prediction", (), {"predictions": (logits, boxes), "label_ids": labels})
            found = compute(prediction, compute_result=start + 5 >= len(shown))
        return found

    assert measured(0.0) == {"map": pytest.approx(1.0), "map_50": pytest.approx(1.0), "map_75": pytest.approx(1.0)}
    assert measured(0.3)["map_50"] < 0.1


def test_flipped_boxes_are_around_the_flipped_digits(rows):
    module = loaded(DETECT)

    class Plain:
        def __call__(self, images, annotations, return_tensors):
            return {"pixel_values": [images], "labels": [annotations]}

    plain = module.Views(rows["train"], Plain(), flip=0.0)
    flipped = module.Views(rows["train"], Plain(), flip=1.0)
    for index in range(5):
        before, after = (views[index]["labels"]["annotations"] for views in (plain, flipped))
        image = np.asarray(flipped[index]["pixel_values"])
        assert np.array_equal(image, np.asarray(plain[index]["pixel_values"])[:, ::-1])
        mask = np.asarray(rows["train"][index]["label"])[:, ::-1]
        for one, other in zip(before, after, strict=True):
            x, y, width, height = map(int, other["bbox"])
            assert (mask[y : y + height, x : x + width] == 1 + other["category_id"]).sum() > 0
            assert (width, height, other["category_id"]) == (*map(int, one["bbox"][2:]), one["category_id"])
            assert mask[y : y + height, [x, x + width - 1]].any(axis=0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "task", "figures"),
    [
        (SEGMENT, "digits_segmentation", "image-segmentation", ("mean_iou", "pixel_accuracy")),
        (DETECT, "digits_detection", "object-detection", ("map", "map_50", "map_75")),
    ],
    ids=["segmentation", "detection"],
)
def test_from_data_to_pipeline(script, arguments, task, figures, folder, tmp_path):
    """Trained, measured, saved; taken up again after an end in between with the same losses; used by folder name."""
    defaults = json.loads((CONFIGS / f"{arguments}.json").read_text(encoding="utf-8"))
    defaults["config_name"] = str(EXAMPLES.parent / defaults["config_name"])
    given = {**defaults, **SHORT, "dataset_name": str(folder), "seed": 5}
    results = run(script, tmp_path / "run", **given)
    assert results["epoch"] == 2.0
    assert all(0 <= results[f"eval_{name}"] <= 1 for name in figures)
    half = run(script, tmp_path / "run", **given, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert half["eval_loss"] == results["eval_loss"]
    pipe = pipeline(task, model=str(tmp_path / "run"), device="cpu")
    image = Image.radial_gradient("L").resize((90, 70)).convert("RGB")
    options = {"threshold": 0.0} if task == "object-detection" else {}
    assert {entry["label"] for entry in pipe(image, **options)} <= {"background", *map(str, range(10))}
    assert "digits-on-photos" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_swap_calibrate_and_train(folder, tmp_path):
    """A softmax SegFormer that the script trained is swapped, calibrated and trained on; what is saved runs no softmax."""
    given = {**SHORT, "dataset_name": str(folder), "image_size": 64, "num_train_epochs": 1}
    config = CONFIGS / "models" / "segformer_digits.json"
    run(SEGMENT, tmp_path / "softmax", config_name=str(config), **given)
    run(SEGMENT, tmp_path / "sima", patch=str(tmp_path / "softmax"), calibrate=24, **given)
    model = pipeline("image-segmentation", model=str(tmp_path / "sima"), device="cpu").model
    assert model.config.model_type == "sima_segformer"
    assert certify(model, torch.randn(1, 3, 64, 64)).softmax_free


@pytest.mark.parametrize(
    ("script", "package", "words"),
    [
        (SEGMENT, "torchmetrics", "Mean IoU needs torchmetrics"),
        (DETECT, "pycocotools.coco", "COCO mAP needs pycocotools"),
    ],
    ids=["segmentation", "detection"],
)
def test_what_is_not_installed_is_named(script, package, words, rows, monkeypatch):
    module = loaded(script)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{words}: pip install 'sima-hf\[dense\]'"):
        module.mean_iou(3) if script == SEGMENT else module.coco_map(rows["validation"], ["0"], None)


@pytest.mark.slow
@pytest.mark.parametrize("script", [SEGMENT, DETECT])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dataset_name": None}, "--dataset_name must name a data set or a folder, got none."),
        ({"validation_split": "test"}, "has no split 'test'; it has train, validation."),
        ({"config_name": None}, "Give exactly one of --config_name, --model_name_or_path and --patch, got none."),
        ({"resume_from_checkpoint": "last"}, "has no checkpoint to go on from"),
    ],
    ids=["data", "split", "model", "checkpoint"],
)
def test_mistakes_are_sentences(script, wrong, words, folder, tmp_path):
    model = {SEGMENT: "upernet_sima_digits", DETECT: "rt_detr_sima_pvt_v2_digits"}[script]
    given = {**SHORT, "dataset_name": str(folder), "config_name": str(CONFIGS / "models" / f"{model}.json"), **wrong}
    started = Run(script, command(output_dir=tmp_path / "run", **given), tmp_path / "log")
    assert started.wait() == 1
    assert words in started.text
    assert "Traceback" not in started.text


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_recipes_are_what_the_scripts_take(path, monkeypatch, tmp_path):
    """Every argument is one, and the model that the file names can be built."""
    monkeypatch.chdir(EXAMPLES.parent)
    module = loaded(DETECT if "det" in path.stem else SEGMENT)
    kinds = (DenseModelArguments, module.DataArguments, DenseTrainingArguments)
    model_args, _, args = parse(*kinds, arguments=[str(path), "--output_dir", str(tmp_path), "--seed", "7"])
    assert args.seed == 7
    auto = getattr(module, "AutoModelForObjectDetection" if "det" in path.stem else "AutoModelForSemanticSegmentation")
    dense = build_dense_model(model_args, auto, ["a", "b"])
    assert dense.model.config.num_labels == 2


def test_masks_of_another_size_are_named(folder):
    module = loaded(SEGMENT)
    processor = type("Sized", (), {"size": {"height": 8, "width": 8}})
    wrong = [{"image": Image.new("RGB", (8, 8)), "label": Image.new("L", (8, 9))}]
    with pytest.raises(DataError, match=r"Image 0 must have a mask of its size \(8, 8\), got \(8, 9\)"):
        module.Views(wrong, processor, module.DataArguments())[0]
