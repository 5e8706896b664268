"""k-NN or a linear probe on frozen features, from the options to a report as `run_evaluation` gives it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...embedding.features import Features, features_of
from ...embedding.loaded import LoadedEncoder, prepare_encoder
from ...folders.local_paths import without_folders
from ...machine.description import device_name, versions
from ...machine.devices import check_device
from ...machine.plotting import pyplot
from ...machine.processes import make_accelerator
from ...machine.waiting import gathered, main_process_first
from ..counting import count_answers
from ..run import Evaluation, EvaluationOptions, load_splits, measured
from .knn import TEMPERATURE, check_neighbors, knn_votes
from .linear_probe import check_regularization, fit_linear_probe


PROTOCOLS = ("knn", "linear")


@dataclass(frozen=True)
class ProtocolOptions(EvaluationOptions):
    """What to evaluate, as `EvaluationOptions`; the features of the training images classify those of the others.

    Any image encoder will do, a classifier's head is left out. `validation_dir` needs training images beside it, and of
    `data_files` the share `held_out` is evaluated.

    Attributes:
        protocol: "knn" or "linear".
        pooling: a name in `sima_hf.embedding.pooling.POOLINGS`.
        neighbors: of k-NN; the first number is the one that is reported class by class.
        temperature: of k-NN's votes.
        regularization: of the linear probe; None: chosen on a fifth of the training images.
    """

    protocol: str = "knn"
    pooling: str = "auto"
    neighbors: Sequence[int] = (20, 10)
    temperature: float = TEMPERATURE
    regularization: float | None = None


def run_protocol(options: ProtocolOptions) -> Evaluation | None:
    """Embed the images of both splits and classify the second by the first. Several processes share the images.

    Batches are the same whatever the number of processes, and so is every number of the report but the times.

    Returns:
        What was found; None on all processes but the main one.

    Raises:
        ValueError: an option out of its range; DataError and CheckpointError are such, and say what is wrong with data or model.
        UnsupportedModelError: the model yields no such features.
        MissingDependencyError: a package for this data, for several processes, or for the picture is not installed.
        OSError: files that cannot be read.
    """
    if options.protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be 'knn' or 'linear', got {options.protocol!r}.")
    if options.batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {options.batch_size}.")
    check_device(options.device)
    if options.output_dir:
        pyplot()  # fail before the evaluation, not after it
    accelerator = make_accelerator(options.device)
    place = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with main_process_first() if accelerator else contextlib.nullcontext():
        loaded = prepare_encoder(options, accelerator, options.eval_crop_pct)
        data, source = load_splits(options)
        if options.protocol == "knn":  # else it would show after hours
            check_neighbors(options.neighbors, options.temperature, len(data.train))
        else:
            check_regularization(options.regularization)
    start = time.perf_counter()
    train, test = (
        features_of(loaded, split, options.batch_size, options.num_workers, *place, called=called)
        for split, called in ((data.train, "training images"), (data.validation, "test images"))
    )
    rate = (len(data.train) + len(data.validation)) / (time.perf_counter() - start)
    scores, told, losses = _classified(train, test, len(data.labels), options, loaded, *place)
    if place[0]:
        return None
    unreadable = [*train.unreadable, *test.unreadable]
    result = count_answers(scores, test.labels, time.perf_counter() - start, tuple(test.unreadable), losses)
    report = {
        **measured(result, data.labels),
        "images_per_second": rate,
        **({"accuracy_by_neighbors": told.pop("accuracy_by_neighbors")} if options.protocol == "knn" else {}),
        "unreadable": [without_folders(one, options.train_dir, options.validation_dir) for one in unreadable],
        "settings": {
            **_shown_settings(loaded),
            "data": source,
            "protocol": {"name": options.protocol, "train_images": len(train.labels), **told},
            "processes": place[1],
            "device": device_name(str(loaded.device)),
        },
        "versions": versions(),
    }
    return Evaluation(report, result, data.labels)


def _classified(
    train: Features,
    test: Features,
    num_classes: int,
    options: ProtocolOptions,
    loaded: LoadedEncoder,
    process: int,
    processes: int,
) -> tuple[torch.Tensor | None, dict, torch.Tensor | None]:
    """Scores `(M, K)`, what is to be said of them, and the losses, if there are any; on the main process."""
    if options.protocol == "knn":
        settings = (num_classes, options.neighbors, options.temperature, loaded.device, process, processes)
        parts = gathered(knn_votes(train.embeddings, train.labels, test.embeddings, *settings))
        votes = {k: sum(part[k] for part in parts) for k in parts[0]}
        accuracies = {k: count_answers(one, test.labels, 0.0).accuracy for k, one in votes.items()}
        told = {"neighbors": options.neighbors[0], "temperature": options.temperature}
        return votes[options.neighbors[0]], told | {"accuracy_by_neighbors": accuracies}, None
    if process:
        return None, {}, None
    probe = fit_linear_probe(train.embeddings, train.labels, num_classes, options.regularization, loaded.device)
    logits = probe.logits(test.embeddings)
    losses = torch.nn.functional.cross_entropy(logits, test.labels, reduction="none")
    return logits, {"regularization": probe.regularization, "held_out_accuracy": probe.chosen}, losses


def _shown_settings(loaded: LoadedEncoder) -> dict:
    """The encoder's, by the names that reports of classifiers have."""
    return {{"crop_pct": "eval_crop_pct"}.get(name, name): value for name, value in loaded.settings.items()}
