"""What attentions cost on tensors alone: operations, counted; peak memory; time, in turns."""

import torch
from peer_models import FUSED, on_tensors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sima_hf.bench.attention import CHANNELS, HEADS, in_mode, paired_ratio, spread, strided_inputs, take_turns
from sima_hf.bench.floor import peak_allocated


COUNTED_BY_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "_scaled_dot_product")
MOVES = (
    "clone",
    "copy",
    "cat",
    "stack",
    "empty",
    "zeros",
    "ones",
    "full",
    "fill",
    "eye",
    "constant_pad",
    "scalar_tensor",
    "unsafe_view",
)


class _Elementwise(TorchDispatchMode):
    """One operation for each number that an elementwise operation writes or a sum reads; no views, copies or products."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.lstrip("_")
        moved = function.is_view or name.startswith((*COUNTED_BY_PRODUCTS, "scaled_dot_product", *MOVES))
        if not moved:
            tensors = [x for x in (*args, *(result if isinstance(result, tuple) else (result,))) if torch.is_tensor(x)]
            self.operations += max((x.numel() for x in tensors), default=0)
        return result


def count_operations(name: str, tokens: int) -> int:
    """Of a forward pass: two for every multiply-add of a product, one for every number of an elementwise operation or a sum."""
    torch.manual_seed(0)
    tensors = strided_inputs(1, tokens, torch.float32, "cpu")
    attend = on_tensors(name, tokens, HEADS, CHANNELS)
    if name == "softmax":  # as its formula says, not as one operation

        def attend(query, key, value):
            return (query * CHANNELS**-0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value

    with FlopCounterMode(display=False) as products:
        attend(*tensors)
    with _Elementwise() as elementwise:
        attend(*tensors)
    return products.get_total_flops() + elementwise.operations


def measure_costs(names: list[str], sizes: list[int], seconds: float) -> dict:
    """Rows of every attention at every number of tokens, one image, float32, forward; SimA's fused kernel besides.

    Returns:
        heads, channels, and "rows": attention, tokens, operations (None for a kernel of its own), peak_bytes beyond the inputs,
        median and quartiles of milliseconds, ratio_to_softmax as the median over turns.
    """
    rows = []
    for tokens in sizes:
        torch.manual_seed(0)
        tensors = strided_inputs(1, tokens, torch.float32, "cpu")
        timed = [*names, FUSED] if "sima" in names else names
        calls = {name: in_mode(on_tensors(name, tokens, HEADS, CHANNELS), tensors, "forward") for name in timed}
        times = take_turns(calls, seconds, lambda: None)
        for name, own in times.items():
            row = {"attention": name, "tokens": tokens}
            row["operations"] = None if name == FUSED else count_operations(name, tokens)
            row["peak_bytes"] = peak_allocated(calls[name], "cpu")
            row |= spread(own, "ms")
            row["ratio_to_softmax"] = paired_ratio(own, times["softmax"]) if "softmax" in times else None
            print(row, flush=True)
            rows.append(row)
    return {"heads": HEADS, "channels": CHANNELS, "rows": rows}
