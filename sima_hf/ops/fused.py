"""What all fused kernels share: two operators that torch's compiler, exporter and transforms know, and their gradient.

With the gain t, the token sums a and b of |q| and |k|, `s = t / (a b)`, `C = k^T v` and `M = diag(s) C` the kernels compute

    out = q M          dM = q^T dout      dC = diag(s) dM      ds[c] = sum_j dM[c, j] C[c, j]
    dv = k dC          dq = dout M^T - sign(q) ds s / a        dk = v dC^T - sign(k) ds s / b

Backward saves q, k, v, a, b and one D x D matrix for each head; nothing of size N x N exists.
"""

import functools
from collections.abc import Callable

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .eager import add_bias, eager_attention


WIDEST = 256


def fused_attention(name: str, forward: Callable, backward: Callable) -> Callable[..., torch.Tensor]:
    """Make a backend of two kernels, and register them as the operators `sima::<name>` and `sima::<name>_backward`.

    Args:
        name: of the operators.
        forward: `(query, key, value, keep, mask_queries, tokens_gain, save) -> out, a, b, context, gain`. query `(B,H,Nq,D)`, key
            `(B,H,Nk,D)`, value `(B,H,Nk,Dv)` have any strides; keep is boolean `(B,Nk)` or None and hides queries too with
            `mask_queries` (Nq is Nk then, and keep a tensor). out `(B,H,Nq,Dv)` is as `empty_bnhd` makes it; in float32 follow
            the sums a and b `(B,H,D)`, `k^T v` `(B,H,D,Dv)` and the gain `(B,H)`, which may be empty unless `save`.
        backward: `(grad, query, key, value, keep, mask_queries, a, b, context, gain) -> dquery, dkey, dvalue`.
    """
    attention, attention_backward = _define(name, forward, backward)

    class Fused(torch.autograd.Function):
        """The two operators as one differentiable function; in this form `torch.func` transforms it as well."""

        generate_vmap_rule = True

        @staticmethod
        def forward(query, key, value, keep, mask_queries, tokens_gain):
            return attention(query, key, value, keep, mask_queries, tokens_gain, True)

        @staticmethod
        def setup_context(ctx, inputs, output):
            query, key, value, keep, *ctx.flags = inputs
            _, *saved = output
            ctx.mark_non_differentiable(*saved)
            ctx.save_for_backward(query, key, value, keep, *saved)

        @staticmethod
        def backward(ctx, grad, *_):
            backward = FusedBackward.apply if torch.is_grad_enabled() else gradients
            return (*backward(*ctx.flags, grad, *ctx.saved_tensors), None, None, None)

    class FusedBackward(torch.autograd.Function):
        """The gradient as a function that has one itself, through the plain operations: a, b and the rest depend on q and k."""

        generate_vmap_rule = True

        @staticmethod
        def forward(mask_queries, tokens_gain, *tensors):
            return gradients(mask_queries, tokens_gain, *tensors)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mask_queries, ctx.tokens_gain, *tensors = inputs
            ctx.save_for_backward(*tensors[:5])

        @staticmethod
        def backward(ctx, *cotangents):
            grad, query, key, value, keep = ctx.saved_tensors
            gain = "tokens" if ctx.tokens_gain else "none"

            def plain(grad, query, key, value):
                options = {"keep": keep, "allow": None, "gain": gain, "order": "linear"}
                attend = functools.partial(eager_attention, mask_queries=ctx.mask_queries, **options)
                return torch.func.vjp(attend, query, key, value)[1](grad)

            found = torch.func.vjp(plain, grad, query, key, value)[1](cotangents)
            return (None, None, *found, *(None,) * 5)

    def gradients(mask_queries, tokens_gain, grad, query, key, value, keep, *saved):
        return attention_backward(grad, query, key, value, keep, mask_queries, *saved)

    def attend(query, key, value, *, keep, allow, bias=None, gain, order, mask_queries):
        """`(B,H,Nq,Dv)` from query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)`, on checked inputs.

        Full masks, padding together with a position bias, values wider than `WIDEST`, empty inputs, forward-mode derivatives,
        exported and traced graphs, and tensors that wrap others (DTensor and its like) are the eager backend's. `order` changes
        nothing here: N x N numbers are never written.
        """
        if (
            _needs_eager(query, key, value)
            or allow is not None
            or (bias is not None and keep is not None)
            or value.shape[-1] > WIDEST
            or 0 in (*query.shape, *value.shape)
        ):
            options = {"bias": bias, "gain": gain, "order": order, "mask_queries": mask_queries}
            return eager_attention(query, key, value, keep=keep, allow=allow, **options)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        if _wants_gradient(query, key, value):
            out = Fused.apply(query, key, value, keep, mask_queries, gain == "tokens")[0]
        else:
            out = attention(query, key, value, keep, mask_queries, gain == "tokens", False)[0]
        return out if bias is None else add_bias(out, bias, value, gain)

    return attend


