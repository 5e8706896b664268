"""The steps of calibration, on working copies of the model and its teacher."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import CalibrationError
from .block_forward import BlockCall, BlockRunner, execution_order, first_seen, residual_map_of, run, run_branch
from .blocks import Block, block_at, find_blocks
from .least_squares import NormalEquations
from .qk_basis import HeadMoments, apply_basis, choose_basis, product_scale, scaled_bias
from .residual_map import ResidualMap


@dataclass(frozen=True)
class LayerFit:
    """One layer that was refitted, and the shares of the variance it should produce that it left unexplained."""

    layer: str
    before: float
    after: float


@dataclass
class LayerBatch:
    """What one batch says about a layer, in rows.

    Attributes:
        x: `(R, inputs)` of the layer.
        change: `(R, C)`, by how much its output should change.
        weight: `(R,)`.
        wanted: `(R, C)`, what the teacher has there.
        scale: `(C,)`, from the layer's output to what `wanted` is.
    """

    x: torch.Tensor
    change: torch.Tensor
    weight: torch.Tensor
    wanted: torch.Tensor
    scale: torch.Tensor


class UnexplainedVariance:
    """Sums for the share of a weighted variance that is unexplained, in float64."""

    def __init__(self):
        self.weight, self.first, self.second, self.off, self.scale = 0.0, 0.0, 0.0, 0.0, None

    def add(self, look: LayerBatch) -> None:
        """Take in a batch."""
        weight, wanted = look.weight.double()[:, None], look.wanted.double()
        self.weight += weight.sum().item()
        self.first = self.first + (weight * wanted).sum(dim=0)
        self.second = self.second + (weight * wanted.square()).sum(dim=0)
        self.off = self.off + (weight * (look.change.double() * look.scale.double()).square()).sum(dim=0)
        self.scale = look.scale.double()

    def of(self, off: torch.Tensor) -> float:
        """The share, given the weighted sum of squares `(C,)` by which the layer's output is off."""
        return self._share(off.to(self.scale) * self.scale.square())

    def now(self) -> float:
        """The share with the layer as it is."""
        return self._share(self.off)

    def _share(self, off: torch.Tensor) -> float:
        total = (self.second - self.first.square() / self.weight).sum()
        return off.sum().item() / max(total.item(), 1e-300)


