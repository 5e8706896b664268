"""SimA attention in whole numbers, as hardware without floating point would compute it; a reference, not a fast one.

int8 queries, keys and values; int32 sums; reciprocals of 16 bits with a shift; the D x D matrix in 8 or 16 bits under one shift.
The scales of queries and keys cancel, since each is divided by its own norm: only that of the values is left in the output.
"""

import numpy as np


RECIPROCAL_BITS = 16


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(..., N, D)` as int8 in -127..127, and its scale for each leading index, `(..., 1, 1)`."""
    scale = np.maximum(np.abs(x).max(axis=(-2, -1), keepdims=True), 1e-30) / 127
    return np.rint(x / scale).astype(np.int8), scale


def reciprocal(norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`1 / norm` of positive int32 as `mantissa * 2 ** -shift`, mantissa below `2 ** RECIPROCAL_BITS`; 0 where the norm is 0."""
    norm = norm.astype(np.int64)
    length = np.frexp(norm)[1].astype(np.int64)  # bits that the norm takes
    shift = length + RECIPROCAL_BITS - 1
    mantissa = np.left_shift(np.int64(1), shift) // np.maximum(norm, 1)
    mantissa = np.minimum(mantissa, 2**RECIPROCAL_BITS - 1)
    return np.where(norm > 0, mantissa, 0), shift


def sums(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norms of queries and keys over the tokens, `(..., D, 1)`, and `k^T v`, `(..., D, D)`, all int32, of int8 `(..., N, D)`."""
    query, key, value = (x.astype(np.int32) for x in (query, key, value))
    query_norm, key_norm = (np.abs(x).sum(-2, dtype=np.int32)[..., None] for x in (query, key))
    return query_norm, key_norm, np.matmul(np.swapaxes(key, -2, -1), value)


def scaled_matrix(products: np.ndarray, query_norm: np.ndarray, key_norm: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """`products / (query_norm * key_norm) * 2 ** shift`, rounded, in int64: multiplications and shifts alone."""
    one, one_shift = reciprocal(query_norm)
    two, two_shift = reciprocal(key_norm)
    wide = products.astype(np.int64) * two >> 8  # 27 + 16 - 8 bits, so that the next product fits into 51
    right = one_shift + two_shift - 8 - shift
    wide = wide * one
    rounded = wide + np.where(right > 0, np.left_shift(np.int64(1), np.maximum(right - 1, 0)), 0)
    return np.where(right > 0, rounded >> np.maximum(right, 0), wide << np.maximum(-right, 0))


def best_shift(query: np.ndarray, key: np.ndarray, value: np.ndarray, bits: int, spare: int = 0) -> np.ndarray:
    """The largest shift with which the D x D matrix fits into so many bits, `(..., 1, 1)`; `spare` bits of room for other images."""
    query_norm, key_norm, products = sums(*(quantized(x)[0] for x in (query, key, value)))
    over = np.maximum(query_norm, 1).astype(np.float64) * np.maximum(key_norm, 1)
    largest = np.maximum(np.abs(products / over).max(axis=(-2, -1), keepdims=True), 2.0**-40)
    return np.floor(np.log2((2 ** (bits - 1) - 1) / largest)).astype(np.int64) - spare


def integer_sima(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, bits: int = 16, shift: np.ndarray | None = None
) -> np.ndarray:
    """SimA of float `(..., N, D)`, all of it in whole numbers between the rounding of the inputs and the scale of the output.

    Args:
        query, key, value: rounded to int8 first, under a scale for each head.
        bits: of the D x D matrix, 8 or 16; what does not fit is clipped.
        shift: that it is scaled with; by default the best for these inputs.
    """
    shift = best_shift(query, key, value, bits) if shift is None else shift
    (query, _), (key, _), (value, value_scale) = (quantized(x) for x in (query, key, value))
    query_norm, key_norm, products = sums(query, key, value)
    largest = 2 ** (bits - 1) - 1
    matrix = np.clip(scaled_matrix(products, query_norm, key_norm, shift), -largest, largest).astype(np.int32)
    output = np.matmul(query.astype(np.int32), matrix)
    return output * (value_scale * 2.0 ** -shift.astype(np.float64))


def float_sima(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """SimA of float64 `(..., N, D)`, as the paper writes it: (q / |q|_1) (k / |k|_1)^T v."""
    query_norm, key_norm = (np.abs(x).sum(-2, keepdims=True) for x in (query, key))
    return (query / query_norm) @ (np.swapaxes(key / key_norm, -2, -1) @ value)


def width(largest: int, signed: bool = True) -> int:
    """Bits of the narrowest whole number that holds a value of that size."""
    return int(largest).bit_length() + signed


def widths(tokens: int, head_dim: int) -> dict[str, int]:
    """Bits that each sum takes at most, of int8 inputs in -127..127."""
    return {
        "norm": width(127 * tokens, signed=False),
        "key_value": width(127 * 127 * tokens),
        "output_8": width(127 * 127 * head_dim),
        "output_16": width(127 * 32767 * head_dim),
    }
