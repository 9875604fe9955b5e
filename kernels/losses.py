"""Rung `simd`: losses and their gradients.

Imports `_jit` and `vmath`. What changed from `loops`: rows are worked through in blocks of `ROWS`, whose
exponentials and logarithms are `vmath`'s. Rows shorter than `_WIDE` (10 logits are less than a vector) are
transposed into scratch, so that a lane is a row and every reduction is elementwise; longer ones are worked
through by row, since moving them would cost as much as their exponentials. Why that is faster: full vectors
in both, and the block stays in L1. What it costs: two ways to the same result, scratch (0.1 us a call), and a
second and a half to compile. Microseconds a call in one thread of a Zen 4, float32, loops -> here:

                          32 x 10        128 x 10       1024 x 128
softmax                   1.7 -> 0.9     5.8 -> 1.9     510 -> 106
loss and gradient         4.0 -> 1.2     13 -> 2.5      1050 -> 113
accuracy                  0.61 -> 0.59   1.5 -> 1.4     146 -> 51
mse                       0.45 -> 0.48   0.90 -> 0.66   91 -> 19

The bits of a sum depend on sizes alone. A row's sum runs column by column, in eight lanes where the row is
long; a block's loss is the sum over its rows in order, in float64; the blocks' losses are added by `tree_sum`.
Blocks start at multiples of `ROWS`, whoever computes them: threads that take whole blocks
(`softmax_cross_entropy_blocks`, `mse_blocks`; each fills its own places of one array of block losses) end at
the bits of a single thread.

Slower or no faster: working through short rows as they lie, with one loop over all exponentials of the block (2.6
us for 100 rows of 10 against 1.5); helpers inlined by Numba instead of LLVM (twice as long to compile, and no faster);
mse_derivative, sgd_update and adam_update, which LLVM vectorises as they stand in `loops` (1.0 times).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

from . import vmath
from ._jit import jit

# Its type does not know that callers leave out the context.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

ROWS = 64
"""Rows of a block."""

_LANES = 64
_WIDE = 32  # columns from which a row is worked through as it lies


@jit
def block_count(rows: int) -> int:
    """Number of blocks that many rows make."""
    return (rows + ROWS - 1) // ROWS


@jit
def tree_sum(values: Any) -> float:
    """Sum at least one value by halves, in place: an order by the length alone, and an error by its logarithm."""
    n = values.size
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            values[i] += values[half + i]
        n = half
    return values[0]


# -------------------------------------------------------------------------------------------- rows


@intrinsic
def _maximum(context: Any, a: Any, b: Any) -> Any:
    """The larger, or NaN: the maximum that LLVM vectorises without permission to ignore NaN."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = args[0].type
        name = "llvm.maximum." + ("f32" if a == types.float32 else "f64")
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(real, [real, real]), name)
        return builder.call(function, args)

    return a(a, b), build


@jit
def _largest(row: Any) -> Any:
    """The largest of a row, or NaN."""
    top = row[0]
    for j in range(row.size):
        top = _maximum(top, row[j])
    return top


@jit
def _row_sum(row: Any) -> Any:
    """Sum of a row in eight lanes. Plain scalars: they run as fast as they are loaded, and hold at any width."""
    a = b = c = d = e = f = g = h = row.dtype.type(0)
    whole = row.size - row.size % 8
    for j in range(0, whole, 8):
        a += row[j]
        b += row[j + 1]
        c += row[j + 2]
        d += row[j + 3]
        e += row[j + 4]
        f += row[j + 5]
        g += row[j + 6]
        h += row[j + 7]
    for j in range(whole, row.size):
        a += row[j]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


# A block is handed on as (first row, number of rows): slices of matrices would double the time to compile.


@jit
def _scratch(Z: Any) -> Any:
    """Room for a block's exponentials, transposed where rows are short, and for two numbers a row."""
    n, k = min(Z.shape[0], ROWS), Z.shape[1]
    E = np.empty((k, n) if k < _WIDE else (n, k), Z.dtype)
    return E, np.empty(n, Z.dtype), np.empty(n, Z.dtype)


@jit
def _exponentials(Z: Any, start: int, n: int, E: Any, top: Any, total: Any) -> None:
    """E = exp(Z - top) of one block, top (n,) each row's largest, total (n,) its sum: NaN if there is a NaN in it."""
    k = Z.shape[1]
    if k < _WIDE:
        for i in range(n):
            row = Z[start + i]
            for j in range(k):
                E[j, i] = row[j]
            top[i] = row[0]
            total[i] = 0
        for j in range(1, k):
            column = E[j]
            for i in range(n):
                top[i] = column[i] if column[i] > top[i] else top[i]  # a NaN passed over comes back as exp(NaN)
        for j in range(k):
            column = E[j]
            for i in range(n):
                e = vmath.exp_nonpositive(column[i] - top[i])
                column[i] = e
                total[i] += e
    else:
        for i in range(n):
            row, shifted = Z[start + i], E[i]
            largest = _largest(row)
            top[i] = largest
            for j in range(k):
                shifted[j] = vmath.exp_nonpositive(row[j] - largest)
            total[i] = _row_sum(shifted)


