"""Running one model block by block, on stored hidden states or, where those would not fit, each time from its inputs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import CalibrationError
from .blocks import Block
from .held_out import HeldOut
from .residual_map import ResidualMap, probe_residual_map


@dataclass
class BlockCall:
    """The arguments of one call of a module, and the index of the batch that led to it."""

    batch: int
    args: tuple
    kwargs: dict[str, Any]

    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(value.nbytes for value in (*self.args, *self.kwargs.values()) if isinstance(value, torch.Tensor))


class _Stopped(Exception):
    """What was looked for has been seen; the rest of the forward is not needed."""


@contextlib.contextmanager
def override_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Replace the forward of a module within the block."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def run(model: nn.Module, inputs: dict[str, Any], batch: int) -> Any:
    """A forward whose random draws depend on the number of the batch alone, such as the patches that ViTMAE masks."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(batch)
        return model(**inputs)


@contextlib.contextmanager
def first_seen(*modules: nn.Module) -> Iterator[dict[nn.Module, tuple[torch.Tensor, Any]]]:
    """First input and output of each of `modules`, in the order of the calls, from what runs within."""
    seen: dict[nn.Module, tuple[torch.Tensor, Any]] = {}

    def note(module, args, kwargs, output):
        seen.setdefault(module, (_hidden_in(args, kwargs), output))

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        yield seen


