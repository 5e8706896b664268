"""The end of a model: what is read there, and the calibrated model beside its teacher on held-out images."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto import modeling_auto

from .block_forward import BlockRunner, call_block, hidden_of, run
from .report import EndResult


DENSE = {
    *modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values(),
    *modeling_auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES.values(),
}


def reads_patches_alone(model: PreTrainedModel) -> bool:
    """Whether the patches are read and the class token is not: by a backbone's user, by a head for masks or for hidden patches.

    DPT's heads put the class token to every patch, unless their config says `readout_type="ignore"`.
    """
    if getattr(model.config, "readout_type", "ignore") != "ignore":
        return False
    name = getattr(type(model), "softmax_class", type(model)).__name__
    return name in DENSE or any(isinstance(module, BackboneMixin) for module in model.modules())


def compare_ends(runner: BlockRunner, classifies: bool) -> EndResult:
    """Measure the model, as it is now, against its teacher on the held-out images.

    Args:
        runner: at the last block.
        classifies: both models have a classifier, whose answers are compared.
    """
    last, pairs = len(runner.blocks[0]) - 1, []
    for calls, held in runner.calls(last):
        streams = [
            hidden_of(call_block(blocks[last], call)) for blocks, call in zip(runner.blocks, calls, strict=True)
        ]
        if len(streams[0]) == len(held):
            pairs.append([stream[held.to(stream.device)] for stream in streams])
    if not pairs:
        return EndResult(float("nan"))
    pairs = [
        [nn.functional.layer_norm(part.flatten(1, -2), part.shape[-1:]) for part in pair if len(part)]
        for pair in pairs
    ]
    pairs = [pair for pair in pairs if pair]
    tokens = runner.blocks[0][last].class_tokens
    patches = _cosine([[part[:, tokens:] for part in pair] for pair in pairs])
    several = sum(len(own) for own, _ in pairs) > 1
    classes = _cosine([[part[:, :tokens] for part in pair] for pair in pairs]) if tokens and several else None
    return EndResult(patches, classes, _agreement(runner) if classifies else None)


def _agreement(runner: BlockRunner) -> float | None:
    same = []
    for index, (inputs, held) in enumerate(runner.inputs()):
        if not held.any():
            continue
        chosen = {
            name: value[held.to(value.device)]
            if isinstance(value, torch.Tensor) and value.dim() and len(value) == len(held)
            else value
            for name, value in inputs.items()
        }
        logits = [getattr(run(net, chosen, index), "logits", None) for net in runner.models]
        if logits[0] is None or logits[0].dim() != 2 or logits[0].shape[1] < 2:
            return None
        same.append(logits[0].argmax(-1) == logits[1].argmax(-1))
    return torch.cat(same).float().mean().item()


def _cosine(pairs: list[list[torch.Tensor]]) -> float:
    """Mean cosine of the tokens `(B, N, C)` of batches, perhaps of several sizes, the goal's mean taken off both."""
    mean = torch.cat([goal.flatten(0, 1) for _, goal in pairs]).mean(dim=0)
    found = [nn.functional.cosine_similarity(own - mean, goal - mean, dim=-1).flatten() for own, goal in pairs]
    return torch.cat(found).mean().item()
