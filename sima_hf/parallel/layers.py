"""What layers compute where a process has a band of an image's rows: forwards `(split, module, forward, *args)`.

`forward` is the one that the module had. Everything else in these models works on each token alone and stays as it is.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from ..models.sima.embeddings_sima import SimAPatchEmbeddings, SimAPositionEncoding
from ..models.sima.modeling_sima import SimAClassAttention, accumulation_dtype
from ..ops.autocast import without_autocast
from ..ops.group import shared_context, sum_over_group
from .bands import TokenSplit
from .halo import with_halo


def host_embeddings(split: TokenSplit, module: nn.Module, forward: Callable, pixel_values, *args, **kwargs):
    """`(B,T+n,C)`: the T tokens before the patches, which all processes hold, and the patches of this process's rows.

    The host's own code makes the tokens of the whole image first, so that their positions are its own.
    """
    hidden_states = forward(pixel_values, *args, **kwargs)
    patch = module.patch_embeddings.patch_size
    height, width = (side // size for side, size in zip(pixel_values.shape[-2:], patch, strict=True))
    shared = hidden_states.shape[1] - height * width
    rows = split.begin(height, shared)
    own = hidden_states[:, shared + rows.start * width : shared + rows.stop * width]
    return torch.cat((hidden_states[:, :shared], own), dim=1)


def averaged_head(split: TokenSplit, module: nn.Module, forward: Callable, features):
    """A head on `(B,C)` that is a mean over patches, or the same everywhere: the mean over all processes, weighed by rows."""
    share = (split.rows.stop - split.rows.start) / split.grid_rows
    (mean,) = sum_over_group([features.to(accumulation_dtype(features.dtype)) * share], split.group)
    return forward(mean.to(features.dtype))


def pixel_rows(split: TokenSplit, module: SimAPatchEmbeddings, forward: Callable, pixel_values):
    """The stem on this process's rows of the whole image's pixels."""
    patch, height = 2 ** len(module.layers), pixel_values.shape[2]
    rows = split.begin(-(-height // patch))
    return forward(pixel_values[:, :, rows.start * patch : min(rows.stop * patch, height)])


def positions(split: TokenSplit, module: SimAPositionEncoding, forward: Callable, height: int, width: int):
    """Those of this process's rows in the whole image."""
    return forward(split.grid_rows, width, split.rows)


def convolution(split: TokenSplit, module: nn.Conv2d, forward: Callable, x):
    """3x3 of stride 1 or 2. With the latter a band begins at an even row, and nothing below it is needed but a zero at the end."""
    x = with_halo(x, above=1, below=1, split=split) if module.stride[0] == 1 else with_halo(x, 1, 0, split)
    ending = (0, 0, 0, module.stride[0] - 1)
    sides = (0, module.padding[1])
    return F.conv2d(F.pad(x, ending), module.weight, module.bias, module.stride, sides, module.dilation, module.groups)


def batch_norm(split: TokenSplit, module: nn.BatchNorm2d, forward: Callable, x):
    """In training by the mean and variance of all processes' pixels, two all-reduces; torch's own form needs CUDA."""
    if not module.training:
        return forward(x)
    wide = x.to(accumulation_dtype(x.dtype))
    pixels = wide.new_tensor([x.numel() / x.shape[1]])
    total, count = sum_over_group([wide.sum(dim=(0, 2, 3)), pixels], split.group)
    centered = wide - (total / count)[:, None, None]
    (squares,) = sum_over_group([(centered**2).sum(dim=(0, 2, 3))], split.group)
    with torch.no_grad():
        module.num_batches_tracked.add_(1)
        momentum = 1 / module.num_batches_tracked if module.momentum is None else module.momentum
        for running, now in ((module.running_mean, total / count), (module.running_var, squares / (count - 1))):
            running.add_((now - running).to(running.dtype) * momentum)
    scale = module.weight * (squares / count + module.eps).rsqrt()
    return (centered * scale[:, None, None] + module.bias[:, None, None]).to(x.dtype)


def class_attention(split: TokenSplit, module: SimAClassAttention, forward: Callable, hidden_states, **kwargs):
    """The class token, first of `(B,1+n,C)` on every process, reads the patches of all; the output is `(B,1,C)`."""
    dtype = hidden_states.dtype
    query, key, value = module.project(hidden_states)
    with without_autocast(hidden_states.device.type):
        query, key, value = (x.to(accumulation_dtype(x.dtype)) for x in (query, key, value))
        first = 1 if split.rank > 0 else 0  # the class token enters the sums once
        own = query[:, :, first:], key[:, :, first:], value[:, :, first:]
        tokens = own[1].shape[2] if module.config.attention_gain == "tokens" else None
        output = query[:, :, :1] @ shared_context(*own, tokens, split.group, eps=1e-6)
    output = output.transpose(1, 2).flatten(2).to(dtype)
    return module.dropout(module.o_proj(output)), None


def native_forward(module: nn.Module) -> Callable | None:
    """Which of these a module of a native SimA model takes; None for one that stays as it is."""
    if isinstance(module, nn.Conv2d):
        return convolution if module.kernel_size[0] > 1 else None
    return next((forward for cls, forward in _NATIVE.items() if isinstance(module, cls)), None)


_NATIVE = {
    SimAPatchEmbeddings: pixel_rows,
    SimAPositionEncoding: positions,
    nn.BatchNorm2d: batch_norm,
    SimAClassAttention: class_attention,
}
