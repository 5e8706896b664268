"""The evaluation within a run, of the Trainer and of a loop on Accelerate: `evaluate_model`, ended by SIGTERM."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator

from ..data.loading import Unreadable
from ..evaluation.counting import evaluate_model
from .checkpoints.interruption import StopRequest


def measure(
    model: torch.nn.Module,
    batches: Iterable[dict[str, Any]],
    normalization: tuple[list[float], list[float]],
    accelerator: Accelerator,
    stop: StopRequest,
    unreadable: Unreadable,
    prefix: str = "eval",
    progress: bool = True,
) -> dict[str, float]:
    """Loss, top-1 and top-5 accuracy of a model as it is, exact over all processes.

    Args:
        model: the bare model, which may be sharded.
        batches: as `collate` makes them, from a loader that the accelerator has prepared.
        normalization: mean and standard deviation of bytes, a number for each channel.
        accelerator: of the run; its mixed precision is that of the evaluation.
        stop: whether SIGTERM has come, asked before each batch.
        unreadable: names the images that could not be read.
        prefix: of the names.
        progress: show a bar, on the main process only.

    Returns:
        `{"eval_loss", "eval_accuracy", "eval_top_5_accuracy"}` for the prefix "eval".

    Raises:
        StoppedBySignal: SIGTERM came.
        DataError: as `evaluate_model`.
    """
    mean, std = normalization
    found = evaluate_model(
        model,
        stop.heeded(batches, accelerator),
        mean=mean,
        std=std,
        accelerator=accelerator,
        autocast={"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision),
        progress=progress,
    )
    unreadable.pass_over(found.unreadable)
    return {
        f"{prefix}_loss": found.loss,
        f"{prefix}_accuracy": found.accuracy,
        f"{prefix}_top_5_accuracy": found.top_5_accuracy,
    }
