"""Train a semantic segmenter on a SimA backbone, or swap a trained one's softmax for SimA and go on: Transformers' Trainer.

    python examples/digits_on_photos.py digits-on-photos
    python examples/run_semantic_segmentation.py examples/configs/dense/digits_segmentation.json \\
        --dataset_name digits-on-photos --output_dir segmented
    python examples/run_semantic_segmentation.py --patch microsoft/beit-base-finetuned-ade-640-640 --calibrate 512 \\
        --dataset_name scene_parse_150 --output_dir swapped
    torchrun --nproc_per_node 8 examples/run_semantic_segmentation.py examples/configs/dense/ade20k_upernet_160k.json --output_dir ade

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works; --help
lists them all. Needs `pip install 'sima-hf[dense]'`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps
from transformers import AutoModelForSemanticSegmentation, set_seed
from transformers.utils import logging

from sima_hf.errors import DataError, MissingDependencyError
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.dense.data import DenseDataArguments, at_most, load_splits
from sima_hf.training.dense.model import DenseModelArguments, build_dense_model, calibrate_dense
from sima_hf.training.dense.trainer import DenseTrainer, DenseTrainingArguments
from sima_hf.training.run import check_folders, start_over


NAME = "run_semantic_segmentation"
IGNORED = 255  # pixels of no class


@dataclass
class DataArguments(DenseDataArguments):
    """Which images, and how they are shown."""

    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str = field(default="label", metadata={"help": "Column of the masks, in which a pixel is a class."})
    id2label_file: str | None = field(
        default=None, metadata={"help": "JSON with the name of each class; by default id2label.json beside the data."}
    )
    do_reduce_labels: bool = field(default=False, metadata={"help": "Class 0 of the masks is none (ADE20K)."})
    min_scale: float = field(default=0.5, metadata={"help": "Smallest random scale of a training image."})
    max_scale: float = field(default=2.0, metadata={"help": "Largest random scale, before the crop."})


class Views(torch.utils.data.Dataset):
    """Images and masks as the model takes them: whole, resized; in training, at a random scale, cropped, perhaps flipped.

    What is random depends on the seed, the epoch and the image alone, so that a run that goes on sees what it would have seen.
    """

    def __init__(self, data, processor, args: DataArguments, seed: int | None = None):
        self.data, self.processor, self.args, self.seed, self.epoch = data, processor, args, seed, 0
        self.height, self.width = processor.size["height"], processor.size["width"]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """`pixel_values` (3,H,W) and `labels` (H,W), in which 255 is left out."""
        row = self.data[index]
        image, mask = row[self.args.image_column].convert("RGB"), row[self.args.label_column]
        if image.size != mask.size:
            raise DataError(f"Image {index} must have a mask of its size {image.size}, got {mask.size}.")
        if self.seed is not None:
            image, mask = self.random_view(image, mask, np.random.default_rng([self.seed, self.epoch, index]))
        shown = self.processor(images=image, segmentation_maps=mask, return_tensors="pt")
        return {"pixel_values": shown["pixel_values"][0], "labels": shown["labels"][0].long()}

    def random_view(self, image: Image.Image, mask: Image.Image, generator) -> tuple[Image.Image, Image.Image]:
        """Both resized so that the image covers the view at scale 1, then cut to it; what is beyond the image has no class."""
        scale = generator.uniform(self.args.min_scale, self.args.max_scale)
        scale *= max(self.height / image.height, self.width / image.width)
        size = [max(1, round(side * scale)) for side in image.size]
        image, mask = image.resize(size, Image.BILINEAR), mask.resize(size, Image.NEAREST)
        right, below = max(0, self.width - size[0]), max(0, self.height - size[1])
        image = ImageOps.expand(image, (0, 0, right, below))
        # The processor takes 1 from masks that it reduces, so that 0 becomes the pixel that is left out.
        mask = ImageOps.expand(mask, (0, 0, right, below), fill=0 if self.args.do_reduce_labels else IGNORED)
        left = int(generator.integers(image.width - self.width + 1))
        top = int(generator.integers(image.height - self.height + 1))
        box = (left, top, left + self.width, top + self.height)
        image, mask = image.crop(box), mask.crop(box)
        if generator.random() < self.args.horizontal_flip:
            image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
        return image, mask


def class_names(args: DataArguments) -> list[str]:
    """The names in id2label.json: given, in the folder of the data, or in its repository on the Hub."""
    beside = Path(args.dataset_name) / "id2label.json"
    path = args.id2label_file or (
        beside if beside.is_file() else hf_hub_download(args.dataset_name, "id2label.json", repo_type="dataset")
    )
    names = json.loads(Path(path).read_text(encoding="utf-8"))
    return [names[str(index)] for index in range(len(names))]


def mean_iou(num_labels: int):
    """`compute_metrics` that adds up batches: mean intersection over union of the classes that occur, and pixel accuracy."""
    try:
        from torchmetrics import Accuracy, JaccardIndex, MetricCollection
    except ImportError as error:
        raise MissingDependencyError("Mean IoU needs torchmetrics: pip install 'sima-hf[dense]'") from error
    options = {"task": "multiclass", "num_classes": num_labels, "ignore_index": IGNORED}
    metrics = MetricCollection(
        {"mean_iou": JaccardIndex(**options, average="macro"), "pixel_accuracy": Accuracy(**options, average="micro")}
    )

    def compute_metrics(prediction, compute_result: bool) -> dict[str, float]:
        metrics.to(prediction.predictions.device).update(prediction.predictions, prediction.label_ids)
        if not compute_result:
            return {}
        found = {name: value.item() for name, value in metrics.compute().items()}
        metrics.reset()
        return found

    return compute_metrics


def classes_of_pixels(logits, labels: torch.Tensor) -> torch.Tensor:
    """`(B,H,W)` classes at the resolution of the labels, from logits `(B,K,h,w)`."""
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    return torch.nn.functional.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear").argmax(dim=1)


def train(model_args: DenseModelArguments, data_args: DataArguments, args: DenseTrainingArguments) -> None:
    """From arguments to a finished folder: model, image processor, results and card."""
    logging.disable_progress_bar()
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    train_data, validation = load_splits(data_args, (data_args.image_column, data_args.label_column), model_args.token)
    names = class_names(data_args)
    compute_metrics = mean_iou(len(names))

    # Fresh weights with a SimA backbone, a trained model, or a softmax model that is swapped.
    set_seed(args.seed)
    dense = build_dense_model(
        model_args, AutoModelForSemanticSegmentation, names, do_reduce_labels=data_args.do_reduce_labels
    )
    check_folders(args, checkpoint, data_args.dataset_name)
    if model_args.calibrate and checkpoint is None:
        shown = Views(at_most(train_data, model_args.calibrate), dense.image_processor, data_args)
        loader = torch.utils.data.DataLoader([one["pixel_values"] for one in shown], args.train_batch_size)
        calibrate_dense(dense, loader, progress=not args.disable_tqdm)
        print(dense.calibration)

    trainer = DenseTrainer(
        dense.model,
        args,
        train_dataset=Views(train_data, dense.image_processor, data_args, seed=args.seed),
        eval_dataset=Views(validation, dense.image_processor, data_args),
        processing_class=dense.image_processor,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=classes_of_pixels,
    )
    start_over(args, checkpoint)  # with --overwrite_output_dir
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(_internal_call=True)
    for split, metrics in (("train", result.metrics), ("eval", trainer.evaluate())):
        trainer.log_metrics(split, metrics)
        trainer.save_metrics(split, metrics)
    trainer.save_state()
    card = {"tasks": "image-segmentation", "dataset": data_args.dataset_name, "tags": ["image-segmentation", "vision"]}
    (trainer.push_to_hub if args.push_to_hub else trainer.create_model_card)(**card)


def main() -> None:
    """Read the arguments and train; what a user can mend ends in a sentence."""
    with failures_as_sentences(NAME):
        model_args, data_args, args = parse(DenseModelArguments, DataArguments, DenseTrainingArguments)
    with failures_as_sentences(NAME, args.output_dir):
        train(model_args, data_args, args)


if __name__ == "__main__":
    main()