class Calibrator:
    """One run of calibration; changes `model`, which is a copy, and notes in `changed` the names of parameters it changed.

    Raises:
        CalibrationError: there is no batch, or none of the blocks that can be calibrated runs on the first one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        batches: Iterable[dict[str, Any]],
        dtypes: dict[str, torch.dtype],
        settings: dict[str, Any],
        progress: bool,
    ):
        self.model, self.teacher, self.batches, self.dtypes = model, teacher, batches, dtypes
        self.settings, self.progress = settings, progress
        self.names = {module: name for name, module in model.named_modules()}
        self.changed: set[str] = set()
        self.bases = 0
        passage = iter(batches)
        first = next(passage, None)
        if first is None:
            raise CalibrationError("`batches` is empty: give at least one batch of unlabeled images.")
        found = find_blocks(model)
        self.blocks = [found[index] for index in execution_order(model, found, first)]
        if not self.blocks:
            raise CalibrationError(
                f"None of the {len(found)} blocks that can be calibrated ran on the first batch, which holds "
                f"{', '.join(first)}: give what the vision part takes."
            )
        self.goals = [block_at(block.name, teacher.get_submodule(block.name)) for block in self.blocks]
        passage = itertools.chain([first], passage)  # not anew: what gives its batches once would lose this one
        self.runner = BlockRunner(
            [model, teacher], [self.blocks, self.goals], batches, passage, settings["memory_budget"]
        )

    def fit(self, heads: list[str]) -> list[LayerFit]:
        """Fit all blocks in the order in which they run, then `heads`."""
        from tqdm.auto import tqdm

        fits = []
        branches = ("attention", "mlp") if self.settings["mlp"] else ("attention",)
        steps = len(self.blocks) * len(branches) + len(heads)
        with tqdm(total=steps, desc="calibrating", unit="layer", disable=not self.progress) as bar:
            for number in range(len(self.blocks)):
                for branch in branches:
                    fits.append(self._fit_branch(number, branch))
                    bar.update()
                if number + 1 < len(self.blocks):
                    self.runner.advance(number)
            for name in heads:
                fits.append(self._fit_head(name))
                bar.update()
        return fits

    def _fit_branch(self, number: int, branch: str) -> LayerFit:
        block = self.blocks[number]
        layer = getattr(block, branch)
        first = self._choose_basis(number) if branch == "attention" and self.settings["basis"] else None
        before, after = self._refit(layer, self._looks(number, branch))
        if branch == "attention" and self.settings["balance"]:
            self._balance(block, self.goals[number])
        return LayerFit(self.names[layer], before if first is None else first, after)

    def _looks(self, number: int, branch: str) -> Iterator[LayerBatch]:
        maps: dict[tuple, ResidualMap | None] = {}
        for call, goal_call in self.runner.calls(number):
            yield self._look(number, branch, call, goal_call, maps)

    def _look(
        self, number: int, branch: str, call: BlockCall, goal_call: BlockCall, maps: dict[tuple, ResidualMap | None]
    ) -> LayerBatch:
        block = self.blocks[number]
        own, wanted = run_branch(block, call, branch), run_branch(self.goals[number], goal_call, branch)
        kind = (own.shape, own.y.shape)
        if kind not in maps:
            maps[kind] = residual_map_of(block, call, branch)
        residual = maps[kind]
        if residual is None:
            return LayerBatch(
                own.x, wanted.y - own.y, torch.ones_like(own.y[:, 0]), wanted.y, torch.ones_like(own.y[0])
            )
        # A channel that LayerScale has switched off wants no change.
        change = torch.where(residual.scale == 0, 0, (wanted.stream - own.stream) / residual.scale)
        return LayerBatch(
            own.x[residual.rows], change, self._weights(block, own.shape, change), wanted.stream, residual.scale
        )

    def _weights(self, block: Block, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
        """`(R,)` for a stream of a shape: class tokens have their weight, all others 1."""
        weights = torch.ones(shape[:-1], dtype=like.dtype, device=like.device)
        if block.class_tokens:
            chosen = self.settings["class_token_weight"]
            others = (shape[-2] - block.class_tokens) / block.class_tokens
            weights[..., : block.class_tokens] = max(1.0, others) if chosen is None else chosen
        return weights.flatten()

    def _refit(self, layer: nn.Linear, looks: Iterable[LayerBatch]) -> tuple[float, float]:
        sums, shares = NormalEquations.of(layer), UnexplainedVariance()
        for look in looks:
            sums.add(look.x, look.change, look.weight)
            shares.add(look)
        weight, bias = sums.solve(self.settings["ridge"])
        after = shares.of(sums.unexplained(weight, bias))
        layer.weight += weight.to(layer.weight)
        if bias is not None:
            layer.bias += bias.to(layer.bias)
        self._changed(layer)
        return shares.now(), after

    def _changed(self, layer: nn.Linear) -> None:
        for kind, parameter in layer.named_parameters():
            self._note(f"{self.names[layer]}.{kind}", parameter)

    def _note(self, name: str, parameter: nn.Parameter) -> None:
        """Note a change, and round it to what the model will hold, so that later layers are fitted to that."""
        parameter.copy_(parameter.to(self.dtypes[name]))
        if not parameter.isfinite().all():
            raise CalibrationError(
                f"{name} would not be finite in {self.dtypes[name]}: raise `ridge`, or calibrate in float32."
            )
        self.changed.add(name)

    def _choose_basis(self, number: int) -> float | None:
        """Change the basis of queries and keys; the unexplained share before, or None if the block has no such freedom."""
        block, goal = self.blocks[number], self.goals[number]
        layers = (block.query, block.key)
        if None in layers or not block.heads or layers[0].out_features != layers[1].out_features:
            return None
        moments, shares, maps = [HeadMoments.of(layer, block.heads) for layer in layers], UnexplainedVariance(), {}
        for call, goal_call in self.runner.calls(number):
            with first_seen(*layers) as seen:
                shares.add(self._look(number, "attention", call, goal_call, maps))
            for layer, sums in zip(layers, moments, strict=True):
                sums.add(seen[layer][1])
        center, constant = layers[1].bias is not None, None not in (layers[0].bias, layers[1].bias)
        if not _softmax_keeps(goal, goal_call, choose_basis(*moments, center=center, constant=False)):
            return None
        apply_basis(*layers, choose_basis(*moments, center=center, constant=constant))
        for layer in layers:
            self._changed(layer)
        self._scale_biases(block, next(self.runner.calls(number))[0], constant)
        self.bases += 1
        return shares.now()

    def _scale_biases(self, block: Block, call: BlockCall, constant: bool) -> None:
        """Bring position biases, made for logits, to the scale of SimA's product, as it is for one batch."""
        with first_seen(block.query, block.key) as seen:
            run_branch(block, call, "attention")
        query, key = (seen[layer][1] for layer in (block.query, block.key))
        scale = product_scale(query.flatten(0, -3), key.flatten(0, -3), block.heads)
        for name, table in block.bias_tables().items():
            table.copy_(scaled_bias(table, scale, query.shape[-1] // block.heads, constant))
            self._note(name, table)

    def _balance(self, block: Block, goal: Block) -> None:
        """Give each value channel the teacher's ratio of output to value weights, by the nearest power of two."""
        if block.value is None or block.value.out_features != block.attention.in_features:
            return
        ratios = [one.attention.weight.norm(dim=0) / one.value.weight.norm(dim=1) for one in (block, goal)]
        factor = (ratios[0] / ratios[1]).sqrt().log2().round().exp2()
        factor = torch.where(factor.isfinite() & (factor > 0), factor, 1)
        block.value.weight *= factor[:, None]
        if block.value.bias is not None:
            block.value.bias *= factor
        block.attention.weight /= factor
        self._changed(block.value)
        self._changed(block.attention)

    def _fit_head(self, name: str) -> LayerFit:
        return LayerFit(name, *self._refit(getattr(self.model, name), self._head_looks(name)))

    def _head_looks(self, name: str) -> Iterator[LayerBatch]:
        for index, inputs in enumerate(self.batches):
            pairs = []
            for net in (self.model, self.teacher):
                head = getattr(net, name)
                with first_seen(head) as seen:
                    run(net, inputs, index)
                pairs.append([tensor.flatten(0, -2) for tensor in seen[head]])
            (x, y), (_, wanted) = pairs
            yield LayerBatch(x, wanted - y, torch.ones_like(y[:, 0]), wanted, torch.ones_like(y[0]))


def _softmax_keeps(goal: Block, call: BlockCall, basis: tuple[torch.Tensor, ...]) -> bool:
    """Whether a basis leaves the teacher's attention what it is: not if there is more than a dot product between q and k."""
    layers = (goal.query, goal.key)
    before = [(parameter, parameter.clone()) for layer in layers for parameter in layer.parameters()]
    expected = run_branch(goal, call, "attention").x
    try:
        apply_basis(*layers, basis)
        found = run_branch(goal, call, "attention").x
    finally:
        for parameter, value in before:
            parameter.copy_(value)
    return bool((found - expected).norm() <= 1e-3 * expected.norm())