@jit
def _scaled(E: Any, scale: Any, start: int, n: int, out: Any) -> None:
    """A block's rows of out = its exponentials, each row times its scale."""
    k = out.shape[1]
    for i in range(n):
        s, row = scale[i], out[start + i]
        if k < _WIDE:
            for j in range(k):
                row[j] = E[j, i] * s
        else:
            exponentials = E[i]
            for j in range(k):
                row[j] = exponentials[j] * s


# -------------------------------------------------------------------------------------- cross-entropy


@jit
def softmax(Z: Any, out: Any) -> None:
    """Out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest."""
    E, top, total = _scratch(Z)
    for start in range(0, Z.shape[0], ROWS):
        n = min(ROWS, Z.shape[0] - start)
        _exponentials(Z, start, n, E, top, total)
        for i in range(n):
            total[i] = 1 / total[i]
        _scaled(E, total, start, n, out)


@jit
def softmax_cross_entropy_blocks(labels: Any, Z: Any, D: Any, first: int, last: int, losses: Any) -> None:
    """losses[i] = summed loss of block i, and the gradient of the mean over all rows in the block's rows of D.

    For the blocks first..last-1. A D of no elements is not computed.
    """
    E, top, total = _scratch(Z)
    share = Z.dtype.type(1) / Z.dtype.type(Z.shape[0])
    for block in range(first, last):
        start = block * ROWS
        n = min(ROWS, Z.shape[0] - start)
        _exponentials(Z, start, n, E, top, total)
        for i in range(n):
            top[i] -= Z[start + i, labels[start + i]]
        loss = 0.0
        for i in range(n):
            top[i] += vmath.log(total[i])
        for i in range(n):
            loss += top[i]
        losses[block] = loss
        if D.size > 0:
            for i in range(n):
                total[i] = share / total[i]
            _scaled(E, total, start, n, D)
            for i in range(start, start + n):
                D[i, labels[i]] -= share


@jit
def softmax_cross_entropy(labels: Any, Z: Any, D: Any, out: Any) -> None:
    """out[0] = mean over rows of log sum exp(Z) - Z[label];  D = (softmax(Z) - one_hot(labels)) / B.

    Both from one pass of exponentials. A D of no elements is not computed.
    """
    losses = np.empty(block_count(Z.shape[0]))
    softmax_cross_entropy_blocks(labels, Z, D, 0, losses.size, losses)
    out[0] = tree_sum(losses) / Z.shape[0]


def cross_entropy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = mean over rows of log sum exp(Z) - Z[label]: the fused kernel without its gradient."""
    softmax_cross_entropy(labels, Z, np.empty((0, Z.shape[1]), Z.dtype), out)  # Z itself may be read-only


def cross_entropy_derivative(labels: Any, Z: Any, out: Any) -> None:
    """Out = (softmax(Z) - one_hot(labels)) / B: the fused kernel, whose loss costs one logarithm a row."""
    softmax_cross_entropy(labels, Z, out, np.empty(1))


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = share of the rows whose largest output stands at the label (NaN counts as largest).

    No argmax: a label is right if nothing before it is as large and nothing after it is larger, which is counted
    without branches. A NaN at the label is right if there is none before it.
    """
    right = 0
    for i in range(Z.shape[0]):
        row, label = Z[i], labels[i]
        z = row[label]
        wrong = 0
        if z == z:
            for j in range(label):
                wrong += not row[j] < z
            for j in range(label + 1, row.size):
                wrong += not row[j] <= z
        else:
            for j in range(label):
                wrong += row[j] != row[j]
        right += wrong == 0
    out[0] = right / Z.shape[0]


# --------------------------------------------------------------------------------------------- mse


@jit
def mse_blocks(y_true: Any, y_pred: Any, first: int, last: int, losses: Any) -> None:
    """losses[i] = sum of (y_pred - y_true)^2 over block i, for the blocks first..last-1, in float64.

    In 64 lanes by place in the block, so that one column is as fast as many.
    """
    lanes = np.empty(_LANES)
    k = y_true.shape[1]
    for i in range(first, last):
        rows = min(ROWS, y_true.shape[0] - i * ROWS)
        truth = np.ascontiguousarray(y_true[i * ROWS : i * ROWS + rows]).reshape(rows * k)
        guess = np.ascontiguousarray(y_pred[i * ROWS : i * ROWS + rows]).reshape(rows * k)
        lanes[:] = 0
        for start in range(0, truth.size, lanes.size):
            t, p = truth[start : start + lanes.size], guess[start : start + lanes.size]
            for j in range(t.size):
                d = p[j] - t[j]
                lanes[j] += d * d
        losses[i] = tree_sum(lanes)


@jit
def mse(y_true: Any, y_pred: Any, out: Any) -> None:
    """out[0] = mean over all elements of (y_pred - y_true)^2, summed in float64."""
    losses = np.empty(block_count(y_true.shape[0]))
    mse_blocks(y_true, y_pred, 0, losses.size, losses)
    out[0] = tree_sum(losses) / y_true.size
