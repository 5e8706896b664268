"""`DINOTrainer`: self-distillation without labels, under `SimATrainer` with everything that it promises."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from ...errors import CheckpointError, TrainingError
from ..checkpoints.weights import load_weights
from ..splits import SHUFFLE_BUFFER
from ..trainer import SimATrainer
from .arguments import DINOTrainingArguments
from .augmentation import MultiCropAugmentation
from .data import multi_crop, unlabeled_images
from .encoder import EncoderWithHead
from .loss import DINOLoss
from .schedules import cosine, linear_warmup


HEAD = "dino_head.safetensors"
CENTER = "center"


class DINOTrainer(SimATrainer):
    """Trains an image encoder by DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021).

    The student sees all crops of an image, the teacher, an average of the student's weights, the two global ones. Everything
    else is `SimATrainer`'s: loading, checkpoints that are whole, going on exactly, many processes, mixed precision. A checkpoint
    is the student's encoder, as `from_pretrained` reads it, the teacher's in `ema/`, and the student's head and the center in
    `dino_head.safetensors`; the finished folder is the teacher's encoder alone. The log has `teacher_entropy` beside the loss:
    at log(out_dim), or at 0, the training has collapsed.

    Args:
        model: an image encoder, see `EncoderWithHead`.
        args: `DINOTrainingArguments`.
        train_dataset: a split of `datasets` or a stream with a column of images.
        processing_class: the image processor; its size is that of the global crops.
        num_images: in an epoch of a stream that does not say.
        max_unreadable: unreadable images to pass over before `DataError`.
        shuffle_buffer_size: images of a stream to draw from at random.
        kwargs: further arguments of `SimATrainer`.

    Attributes:
        teacher: an `EncoderWithHead` whose weights are the average; as the student before the training.

    Raises:
        TrainingError: FSDP or DeepSpeed, which would shard the teacher.
        UnsupportedModelError, DataError: as `EncoderWithHead` and `unlabeled_images`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: DINOTrainingArguments,
        *,
        train_dataset: Any,
        processing_class: Any,
        num_images: int | None = None,
        max_unreadable: int = 0,
        shuffle_buffer_size: int = SHUFFLE_BUFFER,
        **kwargs: Any,
    ):
        if args.fsdp or args.deepspeed:
            raise TrainingError("DINO trains on one process or by DDP, got FSDP or DeepSpeed; leave it out.")
        crops = multi_crop(args, processing_class)
        student = EncoderWithHead(
            model,
            crops,
            out_dim=args.out_dim,
            hidden_dim=args.head_hidden_dim,
            bottleneck_dim=args.head_bottleneck_dim,
        )
        images = unlabeled_images(train_dataset, args, crops, num_images, max_unreadable, shuffle_buffer_size)
        super().__init__(
            student,
            args,
            max_unreadable=max_unreadable,
            train_dataset=images,
            processing_class=processing_class,
            **kwargs,
        )
        self.augmentation = MultiCropAugmentation(
            crops, self.image_mean, self.image_std, args.color_jitter, args.grayscale, args.blur, args.solarize
        )
        self.dino_loss = DINOLoss(args.out_dim, args.student_temperature, args.center_momentum).to(args.device)
        self.teacher = copy.deepcopy(student).to(args.device).eval().requires_grad_(False)
        self._entropies: list[torch.Tensor] = []
        self.add_callback(_Schedules(self))

    def begin(self) -> None:
        """As `SimATrainer.begin`; the teacher's weights are the average from here on, not copies of it."""
        super().begin()
        self._entropies = []
        averages = self.ema.averages
        for name, tensor in (*self.teacher.named_parameters(), *self.teacher.named_buffers()):
            if name in averages:
                tensor.data = averages[name]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """DINO's loss, a float32 scalar."""
        pixels = inputs["pixel_values"]
        outputs = model(pixels)
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        with torch.no_grad(), torch.autocast(pixels.device.type, dtype=mixed, enabled=mixed is not None):
            answers = self.teacher(pixels, global_only=True)
        loss = self.dino_loss(outputs, answers, self.teacher_temperature)
        self._entropies.append(self.dino_loss.teacher_entropy)
        return (loss, outputs) if return_outputs else loss

    # Schedules

    @property
    def epoch(self) -> float:
        """Epochs done, as the state counts steps."""
        return self.state.global_step / self.run_state.steps_per_epoch

    @property
    def teacher_temperature(self) -> float:
        """Of the present step."""
        args = self.args
        return linear_warmup(
            args.warmup_teacher_temperature,
            args.teacher_temperature,
            self.epoch,
            args.teacher_temperature_warmup_epochs,
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `SimATrainer.create_optimizer`; groups with weight decay are those whose decay has a schedule."""
        optimizer = super().create_optimizer(model)
        self._decaying = [number for number, group in enumerate(optimizer.param_groups) if group["weight_decay"]]
        return optimizer

    def set_schedules(self) -> None:
        """Momentum of the teacher and weight decay of the step that begins."""
        args, step, steps = self.args, self.state.global_step, self.state.max_steps
        self.ema.decay = cosine(args.ema_decay, args.ema_decay_end, step, steps)
        if args.weight_decay_end is not None:
            for number in self._decaying:
                self.optimizer.param_groups[number]["weight_decay"] = cosine(
                    args.weight_decay, args.weight_decay_end, step, steps
                )

    def hold_last_layer(self) -> None:
        """Drop the gradient of the head's last layer in the first epochs."""
        if self.epoch < self.args.freeze_last_layer:
            self.model.head.last_layer.weight.grad = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SimATrainer.log`, with the entropy of the teacher's distributions beside the loss."""
        if "loss" in logs and self._entropies:
            logs = {**logs, "teacher_entropy": round(self.run_state.mean_loss(self._entropies), 4)}
            self._entropies = []
        super().log(logs, start_time)

    # Checkpoints

    @property
    def saved_model(self) -> PreTrainedModel:
        """The encoder."""
        return self.model.backbone

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The encoder, as an ordinary model folder."""
        student = self.model
        self.model = self.saved_model
        try:
            super()._save(output_dir)
        finally:
            self.model = student

    def _write_checkpoint(self, folder: Path) -> None:
        super()._write_checkpoint(folder)
        if self.args.should_save:
            head = {name: tensor.detach().contiguous() for name, tensor in self.model.head.state_dict().items()}
            save_file({**head, CENTER: self.dino_loss.center}, folder / HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        path = Path(resume_from_checkpoint, HEAD)
        if not path.is_file():
            raise CheckpointError(f"{resume_from_checkpoint} has no {HEAD}: it was not made by a DINO run.")
        state = load_file(path)
        center = state.pop(CENTER)
        own = {name: tuple(tensor.shape) for name, tensor in self.model.head.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if own != found:
            raise CheckpointError(
                f"{path} holds another head than the one to be trained: {found.get('last_layer.weight')} in its last layer for "
                f"{own['last_layer.weight']}. Resume with the arguments of the run."
            )
        load_weights(self.model.backbone, resume_from_checkpoint)
        self.model.head.load_state_dict(state)
        self.dino_loss.center.copy_(center)


class _Schedules(TrainerCallback):
    """What DINO does around the optimizer's step."""

    def __init__(self, trainer: DINOTrainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.set_schedules()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.hold_last_layer()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.dino_loss.update_center(self.trainer.accelerator)
