"""The calibrated model beside its teacher at the end, on held-out images."""

import torch
from torch import nn

from .block_forward import BlockRunner, call_block, hidden_of, run
from .report import EndResult


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
    own, goal = (
        nn.functional.layer_norm(torch.cat([part.flatten(1, -2) for part in parts]), parts[0].shape[-1:])
        for parts in zip(*pairs, strict=True)
    )
    tokens = runner.blocks[0][last].class_tokens
    patches = _cosine(own[:, tokens:], goal[:, tokens:])
    classes = _cosine(own[:, :tokens], goal[:, :tokens]) if tokens and len(own) > 1 else None
    return EndResult(patches, classes, _agreement(runner) if classifies else None)


def _agreement(runner: BlockRunner) -> float | None:
    same = []
    for index, (inputs, held) in enumerate(runner.inputs()):
        if not held.any():
            continue
        chosen = {
            name: value[held.to(value.device)]
            if isinstance(value, torch.Tensor) and len(value) == len(held)
            else value
            for name, value in inputs.items()
        }
        logits = [getattr(run(net, chosen, index), "logits", None) for net in runner.models]
        if logits[0] is None or logits[0].dim() != 2 or logits[0].shape[1] < 2:
            return None
        same.append(logits[0].argmax(-1) == logits[1].argmax(-1))
    return torch.cat(same).float().mean().item()


def _cosine(own: torch.Tensor, goal: torch.Tensor) -> float:
    """Mean cosine of tokens `(B, N, C)`, the goal's mean taken off both."""
    mean = goal.mean(dim=(0, 1))
    return nn.functional.cosine_similarity(own - mean, goal - mean, dim=-1).mean().item()
