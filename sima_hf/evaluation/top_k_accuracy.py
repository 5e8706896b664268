"""`TopKAccuracy`, a metric of the package `evaluate` that needs no download."""

from typing import Any

import numpy as np
import torch

from ..errors import DataError, MissingDependencyError


try:
    import evaluate
    from datasets import Features, Sequence, Value
except ImportError as error:
    raise MissingDependencyError("TopKAccuracy needs evaluate: pip install 'sima-hf[train]'") from error

from .metrics import accuracies, validate_predictions


class TopKAccuracy(evaluate.Metric):
    """Share of images whose class is the likeliest, and of those whose class is among the five likeliest.

        metric = TopKAccuracy()
        for batch in batches:
            metric.add_batch(predictions=model(batch["pixel_values"]).logits, references=batch["labels"])
        metric.compute()        # {"accuracy": 0.8, "top_5_accuracy": 0.95, "num_images": 50000}

    Only the five likeliest classes of each image are kept, in memory. Over several processes, bring the batches together first:
    `accelerator.gather_for_metrics((logits, labels))`.

    Args:
        **kwargs: as `evaluate.Metric`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"keep_in_memory": kwargs.get("num_process", 1) == 1, **kwargs})

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
        ranked, labels = validate_predictions(predictions, references)
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

        Raises:
            DataError: there is no image with a label.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self.writer is None:
            raise DataError("There is no image to measure on: none came, or all labels were -100.")
        return super().compute(**kwargs)

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float | int]:
        return accuracies(torch.tensor(predictions), torch.tensor(references))
