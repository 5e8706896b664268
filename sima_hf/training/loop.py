"""What stands around a training loop on Accelerate, such as examples/run_image_classification_no_trainer.py: its beginning and end."""

import functools
import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data.images import EvalImages, collate
from ..data.loading import TrainingLoader, begin_worker, leaving_flag, training_loader
from ..data.views import EvalView
from ..errors import CheckpointError, MissingDependencyError
from .arguments import DataArguments, LoopArguments
from .checkpoints.sharded import unshard
from .checkpoints.state import RunState
from .publication import finish_folder
from .run import TrainingSetup, draw
from .splits import train_images, train_view


HISTORY = "history.json"
MINUTES_TO_WAIT = 30  # for a process in a step; what takes longer, the others do not wait for in a collective


def make_accelerator(args: LoopArguments) -> Accelerator:
    """Devices, processes, precision and trackers, as the launcher and the arguments say; to be made before anything else.

    Raises:
        MissingDependencyError: a tracker's package is not installed.
    """
    trackers = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else Accelerate leaves processes without a GPU apart
        log_with=trackers,
        project_dir=args.output_dir,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(minutes=MINUTES_TO_WAIT)),
        ],
    )
    if trackers and not accelerator.log_with:
        raise MissingDependencyError(
            f"--report_to {trackers} needs a package that is not installed: pip install {trackers}"
        )
    if trackers:
        settings = {key: value for key, value in vars(args).items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("sima_hf", settings)
    return accelerator


def training_batches(setup: TrainingSetup, data_args: DataArguments, args: LoopArguments) -> TrainingLoader:
    """This process's own batches: the same global batches whatever the number of processes. Not to be prepared."""
    images = train_images(
        setup.data.train,
        args,
        train_view(args, setup.processor, setup.loaded.image_size),
        setup.data.num_train,
        data_args.max_unreadable_images,
        data_args.shuffle_buffer_size,
    )
    return training_loader(
        images,
        batch_size=args.per_device_train_batch_size,
        num_workers=args.dataloader_num_workers,
        seed=args.seed,
        repeats=args.repeated_augmentation,
        process_index=args.process_index,
        num_processes=args.world_size,
        pin_memory=torch.cuda.is_available(),
    )


def validation_batches(setup: TrainingSetup, args: LoopArguments, accelerator: Accelerator) -> DataLoader | None:
    """This process's share of the validation images; None where there are none."""
    if setup.data.validation is None:
        return None
    loader = DataLoader(
        EvalImages(setup.data.validation, EvalView(setup.processor)),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        collate_fn=collate,
        worker_init_fn=functools.partial(begin_worker, leaving_flag()),
    )
    return accelerator.prepare(loader)


def save_whole(model: PreTrainedModel, processor: Any, accelerator: Accelerator, folder: Path) -> None:
    """Save a model, of a sharded one the whole, and its image processor; all processes call it together."""
    state = unshard(model.state_dict())
    if accelerator.is_main_process:
        model.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)


def write_history(folder: Path, history: list[dict]) -> None:
    """Keep the records of a run in a checkpoint."""
    _write_json(folder / HISTORY, history)


def read_history(checkpoint: Path) -> list[dict]:
    """The records of a run from its checkpoint.

    Raises:
        CheckpointError: it was made by Trainer, whose files Accelerate does not know.
    """
    if not (checkpoint / HISTORY).is_file():
        raise CheckpointError(f"{checkpoint} was not made by this script: it has no {HISTORY}.")
    return json.loads((checkpoint / HISTORY).read_text(encoding="utf-8"))


def _write_json(path: Path, content: dict | list) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def finish_loop(
    state: RunState,
    setup: TrainingSetup,
    history: list[dict],
    trained: dict[str, float],
    evaluated: dict[str, float],
) -> None:
    """Leave results, curves and card beside the saved model, and push the folder where that is asked for; on the main process.

    Args:
        state, setup: of the run.
        history: records with `step`, `epoch` and numbers, as `draw_curves` takes them.
        trained, evaluated: what `train_results.json` and `eval_results.json` will hold.
    """
    args, model, folder = state.args, state.model, Path(state.args.output_dir)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    trained = {**trained, "train_loss": losses[-1] if losses else math.nan, "step": state.step}
    everything = {**trained, **evaluated}
    for name, results in {"train": trained, "eval": evaluated, "all": everything}.items():
        _write_json(folder / f"{name}_results.json", results)
    print("\n".join(f"{key:<26} {value:.4g}" for key, value in everything.items()))
    length = f"{state.step} steps of {state.global_batch_size} images, seed {args.seed}"
    draw(history, model, setup, args, length)
    if not finish_folder(args, model, setup, state.global_batch_size) and args.push_to_hub:
        for part in (model, setup.processor):
            part.push_to_hub(args.hub_model_id or folder.resolve().name)
