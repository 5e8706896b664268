"""`split_tokens`: one image over several processes."""

import functools
from collections.abc import Callable

from torch import distributed, nn
from transformers import PreTrainedModel

from ..models.sima.modeling_sima import SimAAttention, SimAClassAttention, SimAPreTrainedModel
from ..ops.group import check_process_group
from ..patching import sima_attentions
from .bands import TokenSplit
from .checks import HEADS, check_forward, check_model, host_class
from .layers import averaged_head, host_embeddings, native_forward


def split_tokens(model: PreTrainedModel, group: "distributed.ProcessGroup") -> TokenSplit:
    """Have the processes of a group compute each image together, every one a band of its rows (context parallelism).

    Every process holds the whole model and is given the same, whole images. It computes the tokens of its own rows of patches;
    class and register tokens are on all of them and count once. What they exchange, for each attention, is as much for an image of a
    million tokens as for one of a hundred; convolutions of native models exchange their border rows as well.

    Outputs of the model are those of one process, except for tokens: `last_hidden_state` and hidden states are class tokens and this
    process's own rows. In training every process computes the same loss; the mean of the gradients over the group is the gradient
    of one process, and that mean is what DistributedDataParallel and Accelerate take:

        with sima_hf.split_tokens(model, torch.distributed.group.WORLD):
            logits = model(pixel_values).logits

    Args:
        model: a swapped ViT, DeiT or DINOv2 (with registers too), without a head or with one for classification, or a native SimA
            model of these kinds, with backend "auto" or "eager". It is changed in place, its parameters are not.
        group: the processes; `torch.distributed.group.WORLD` for all.

    Returns:
        A `TokenSplit`: put the model back by its `remove()`, or use it as a context.

    Raises:
        UnsupportedModelError (a ValueError): the model cannot be split, with the reason.
        TypeError: it is no Transformers model, or `group` is no process group.
        ValueError: the processes are not joined, or this one is not in the group; the model is split already. In a forward: fewer
            rows of patches than processes, attention maps are asked for, or dropout in training, which would make copies of the
            class token differ.
    """
    check_process_group(group)
    check_model(model)
    native = isinstance(model, SimAPreTrainedModel)
    if native:
        attentions = [one for one in model.modules() if isinstance(one, SimAAttention)]
        attentions = [one for one in attentions if not isinstance(one, SimAClassAttention)]
    else:
        attentions = [one.module for one in sima_attentions(model)]
    split = TokenSplit(group, functools.partial(check_forward, model, attentions))
    split.check()
    for attention in attentions:
        split.set(attention, "token_split", split)
    for module, forward in _native(model) if native else _host(model):
        split.set(module, "forward", functools.partial(forward, split, module, module.forward))
    return split


def _native(model: SimAPreTrainedModel) -> list[tuple[nn.Module, Callable]]:
    found = [(module, native_forward(module)) for module in model.modules()]
    return [(module, forward) for module, forward in found if forward is not None]


def _host(model: PreTrainedModel) -> list[tuple[nn.Module, Callable]]:
    found = [(model.base_model.embeddings, host_embeddings)]
    head = HEADS[host_class(model)]
    return found if head is None else [*found, (getattr(model, head), averaged_head)]
