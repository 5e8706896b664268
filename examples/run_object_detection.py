"""Train an object detector on a SimA backbone, or swap a trained one's softmax for SimA and go on: Transformers' Trainer.

    python examples/digits_on_photos.py digits-on-photos
    python examples/run_object_detection.py examples/configs/dense/digits_detection.json \\
        --dataset_name digits-on-photos --output_dir detected
    python examples/run_object_detection.py --patch hustvl/yolos-tiny --dataset_name cppe-5 --output_dir swapped

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works; --help
lists them all. Evaluate on one process: boxes of several are not gathered. Needs `pip install 'sima-hf[dense]'`.
"""

import contextlib
import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import ImageOps
from transformers import AutoModelForObjectDetection, set_seed
from transformers.utils import ModelOutput, logging

from sima_hf.errors import MissingDependencyError
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.dense.data import DenseDataArguments, at_most, load_splits
from sima_hf.training.dense.model import DenseModelArguments, build_dense_model, calibrate_dense
from sima_hf.training.dense.trainer import DenseTrainer, DenseTrainingArguments
from sima_hf.training.run import check_folders, start_over


NAME = "run_object_detection"
COLUMNS = (
    "image_id",
    "image",
    "objects",
)  # as Transformers' own example has them; boxes are COCO's x, y, width, height


@dataclass
class DataArguments(DenseDataArguments):
    """Which images, and how they are shown."""

    max_size: int | None = field(
        default=None,
        metadata={
            "help": "Longer side at most, images keeping their shape with --image_size for the shorter (800, 1333)."
        },
    )


class Views(torch.utils.data.Dataset):
    """Images and boxes as the model takes them; in training perhaps flipped, as the seed, the epoch and the image say."""

    def __init__(self, data, processor, flip: float = 0.0, seed: int = 0):
        self.data, self.processor, self.flip, self.seed, self.epoch = data, processor, flip, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        """`pixel_values` (3,H,W), perhaps `pixel_mask` (H,W), and `labels` with class_labels (N,) and boxes (N,4)."""
        row = self.data[index]
        image, objects = row["image"].convert("RGB"), row["objects"]
        boxes = objects["bbox"]
        if np.random.default_rng([self.seed, self.epoch, index]).random() < self.flip:
            image = ImageOps.mirror(image)
            boxes = [[image.width - x - width, y, width, height] for x, y, width, height in boxes]
        annotations = [
            {"image_id": row["image_id"], "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for category, box in zip(objects["category"], boxes, strict=True)
        ]
        target = {"image_id": row["image_id"], "annotations": annotations}
        shown = self.processor(images=image, annotations=target, return_tensors="pt")
        return {name: shown[name][0] for name in ("pixel_values", "pixel_mask", "labels") if name in shown}


def collate(rows: list[dict]) -> dict:
    """A batch; of the labels, which have as many boxes as there are, a list."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
    return {**batch, "labels": [row["labels"] for row in rows]}


def coco_map(data, names: list[str], processor):
    """`compute_metrics` that adds up batches: COCO's mean average precision, by pycocotools.

    Args:
        data: the split that is evaluated, with boxes in pixels of the original images.
        names: of the classes.
        processor: turns the model's outputs into boxes.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingDependencyError("COCO mAP needs pycocotools: pip install 'sima-hf[dense]'") from error
    rows = data.remove_columns([name for name in data.column_names if name not in ("image_id", "objects")])
    truth = COCO()
    truth.dataset = {
        "images": [{"id": row["image_id"]} for row in rows],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
        "annotations": [
            {"image_id": row["image_id"], "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for row in rows
            for category, box in zip(row["objects"]["category"], row["objects"]["bbox"], strict=True)
        ],
    }
    for number, annotation in enumerate(
        truth.dataset["annotations"], start=1
    ):  # 0 counts as "no match" in pycocotools
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found = []

    def compute_metrics(prediction, compute_result: bool) -> dict[str, float]:
        logits, boxes = prediction.predictions
        labels = prediction.label_ids
        sizes = torch.stack([label["orig_size"] for label in labels])
        outputs = ModelOutput(logits=logits, pred_boxes=boxes)
        results = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        for label, result in zip(labels, results, strict=True):
            for score, category, (left, top, right, below) in zip(
                result["scores"].tolist(), result["labels"].tolist(), result["boxes"].tolist(), strict=True
            ):
                box = [left, top, right - left, below - top]
                image_id = int(label["image_id"])
                found.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
        if not compute_result:
            return {}
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        found.clear()
        return dict(zip(("map", "map_50", "map_75"), map(float, evaluation.stats[:3]), strict=True))

    return compute_metrics


def logits_and_boxes(outputs: tuple, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """What is measured of a detector's outputs: `(B,Q,K)` logits and `(B,Q,4)` boxes, which come first of all tensors."""
    return tuple(one for one in outputs if isinstance(one, torch.Tensor))[:2]


def train(model_args: DenseModelArguments, data_args: DataArguments, args: DenseTrainingArguments) -> None:
    """From arguments to a finished folder: model, image processor, results and card."""
    logging.disable_progress_bar()
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    train_data, validation = load_splits(data_args, COLUMNS, model_args.token)
    objects = train_data.features["objects"]
    names = (objects.feature if hasattr(objects, "feature") else objects)["category"].feature.names

    # Fresh weights with a SimA backbone, a trained model, or a softmax model that is swapped.
    set_seed(args.seed)
    settings = {}
    if data_args.max_size:  # else images of one shape are made
        square = {"height": data_args.max_size, "width": data_args.max_size}
        size = {"shortest_edge": model_args.image_size or 800, "longest_edge": data_args.max_size}
        settings = {"size": size, "do_pad": True, "pad_size": square}
    dense = build_dense_model(model_args, AutoModelForObjectDetection, names, **settings)
    check_folders(args, checkpoint, data_args.dataset_name)
    if model_args.calibrate and checkpoint is None:
        shown = Views(at_most(train_data, model_args.calibrate), dense.image_processor)
        loader = torch.utils.data.DataLoader([one["pixel_values"] for one in shown], args.train_batch_size)
        calibrate_dense(dense, loader, progress=not args.disable_tqdm)
        print(dense.calibration)

    trainer = DenseTrainer(
        dense.model,
        args,
        data_collator=collate,
        train_dataset=Views(train_data, dense.image_processor, data_args.horizontal_flip, args.seed),
        eval_dataset=Views(validation, dense.image_processor),
        processing_class=dense.image_processor,
        compute_metrics=coco_map(validation, names, dense.image_processor),
        preprocess_logits_for_metrics=logits_and_boxes,
    )
    start_over(args, checkpoint)  # with --overwrite_output_dir
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(_internal_call=True)
    for split, metrics in (("train", result.metrics), ("eval", trainer.evaluate())):
        trainer.log_metrics(split, metrics)
        trainer.save_metrics(split, metrics)
    trainer.save_state()
    card = {"tasks": "object-detection", "dataset": data_args.dataset_name, "tags": ["object-detection", "vision"]}
    (trainer.push_to_hub if args.push_to_hub else trainer.create_model_card)(**card)


def main() -> None:
    """Read the arguments and train; what a user can mend ends in a sentence."""
    with failures_as_sentences(NAME):
        model_args, data_args, args = parse(DenseModelArguments, DataArguments, DenseTrainingArguments)
    with failures_as_sentences(NAME, args.output_dir):
        train(model_args, data_args, args)


if __name__ == "__main__":
    main()
