"""Checks of what `sima_attention` is given, each with a sentence that says what is accepted and what it got."""

import torch


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# A float mask hides a token by adding a number so low that softmax would make it vanish. Swin writes -100.
HIDDEN = -100.0


def one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the `accepted` strings."""
    if value not in accepted:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, accepted))}, got {value!r}.")


def check_tensors(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, function: str = "sima_attention"
) -> None:
    """Raise TypeError or ValueError unless query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)` fit together.

    `function` is the name of the one that asks.
    """
    tensors = {"query": query, "key": key, "value": value}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(tensor).__name__}.")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"`{name}` must be float64, float32, float16 or bfloat16, got {tensor.dtype}.")
        if tensor.dim() != 4:
            raise ValueError(f"`{name}` must be (batch, heads, tokens, channels), got shape {_shape(tensor)}.")
    (batch, heads, _, channels), (key_batch, key_heads, keys, key_channels) = query.shape, key.shape
    if query.dtype != key.dtype or query.dtype != value.dtype:
        needed, got = "one dtype for all three", {name: tensor.dtype for name, tensor in tensors.items()}
    elif query.device != key.device or query.device != value.device:
        needed, got = "one device for all three", {name: tensor.device for name, tensor in tensors.items()}
    elif batch != key_batch or batch != value.shape[0]:
        needed, got = "the same batch size in all three", None
    elif channels != key_channels:
        needed, got = "the same number of channels in query and key", None
    elif keys != value.shape[2]:
        needed, got = "the same number of tokens in key and value", None
    elif key_heads != value.shape[1]:
        needed, got = "the same number of heads in key and value", None
    elif key_heads == 0 or heads % key_heads:
        needed, got = "a number of query heads that is a multiple of the number of key heads", None
    else:
        return
    got = got or {name: _shape(tensor) for name, tensor in tensors.items()}
    listed = ", ".join(f"{name} {what}" for name, what in got.items())
    raise ValueError(f"{function} needs {needed}, got {listed}.")


def check_mask(
    mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, same_tokens: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Sort a mask into `(keep, allow)`, at most one of them not None.

    Args:
        mask, query, key: as `sima_attention` gets them.
        same_tokens: whether a full mask needs as many queries as keys.

    Returns:
        `keep`, boolean `(B, Nk)`, for key padding; `allow`, boolean `(B or 1, H or 1, Nq, Nk)`, for a full mask.

    Raises:
        TypeError: not a tensor, or neither boolean nor floating point.
        ValueError: shape or device does not fit, or a float mask holds values that are no mask.
    """
    if mask is None:
        return None, None
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"`mask` must be a tensor or None, got {type(mask).__name__}.")
    if mask.device != query.device:
        raise ValueError(f"`mask` must be on {query.device} as the query is, got {mask.device}.")
    batch, heads, queries, keys = query.shape[0], query.shape[1], query.shape[-2], key.shape[-2]
    if mask.dim() == 2 and mask.shape[0] == batch and mask.shape[1] == keys:
        return _as_boolean(mask), None
    fits = (
        mask.dim() == 4
        and (mask.shape[0] == 1 or mask.shape[0] == batch)
        and (mask.shape[1] == 1 or mask.shape[1] == heads)
        and mask.shape[2] == queries
        and mask.shape[3] == keys
    )
    if not fits:
        raise ValueError(
            f"`mask` must be key padding of shape (batch, keys) = ({batch}, {keys}) or a full mask of shape "
            f"({batch} or 1, {heads} or 1, {queries}, {keys}), got shape {_shape(mask)}."
        )
    if same_tokens and queries != keys:
        raise ValueError(
            f"A full mask needs as many queries as keys, because both norms of a row run over the tokens that the row "
            f"may see; got {queries} queries and {keys} keys. Give key padding of shape ({batch}, {keys}) instead."
        )
    return None, _as_boolean(mask)


def check_bias(bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless `bias` is None or floating point `(B or 1, H or 1, Nq, Nk)`, where query is."""
    if bias is None:
        return
    if not isinstance(bias, torch.Tensor) or not bias.is_floating_point():
        got = bias.dtype if isinstance(bias, torch.Tensor) else type(bias).__name__
        raise TypeError(f"`bias` must be a floating point tensor or None, got {got}.")
    if bias.device != query.device:
        raise ValueError(f"`bias` must be on {query.device} as the query is, got {bias.device}.")
    (batch, heads, queries, _), keys = query.shape, key.shape[-2]
    if bias.dim() != 4 or any(
        size != full and (size != 1 or axis > 1)
        for axis, (size, full) in enumerate(zip(bias.shape, (batch, heads, queries, keys), strict=True))
    ):
        raise ValueError(
            f"`bias` must be of shape ({batch} or 1, {heads} or 1, {queries}, {keys}), got shape {_shape(bias)}."
        )


def check_mask_queries(
    mask_queries: bool | None, keep: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
) -> bool:
    """Whether `keep`, boolean `(B,Nk)` or None, hides queries as well, given what the caller says; None: where `Nq` is `Nk`.

    Raises:
        ValueError: it is to hide queries of which there are not as many as keys.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if mask_queries and queries != keys:
        raise ValueError(
            f"`mask_queries` must be False or None where queries and keys are not the same tokens, got True with {queries} "
            f"queries and {keys} keys."
        )
    return keep is not None and (queries == keys if mask_queries is None else mask_queries)


def _as_boolean(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(
            f"`mask` must be boolean (True: may be seen) or a float mask of 0 and -inf, got {mask.dtype}. "
            "An integer mask of ones and zeros becomes one by `mask.bool()`."
        )
    is_mask = ((mask == 0) | (mask <= HIDDEN)).all()
    sentence = (
        "A float mask must hold only 0 (may be seen) and values of -100 or less (hidden), but this one holds others: "
        "it is a position bias, made to be added to the logits of a softmax, which SimA does not have. Give it as `bias`, "
        "without the hidden tokens, if it is to be added to the product of the normalized query and key."
    )
    if torch.compiler.is_compiling():
        torch._assert_async(is_mask, sentence)
    elif _has_a_value(is_mask) and not _unwrapped(is_mask).all():
        raise ValueError(sentence)
    return mask == 0


def _has_a_value(x: torch.Tensor) -> bool:
    """Not on the meta device, and not made in torch's FakeTensorMode."""
    from torch._subclasses import FakeTensor

    return not x.is_meta and not isinstance(_unwrapped(x), FakeTensor)


def _unwrapped(x: torch.Tensor) -> torch.Tensor:
    """Without what transforms of torch.func wrap around it: of all of vmap's inputs, for one."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
