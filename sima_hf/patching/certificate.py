"""Proof by counting: which softmax, exp and fused attention operations a forward really runs, module by module."""

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from .attention_modules import sima_attentions
from .attentions.code_paths import WORDS
from .attentions.mechanisms import declared, title_of
from .description import describe
from .hosts import HOSTS, PREFIX


# An operation counts if its name has one of WORDS or is one of these, and is none of ours.
EXPONENTIALS = ("exp", "exp_", "exp2", "exp2_", "expm1", "expm1_", "logsumexp")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
LOSS = "it belongs to the loss, not to the model"


@dataclass(frozen=True)
class Operation:
    """One kind of operation in one module.

    Attributes:
        path, module: where, and the class there.
        operation: torch's name, such as "aten::_softmax".
        count: how often it ran.
        allowed: why it may be there although the model is SimA; None where it may not.
        swapped: whether it is inside a part that `patch_model` swaps.
        by_design: whether the attention that was swapped in computes with it, as `sima_hf.peers` declares: it is then allowed there,
            though softmax is softmax.
    """

    path: str
    module: str
    operation: str
    count: int
    allowed: str | None = None
    swapped: bool = False
    by_design: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether it stands against `softmax_free`: it is not allowed, or it is the softmax of an attention that has one by design."""
        return not self.allowed or (self.by_design and "softmax" in self.operation)


@dataclass(frozen=True)
class Certificate:
    """What a forward ran. `softmax_free` is the answer, `operations` the evidence; printing it gives both.

    `remaining` has what the attention that was swapped in keeps of "softmax" and "exp", as `sima_hf.peers` declares it: nothing for
    SimA. `weights` tells the weights that ran from those of another checkpoint, see `weights_mark`.
    """

    model: str
    operations: tuple[Operation, ...]
    swapped: tuple[str, ...] = field(default=())
    weights: str | None = None
    remaining: tuple[str, ...] = ()

    @property
    def softmax_free(self) -> bool:
        """Whether no softmax, exp or fused attention ran but what is allowed by name, with its reason.

        Never where the attention that was swapped in has a softmax by design; the exp of one is allowed and listed.
        """
        return "softmax" not in self.remaining and not any(operation.is_counted for operation in self.operations)

    @property
    def in_swapped(self) -> tuple[Operation, ...]:
        """Operations that are not allowed inside the parts that were swapped; text sides and heads do not count."""
        return tuple(operation for operation in self.operations if operation.swapped and not operation.allowed)

    @property
    def count(self) -> int:
        """How many operations ran that are not allowed, or are an attention's softmax by design."""
        return sum(operation.count for operation in self.operations if operation.is_counted)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        operations = [asdict(operation) for operation in self.operations]
        return {
            "model": self.model,
            "softmax_free": self.softmax_free,
            "count": self.count,
            "remaining": list(self.remaining),
            "operations": operations,
        }

    def __str__(self) -> str:
        verdict = (
            "no softmax ran" if not self.count else f"{self.count} operations of softmax, exp or fused attention ran"
        )
        if self.remaining:
            verdict += f"; {' and '.join(self.remaining)} by design of the attention that was swapped in"
        lines = [f"{self.model}: {verdict}"]
        for one in self.operations:
            note = f" (allowed: {one.allowed})" if one.allowed else ""
            lines.append(f"  {one.count:3} x {one.operation} in {one.path or 'the model itself'} [{one.module}]{note}")
        if self.swapped and self.count and not any(one.swapped and one.is_counted for one in self.operations):
            lines.append(
                f"  none of them in what was swapped: {', '.join(path or 'the model' for path in self.swapped)}"
            )
        return "\n".join(lines)


