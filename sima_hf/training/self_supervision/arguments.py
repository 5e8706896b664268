"""What a DINO run is told. The defaults are the paper's for ViT-S (arXiv 2104.14294, section 3.2 and the script main_dino.py)."""

from dataclasses import dataclass, field

from ..arguments import SimATrainingArguments


def _help(text: str) -> dict:
    return {"help": text}


# Of the recipe for classifiers, which a loss without labels has no use for, and what they must be.
_UNUSED = {
    "rand_augment": None,
    "color_jitter_with_rand_augment": False,
    "random_erasing": 0,
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing_factor": 0,
    "train_view": "crop",
    "ema_warmup": False,
}


@dataclass
class DINOTrainingArguments(SimATrainingArguments):
    """`SimATrainingArguments` for DINO: its defaults, and what it has besides.

    Raises:
        ValueError: what no run can be made of; the text has the argument and what came.
    """

    num_train_epochs: float = field(default=100, metadata=_help("Epochs in all, warm-up included."))
    learning_rate: float = field(
        default=1e-3,
        metadata=_help("Peak learning rate, for a global batch size of 512 (the original's 5e-4 at 256)."),
    )
    warmup_epochs: float = field(default=10, metadata=_help("Epochs of linear warm-up."))
    warmup_prefix: bool = field(default=True, metadata=_help("Begin the cosine after the warm-up."))
    warmup_learning_rate: float = field(default=0.0, metadata=_help("Learning rate at which the warm-up starts."))
    min_learning_rate: float = field(default=1e-6, metadata=_help("Learning rate at which the cosine ends."))
    weight_decay: float = field(default=0.04, metadata=_help("Weight decay in the beginning."))
    weight_decay_end: float | None = field(
        default=0.4, metadata=_help("Weight decay in the end, along a cosine; None: it stays.")
    )
    max_grad_norm: float = field(default=3.0, metadata=_help("Maximum gradient norm; 0 disables clipping."))
    ema_decay: float = field(default=0.996, metadata=_help("Momentum of the teacher in the beginning."))
    ema_decay_end: float = field(default=1.0, metadata=_help("Momentum of the teacher in the end, along a cosine."))
    ema_warmup: bool | None = field(default=False, metadata=_help("Not used: the momentum has its schedule."))
    student_temperature: float = field(default=0.1, metadata=_help("Temperature of the student."))
    warmup_teacher_temperature: float = field(default=0.04, metadata=_help("Of the teacher, in the beginning."))
    teacher_temperature: float = field(default=0.07, metadata=_help("Of the teacher, after its warm-up."))
    teacher_temperature_warmup_epochs: float = field(default=30, metadata=_help("Epochs of that warm-up, a line."))
    center_momentum: float = field(default=0.9, metadata=_help("Share of the center that stays at each step."))
    freeze_last_layer: float = field(
        default=1, metadata=_help("Epochs in which the head's last layer stays as it is.")
    )
    out_dim: int = field(default=65536, metadata=_help("Dimensions of the head's output."))
    head_hidden_dim: int = field(default=2048, metadata=_help("Channels of the head's hidden layers."))
    head_bottleneck_dim: int = field(default=256, metadata=_help("Channels in front of the head's last layer."))
    local_crops: int = field(default=8, metadata=_help("Local crops of each image, beside the two global ones."))
    local_crop_size: int = field(default=96, metadata=_help("Side of the local crops, in pixels."))
    crop_split: float = field(
        default=0.4,
        metadata=_help("Share of the image's area: global crops take more, up to all, local ones less."),
    )
    min_crop_area: float = field(default=0.05, metadata=_help("Smallest share of the image that a local crop takes."))
    grayscale: float = field(default=0.2, metadata=_help("Probability of a gray crop."))
    blur: float = field(default=2.0, metadata=_help("Largest standard deviation of the blur, in pixels; 0 is off."))
    solarize: float = field(default=0.2, metadata=_help("Probability of solarization in the second global crop."))
    rand_augment: str | None = field(default="none", metadata=_help("Not used."))
    random_erasing: float = field(default=0.0, metadata=_help("Not used."))
    mixup: float = field(default=0.0, metadata=_help("Not used."))
    cutmix: float = field(default=0.0, metadata=_help("Not used."))
    label_smoothing_factor: float = field(default=0.0, metadata=_help("Not used."))
    repeated_augmentation: int = field(default=1, metadata=_help("Multi-crops of each image drawn in an epoch."))
    eval_strategy: str = field(default="no", metadata=_help("Not used: see sima-hf evaluate --protocol knn."))
    save_weights: str = field(
        default="ema", metadata=_help("Encoder saved in the end: teacher (ema) or student (raw).")
    )

    def check(self) -> None:
        """Raise ValueError, with the argument and what came, for what no run can be made of."""
        super().check()
        for name, only in _UNUSED.items():
            if getattr(self, name) != only:
                raise ValueError(f"--{name} has no use in DINO, got {getattr(self, name)}; leave it out.")
        if str(getattr(self.eval_strategy, "value", self.eval_strategy)) != "no":
            raise ValueError(
                f"--eval_strategy must be 'no', got {self.eval_strategy!r}: features are measured by sima-hf evaluate --protocol knn."
            )
        if not self.min_crop_area < self.crop_split < 1:
            raise ValueError(
                f"--crop_split must be above --min_crop_area ({self.min_crop_area}) and below 1, got {self.crop_split}."
            )
        ranges = {
            "above 0": (lambda value: value > 0, _POSITIVE),
            "0 or more": (lambda value: value >= 0, _NOT_NEGATIVE),
            "from 0 to 1": (lambda value: 0 <= value <= 1, _SHARES),
        }
        for words, (holds, names) in ranges.items():
            for name in names:
                if not holds(getattr(self, name)):
                    raise ValueError(f"--{name} must be {words}, got {getattr(self, name)}.")
        if not 0 < self.ema_decay <= self.ema_decay_end:
            raise ValueError(
                f"--ema_decay must be above 0 and at most --ema_decay_end ({self.ema_decay_end}), got {self.ema_decay}."
            )
        if self.weight_decay_end is not None and not (self.weight_decay > 0 and self.weight_decay_end >= 0):
            raise ValueError(
                f"--weight_decay must be above 0 where --weight_decay_end is given, got {self.weight_decay} and {self.weight_decay_end}."
            )


_POSITIVE = (
    "student_temperature",
    "warmup_teacher_temperature",
    "teacher_temperature",
    "out_dim",
    "head_hidden_dim",
    "head_bottleneck_dim",
    "local_crop_size",
)
_NOT_NEGATIVE = ("teacher_temperature_warmup_epochs", "freeze_last_layer", "local_crops", "blur")
_SHARES = ("center_momentum", "ema_decay_end", "grayscale", "solarize")
