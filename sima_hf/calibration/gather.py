"""Going through all batches once, to sum what they say about the layer that ends a branch of a block."""

import torch

from .block_forward import BlockCall, BlockRunner, residual_map_of, run_branch, value_features
from .blocks import Block
from .residual_map import ResidualMap
from .sums import LayerBatch, SplitSums


def gather_sums(
    runner: BlockRunner, number: int, branch: str, class_token_weight: float | None, features: bool = False
) -> SplitSums:
    """Sums for the layer that ends a branch of the `number`-th block.

    Args:
        runner: at that block.
        number: of the block.
        branch: "attention" or "mlp".
        class_token_weight: as `calibrate` takes it.
        features: in place of the layer's inputs, sum what the heads make of the value layer's, head by head.

    Raises:
        CalibrationError: the sums are not finite.
    """
    block, goal = (blocks[number] for blocks in runner.blocks)
    maps: dict[tuple, ResidualMap | None] = {}
    sums = None
    for (call, goal_call), held in runner.calls(number):
        batch = _batch_of(block, goal, call, goal_call, branch, held, class_token_weight, features, maps)
        if sums is None:
            sums = SplitSums(batch.x.shape[1], batch.y.shape[1], getattr(block, branch).weight.device)
        sums.add(batch)
    sums.check_finite()
    return sums


def _batch_of(
    block: Block,
    goal: Block,
    call: BlockCall,
    goal_call: BlockCall,
    branch: str,
    held: torch.Tensor,
    class_token_weight: float | None,
    features: bool,
    maps: dict[tuple, ResidualMap | None],
) -> LayerBatch:
    own, wanted = run_branch(block, call, branch), run_branch(goal, goal_call, branch)
    x = value_features(block, call).flatten(1) if features else own.x
    kind = (own.shape, own.y.shape)
    if kind not in maps:
        maps[kind] = residual_map_of(block, call, branch)
    residual = maps[kind]
    if residual is None:
        even, one = torch.ones_like(own.y[:, 0]), torch.ones_like(own.y[0])
        return LayerBatch(x, wanted.y, own.y, even, wanted.y, one, rows_of(held, even))
    # A channel that LayerScale has switched off wants no change.
    change = torch.where(residual.scale == 0, 0, (wanted.stream - own.stream) / residual.scale)
    now = own.y[residual.rows]
    weight = _weights(block, own.shape, change, class_token_weight)
    return LayerBatch(
        x[residual.rows], now + change, now, weight, wanted.stream, residual.scale, rows_of(held, weight)
    )


def _weights(block: Block, shape: torch.Size, like: torch.Tensor, class_token_weight: float | None) -> torch.Tensor:
    """`(R,)` for a stream of a shape: class tokens have their weight, all others 1."""
    weights = torch.ones(shape[:-1], dtype=like.dtype, device=like.device)
    if block.class_tokens:
        others = (shape[-2] - block.class_tokens) / block.class_tokens
        weights[..., : block.class_tokens] = max(1.0, others) if class_token_weight is None else class_token_weight
    return weights.flatten()


def rows_of(held: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(R,)`, which rows belong to the held-out ones of images `(B,)`; rows follow each other image by image."""
    images = torch.arange(len(rows), device=rows.device) * len(held) // len(rows)
    return held.to(rows.device)[images]
