"""What the Triton kernels are made of: blocks of tokens, D x D matrices, and their products.

Only imported where triton is.
"""

import os

import triton
import triton.language as tl


EPS = tl.constexpr(1e-12)

# Triton's interpreter multiplies bfloat16 blocks wrongly (3.9: their bits as integers), so there they become float32 when read.
WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def head_of(base, image, h, image_stride, head_stride, ALIGN: tl.constexpr):
    """Where the tokens of a head begin. ALIGN divides all strides: with it loads of 16 bytes are known to be aligned."""
    offset = image * image_stride + h * head_stride
    if ALIGN > 1:
        offset = tl.multiple_of(offset, ALIGN)
    return base + offset


@triton.jit
def offsets(rows, columns, row_stride, column_stride, ALIGN: tl.constexpr):
    """Of a block, in 64 bits: a million tokens times 6 heads times 64 channels do not fit into 32 for long."""
    at = rows.to(tl.int64) * row_stride
    if ALIGN > 1:
        at = tl.multiple_of(at, ALIGN)
    return at[:, None] + columns.to(tl.int64)[None, :] * column_stride


@triton.jit
def seen_rows(keep, rows, count, keep_stride, HAS_KEEP: tl.constexpr):
    """The rows of a block that are tokens, and kept."""
    inside = rows < count
    if HAS_KEEP:
        return inside & (tl.load(keep + rows.to(tl.int64) * keep_stride, mask=inside, other=0) != 0)
    return inside


@triton.jit
def load(base, rows, columns, inside, row_stride, column_stride, WIDTH: tl.constexpr, ALIGN: tl.constexpr):
    """A block of tokens, zero where a row is not `inside` and beyond the WIDTH channels that there are."""
    found = tl.load(
        base + offsets(rows, columns, row_stride, column_stride, ALIGN),
        mask=inside[:, None] & (columns < WIDTH)[None, :],
        other=0.0,
    )
    if WIDEN and base.dtype.element_ty == tl.bfloat16:
        return found.to(tl.float32)
    return found


@triton.jit
def store(base, block, rows, columns, count, row_stride, column_stride, WIDTH: tl.constexpr, ALIGN: tl.constexpr):
    """A block of tokens in the dtype of `base`, where rows and columns are in the tensor."""
    inside = (rows < count)[:, None] & (columns < WIDTH)[None, :]
    at = offsets(rows, columns, row_stride, column_stride, ALIGN)
    tl.store(base + at, block.to(base.dtype.element_ty), mask=inside)


@triton.jit
def vector_at(base, head, channels, D: tl.constexpr):
    """D float32 numbers of a head."""
    return tl.load(base + head * D + channels, mask=channels < D, other=0.0)


@triton.jit
def matrix_at(base, head, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile of the float32 matrix `(ROWS, COLUMNS)` of a head."""
    inside = (rows < ROWS)[:, None] & (columns < COLUMNS)[None, :]
    at = rows[:, None] * COLUMNS + columns[None, :]
    return tl.load(base + head * ROWS * COLUMNS + at, mask=inside, other=0.0)


@triton.jit
def scale_of(a, b, gain):
    """`gain / (a b)`, zero for a channel that is zero at every token. Divided one after the other: `a b` may overflow."""
    alive = (a > 0) & (b > 0)
    return tl.where(alive, gain / tl.maximum(a, EPS) / tl.maximum(b, EPS), 0.0)


@triton.jit
def correction_of(norm, dgain, scale):
    """`ds s / norm` of the gradient, 0 where the floor is active: there the norm is a constant."""
    return tl.where(norm > EPS, dgain * scale / tl.maximum(norm, EPS), 0.0)


@triton.jit
def powers_of(norm):
    """For each channel the power of two that takes its sum of absolute values into [2^14, 2^15): no entry can then exceed float16."""
    below = (tl.maximum(norm, EPS).to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return 16384.0 / below


@triton.jit
def by_powers(block, powers):
    """float16 tokens with channels of like size, exactly; of other dtypes as they are, whose range needs no help."""
    if block.dtype == tl.float16:
        return (block.to(tl.float32) * powers[None, :]).to(tl.float16)
    return block


@triton.jit
def largest_of(matrix, like):
    """What the columns of a float32 matrix are divided by to become `like.dtype`: in float16 their largest entries."""
    if like.dtype.element_ty == tl.float16:
        largest = tl.max(tl.abs(matrix), 0)
        return tl.where(largest > 0, largest, 1.0)
    return tl.zeros([matrix.shape[1]], tl.float32) + 1.0


@triton.jit
def as_operand(matrix, largest, like):
    """The matrix in the dtype in which blocks of `like` are multiplied."""
    if like.dtype.element_ty == tl.float16:
        return (matrix / largest[None, :]).to(tl.float16)
    if like.dtype.element_ty == tl.float32 or WIDEN:
        return matrix
    return matrix.to(like.dtype.element_ty)


@triton.jit
def times(block, operand, largest):
    """`block @ matrix` in float32, for a block of tokens and what `as_operand` made of the matrix."""
    product = tl.dot(block, operand, input_precision="ieee")
    if block.dtype == tl.float16:
        return product * largest[None, :]
    return product


@triton.jit
def sign(x):
    """-1, 0 or 1 in float32."""
    x = x.to(tl.float32)
    return tl.where(x > 0, 1.0, 0.0) - tl.where(x < 0, 1.0, 0.0)