def _hidden_in(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def execution_order(model: nn.Module, blocks: list[Block], inputs: dict[str, Any]) -> list[int]:
    """Which of `blocks` a forward calls, by index, in the order of the calls."""
    with first_seen(*(block.module for block in blocks)) as seen:
        run(model, inputs, 0)
    place = {block.module: index for index, block in enumerate(blocks)}
    return [place[module] for module in seen]


def capture_call(
    model: nn.Module, blocks: list[Block], number: int, inputs: dict[str, Any], batch: int, output: Any = None
) -> BlockCall:
    """Capture the call of `blocks[number]` in a forward of `model`.

    If `output`, the result of the block before, is given, earlier blocks are skipped.
    """
    seen: list[BlockCall] = []

    def stop(*args, **kwargs):
        seen.append(BlockCall(batch, args, kwargs))
        raise _Stopped

    with contextlib.ExitStack() as stack:
        stack.enter_context(override_forward(blocks[number].module, stop))
        stack.enter_context(_resumed(blocks[:number], output))
        with contextlib.suppress(_Stopped):
            run(model, inputs, batch)
    return seen[0]


@contextlib.contextmanager
def _resumed(earlier: list[Block], output: Any) -> Iterator[None]:
    """The last of `earlier` returns `output`; those before it pass their input on, which nobody reads."""
    if output is None or not earlier:
        yield
        return

    def passes(*args, **kwargs):
        hidden = _hidden_in(args, kwargs)
        return (hidden, *(None for _ in output[1:])) if isinstance(output, tuple) else hidden

    with contextlib.ExitStack() as stack:
        for block in earlier[:-1]:
            stack.enter_context(override_forward(block.module, passes))
        stack.enter_context(override_forward(earlier[-1].module, lambda *args, **kwargs: output))
        yield


@dataclass
class BranchActivations:
    """One branch of one block in one forward, as rows: `x` into its last linear layer, `y` out of it, the stream after it."""

    x: torch.Tensor
    y: torch.Tensor
    stream: torch.Tensor
    shape: torch.Size


def call_block(block: Block, call: BlockCall) -> Any:
    """What the block returns."""
    return block.module(*call.args, **call.kwargs)


def hidden_of(output: Any) -> torch.Tensor:
    """The stream in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _stream_after(block: Block, call: BlockCall, branch: str) -> torch.Tensor:
    if branch == "mlp":
        return hidden_of(call_block(block, call))
    seen: list[torch.Tensor] = []

    def stop(module, args, kwargs):
        seen.append(_hidden_in(args, kwargs))
        raise _Stopped

    hook = block.stream.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with contextlib.suppress(_Stopped):
            call_block(block, call)
    finally:
        hook.remove()
    return seen[0]


def run_branch(block: Block, call: BlockCall, branch: str) -> BranchActivations:
    """Run a block up to the end of a branch, "attention" or "mlp"."""
    layer = getattr(block, branch)
    with first_seen(layer) as seen:
        stream = _stream_after(block, call, branch)
    x, y = (tensor.flatten(0, -2) for tensor in seen[layer])
    return BranchActivations(x, y, stream.flatten(0, -2), stream.shape)


def attention_inputs(block: Block, call: BlockCall, *layers: nn.Module) -> tuple[torch.Tensor, dict]:
    """Run a block up to the layer that ends its attention: what goes into that, and what goes into `layers` and out of them."""
    with first_seen(*layers) as seen:
        return _until_output(block, call), seen


def _until_output(block: Block, call: BlockCall) -> torch.Tensor:
    reached: list[torch.Tensor] = []

    def stop(x):
        reached.append(x)
        raise _Stopped

    with override_forward(block.attention, stop), contextlib.suppress(_Stopped):
        call_block(block, call)
    return reached[0]


def value_features(block: Block, call: BlockCall) -> torch.Tensor:
    """What each head makes of the value layer's inputs and, if it has a bias, of a constant, `(R, heads, inputs (+ 1))`.

    As the attention is linear in the values, its own code says so when the value layer gives these inputs instead, a head's
    width of channels at a time. The inputs of the output layer are these features times the value layer's weights.
    """
    projections = [layer for layer in (block.query, block.key) if layer is not None]
    _, seen = attention_inputs(block, call, *projections, block.value)
    inputs = seen[block.value][0]
    if block.value.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
    width = block.value.out_features // block.heads
    found = []
    with contextlib.ExitStack() as stack:
        for layer in projections:  # they need not be computed again
            stack.enter_context(override_forward(layer, lambda x, output=seen[layer][1]: output))
        for chunk in inputs.split(width, dim=-1):
            values = nn.functional.pad(chunk, (0, width - chunk.shape[-1])).repeat(
                *[1] * (chunk.dim() - 1), block.heads
            )
            with override_forward(block.value, lambda x, values=values: values):
                x = _until_output(block, call)
            found.append(x.flatten(0, -2).unflatten(-1, (block.heads, width))[..., : chunk.shape[-1]])
    return torch.cat(found, dim=-1)


def residual_map_of(block: Block, call: BlockCall, branch: str) -> ResidualMap | None:
    """Find how the last linear layer of a branch enters the stream, by running the block on zeros and known numbers."""
    layer, hidden = getattr(block, branch), _hidden_in(call.args, call.kwargs)
    zero = torch.zeros_like(hidden)
    if call.args:
        blank = BlockCall(call.batch, (zero, *call.args[1:]), call.kwargs)
    else:
        blank = BlockCall(call.batch, (), {**call.kwargs, "hidden_states": zero})
    with first_seen(layer) as seen:
        _stream_after(block, call, branch)
    shape = seen[layer][1].shape

    def stream_with(values: torch.Tensor) -> torch.Tensor:
        with contextlib.ExitStack() as stack:
            if branch == "mlp":
                nothing = block.attention.out_features
                stack.enter_context(override_forward(block.attention, lambda x: x.new_zeros(*x.shape[:-1], nothing)))
            stack.enter_context(override_forward(layer, lambda x: values.reshape(shape)))
            return _stream_after(block, blank, branch).flatten(0, -2)

    return probe_residual_map(stream_with, shape[:-1].numel(), shape[-1], hidden)


class BlockRunner:
    """Calls of the blocks of a student and its teacher, in step, on the same batches.

    The first passage also draws the images that are held out. If all fits into `memory_budget` bytes, inputs and the calls of
    the current block are stored, and each block is run as often as it is looked at. If not, every look runs the models from their inputs, so that time grows with the square of
    the number of blocks.

    Args:
        models, blocks: of the student and its teacher.
        batches: keyword arguments of the models, as often as asked for.
        passage: the first passage through them.
        held_out: draws the images that are kept from the fits.
        memory_budget: bytes.
    """

    def __init__(
        self,
        models: list[nn.Module],
        blocks: list[list[Block]],
        batches: Iterable,
        passage: Iterable,
        held_out: HeldOut,
        memory_budget: int,
    ):
        self.models, self.blocks, self.batches = models, blocks, batches
        self.images, self.held_out = 0, held_out
        self.stored: list[tuple[dict[str, Any], list[BlockCall]]] | None = []
        used = 0
        for index, inputs in enumerate(passage):
            self.images += held_out.note(inputs)
            if self.stored is None:
                continue
            calls = self._capture(0, inputs, index)
            used += BlockCall(0, (), inputs).bytes() + sum(call.bytes() for call in calls)
            if used > memory_budget:
                self.stored = None
            else:
                self.stored.append((inputs, calls))
        self.stored_bytes = used if self.stored is not None else 0
        self.held = held_out.choose()

    def _capture(
        self, number: int, inputs: dict[str, Any], batch: int, outputs: list | None = None
    ) -> list[BlockCall]:
        outputs = outputs or [None] * len(self.models)
        together = zip(self.models, self.blocks, outputs, strict=True)
        return [capture_call(model, blocks, number, inputs, batch, output) for model, blocks, output in together]

    def inputs(self) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """The arguments of the models for each batch, and which images `(B,)` are held out.

        Raises:
            CalibrationError: the held-out images did not all come again.
        """
        met = 0
        for inputs in self.batches if self.stored is None else [inputs for inputs, _ in self.stored]:
            held = self.held_out.mask(inputs)
            met += int(held.sum())
            yield inputs, held
        if met != self.held:
            raise CalibrationError(
                f"`batches` must give the same images as often as it is gone through, got {met} of the {self.held} held-out ones "
                "again: take random augmentation off, or raise `memory_budget`."
            )

    def calls(self, number: int) -> Iterator[tuple[list[BlockCall], torch.Tensor]]:
        """For each batch, the call of the `number`-th block in every model, and which images `(B,)` are held out."""
        for batch, (inputs, held) in enumerate(self.inputs()):
            calls = self._capture(number, inputs, batch) if self.stored is None else self.stored[batch][1]
            yield calls, held

    def advance(self, number: int) -> None:
        """Go on from the `number`-th block to the next."""
        if self.stored is None:
            return
        for index, (inputs, calls) in enumerate(self.stored):
            outputs = [call_block(blocks[number], call) for blocks, call in zip(self.blocks, calls, strict=True)]
            self.stored[index] = (inputs, self._capture(number + 1, inputs, index, outputs))
