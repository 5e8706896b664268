"""The fused kernels, in Triton: norms, products and scaling in one pass over the tokens, forward and backward.

The formulas are in fused.py. Tokens are read through strides, in their own dtype; everything of size D or D x D is float32.
Programs are numbered by head, piece of the tokens, and tile of the columns that they write: a D x D matrix wider than TILE is
never held whole.

In float16 no channel's share is lost beside a larger one's: the tokens are multiplied by powers of two that make their channels
alike in size (about 1/a on q, 1/b on k), the matrix by the inverses; and each of its columns is divided by its largest entry.
Only imported where triton is.
"""

import triton
import triton.language as tl

from .triton_blocks import (
    as_operand,
    by_powers,
    correction_of,
    head_of,
    largest_of,
    load,
    matrix_at,
    powers_of,
    scale_of,
    seen_rows,
    sign,
    store,
    times,
    vector_at,
)


@triton.jit
def forward_kernel(
    query, key, value, keep, out, a_out, b_out, context_out, gain_out,
    H, NQ, NK, chunk,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, mb, mn, ob, oh, on, od,
    GAIN: tl.constexpr, HAS_KEEP: tl.constexpr, KEEP_QUERIES: tl.constexpr, WHOLE: tl.constexpr, SUMS: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums over the tokens of a piece; with WHOLE, where that is all of them, the output as well.

    With SUMS, piece p of head h writes a, b `(D)`, the context `(D, DV)` and its share of the gain at `[h, p]`.
    """
    head, piece, pieces = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    image, h = head // H, head % H
    query = head_of(query, image, h, qb, qh, ALIGN)
    key = head_of(key, image, h, kb, kh, ALIGN)
    value = head_of(value, image, h, vb, vh, ALIGN)
    keep += image * mb
    channels, values = tl.arange(0, BLOCK_D), tl.program_id(2) * TILE + tl.arange(0, TILE)
    a, b = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    context = tl.zeros([BLOCK_D, TILE], tl.float32)
    start = piece * chunk
    end = tl.minimum(start + chunk, tl.maximum(NQ, NK))
    seen = 0.0
    # One stage: on Hopper a pipelined k, used by the product and by the sum, would be overwritten while the tensor cores still
    # read it (triton-lang/triton#6691). Three blocks at a time are in flight instead.
    for first in tl.range(start, end, BLOCK_N, num_stages=1):
        rows = first + tl.arange(0, BLOCK_N)
        is_key = seen_rows(keep, rows, NK, mn, HAS_KEEP)
        is_query = seen_rows(keep, rows, NQ, mn, KEEP_QUERIES)
        q = load(query, rows, channels, is_query, qn, qd, D, ALIGN)
        k = load(key, rows, channels, is_key, kn, kd, D, ALIGN)
        v = load(value, rows, values, is_key, vn, vd, DV, ALIGN)
        a += tl.sum(tl.abs(q.to(tl.float32)), 0)
        b += tl.sum(tl.abs(k.to(tl.float32)), 0)
        context += tl.dot(tl.trans(k), v, input_precision="ieee")
        if GAIN and HAS_KEEP:
            seen += tl.sum(is_key.to(tl.float32), 0)
    if not GAIN:
        gain = tl.where(piece == 0, 1.0, 0.0)  # one of all pieces together
    elif HAS_KEEP:
        gain = seen
    else:
        gain = tl.maximum(tl.minimum(start + chunk, NK) - start, 0).to(tl.float32)  # a last piece may be empty
    if SUMS:
        place = head * pieces + piece
        if tl.program_id(2) == 0:
            tl.store(a_out + place * D + channels, a, mask=channels < D)
            tl.store(b_out + place * D + channels, b, mask=channels < D)
            tl.store(gain_out + place, gain)
        small = (channels < D)[:, None] & (values < DV)[None, :]
        tl.store(context_out + place * D * DV + channels[:, None] * DV + values[None, :], context, mask=small)
    if WHOLE:
        powers = powers_of(a)
        matrix = context * scale_of(a, b, gain)[:, None]
        if query.dtype.element_ty == tl.float16:
            matrix = matrix / powers[:, None]
        largest = largest_of(matrix, query)
        operand = as_operand(matrix, largest, query)
        out = head_of(out, image, h, ob, oh, ALIGN)
        for first in range(0, NQ, BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            is_query = seen_rows(keep, rows, NQ, mn, KEEP_QUERIES)
            q = by_powers(load(query, rows, channels, is_query, qn, qd, D, ALIGN), powers)
            store(out, times(q, operand, largest), rows, values, NQ, on, od, DV, ALIGN)


@triton.jit
def apply_kernel(
    query, keep, out, a_in, b_in, context_in, gain_in, H, NQ, chunk,
    qb, qh, qn, qd, mb, mn, ob, oh, on, od,
    KEEP_QUERIES: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`out = q M` for a piece of the tokens, from the sums of all of them."""
    head, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk
    image, h = head // H, head % H
    channels, values = tl.arange(0, BLOCK_D), tl.program_id(2) * TILE + tl.arange(0, TILE)
    query = head_of(query, image, h, qb, qh, ALIGN)
    out = head_of(out, image, h, ob, oh, ALIGN)
    keep += image * mb
    if start < NQ:
        a, b = vector_at(a_in, head, channels, D), vector_at(b_in, head, channels, D)
        scale, powers = scale_of(a, b, tl.load(gain_in + head)), powers_of(a)
        matrix = matrix_at(context_in, head, channels, values, D, DV) * scale[:, None]
        if query.dtype.element_ty == tl.float16:
            matrix = matrix / powers[:, None]
        largest = largest_of(matrix, query)
        operand = as_operand(matrix, largest, query)
        for first in range(start, tl.minimum(start + chunk, NQ), BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            is_query = seen_rows(keep, rows, NQ, mn, KEEP_QUERIES)
            q = by_powers(load(query, rows, channels, is_query, qn, qd, D, ALIGN), powers)
            store(out, times(q, operand, largest), rows, values, NQ, on, od, DV, ALIGN)


@triton.jit
def gather_kernel(
    query, dout, keep, partial, H, NQ, chunk,
    qb, qh, qn, qd, gb, gh, gn, gd, mb, mn,
    KEEP_QUERIES: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`dM = q^T dout` of a piece of the tokens."""
    head, piece, pieces = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    image, h = head // H, head % H
    channels, values = tl.arange(0, BLOCK_D), tl.program_id(2) * TILE + tl.arange(0, TILE)
    query = head_of(query, image, h, qb, qh, ALIGN)
    dout = head_of(dout, image, h, gb, gh, ALIGN)
    keep += image * mb
    start = piece * chunk
    total = tl.zeros([BLOCK_D, TILE], tl.float32)
    for first in range(start, tl.minimum(start + chunk, NQ), BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        is_query = seen_rows(keep, rows, NQ, mn, KEEP_QUERIES)
        q = load(query, rows, channels, is_query, qn, qd, D, ALIGN)
        g = load(dout, rows, values, is_query, gn, gd, DV, ALIGN)
        total += tl.dot(tl.trans(q), g, input_precision="ieee")
    small = (channels < D)[:, None] & (values < DV)[None, :]
    place = (head * pieces + piece) * D * DV
    tl.store(partial + place + channels[:, None] * DV + values[None, :], total, mask=small)


@triton.jit
def backward_kernel(
    query, key, value, dout, keep, a_in, b_in, gain_in, dgain_in, context_in, dmatrix_in, dquery, dkey, dvalue,
    H, NQ, NK, chunk,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, gb, gh, gn, gd, mb, mn,
    dqb, dqh, dqn, dqd, dkb, dkh, dkn, dkd, dvb, dvh, dvn, dvd,
    HAS_KEEP: tl.constexpr, KEEP_QUERIES: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of `dq`, `dk` and `dv` for a piece of the tokens, from the sums of all of them and `ds / s` `(D)`."""
    head, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk
    image, h = head // H, head % H
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    tile = tl.program_id(2) * TILE + tl.arange(0, TILE)
    query = head_of(query, image, h, qb, qh, ALIGN)
    key = head_of(key, image, h, kb, kh, ALIGN)
    value = head_of(value, image, h, vb, vh, ALIGN)
    dout = head_of(dout, image, h, gb, gh, ALIGN)
    dquery = head_of(dquery, image, h, dqb, dqh, ALIGN)
    dkey = head_of(dkey, image, h, dkb, dkh, ALIGN)
    dvalue = head_of(dvalue, image, h, dvb, dvh, ALIGN)
    keep += image * mb
    gain = tl.load(gain_in + head)
    a, b, dgain = vector_at(a_in, head, tile, D), vector_at(b_in, head, tile, D), vector_at(dgain_in, head, tile, D)
    scale = scale_of(a, b, gain)
    if start < NQ:
        correct = correction_of(a, dgain, scale)
        matrix = tl.trans(matrix_at(context_in, head, tile, values, D, DV) * scale[:, None])
        largest = largest_of(matrix, query)
        operand = as_operand(matrix, largest, query)
        for first in range(start, tl.minimum(start + chunk, NQ), BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            is_query = seen_rows(keep, rows, NQ, mn, KEEP_QUERIES)
            q = load(query, rows, tile, is_query, qn, qd, D, ALIGN)
            g = load(dout, rows, values, is_query, gn, gd, DV, ALIGN)
            dq = times(g, operand, largest) - sign(q) * correct[None, :]
            store(dquery, dq, rows, tile, NQ, dqn, dqd, D, ALIGN)
    if start < NK:
        correct_k = correction_of(b, dgain, scale)
        matrix_k = tl.trans(matrix_at(dmatrix_in, head, tile, values, D, DV) * scale[:, None])
        largest_k = largest_of(matrix_k, key)
        operand_k = as_operand(matrix_k, largest_k, key)
        for first in range(start, tl.minimum(start + chunk, NK), BLOCK_N):
            rows_k = first + tl.arange(0, BLOCK_N)
            is_key = seen_rows(keep, rows_k, NK, mn, HAS_KEEP)
            k = load(key, rows_k, tile, is_key, kn, kd, D, ALIGN)
            v = load(value, rows_k, values, is_key, vn, vd, DV, ALIGN)
            dk = times(v, operand_k, largest_k) - sign(k) * correct_k[None, :]
            store(dkey, dk, rows_k, tile, NK, dkn, dkd, D, ALIGN)
        # k once more, all of its channels, from cache: with both products in one loop the registers would not do.
        a_all, b_all = vector_at(a_in, head, channels, D), vector_at(b_in, head, channels, D)
        powers = powers_of(b_all)
        matrix_v = matrix_at(dmatrix_in, head, channels, tile, D, DV) * scale_of(a_all, b_all, gain)[:, None]
        if key.dtype.element_ty == tl.float16:
            matrix_v = matrix_v / powers[:, None]
        largest_v = largest_of(matrix_v, key)
        operand_v = as_operand(matrix_v, largest_v, key)
        for first in range(start, tl.minimum(start + chunk, NK), BLOCK_N):
            rows_v = first + tl.arange(0, BLOCK_N)
            is_value = seen_rows(keep, rows_v, NK, mn, HAS_KEEP)
            k_all = by_powers(load(key, rows_v, channels, is_value, kn, kd, D, ALIGN), powers)
            store(dvalue, times(k_all, operand_v, largest_v), rows_v, tile, NK, dvn, dvd, DV, ALIGN)
