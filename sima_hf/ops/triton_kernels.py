"""The fused kernels, in Triton: norms, products and scaling in one pass over the tokens, forward and backward.

The formulas are in fused.py. Tokens are read through strides, in their own dtype; everything of size D or D x D is float32.
Products with a D x D matrix in half precision divide that matrix by its largest entry first, so that float16 neither overflows
nor vanishes at any number of tokens.
Only imported where triton is.
"""

import os

import triton
import triton.language as tl


EPS = tl.constexpr(1e-12)

# Triton's interpreter multiplies bfloat16 blocks wrongly (3.9: their bits as integers), so there they become float32 when read.
WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _load(base, rows, columns, count, width, row_stride, column_stride, keep, keep_stride, HAS_KEEP: tl.constexpr):
    """A block of tokens, zero outside of the tensor and where `keep` is False. Row offsets need 64 bits at a million tokens."""
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    if HAS_KEEP:
        kept = tl.load(keep + rows * keep_stride, mask=rows < count, other=0)
        inside = inside & (kept != 0)[:, None]
    offsets = rows.to(tl.int64)[:, None] * row_stride + columns[None, :] * column_stride
    block = tl.load(base + offsets, mask=inside, other=0.0)
    if WIDEN and base.dtype.element_ty == tl.bfloat16:
        return block.to(tl.float32)
    return block


