"""The steps of calibration, on working copies of the model and its teacher."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import CalibrationError
from ..patching import sima_attentions
from ..patching.attentions.mechanisms import SIMA
from .block_forward import (
    BlockCall,
    BlockRunner,
    attention_inputs,
    execution_order,
    first_seen,
    run,
    run_branch,
    value_features,
)
from .blocks import Block, block_at, find_blocks
from .gather import gather_sums, rows_of
from .held_out import HeldOut
from .qk_basis import HeadMoments, apply_basis, choose_basis, product_scale, scaled_bias
from .report import LayerFit
from .ridge import Solution, choose, ridge_path
from .sums import LayerBatch, SplitSums, widened
from .value_output import joint_path, scaled_prior


# Above this many features of all heads, sums of value and output layer together cost more than they bring.
MOST_FEATURES = 5000


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
        self.simas = [one.path for one in sima_attentions(model) if one.sima_config.attention_mechanism == SIMA]
        passage = iter(batches)
        first = next(passage, None)
        if first is None:
            raise CalibrationError("`batches` is empty: give a few hundred unlabeled images.")
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
            [model, teacher],
            [self.blocks, self.goals],
            batches,
            passage,
            HeldOut(settings["held_out"]),
            settings["memory_budget"],
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
                    fits.append(self._fit_attention(number) if branch == "attention" else self._fit_mlp(number))
                    bar.update()
                if number + 1 < len(self.blocks):
                    self.runner.advance(number)
            for name in heads:
                fits.append(self._fit_head(name))
                bar.update()
        return fits

    def _fit_attention(self, number: int) -> LayerFit:
        block, goal = self.blocks[number], self.goals[number]
        if self.settings["basis"] and any(path.startswith(f"{block.name}.") for path in self.simas):
            self._choose_basis(number)
        layer, bias = block.attention, block.attention.bias is not None
        output = widened(layer.weight.T)
        values = self._values(number) if self.settings["value"] else None
        sums = self._sums(number, "attention", values is not None)
        paths = []
        if values is None:
            measured, prior = sums, output[None]
        else:
            measured, prior = sums.project(torch.block_diag(*values)), output.unflatten(0, (len(values), -1))
            products = scaled_prior(sums.fitted, values @ prior, bias)
            joint = joint_path(sums.fitted, products, values.shape[-1], bias, self.settings["ridge"])
            paths.append((joint, sums))
        prior = scaled_prior(measured.fitted, prior, bias).flatten(0, 1)
        ridges = ridge_path(measured.fitted, prior, bias, self.settings["ridge"])
        solution, chosen = choose((_as_it_is(layer), measured), (ridges, measured), *paths)
        if solution.value is None:
            self._write(layer, solution.full)
        else:
            self._write_joint(block, solution)
        if self.settings["balance"]:
            self._balance(block, goal)
        return self._fitted(layer, solution, chosen)

    def _fit_mlp(self, number: int) -> LayerFit:
        layer = self.blocks[number].mlp
        return self._refit(layer, self._sums(number, "mlp"))

    def _refit(self, layer: nn.Linear, sums: SplitSums) -> LayerFit:
        prior, bias = widened(layer.weight.T), layer.bias is not None
        ridges = ridge_path(sums.fitted, prior, bias, self.settings["ridge"])
        solution, _ = choose((_as_it_is(layer), sums), (ridges, sums))
        self._write(layer, solution.full)
        return self._fitted(layer, solution, sums)

    def _fitted(self, layer: nn.Linear, solution: Solution, sums: SplitSums) -> LayerFit:
        name, before = self.names[layer], sums.held.unexplained(None)
        if math.isinf(solution.ridge):
            return LayerFit(name, before, before, sums.fitted.unexplained(None))
        after, in_sample = (part.unexplained(solution.full) for part in (sums.held, sums.fitted))
        return LayerFit(name, before, after, in_sample, solution.ridge, solution.value is not None)

    def _write(self, layer: nn.Linear, full: torch.Tensor) -> None:
        layer.weight.copy_(full[:-1].T)
        if layer.bias is not None:
            layer.bias.copy_(full[-1])
        self._changed(layer)

    def _write_joint(self, block: Block, solution: Solution) -> None:
        weights = solution.value.transpose(1, 2).flatten(0, 1)
        block.value.weight.copy_(weights[:, : block.value.in_features])
        if block.value.bias is not None:
            block.value.bias.copy_(weights[:, -1])
        self._changed(block.value)
        self._write(block.attention, torch.cat([solution.output.flatten(0, 1), solution.full[-1:]]))

    def _values(self, number: int) -> torch.Tensor | None:
        """The value layer by head, `(heads, inputs (+ 1), channels)`; None if the output is not linear in it, head by head."""
        block = self.blocks[number]
        if block.value is None or not block.heads or block.value.out_features != block.attention.in_features:
            return None
        if block.heads * block.value.in_features > MOST_FEATURES:
            return None
        parts = [block.value.weight] if block.value.bias is None else [block.value.weight, block.value.bias[:, None]]
        weights = widened(torch.cat(parts, dim=1))
        values = weights.unflatten(0, (block.heads, -1)).transpose(1, 2)
        (call, _), _ = next(self.runner.calls(number))
        expected, _ = attention_inputs(block, call)
        found = torch.einsum("rhf,hfc->rhc", widened(value_features(block, call)), values).flatten(1)
        expected = widened(expected.flatten(0, -2))
        return values if (found - expected).norm() <= 1e-3 * expected.norm() else None

    def _sums(self, number: int, branch: str, features: bool = False) -> SplitSums:
        return gather_sums(self.runner, number, branch, self.settings["class_token_weight"], features)

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

    def _choose_basis(self, number: int) -> None:
        """Change the basis of queries and keys, if the block has such a freedom."""
        block, goal = self.blocks[number], self.goals[number]
        layers = (block.query, block.key)
        if None in layers or not block.heads or layers[0].out_features != layers[1].out_features:
            return
        moments = [HeadMoments.of(layer, block.heads) for layer in layers]
        for (call, goal_call), held in self.runner.calls(number):  # noqa: B007, the last is asked below
            _, seen = attention_inputs(block, call, *layers)
            for layer, sums in zip(layers, moments, strict=True):
                rows = seen[layer][1].flatten(0, -2)
                sums.add(rows[~rows_of(held, rows)])
        center, constant = layers[1].bias is not None, None not in (layers[0].bias, layers[1].bias)
        if not _softmax_keeps(goal, goal_call, choose_basis(*moments, center=center, constant=False)):
            return
        apply_basis(*layers, choose_basis(*moments, center=center, constant=constant))
        for layer in layers:
            self._changed(layer)
        self._scale_biases(block, next(self.runner.calls(number))[0][0], constant)
        self.bases += 1

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
        head = getattr(self.model, name)
        sums = SplitSums(head.in_features, head.out_features, head.weight.device)
        for index, (inputs, held) in enumerate(self.runner.inputs()):
            pairs = []
            for net in (self.model, self.teacher):
                with first_seen(getattr(net, name)) as seen:
                    run(net, inputs, index)
                pairs.append([tensor.flatten(0, -2) for tensor in seen[getattr(net, name)]])
            (x, now), (_, goal) = pairs
            even = torch.ones_like(now[:, 0])
            sums.add(LayerBatch(x, goal, now, even, goal, torch.ones_like(now[0]), rows_of(held, even)))
        sums.check_finite()
        return self._refit(head, sums)


def _as_it_is(layer: nn.Linear) -> list[Solution]:
    """The path to where the layer is already."""
    bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
    return [Solution(float("inf"), widened(torch.cat([layer.weight.T, bias[None]])))]


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
