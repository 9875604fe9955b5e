"""Variant `simd` of softmax; cross-entropy shares its exponentials, maxima and sums along rows.

Rows shorter than `WIDE` are transposed into scratch, so that each vector lane holds one row; longer rows are processed
in place (docs/performance-notes/losses.md).
"""

from typing import Any

import numpy as np
from llvmlite import ir

from ..jit.decorator import jit
from ..llvm.builder import call_function, emits
from .vmath.exp import exp_nonpositive

ROWS = 64
"""Rows of a block."""

WIDE = 32
"""Rows with at least this many columns are processed in place."""


@jit
def tree_sum(values: Any) -> float:
    """Sum one or more values pairwise, overwriting them.

    The order depends on the number of values alone; the error grows with its logarithm.
    """
    n = values.size
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            values[i] += values[half + i]
        n = half
    return values[0]


@emits(lambda a, b: (a, b), lambda a, b: a)
def _maximum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger of two, or NaN. LLVM vectorises this as it is, a comparison only with flags that ignore NaN."""
    name = "llvm.maximum.f32" if isinstance(a.type, ir.FloatType) else "llvm.maximum.f64"
    return call_function(builder, name, a.type, a, b)


@jit(internal=True)
def largest(row: Any) -> Any:
    """The largest element of a row, or NaN."""
    top = row[0]
    for j in range(row.size):
        top = _maximum(top, row[j])
    return top


@jit(internal=True)
def exponentials(Z: Any, start: int, n: int, top: Any, total: Any, E: Any) -> None:
    """E (k, n) = exp(Z - top) of n short rows, transposed; top: each row's maximum; total: each row's sum of E.

    E is flat. A NaN in a row makes its total NaN.
    """
    k = Z.shape[1]
    for i in range(n):
        row = Z[start + i]
        for j in range(k):
            E[j * n + i] = row[j]
        top[i] = row[0]
        total[i] = 0
    for j in range(1, k):
        column = E[j * n : j * n + n]
        for i in range(n):
            top[i] = column[i] if column[i] > top[i] else top[i]  # skips a NaN, which reaches the total as exp(NaN)
    for j in range(k):
        column = E[j * n : j * n + n]
        for i in range(n):
            e = exp_nonpositive(column[i] - top[i])
            column[i] = e
            total[i] += e


def _scratch_size(rows: int, k: int) -> int:
    """Number of scratch elements that `softmax_rows` needs for up to ``rows`` rows of k columns."""
    return (k + 2) * min(rows, ROWS) if k < WIDE else k


softmax_scratch = jit(scalar=True)(_scratch_size)


def softmax(Z: Any, out: Any) -> None:
    """out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest."""
    softmax_rows(Z, out, np.empty(_scratch_size(*Z.shape), Z.dtype))


@jit
def softmax_rows(Z: Any, out: Any, scratch: Any) -> None:
    """Compute `softmax`; out may be Z."""
    one = Z.dtype.type(1)
    rows, k = Z.shape
    start: Any = np.intp(0)  # Numba gives a literal 0 a type of its own
    while k < WIDE and start < rows:
        n = min(ROWS, rows - start)
        total, E = scratch[n : 2 * n], scratch[2 * n :]
        exponentials(Z, start, n, scratch[:n], total, E)
        for i in range(n):
            scale = one / total[i]
            for j in range(k):
                out[start + i, j] = E[j * n + i] * scale
        start += n
    for i in range(start, rows):
        z, row, summed = Z[i], out[i], scratch[:k]
        top = largest(z)
        for j in range(k):
            e = exp_nonpositive(z[j] - top)
            row[j] = e
            summed[j] = e
        scale = one / tree_sum(summed)
        for j in range(k):
            row[j] *= scale
