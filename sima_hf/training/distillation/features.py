"""What a consumer reads of a vision model, and how far a student's is from its teacher's: no label, no head is needed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...errors import TrainingError
from .loss import at_least_float32


# What heads, pipelines and larger models read of an output, by the names that Transformers gives it.
FIELDS = (
    "logits",
    "pred_boxes",
    "predicted_depth",
    "class_queries_logits",
    "masks_queries_logits",
    "image_embeds",
    "pooler_output",
    "feature_maps",
    "last_hidden_state",
)
# A channel that varies less than this share of the mean over channels is measured by that share: its noise is nobody's loss.
SMALLEST_SHARE = 1e-2


class FeatureMatching:
    """Distance of a student's outputs from its teacher's, each channel in units of the teacher's own variance.

    Compared are the fields of the output that are read (`FIELDS`) and, below a head, the base model's last hidden state. A
    sequence of tokens `(B, N, C)` counts as two parts, its leading class tokens and all others; a map `(B, C, H, W)` and a
    vector `(B, C)` as one each. The distance is the mean over parts of `mean((student - teacher)^2 / variance(teacher))`, with
    the variance over images and positions: 0 where all agree, 1 for the best constant.

        matching = FeatureMatching(student, teacher, class_tokens=1)
        with matching:                                  # hooks are there until the end of the block
            matching.measure(batches)                   # the teacher's means and variances, once
            loss = matching.loss(student(**inputs), matching.answers(inputs))

    Args:
        student: a model of Transformers, unwrapped (not the DistributedDataParallel around it).
        teacher: one with the same outputs; it is frozen and set to evaluation.
        class_tokens: how many leading tokens of the last hidden state are read as such.
        hidden_layer: match this entry of `hidden_states` in place of the last, as larger models read it of their tower.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        class_tokens: int = 0,
        hidden_layer: int | None = None,
    ):
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.class_tokens, self.hidden_layer = class_tokens, hidden_layer
        self._statistics: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._hidden: dict[nn.Module, torch.Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "FeatureMatching":
        if not self._handles:
            models = (one for one in (self.student, self.teacher) if one.base_model is not one)
            self._handles = [model.base_model.register_forward_hook(self._keep) for model in models]
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._hidden.clear()

    @property
    def measured(self) -> bool:
        """Whether `measure` has been called."""
        return bool(self._statistics)

    @property
    def arguments(self) -> dict[str, bool]:
        """What both models are to be called with besides their inputs."""
        return {} if self.hidden_layer is None else {"output_hidden_states": True}

    def measure(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        """Take mean and variance of each channel of the teacher's outputs, in float64, over all processes.

        Raises:
            TrainingError: no batches, no output that is read, or values that are not finite.
        """
        sums: dict[str, torch.Tensor] = {}
        for inputs in batches:
            for name, part in self.answers(inputs).items():
                rows = part.flatten(0, 1)
                rows = (rows.cpu() if rows.device.type == "mps" else rows).double()  # MPS has no float64
                ones = torch.full_like(rows[0], len(rows))
                sums[name] = sums.get(name, 0) + torch.stack([ones, rows.sum(dim=0), rows.square().sum(dim=0)])
        if not sums:
            raise TrainingError(
                f"A teacher must get images and answer with one of {', '.join(FIELDS)}; {type(self.teacher).__name__} got none "
                "or has none of them."
            )
        for name, total in sums.items():
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(total)
            count, first, second = total
            mean, variance = first / count, second / count - (first / count).square()
            if not variance.isfinite().all():
                raise TrainingError(f"The teacher's {name} must be finite, got values that are not.")
            self._statistics[name] = mean, variance.clamp_min(SMALLEST_SHARE * variance.mean()).clamp_min(1e-12)

    @torch.no_grad()
    def answers(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The teacher's outputs for these inputs, `(B, positions, C)` by name."""
        return self._parts(self.teacher, self.teacher(**inputs, **self.arguments))

    def loss(self, output: Mapping[str, Any], answers: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The distance of the student's output from the teacher's answers to the same inputs, a float32 scalar."""
        return self.distances(self.parts(output), answers).mean()

    def parts(self, output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The student's outputs, `(B, positions, C)` by name, from its forward's output."""
        return self._parts(self.student, output)

    def distances(self, parts: Mapping[str, torch.Tensor], answers: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The distance for each image, `(B,)`.

        Raises:
            TrainingError: other outputs, or other shapes, than the teacher's.
        """
        self._check(parts, answers)
        apart = []
        for name, wanted in answers.items():
            variance = self._statistics[name][1].to(wanted)
            apart.append(((parts[name] - wanted).square() / variance).mean(dim=(1, 2)))
        return torch.stack(apart).mean(dim=0)

    def cosines(self, parts: Mapping[str, torch.Tensor], answers: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Cosine of student and teacher, the teacher's mean taken off both, mean over positions and parts, `(B,)`."""
        found = []
        for name, wanted in answers.items():
            mean = self._statistics[name][0].to(wanted)
            found.append(F.cosine_similarity(parts[name] - mean, wanted - mean, dim=-1).mean(dim=1))
        return torch.stack(found).mean(dim=0)

    def _check(self, parts: Mapping[str, torch.Tensor], answers: Mapping[str, torch.Tensor]) -> None:
        own, goal = ({name: tuple(part.shape) for name, part in one.items()} for one in (parts, answers))
        if own != goal:
            name = next(key for key in {**goal, **own} if own.get(key) != goal.get(key))
            raise TrainingError(
                f"Student and teacher must give outputs of the same names and shapes, got {name} as {own.get(name, 'missing')} "
                f"from the student and {goal.get(name, 'missing')} from the teacher: take the model from before the swap."
            )

    def _keep(self, module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Mapping) and output.get("last_hidden_state") is not None:
            self._hidden[module] = output["last_hidden_state"]

    def _parts(self, model: PreTrainedModel, output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        fields = {name: output[name] for name in FIELDS if output.get(name) is not None}
        hidden = self._hidden.pop(model.base_model, None)
        if hidden is not None:
            fields.setdefault("last_hidden_state", hidden)
        if self.hidden_layer is not None:
            fields = {"last_hidden_state": output["hidden_states"][self.hidden_layer]}
        parts = {}
        for name, value in fields.items():
            values = value if isinstance(value, (tuple, list)) else [value]
            for index, tensor in enumerate(values):
                tensor = _as_rows(name, at_least_float32(tensor))
                label = f"{name}.{index}" if len(values) > 1 else name
                if name == "last_hidden_state" and 0 < self.class_tokens < tensor.shape[1]:
                    parts[f"{label} (class)"], tensor = tensor.tensor_split([self.class_tokens], dim=1)
                parts[label] = tensor
        return parts


def _as_rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """`(B, positions, C)` of tokens, a map with its channels in front, a vector, or a map of depths."""
    if name == "predicted_depth":
        return tensor.flatten(1)[..., None]
    if tensor.dim() == 2:
        return tensor[:, None]
    return tensor.flatten(2).transpose(1, 2) if tensor.dim() > 3 else tensor