@triton.jit
def _store(base, block, rows, columns, count, width, row_stride, column_stride):
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    offsets = rows.to(tl.int64)[:, None] * row_stride + columns[None, :] * column_stride
    tl.store(base + offsets, block.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _times(block, matrix):
    """`block @ matrix` in float32, for a block of tokens in any dtype and a small float32 matrix."""
    if block.dtype == tl.float32:
        return tl.dot(block, matrix, input_precision="ieee")
    largest = tl.max(tl.max(tl.abs(matrix), 1), 0)
    scale = tl.where(largest > 0, largest, 1.0)
    return tl.dot(block, (matrix / scale).to(block.dtype)) * scale


@triton.jit
def _gathered(left, right):
    """`left^T @ right` in float32, for two blocks of tokens."""
    if left.dtype == tl.float32:
        return tl.dot(tl.trans(left), right, input_precision="ieee")
    return tl.dot(tl.trans(left), right)


@triton.jit
def _scale(a, b, gain):
    """`gain / (a b)`, zero for a channel that is zero at every token. Divided one after the other: `a b` may overflow."""
    alive = (a > 0) & (b > 0)
    return tl.where(alive, gain / tl.maximum(a, EPS) / tl.maximum(b, EPS), 0.0)


@triton.jit
def _tokens_of(
    key,
    value,
    keep,
    start,
    end,
    kn,
    kd,
    vn,
    vd,
    mn,
    D,
    DV,
    HAS_KEEP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Sum of |k|, `k^T v` and the number of keys over the tokens from `start` to `end`."""
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    b = tl.zeros([BLOCK_D], tl.float32)
    context = tl.zeros([BLOCK_D, BLOCK_DV], tl.float32)
    seen = 0.0
    for first in range(start, end, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        k = _load(key, rows, channels, end, D, kn, kd, keep, mn, HAS_KEEP)
        v = _load(value, rows, values, end, DV, vn, vd, keep, mn, HAS_KEEP)
        b += tl.sum(tl.abs(k.to(tl.float32)), 0)
        context += _gathered(k, v)
        if HAS_KEEP:
            kept = tl.load(keep + rows * mn, mask=rows < end, other=0)
            seen += tl.sum(tl.where(kept != 0, 1.0, 0.0), 0)
    if not HAS_KEEP:
        seen += tl.maximum(end - start, 0).to(tl.float32)  # a last piece may be empty
    return b, context, seen


@triton.jit
def _queries_of(
    query, keep, start, end, qn, qd, mn, D, HAS_KEEP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Sum of |q| over the tokens from `start` to `end`."""
    channels = tl.arange(0, BLOCK_D)
    a = tl.zeros([BLOCK_D], tl.float32)
    for first in range(start, end, BLOCK_N):
        q = _load(query, first + tl.arange(0, BLOCK_N), channels, end, D, qn, qd, keep, mn, HAS_KEEP)
        a += tl.sum(tl.abs(q.to(tl.float32)), 0)
    return a


@triton.jit
def forward_kernel(
    query, key, value, keep, out, a_out, b_out, context_out, seen_out,
    H, NQ, NK, D, DV, chunk_q, chunk_k,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, mb, mn, ob, oh, on, od,
    GAIN: tl.constexpr, HAS_KEEP: tl.constexpr, KEEP_QUERIES: tl.constexpr, WHOLE: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Sums over the tokens, one program for each head and piece of the tokens; with WHOLE, the output as well.

    With SUMS, piece p of head h writes a, b `(D)`, the context `(D, DV)` and the number of keys at `[h, p]`.
    """
    head, piece, pieces = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    image, h = head // H, head % H
    query += image * qb + h * qh
    key += image * kb + h * kh
    value += image * vb + h * vh
    keep += image * mb
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    start_k, start_q = piece * chunk_k, piece * chunk_q
    end_k, end_q = tl.minimum(start_k + chunk_k, NK), tl.minimum(start_q + chunk_q, NQ)
    b, context, seen = _tokens_of(
        key, value, keep, start_k, end_k, kn, kd, vn, vd, mn, D, DV, HAS_KEEP, BLOCK_N, BLOCK_D, BLOCK_DV
    )
    a = _queries_of(query, keep, start_q, end_q, qn, qd, mn, D, KEEP_QUERIES, BLOCK_N, BLOCK_D)
    if SUMS:
        place = head * pieces + piece
        tl.store(a_out + place * D + channels, a, mask=channels < D)
        tl.store(b_out + place * D + channels, b, mask=channels < D)
        tl.store(seen_out + place, seen)
        small = (channels < D)[:, None] & (values < DV)[None, :]
        tl.store(context_out + place * D * DV + channels[:, None] * DV + values[None, :], context, mask=small)
    if WHOLE:
        gain = seen if GAIN else 1.0
        matrix = context * _scale(a, b, gain)[:, None]
        out += image * ob + h * oh
        for first in range(0, NQ, BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            q = _load(query, rows, channels, NQ, D, qn, qd, keep, mn, KEEP_QUERIES)
            _store(out, _times(q, matrix), rows, values, NQ, DV, on, od)


@triton.jit
def _matrix_at(base, place, D, DV, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr):
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    small = (channels < D)[:, None] & (values < DV)[None, :]
    return tl.load(base + place * D * DV + channels[:, None] * DV + values[None, :], mask=small, other=0.0)


@triton.jit
def apply_kernel(
    query, keep, matrix, out, H, NQ, D, DV, chunk_q,
    qb, qh, qn, qd, mb, mn, ob, oh, on, od,
    KEEP_QUERIES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """`out = q M`, one program for each head and piece of the tokens; M is `(D, DV)` at `[h]`."""
    head, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk_q
    image, h = head // H, head % H
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if start < NQ:
        m = _matrix_at(matrix, head, D, DV, BLOCK_D, BLOCK_DV)
        for first in range(start, tl.minimum(start + chunk_q, NQ), BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            q = _load(query + image * qb + h * qh, rows, channels, NQ, D, qn, qd, keep + image * mb, mn, KEEP_QUERIES)
            _store(out + image * ob + h * oh, _times(q, m), rows, values, NQ, DV, on, od)


@triton.jit
def gather_kernel(
    query, dout, keep, partial, H, NQ, D, DV, chunk_q,
    qb, qh, qn, qd, gb, gh, gn, gd, mb, mn,
    KEEP_QUERIES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """`dM = q^T dout`, one program for each head and piece of the tokens."""
    head, piece, pieces = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    image, h = head // H, head % H
    query += image * qb + h * qh
    dout += image * gb + h * gh
    keep += image * mb
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    start = piece * chunk_q
    end = tl.minimum(start + chunk_q, NQ)
    total = tl.zeros([BLOCK_D, BLOCK_DV], tl.float32)
    for first in range(start, end, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        q = _load(query, rows, channels, end, D, qn, qd, keep, mn, KEEP_QUERIES)
        total += _gathered(q, _load(dout, rows, values, end, DV, gn, gd, keep, mn, KEEP_QUERIES))
    small = (channels < D)[:, None] & (values < DV)[None, :]
    place = (head * pieces + piece) * D * DV
    tl.store(partial + place + channels[:, None] * DV + values[None, :], total, mask=small)


@triton.jit
def _sign(x):
    x = x.to(tl.float32)
    return tl.where(x > 0, 1.0, 0.0) - tl.where(x < 0, 1.0, 0.0)


@triton.jit
def backward_kernel(
    query, key, value, dout, keep, matrix, dcontext, correction_q, correction_k, dquery, dkey, dvalue,
    H, NQ, NK, D, DV, chunk,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, gb, gh, gn, gd, mb, mn,
    dqb, dqh, dqn, dqd, dkb, dkh, dkn, dkd, dvb, dvh, dvn, dvd,
    HAS_KEEP: tl.constexpr, KEEP_QUERIES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """`dq`, `dk` and `dv` of a piece of the tokens, from M, dC `(D, DV)` and the two corrections `(D)` of the head."""
    head, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk
    image, h = head // H, head % H
    channels, values = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    keep += image * mb
    if start < NQ:
        m = _matrix_at(matrix, head, D, DV, BLOCK_D, BLOCK_DV)
        correct = tl.load(correction_q + head * D + channels, mask=channels < D, other=0.0)
        for first in range(start, tl.minimum(start + chunk, NQ), BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            q = _load(query + image * qb + h * qh, rows, channels, NQ, D, qn, qd, keep, mn, KEEP_QUERIES)
            g = _load(dout + image * gb + h * gh, rows, values, NQ, DV, gn, gd, keep, mn, KEEP_QUERIES)
            dq = _times(g, tl.trans(m)) - _sign(q) * correct[None, :]
            _store(dquery + image * dqb + h * dqh, dq, rows, channels, NQ, D, dqn, dqd)
    if start < NK:
        dk_matrix = _matrix_at(dcontext, head, D, DV, BLOCK_D, BLOCK_DV)
        correct = tl.load(correction_k + head * D + channels, mask=channels < D, other=0.0)
        for first in range(start, tl.minimum(start + chunk, NK), BLOCK_N):
            rows = first + tl.arange(0, BLOCK_N)
            k = _load(key + image * kb + h * kh, rows, channels, NK, D, kn, kd, keep, mn, HAS_KEEP)
            v = _load(value + image * vb + h * vh, rows, values, NK, DV, vn, vd, keep, mn, HAS_KEEP)
            dk = _times(v, tl.trans(dk_matrix)) - _sign(k) * correct[None, :]
            _store(dkey + image * dkb + h * dkh, dk, rows, channels, NK, D, dkn, dkd)
            _store(dvalue + image * dvb + h * dvh, _times(k, dk_matrix), rows, values, NK, DV, dvn, dvd)
