"""Calibration: refit a few linear layers of a freshly swapped model, in closed form, so that it follows its original."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import CalibrationError
from ..patching import sima_attentions
from ..patching.attentions.mechanisms import linear_in_value, title_of
from .blocks import find_blocks
from .checks import check_apart, check_plain
from .ends import compare_ends, reads_patches_alone
from .fit import Calibrator
from .report import CalibrationReport


logger = logging.get_logger(__name__)

HEADS = ("classifier", "cls_classifier", "distillation_classifier")

# What a data loader made for training brings along and calibration has no use for.
NOT_INPUTS = ("labels", "label", "return_loss")


def calibrate(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Iterable[Mapping[str, Any] | torch.Tensor],
    *,
    mlp: bool = True,
    classifier: bool = False,
    basis: bool = True,
    value: bool = True,
    class_token_weight: float | None = None,
    ridge: float | None = None,
    held_out: float = 0.1,
    balance: bool = True,
    memory_budget: int = 2 * 2**30,
    progress: bool = True,
) -> CalibrationReport:
    """Refit layers of a freshly swapped model, in place, so that it follows the softmax model it was made from.

    Block by block, on the swapped model's own inputs so that errors do not pile up: queries and keys get the basis in which
    SimA's map is nearest to softmax's, the attention's output layer is refitted by ridge regression, with the value layer where
    that holds better, so that the residual stream after the attention is the teacher's, then the MLP's last layer so that the
    stream after the MLP is. No label, no gradient, no new parameter, no cost at inference. What is outside the blocks stays as
    the swap left it, such as the attention that pools in SigLIP. Position biases that are tables of a block are brought to the
    scale of SimA's product. Where a peer was swapped in, the basis and the position biases stay as they are: it reads the logits that
    softmax read.

    Training on from here begins well with a small learning rate; a large one first loses what calibration won.

    The work is done in float32 (sums and solutions in float64) on copies of both models; each refitted layer is rounded to
    the model's dtype before the next is looked at. The model itself is changed only at the end, at once: whatever breaks
    before leaves it as it was, bit for bit. Modes, gradients and random state are not touched.

    Args:
        model: a model that `patch_model` has swapped.
        teacher: the same model with softmax, such as a `copy.deepcopy` made before the swap. It is only read.
        batches: what the model takes: `pixel_values` tensors `(B, C, H, W)`, or dicts of keyword arguments, whose labels are
            ignored. Iterable more than once, with the same images, such as a list or a DataLoader. A few hundred are enough for
            small models; the report says if more are needed.
        mlp: refit the MLPs too, not the attention alone.
        classifier: in the end, also fit the last linear layer to the teacher's logits.
        basis: choose the basis of queries and keys; blocks where something other than a dot product is between them
            (rotary positions, norms) keep theirs, and so does whatever is not SimA.
        value: fit the value layer together with the output layer, where held-out images are better explained so. For an attention
            that is linear in the values.
        class_token_weight: weight of a class token in the fits, a patch having 1. None: 1 where patches alone are read, as in
            backbones and in models that segment, else as many as there are other tokens, so that it counts as much as all of them.
            Models without class token have no use for it.
        ridge: weight of the squared change of a layer, relative to the mean square of its inputs. None: for each layer the
            one of nine decades that leaves least unexplained on held-out images.
        held_out: share of the images, at least 32 but no more than half, that no layer is fitted to. They choose ridges, and
            whether value and output layer are fitted together; the report's figures are measured on them.
        balance: share the scale between value and output layer as the teacher does, by powers of two, which changes no
            output bit and keeps the weights of half-precision models from growing. For the two layers of an MLP there is no
            such thing, because its activation is not linear.
        memory_budget: bytes for inputs and hidden states. Where they do not fit, they are computed anew for every layer,
            in time that grows with the square of the depth. The copies of both models come on top of it.
        progress: show a progress bar.

    Returns:
        A `CalibrationReport`; print it.

    Raises:
        CalibrationError (a ValueError): model and teacher do not belong together, there are fewer than two different images, an
            option has no meaning here, the attention that was swapped in is not linear in the values, a layer shares its weight with
            another, or the equations have no finite solution.
        UnsupportedModelError (a ValueError): calibration does not know the blocks of this model (the text lists those it knows),
            or weights are quantized, wrapped or computed.
        TypeError: batches of another kind.
    """
    settings = {
        "mlp": mlp,
        "classifier": classifier,
        "basis": basis,
        "value": value,
        "class_token_weight": class_token_weight,
        "ridge": ridge,
        "held_out": held_out,
        "balance": balance,
        "memory_budget": memory_budget,
    }
    _check(model, teacher, batches, settings)
    if class_token_weight is None and reads_patches_alone(model):
        settings["class_token_weight"] = 1.0
    own, goal = _working_copy(model), _working_copy(teacher).to(model.device)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        work = Calibrator(own, goal, _Inputs(batches, own), dtypes, settings, progress)
        fits = work.fit(_heads(own) if classifier else [])
        end = compare_ends(work.runner, bool(_heads(own)))
    _write_back(model, own, work.changed)
    runner = work.runner
    report = CalibrationReport(tuple(fits), settings, runner.images, runner.stored_bytes, work.bases, runner.held, end)
    if report.advice:
        logger.warning(report.advice)
    return report


def _check(model: Any, teacher: Any, batches: Any, settings: dict[str, Any]) -> None:
    for what, given in (("model", model), ("teacher", teacher)):
        if not isinstance(given, PreTrainedModel):
            raise TypeError(f"`{what}` must be a Transformers model (PreTrainedModel), got {type(given).__name__}.")
    if not sima_attentions(model):
        raise CalibrationError(
            f"This {type(model).__name__} is not a swapped model: call sima_hf.patch_model on it first."
        )
    if settings["value"]:
        check_linear(one.sima_config.attention_mechanism for one in sima_attentions(model))
    if sima_attentions(teacher):
        raise CalibrationError(
            "The teacher is a SimA model itself, so it cannot say what softmax would do: make it with copy.deepcopy(model) "
            "before sima_hf.patch_model(model), or load it anew with from_pretrained."
        )
    own, goal = ({name: tuple(value.shape) for name, value in net.named_parameters()} for net in (model, teacher))
    if own != goal:
        name = next(key for key in {**own, **goal} if own.get(key) != goal.get(key))
        raise CalibrationError(
            f"Model and teacher must have the same parameters, but {name!r} is {own.get(name, 'missing')} in the model and "
            f"{goal.get(name, 'missing')} in the teacher. The teacher is the model from before the swap."
        )
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1 or devices == {torch.device("meta")}:
        raise CalibrationError(
            f"The model must be on one device and loaded, but its parameters are on {', '.join(sorted(map(str, devices)))}."
        )
    if isinstance(batches, (torch.Tensor, Mapping)) or not isinstance(batches, Iterable) or iter(batches) is batches:
        raise TypeError(
            "`batches` must be a collection that can be gone through more than once, such as a list of tensors or a "
            f"DataLoader, got {type(batches).__name__}."
        )
    if not 0 < settings["held_out"] <= 0.5:
        raise CalibrationError(f"`held_out` must be above 0 and at most 0.5, got {settings['held_out']!r}.")
    for name in ("ridge", "class_token_weight"):
        value = settings[name]
        if value is not None and not 0 < value < float("inf"):
            raise CalibrationError(f"`{name}` must be a positive number, got {value!r}.")
    if settings["classifier"] and not _heads(model):
        raise CalibrationError(
            f"`classifier=True` needs a linear layer called {' or '.join(HEADS)} at the top of the model, and this "
            f"{type(model).__name__} has none."
        )
    check_plain(model, "model")
    check_plain(teacher, "teacher")
    check_apart(model, find_blocks(model), _heads(model) if settings["classifier"] else [])


def check_linear(mechanisms: Iterable[str]) -> None:
    """Refuse to fit the value layer of an attention that is not linear in the values.

    Args:
        mechanisms: names as in `patch_model(attention=...)`.

    Raises:
        CalibrationError: one is not.
    """
    for name in mechanisms:
        if not linear_in_value(name):
            raise CalibrationError(
                f"`value` must be False for {title_of(name)} attention, whose output is not linear in the values, so that value and output "
                "layer cannot be fitted together. In Python, calibrate(model, teacher, batches, value=False) refits output and MLP layers "
                "alone; or distill it."
            )


def _heads(model: PreTrainedModel) -> list[str]:
    return [name for name in HEADS if type(getattr(model, name, None)) is nn.Linear]


def _working_copy(model: PreTrainedModel) -> PreTrainedModel:
    made = copy.deepcopy(model).eval()
    return made if all(value.dtype == torch.float64 for value in made.parameters()) else made.float()


class _Inputs:
    """Batches as keyword arguments for the working copies, as often as asked for."""

    def __init__(self, batches: Iterable, model: PreTrainedModel):
        self.batches, self.name, self.like = batches, model.main_input_name, next(model.parameters())
        self.gave = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        empty = True
        for batch in self.batches:
            empty = False
            if not isinstance(batch, (torch.Tensor, Mapping)):
                raise TypeError(
                    f"A batch must be a tensor of {self.name} or a dict of the model's arguments, got {type(batch).__name__}."
                )
            given = {self.name: batch} if isinstance(batch, torch.Tensor) else batch
            yield {name: self._converted(value) for name, value in given.items() if name not in NOT_INPUTS}
        if empty and self.gave:
            raise CalibrationError(
                "`batches` must give its batches as often as it is gone through, but the second time there were none, as if a "
                "generator were behind it: give a list or a DataLoader of a data set with an index, or raise `memory_budget`."
            )
        self.gave = not empty

    def _converted(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.like.device, self.like.dtype if value.is_floating_point() else value.dtype)


def _write_back(model: PreTrainedModel, made: PreTrainedModel, names: set[str]) -> None:
    """Copy parameters by name, all or none."""
    old, new = dict(model.named_parameters()), dict(made.named_parameters())
    before = {name: old[name].detach().clone() for name in names}
    with torch.no_grad():
        try:
            for name in sorted(names):
                old[name].copy_(new[name])
        except BaseException:
            for name, value in before.items():
                old[name].copy_(value)
            raise
