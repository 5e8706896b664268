"""What a swapped student learns from the attention of its softmax original, layer by layer.

This project's own. The swap keeps the names of modules, so that layers need no mapping; as data, `patching.describe` knows them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import TrainingError
from .loss import at_least_float32


# Below this a teacher's output is constant, and its variance no scale to measure by.
SMALLEST_VARIANCE = 1e-12


class AttentionMatching:
    """Distance of a patched student's attention outputs from those of its softmax original, layer by layer.

    Both run on their own activations, on the same images; forward hooks see what each attention module returns. The loss is
    the mean over layers of `mean((student - teacher)^2) / variance(teacher)`: 0 if all layers agree, about 1 if a layer says
    nothing about the teacher's. Where `torch.distributed` runs, the variance is that of all processes' images, so that the
    mean over processes is the loss of the whole batch.

        with AttentionMatching(student, teacher) as matching:      # hooks are there until the end of the block
            for images in batches:
                with matching.recording():
                    student(images), teacher(images)
                matching.loss().backward()

    Enter before the student's first forward if it is compiled: a compiled forward keeps the hooks that it was traced with.
    The hooks write to a dict and set nothing on the modules, so they are traced without a graph break.

    Args:
        student: a model that `sima_hf.patch_model` has swapped, unwrapped (not the DistributedDataParallel around it).
        teacher: the same model with softmax, or another with the same attention modules under the same names.
        weight: factor of the loss.

    Raises:
        TrainingError: the student has no SimA attention, or the teacher no attention of the same shapes by the same names.
        ValueError: the weight is not a positive number.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0):
        if not 0 < weight < float("inf"):
            raise ValueError(f"The weight of attention matching must be above 0, got {weight}.")
        self.student, self.teacher, self.weight = student, teacher, weight
        self.names = matching_attentions(student, teacher)
        self._seen: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._recording = False

    def __enter__(self) -> "AttentionMatching":
        if not self._handles:
            for model, seen in zip((self.student, self.teacher), self._seen, strict=True):
                modules = dict(model.named_modules())
                self._handles += [modules[name].register_forward_hook(self._hook(name, seen)) for name in self.names]
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within the block, forwards are seen; `loss` then reads the last of each model.

        Outside of it, as when gradient checkpointing recomputes or evaluation runs, nothing is kept.

        Raises:
            TrainingError: the hooks are not there, because this object was not entered.
        """
        if not self._handles:
            raise TrainingError("Attention matching has no hooks yet: record inside of `with matching:`.")
        self._forget()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def loss(self) -> torch.Tensor:
        """The distance times `weight`, a float32 scalar (float64 for float64 models); what was recorded is let go.

        Raises:
            TrainingError: a layer was recorded in one model alone or in no model at all, outputs differ in shape, or gradients
                are on and none can flow into the student's.
        """
        own, goal = self._seen
        names = [name for name in self.names if name in own or name in goal]
        if not names or any(name not in own or name not in goal for name in names):
            missing = next((name for name in names or self.names if name not in own or name not in goal), None)
            raise TrainingError(
                f"Attention matching has not seen {missing!r} in both student and teacher: run both inside of "
                "`with matching.recording():` before asking for the loss."
            )
        pairs = [(at_least_float32(own[name]), at_least_float32(goal[name].detach())) for name in names]
        self._check(names, pairs)
        self._forget()
        variances = _variances([wanted for _, wanted in pairs])
        apart = torch.stack([F.mse_loss(found, wanted) for found, wanted in pairs])
        return self.weight * (apart / variances).mean()

    def _check(self, names: list[str], pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for name, (found, wanted) in zip(names, pairs, strict=True):
            if found.shape != wanted.shape:
                raise TrainingError(
                    f"{name} returns {tuple(found.shape)} in the student and {tuple(wanted.shape)} in the teacher. Attention "
                    "can be matched only where both see images of the same size: give the teacher the student's."
                )
        if torch.is_grad_enabled() and not any(found.requires_grad for found, _ in pairs):
            raise TrainingError(
                "No gradient reaches the student's attention outputs. Reentrant gradient checkpointing cuts them off: train "
                "with gradient_checkpointing_kwargs={'use_reentrant': False}, or leave attention matching out."
            )

    def _forget(self) -> None:
        for seen in self._seen:
            seen.clear()

    def _hook(self, name: str, seen: dict[str, torch.Tensor]):
        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            if self._recording:
                seen[name] = output[0] if isinstance(output, (tuple, list)) else output

        return keep


def matching_attentions(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Names of the student's SimA attention modules, each of which the teacher has with parameters of the same shapes.

    Raises:
        TrainingError: there are none, or the teacher lacks one.
    """
    from ...patching import sima_attentions  # it needs Transformers' models, which the losses alone do not

    names = [attention.path for attention in sima_attentions(student)]
    if not names:
        raise TrainingError(
            f"{type(student).__name__} has no attention that was swapped for SimA, so there is nothing to match layer by layer. "
            "Attention matching is for models that sima_hf.patch_model has swapped; others learn from the teacher's answers."
        )
    own, goal = dict(student.named_modules()), dict(teacher.named_modules())
    for name in names:
        if name not in goal or _shapes(own[name]) != _shapes(goal[name]):
            why = "has other shapes there" if name in goal else "has no such layer"
            raise TrainingError(
                f"The student's attention {name!r} has no counterpart: the teacher, a {type(teacher).__name__}, {why}. Attention "
                "is matched with the model that the student was swapped from; for another teacher set the weight of attention to 0."
            )
    return names


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _variances(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Variance of each tensor over all its entries, `(layers,)`, those of all processes taken together."""
    own = [torch.stack([*torch.var_mean(x, correction=0), x.new_tensor(x.numel())]) for x in outputs]
    parts = [torch.stack(own)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [torch.empty_like(parts[0]) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, torch.stack(own))
    variance, mean, count = torch.stack(parts).unbind(dim=-1)  # (processes, layers) each
    share = count / count.sum(dim=0)
    center = (share * mean).sum(dim=0)
    return (share * (variance + (mean - center).square())).sum(dim=0).clamp_min(SMALLEST_VARIANCE)