def empty_bnhd(like: torch.Tensor, width: int) -> torch.Tensor:
    """An empty `(B,H,N,width)` whose storage is `(B,N,H,width)`, so that merging the heads copies nothing."""
    batch, heads, tokens, _ = like.shape
    return like.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _wants_gradient(*tensors: torch.Tensor) -> bool:
    if not torch.is_grad_enabled():
        return False
    # A transform of torch.func, or a graph that holds one, hides who wants a gradient.
    hidden = torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
    return hidden or any(tensor.requires_grad for tensor in tensors)


def _needs_eager(*tensors: torch.Tensor) -> bool:
    """Whether custom operators cannot be used: export, tracing, forward-mode derivatives, tensor subclasses such as DTensor.

    Nor can they in a compiled transform of torch.func, which does not find the gradient of `Fused`.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() or torch._C._functorch.peek_interpreter_stack() is not None
    forward_mode = forward_ad._current_level >= 0  # by torch.func.jvp too
    return torch.jit.is_tracing() or forward_mode or any(is_traceable_wrapper_subclass(x) for x in tensors)


def _define(name: str, forward: Callable, backward: Callable) -> tuple[Callable, Callable]:
    """The operators, with what torch needs to trace and to vectorize them. Gradients are `Fused`'s alone."""
    full, full_backward = f"sima::{name}", f"sima::{name}_backward"
    tensors = "Tensor query, Tensor key, Tensor value, Tensor? keep, bool mask_queries"
    torch.library.define(full, f"({tensors}, bool tokens_gain, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
    torch.library.define(
        full_backward,
        f"(Tensor grad, {tensors}, Tensor a, Tensor b, Tensor context, Tensor gain) -> (Tensor, Tensor, Tensor)",
    )
    torch.library.impl(full, ("cpu", "cuda"))(forward)
    torch.library.impl(full_backward, ("cpu", "cuda"))(backward)
    operator, backward_operator = getattr(torch.ops.sima, name), getattr(torch.ops.sima, f"{name}_backward")

    @torch.library.register_fake(full)
    def _(query, key, value, keep, mask_queries, tokens_gain, save):
        return empty_bnhd(query, value.shape[-1]), *empty_saved(query, value, save)

    @torch.library.register_fake(full_backward)
    def _(grad, query, key, value, keep, mask_queries, a, b, context, gain):
        return tuple(empty_bnhd(x, x.shape[-1]) for x in (query, key, value))

    @torch.library.register_vmap(full)
    def _(info, in_dims, *given):
        return _unfold_vmap(info, operator(*(_fold_vmap(info, x, dim) for x, dim in zip(given, in_dims, strict=True))))

    @torch.library.register_vmap(full_backward)
    def _(info, in_dims, *given):
        return _unfold_vmap(
            info, backward_operator(*(_fold_vmap(info, x, dim) for x, dim in zip(given, in_dims, strict=True)))
        )

    return operator.default, backward_operator.default


def empty_saved(query: torch.Tensor, value: torch.Tensor, save: bool) -> tuple[torch.Tensor, ...]:
    """Empty tensors for a, b `(B,H,D)`, `k^T v` `(B,H,D,Dv)` and the gain `(B,H)`; without elements unless they are to be saved."""
    batch, heads, _, width = query.shape
    if not save:
        return tuple(query.new_empty(batch, 0, dtype=torch.float32) for _ in range(4))
    shapes = (heads, width), (heads, width), (heads, width, value.shape[-1]), (heads,)
    return tuple(query.new_empty(batch, *shape, dtype=torch.float32) for shape in shapes)


def _fold_vmap(info, x: torch.Tensor | bool | None, dim: int | None) -> torch.Tensor | bool | None:
    """A tensor whose vmapped axis has joined the batch; anything else as it is."""
    if not isinstance(x, torch.Tensor):
        return x
    x = x.movedim(dim, 0) if dim is not None else x.unsqueeze(0).expand(info.batch_size, *x.shape)
    return x.flatten(0, 1)


def _unfold_vmap(info, found: tuple[torch.Tensor, ...]):
    return tuple(x.unflatten(0, (info.batch_size, -1)) for x in found), (0,) * len(found)