def certify(model: nn.Module | torch.export.ExportedProgram, inputs: Any = None) -> Certificate:
    """Count every softmax, exp, scaled_dot_product_attention and multi-head attention that one forward runs.

    The forward is in eval mode and without gradients; the model's own mode comes back afterwards. Compiled parts run eagerly.

    Args:
        model: any module, patched or not (an unpatched one shows what would go), or a program made by `torch.export`, whose
            graph is read instead of run, as is that of a `torch.fx.GraphModule` without inputs.
        inputs: keyword arguments as a mapping, positional ones as a tuple or list, or one tensor. Not needed for a program.

    Returns:
        A `Certificate`; `softmax_free` is a bool.

    Raises:
        TypeError: it is neither a module nor a program, or inputs are missing.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return _read(model.graph_module, "exported program")
    if isinstance(model, torch.fx.GraphModule) and inputs is None:
        return _read(model, type(model).__name__)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"certify takes a torch.nn.Module or an exported program, got {type(model).__name__}. Load a folder first, "
            "for example with AutoModel.from_pretrained, or use `sima-hf certify FOLDER`."
        )
    if inputs is None:
        raise TypeError(f"certify needs inputs to run {type(model).__name__} once: a mapping, a tuple or one tensor.")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    modes = {module: module.training for module in model.modules()}
    with (
        _running(model) as running,
        _Counter(running) as counter,
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        try:
            model.eval()
            _call(model, inputs)
        finally:
            for module, training in modes.items():
                module.training = training
    return _certificate(model, counter.counts)


def _call(model: nn.Module, inputs: Any) -> None:
    if isinstance(inputs, Mapping):
        model(**inputs)
    elif isinstance(inputs, (tuple, list)):
        model(*inputs)
    else:
        model(inputs)


@functools.cache
def _counts(name: str) -> bool:
    """Whether an operation called `name`, "namespace::operation", counts."""
    namespace, _, operation = name.rpartition("::")
    if namespace.startswith("sima"):
        return False
    return operation in EXPONENTIALS or any(word in operation or word in namespace for word in WORDS)


class _Counter(TorchDispatchMode):
    """Counts by module path and operation; `running` is the stack of modules that run, kept up to date by hooks."""

    def __init__(self, running: list[tuple[str, str]]):
        super().__init__()
        self.running = running
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if _counts(name):
            self.counts[(*self.running[-1], name)] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _running(model: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """The stack of modules that run, innermost last, as (path, class)."""
    stack = [("", type(model).__name__)]
    handles = []
    try:
        for path, module in model.named_modules():
            if path:
                here = (path, type(module).__name__)
                handles.append(module.register_forward_pre_hook(lambda *_, here=here: stack.append(here)))
                handles.append(module.register_forward_hook(lambda *_: stack.pop() and None, always_call=True))
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _certificate(model: nn.Module, counts: Counter) -> Certificate:
    parts = [(part.path, part.within) for part in describe(model).swapped]
    mechanisms = {one.path: one.sima_config.attention_mechanism for one in sima_attentions(model)}
    whole = isinstance(model, PreTrainedModel)
    operations = []
    for (path, module, name), count in counts.items():
        swapped = any(is_under(path, part, within) for part, within in parts)
        # By its bases as well: parametrizations and subclasses bring names of their own.
        classes = [cls.__name__ for cls in type(model.get_submodule(path)).__mro__]
        reason = allowed_reason(classes, name) if swapped else None
        if reason is None and path == "" and whole and "log_softmax" in name:
            reason = LOSS
        design = None
        if reason is None and swapped:
            design = reason = _by_design(path, name, mechanisms)
        operations.append(Operation(path, module, name, count, reason, swapped, design is not None))
    paths = tuple(path for path, _ in parts)
    remaining = {word for mechanism in mechanisms.values() for word in declared(mechanism)}
    return Certificate(
        type(model).__name__, tuple(operations), paths, weights_mark(model), tuple(sorted(remaining, reverse=True))
    )


def _by_design(path: str, name: str, mechanisms: dict[str, str]) -> str | None:
    """Why an operation in a swapped attention may be there: the mechanism declares it; None where it does not, or it is elsewhere."""
    for place, mechanism in mechanisms.items():
        if is_under(path, place, "") and any(word in name for word in declared(mechanism)):
            return f"{title_of(mechanism)} computes with it"
    return None


def weights_mark(model: nn.Module) -> str | None:
    """One number for the parameters of a model: their names, dtypes, shapes, and the sums of their bits.

    It is the same on every device and after saving and loading, and takes one pass over the weights where they are.

    Args:
        model: any module.

    Returns:
        64 hexadecimal digits; None where the weights cannot be read, as on the meta device.
    """
    found = hashlib.sha256()
    try:
        for name, tensor in sorted(model.named_parameters()):
            bits = tensor.detach().view(_INTEGERS[tensor.element_size()])
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {int(bits.sum(dtype=torch.int64))}\n".encode())
    except (KeyError, NotImplementedError, RuntimeError):
        return None
    return found.hexdigest()


def is_under(path: str, part: str, within: str) -> bool:
    """Whether `path` is at or below `part`; with `within`, below a module of that name in it."""
    if part and path != part and not path.startswith(f"{part}."):
        return False
    inner = path[len(part) :].lstrip(".")
    return not within or within in inner.split(".")


def allowed_reason(classes: list[str], name: str) -> str | None:
    """Why the table of hosts lets an operation stay in one of these classes."""
    for host in HOSTS.values():
        for cls in classes:
            word, reason = host.allowed.get(cls.removeprefix(PREFIX), ("", ""))
            if word and word in name:
                return reason
    return None


def _name_of(node: torch.fx.Node, graph: torch.fx.GraphModule) -> str:
    """ "namespace::operation" of what a node calls; a module by its class, in small letters."""
    if node.op == "call_module":
        name = type(graph.get_submodule(node.target)).__name__.lower()
        return f"module::{'multi_head_attention' if name == 'multiheadattention' else name}"
    if node.op == "call_method":
        return f"tensor::{node.target}"
    if node.op != "call_function":
        return "graph::"
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.name().split(".")[0]
    return f"function::{getattr(node.target, '__name__', node.target)}"


def _read(program: torch.fx.GraphModule, title: str) -> Certificate:
    """Count in a graph, and in the graphs inside it."""
    counts: Counter = Counter()
    for _, graph in program.named_modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            name = _name_of(node, graph)
            if _counts(name):
                stack = list((node.meta.get("nn_module_stack") or {"": ("", "graph")}).values())
                classes = [str(cls).rpartition(".")[2] for _, cls in stack]
                swapped = any(cls.startswith(PREFIX) for cls in classes)
                counts[stack[-1][0], classes[-1], name, swapped] += 1
    operations = [
        Operation(path, module, name, count, allowed_reason([module], name) if swapped else None, swapped)
        for (path, module, name, swapped), count in counts.items()
    ]
    return Certificate(title, tuple(operations))
