"""Calibration: refit a few linear layers of a freshly swapped model, in closed form, so that it follows its original."""

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import CalibrationError
from .calibration_sites import Block, Route, find_blocks, is_sima
from .calibration_walk import Walk, execution_order, route_of, run, watch
from .least_squares import NormalEquations


HEADS = ("classifier", "cls_classifier", "distillation_classifier")
NOT_INPUTS = ("labels", "label", "return_loss")


@dataclass(frozen=True)
class Fit:
    """One layer that was refitted: shares of the stream's variance (class tokens weighted) that it left unexplained."""

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibrate` did. `print(report)` shows a table, a row for each refitted layer in the order of the fits.

    A layer's `before` is with the layers above it in the table already refitted.
    """

    fits: tuple[Fit, ...]
    settings: dict[str, Any]
    images: int
    stored_bytes: int

    def __str__(self) -> str:
        width = max(len(fit.layer) for fit in self.fits)
        how = f"{self.stored_bytes / 2**20:.1f} MiB stored" if self.stored_bytes else "recomputed from the inputs each time"
        lines = [
            f"Calibrated from {self.images} images ({how}); " + ", ".join(f"{k}={v}" for k, v in self.settings.items()),
            f"{'layer'.ljust(width)}  unexplained before  after",
        ]
        lines += [f"{fit.layer.ljust(width)}  {fit.before:18.4f}  {fit.after:.4f}" for fit in self.fits]
        return "\n".join(lines)


def calibrate(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Iterable[Mapping[str, Any] | torch.Tensor],
    *,
    mlp: bool = True,
    classifier: bool = False,
    class_token_weight: float | None = None,
    ridge: float = 1e-6,
    balance: bool = True,
    memory_budget: int = 2 * 2**30,
    progress: bool = True,
) -> CalibrationReport:
    model_copy, teacher_copy = _working_copy(model), _working_copy(teacher)
    device = next(model_copy.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        work = _Calibration(model_copy, teacher_copy, functools.partial(_inputs, batches, device), locals())
        fits = work.fit()
    _write_back(model, model_copy)
    return CalibrationReport(tuple(fits), {}, work.walk.images, work.walk.stored_bytes)


class _Calibration:
    def __init__(self, model, teacher, batches, options):
        self.model, self.teacher = model, teacher
        self.mlp, self.class_token_weight, self.ridge = options["mlp"], options["class_token_weight"], options["ridge"]
        self.classifier = options["classifier"]
        self.balance = options["balance"]
        self.batches = batches
        blocks = find_blocks(model)
        inputs = next(batches())
        order = execution_order(model, blocks, inputs)
        modules = dict(teacher.named_modules())
        self.blocks = [blocks[i] for i in order]
        from .calibration_sites import _block
        self.goals = [_block(block.name, modules[block.name]) for block in self.blocks]
        self.walk = Walk([model, teacher], [self.blocks, self.goals], batches, options["memory_budget"])

    def fit(self):
        fits = []
        for n, block in enumerate(self.blocks):
            fits.append(self.fit_branch(n, "attention"))
            if self.balance and block.value is not None:
                balance(block, self.goals[n])
            if self.mlp:
                fits.append(self.fit_branch(n, "mlp"))
            if n + 1 < len(self.blocks):
                self.walk.advance(n)
        if self.classifier:
            fits.append(self.fit_head())
        return fits

    def fit_branch(self, number, branch):
        block, goal = self.blocks[number], self.goals[number]
        layer = getattr(block, branch)
        sums = NormalEquations(layer.in_features, layer.out_features, layer.bias is not None, layer.weight.device)
        routes = {}
        energy = None
        for call, goal_call in self.walk.calls(number):
            own, wanted = watch(block, call, branch), watch(goal, goal_call, branch)
            key = own.shape, own.y.shape
            if key not in routes:
                routes[key] = route_of(block, call, branch)
            route = routes[key]
            weight = torch.ones(own.shape[:-1], device=own.stream.device)
            if route is None:
                x, change, weight, seen = own.x, wanted.y - own.y, torch.ones_like(own.y[:, 0]), wanted.y
            else:
                w = self.class_token_weight
                if block.class_tokens and w is None:
                    w = own.shape[1] - block.class_tokens
                if block.class_tokens:
                    weight[:, : block.class_tokens] = w
                weight = weight.flatten()
                x, change, seen = own.x[route.rows], (wanted.stream - own.stream) / route.scale, wanted.stream
            sums.add(x, change, weight)
            if energy is None:
                energy = Moments(seen.shape[-1])
            energy.add(seen, weight)
        dw, db = sums.solve(self.ridge)
        factor = 1 if route is None else route.scale.double() ** 2
        before = (sums.yy * factor).sum() / energy.total()
        after = (sums.unexplained(dw, db) * factor).sum() / energy.total()
        layer.weight += dw.to(layer.weight)
        if db is not None:
            layer.bias += db.to(layer.bias)
        return Fit(f"{block.name}.{branch}", before.item(), after.item())

    def fit_head(self):
        head, goal = self.model.classifier, self.teacher.classifier
        sums = NormalEquations(head.in_features, head.out_features, True, head.weight.device)
        energy = Moments(head.out_features)
        for b, inputs in enumerate(self.batches()):
            seen = []
            hooks = [m.register_forward_hook(lambda _, a, o: seen.append((a[0], o))) for m in (head, goal)]
            run(self.model, inputs, b); run(self.teacher, inputs, b)
            [h.remove() for h in hooks]
            (x, y), (_, t) = seen
            w = torch.ones_like(x[:, 0])
            sums.add(x, t - y, w)
            energy.add(t, w)
        dw, db = sums.solve(self.ridge)
        before = sums.yy.sum() / energy.total()
        after = sums.unexplained(dw, db).sum() / energy.total()
        head.weight += dw.to(head.weight)
        head.bias += db.to(head.bias)
        return Fit("classifier", before.item(), after.item())


class Moments:
    def __init__(self, c):
        self.n, self.s, self.ss = 0, torch.zeros(c, dtype=torch.float64), torch.zeros(c, dtype=torch.float64)

    def add(self, x, w):
        x, w = x.double(), w.double()
        self.n += w.sum()
        self.s += (w[:, None] * x).sum(0)
        self.ss += (w[:, None] * x * x).sum(0)

    def total(self):
        return (self.ss - self.s**2 / self.n).sum()


def balance(block, goal):
    """Per channel, by powers of two."""
    def size(layer_o, layer_v):
        return layer_o.weight.norm(dim=0), layer_v.weight.norm(dim=1)
    if block.value.out_features != block.attention.in_features:
        return
    o, v = size(block.attention, block.value)
    o0, v0 = size(goal.attention, goal.value)
    s = ((o / v) / (o0 / v0)).sqrt().log2().round().exp2()
    s = torch.where(s.isfinite() & (s > 0), s, 1)
    block.value.weight *= s[:, None]
    if block.value.bias is not None:
        block.value.bias *= s
    block.attention.weight /= s


def _working_copy(model):
    made = copy.deepcopy(model).eval()
    return made if made.dtype == torch.float64 else made.float()


def _inputs(batches, device):
    for batch in batches:
        inputs = {"pixel_values": batch} if isinstance(batch, torch.Tensor) else dict(batch)
        yield {
            name: (value.to(device, torch.float32) if value.is_floating_point() else value.to(device)) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
            if name not in NOT_INPUTS
        }


def _write_back(model, made):
    new = dict(made.named_parameters())
    for name, p in model.named_parameters():
        if not torch.equal(p.data, new[name].to(p.dtype)):
            p.data.copy_(new[name])
