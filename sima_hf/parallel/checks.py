"""Which models can be split, and in which state; each refusal is a sentence with the reason."""

from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from ..models.sima.modeling_sima import SimABackbone, SimAPreTrainedModel
from ..patching.attentions.mechanisms import SIMA, title_of


# Class of Transformers -> its head on a mean over patches, if it has one. All else in them is attention or works on each token alone.
HEADS = {
    "ViTModel": None,
    "ViTForImageClassification": None,
    "DeiTModel": None,
    "DeiTForImageClassification": None,
    "DeiTForImageClassificationWithTeacher": None,
    "Dinov2Model": None,
    "Dinov2ForImageClassification": "classifier",
    "Dinov2WithRegistersModel": None,
    "Dinov2WithRegistersForImageClassification": "classifier",
}

# Attention functions that hand `group` on to an operation that has it.
SERVING = ("sima", "sima_eager")


def host_class(model: PreTrainedModel) -> str:
    """Name of Transformers' class under a swapped model's, or of the model's own class."""
    return getattr(type(model), "softmax_class", type(model)).__name__


def check_model(model: PreTrainedModel) -> None:
    """Raise unless the tokens of a model can be split; TypeError for no Transformers model, else UnsupportedModelError."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"split_tokens takes a Transformers model (PreTrainedModel), got {name}. Where one is wrapped, give the model inside: "
            "`model.module` of DistributedDataParallel, `model.get_base_model()` of PEFT."
        )
    if any("token_split" in vars(module) for module in model.modules()):
        raise ValueError(
            f"The tokens of this {name} are split already; call `remove()` of what split_tokens returned."
        )
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise UnsupportedModelError(
                f"This {name} holds a SyncBatchNorm, whose processes may be others than the group's. Leave its BatchNorm2d layers as "
                "they are: split_tokens has them take the mean and variance of all processes."
            )
    if isinstance(model, SimAPreTrainedModel) and not isinstance(model, SimABackbone):
        return
    kind = f"the {model.config.model_type!r} model {name}"
    if host_class(model) not in HEADS:
        listed = ", ".join((*HEADS, "SimAModel", "SimAForImageClassification"))
        raise UnsupportedModelError(
            f"The tokens of {kind} cannot be split over processes: only where they meet in SimA's sums, and in nothing else, is it known "
            f"what to exchange. Models that can be split: {listed}."
        )
    if not hasattr(type(model), "softmax_class"):
        raise UnsupportedModelError(
            f"The tokens of {kind} cannot be split over processes: its softmax attention needs every pair of them. "
            "Call sima_hf.patch_model(model) first."
        )
    mechanism = model.config.attention_mechanism
    if mechanism != SIMA:
        raise UnsupportedModelError(
            f"The tokens of {kind} cannot be split over processes with {title_of(mechanism)} attention, only with SimA."
        )


def check_forward(model: PreTrainedModel, attentions: list[nn.Module]) -> None:
    """Raise ValueError where a model whose tokens are split would compute something else than one process does."""
    for attention in attentions:
        chosen = attention.config._attn_implementation
        if chosen not in SERVING:
            raise ValueError(
                f"Tokens split over processes need SimA in plain torch, but this {type(model).__name__} has {chosen!r}: choose by "
                "`model.set_attn_implementation('sima')`."
            )
    if model.training and (random := _random_layer(model)):
        raise ValueError(
            f"Dropout must be 0 to train with tokens split over processes, whose copies of the class token would differ, got {random} in "
            f"this {type(model).__name__}. Set the rates in its config to 0 when it is made, or those of its layers."
        )


def _random_layer(model: nn.Module) -> str | None:
    """Name and rate of a layer that draws random numbers in training."""
    for name, module in model.named_modules():
        for attribute in ("p", "rate", "drop_prob"):  # of nn.Dropout, of SimADropPath, of Dinov2DropPath
            rate = vars(module).get(attribute)
            if isinstance(rate, (int, float)) and rate > 0 and module.training:
                return f"{attribute}={rate:g} in {name!r}"
    return None
