"""`TopKAccuracy`, a metric of the package `evaluate` that needs no download."""

import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import MissingDependencyError


try:
    import evaluate
    from datasets import Features, Sequence, Value
except ImportError as error:
    raise MissingDependencyError("TopKAccuracy needs evaluate: pip install 'sima-hf[train]'") from error

from .metrics import TOP, accuracies, checked


class TopKAccuracy(evaluate.Metric):
    """Share of images whose class is the likeliest, and of those whose class is among the five likeliest.

        metric = TopKAccuracy()
        for batch in batches:
            metric.add_batch(predictions=model(batch["pixel_values"]).logits, references=batch["labels"])
        metric.compute()        # {"accuracy": 0.8, "top_5_accuracy": 0.95, "num_images": 50000}

    Only the classes by rank are stored, in a temporary folder that goes when the metric does. Over several processes, either
    bring the batches together first (`accelerator.gather_for_metrics`) and use a metric as above, or let each process add its
    own images, however many or few, and have `evaluate` bring them together through files:

        metric = TopKAccuracy(num_process=2, process_id=rank, experiment_id="evaluation of step 500")

    There `compute` gives the numbers on process 0 and None on the others. The id must be the same on all processes and another
    for each computation; processes on several machines also need a `cache_dir` that they share.

    Args:
        cache_dir: folder for the files; by default one below the system's folder for temporary files.
        **kwargs: as `evaluate.Metric`: num_process, process_id, experiment_id, timeout (seconds), keep_in_memory ...

    Raises:
        ValueError: several processes without an `experiment_id`.
    """

    def __init__(self, *, cache_dir: str | Path | None = None, **kwargs):
        self._images = 0
        distributed = kwargs.get("num_process", 1) > 1
        if distributed and not kwargs.get("experiment_id"):
            raise ValueError(
                "With several processes a metric needs an `experiment_id`, the same on all of them and used by no other run."
            )
        if cache_dir is None:
            # Processes that share their files must find each other, so their folder has a name that is no secret.
            owner = f"{os.getuid()}" if hasattr(os, "getuid") else "all"
            shared = Path(tempfile.gettempdir()) / f"sima_hf_metric_{owner}_{kwargs.get('experiment_id')}"
            cache_dir = shared if distributed else tempfile.mkdtemp(prefix="sima_hf_metric_")
            if kwargs.get("process_id", 0) == 0:
                # Unlike weakref's and atexit's, this one also works at the end of a process of multiprocessing, and not in
                # copies of this process.
                Finalize(self, shutil.rmtree, (cache_dir,), {"ignore_errors": True}, exitpriority=0)
        super().__init__(cache_dir=str(cache_dir), **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1 and top-5 accuracy of an image classifier.",
            citation="",
            inputs_description=(
                "\npredictions: logits (images, classes), floating point, or classes by rank (images, k), integers."
                "\nreferences: labels (images,); images with -100 are left out."
            ),
            features=Features({"predictions": Sequence(Value("int64")), "references": Value("int64")}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs) -> None:
        """Add images.

        Args:
            predictions: logits `(B, K)`, floating point of any dtype: a tensor on any device, an array, or lists. Or classes
                by rank `(B, k)`, integers, of which the first five count.
            references: labels `(B,)`; images with -100 are left out.

        Raises:
            DataError: shapes or dtypes that do not fit, or labels that the logits have no class for.
        """
        ranked, labels = checked(predictions, references)
        self._images += len(labels)
        if len(labels):
            super().add_batch(predictions=ranked.numpy(), references=labels.numpy(), **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs) -> None:
        """Add one image: logits `(K,)` or classes by rank `(k,)`, and its label; as `add_batch`."""
        predictions = prediction[None] if isinstance(prediction, (torch.Tensor, np.ndarray)) else [prediction]
        self.add_batch(predictions=predictions, references=[int(reference)], **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs) -> dict[str, float | int] | None:
        """The numbers for everything added since the last call, and for the arguments, if any; as `add_batch`.

        Returns:
            `{"accuracy": float, "top_5_accuracy": float, "num_images": int}`. With fewer than five classes the five likeliest
            are all classes, so that top-5 accuracy is 1.0, images with NaN logits aside, which are wrong in any case.
            None on all processes but the first.

        Raises:
            DataError: there is no image with a label.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        empty, self._images = self._images == 0, 0
        if empty and self.num_process == 1:
            accuracies(torch.empty(0, TOP, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        if empty:  # the others wait for the file of a process that had no image, too
            super().add_batch(predictions=[], references=[])
        return super().compute(**kwargs)

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float | int]:
        # Processes may have added rankings of different lengths.
        longest = max((len(row) for row in predictions), default=0)
        ranked = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in predictions], dtype=torch.int64)
        return accuracies(ranked.view(len(references), longest), torch.tensor(references, dtype=torch.int64))
