"""Rung `simd`: losses and their gradients.

Imports `_jit`, `elementwise` for the codes, and `vmath`. What changed from `loops`: loss and gradient come from one
pass over rows (`loss_rows`), whose exponentials and logarithms are `vmath`'s. Of the losses that are sums over
elements, a block of rows is one flat vector. Softmax needs sums and maxima along rows: rows shorter than `_WIDE` (10
logits are less than a vector) are transposed into scratch, so that a lane is a row and every reduction is elementwise;
longer ones are worked through as they lie, since moving them would cost as much as their exponentials. Why that is
faster: full vectors in all, and the block stays in L1. What it costs: two ways to the same result, scratch, and a
second to compile. Microseconds for loss and gradient in one thread of a Zen 4, float32, `loops` -> `loss_rows` as
compiled code calls it (from Python each of the two is 1.2 more):

                          32 x 10        128 x 10       1024 x 128
mse, mae, huber           0.7 -> 0.28    1.4 -> 0.80    109 -> 50
cross-entropy             3.9 -> 0.63    13 -> 2.0      1020 -> 113
binary cross-entropy      5.1 -> 0.65    19 -> 2.2      2410 -> 186
softmax                   1.7 -> 0.9     5.8 -> 1.9     510 -> 106
accuracy                  0.61 -> 0.59   1.5 -> 1.4     146 -> 17

A row's bits depend on the row and its share alone, so threads may cut a batch anywhere; a batch's loss is the
`tree_sum` of its rows', in float64, so it depends on their number and order alone.

Slower or no faster: working through short rows of logits as they lie (2.6 us for 100 rows of 10 against 1.5); shares
multiplied in by a pass of their own (0.45 us for mse of 32 x 10; equal shares, the usual, now go into the first pass);
the losses in functions of their own (each level of calls is compiled and linked again: 2.9 s against 1.8), or helpers
pasted by Numba instead of LLVM (3.4 s); sgd_update and adam_update, which LLVM vectorises as they stand in `loops`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

from ..jit.call_by_address import address, by_address, call
from ..jit.decorator import jit
from ..llvm.memory import address_and_strides, array_at
from ..specs.codes import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, HUBER, MAE, MSE
from .vmath.exp import exp_nonpositive
from .vmath.log import log

# Its type does not know that callers leave out the context.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

ROWS = 64
"""Rows of a block."""

_WIDE = 32  # columns from which a row is worked through as it lies
_CHUNK = 1024  # elements of such rows that are worked through at once


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


@jit(internal=True)
def _largest(row: Any) -> Any:
    """The largest of a row, or NaN."""
    top = row[0]
    for j in range(row.size):
        top = _maximum(top, row[j])
    return top


@jit
def scratch_size(rows: int, k: int) -> int:
    """Elements of scratch that `loss_rows` needs for up to so many rows at a time, of k columns."""
    n = min(rows, ROWS)
    return (2 * k + 1) * n if k < _WIDE else 2 * max(k, _CHUNK) + 2 * n


@jit(internal=True)
def _exponentials(Z: Any, start: int, n: int, top: Any, total: Any, E: Any) -> None:
    """E (k, n) = exp(Z - top) of n short rows, transposed; top each row's largest, total its sum: NaN if one is in it.

    E is flat.
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
            top[i] = column[i] if column[i] > top[i] else top[i]  # a NaN passed over comes back as exp(NaN)
    for j in range(k):
        column = E[j * n : j * n + n]
        for i in range(n):
            e = exp_nonpositive(column[i] - top[i])
            column[i] = e
            total[i] += e


@jit
def softmax(Z: Any, out: Any) -> None:
    """Out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest."""
    one = Z.dtype.type(1)
    rows, k = Z.shape
    n = min(rows, ROWS)
    scratch = np.empty((k + 2) * n, Z.dtype)
    start: Any = np.intp(0)  # a literal 0 is a type of its own to Numba
    while k < _WIDE and start < rows:
        n = min(ROWS, rows - start)
        total, E = scratch[n : 2 * n], scratch[2 * n :]
        _exponentials(Z, start, n, scratch[:n], total, E)
        for i in range(n):
            scale = one / total[i]
            for j in range(k):
                out[start + i, j] = E[j * n + i] * scale
        start += n
    for i in range(start, rows):
        z, row, summed = Z[i], out[i], scratch[:k]
        top = _largest(z)
        for j in range(k):
            e = exp_nonpositive(z[j] - top)
            row[j] = e
            summed[j] = e
        scale = one / tree_sum(summed)
        for j in range(k):
            row[j] *= scale


# -------------------------------------------------------------------------------------- loss of rows


def _signature(real: Any) -> tuple[Any, ...]:
    matrix, vector = types.Array(real, 2, "C"), types.Array(real, 1, "C")
    values, codes = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return types.intp, codes, matrix, matrix, vector, matrix, values, vector, types.intp, types.intp


@by_address(_signature)
@jit(internal=True)
def cross_entropy_rows(
    loss: int,
    labels: Any,
    targets: Any,
    outputs: Any,
    row_weights: Any,
    D: Any,
    losses: Any,
    scratch: Any,
    first: int,
    last: int,
) -> None:
    """`loss_rows` where the loss is CROSS_ENTROPY."""
    k = outputs.shape[1]
    short = k < _WIDE
    start: Any = np.intp(first)
    while start < last:
        n = min(ROWS, last - start)
        share, sums = row_weights[start : start + n], losses[start : start + n]
        top, total, E = scratch[:n], scratch[n : 2 * n], scratch[2 * n :]
        if short:
            _exponentials(outputs, start, n, top, total, E)
            if D.size > 0:
                for i in range(n):
                    row, scale = D[start + i], share[i] / total[i]
                    for j in range(k):
                        row[j] = E[j * n + i] * scale
        else:
            spare = E[k:]
            for i in range(n):
                z = outputs[start + i]
                top[i] = _largest(z)
                for j in range(k):
                    e = exp_nonpositive(z[j] - top[i])
                    E[j] = e
                    spare[j] = e
                total[i] = tree_sum(spare[:k])
                if D.size > 0:
                    row, scale = D[start + i], share[i] / total[i]
                    for j in range(k):
                        row[j] = E[j] * scale
        if D.size > 0:
            for i in range(n):
                D[start + i, labels[start + i]] -= share[i]
        for i in range(n):
            top[i] -= outputs[start + i, labels[start + i]]
        for i in range(n):
            sums[i] = log(total[i]) + top[i]
        start += n


@by_address(_signature)
@jit(internal=True)
def elementwise_rows(
    loss: int,
    labels: Any,
    targets: Any,
    outputs: Any,
    row_weights: Any,
    D: Any,
    losses: Any,
    scratch: Any,
    first: int,
    last: int,
) -> None:
    """`loss_rows` of the losses that are sums over elements."""
    zero = outputs.dtype.type(0)
    one = outputs.dtype.type(1)
    half = outputs.dtype.type(0.5)
    k = outputs.shape[1]
    short = k < _WIDE
    # Not reshape(), which calls into Numba's library each time.
    flat_outputs = array_at(outputs.dtype, address_and_strides(outputs)[0], (outputs.size,))
    flat_targets = array_at(outputs.dtype, address_and_strides(targets)[0], (targets.size,))
    flat_D = array_at(outputs.dtype, address_and_strides(D)[0], (D.size,))
    step = ROWS if short else max(1, _CHUNK // k)
    start: Any = np.intp(first)
    while start < last:
        n = min(step, last - start)
        share, sums = row_weights[start : start + n], losses[start : start + n]
        size, begin = n * k, start * k
        z, y = flat_outputs[begin : begin + size], flat_targets[begin : begin + size]
        value = scratch[:size]
        slope = flat_D[begin : begin + size] if D.size > 0 else scratch[size : 2 * size]
        unequal = 0
        for i in range(n):
            unequal += share[i] != share[0]
        s = one if unequal > 0 else share[0]
        if loss == MSE:
            for i in range(size):
                d = z[i] - y[i]
                value[i] = d * d
                slope[i] = (d + d) * s
        elif loss == MAE:
            for i in range(size):
                d = z[i] - y[i]
                value[i] = abs(d)
                slope[i] = (one if d > zero else (-one if d < zero else d)) * s  # d is 0 or NaN
        elif loss == HUBER:
            for i in range(size):
                d = z[i] - y[i]
                c = one if d > one else (-one if d < -one else d)
                value[i] = c * (d - half * c)  # d^2/2 where c is d, else |d| - 1/2
                slope[i] = c * s
        else:
            for i in range(size):
                e = exp_nonpositive(-abs(z[i]))
                u = one + e
                q = e / u  # sigmoid(-|z|)
                positive = z[i] > zero
                log1p = log(u) + (e - (u - one)) / u  # what the sum lost is put back
                value[i] = ((z[i] if positive else zero) - z[i] * y[i]) + log1p
                slope[i] = ((one - y[i]) - q if positive else q - y[i]) * s  # sigmoid(z) - y
        if unequal > 0:
            for i in range(n):
                for j in range(i * k, i * k + k):
                    slope[j] *= share[i]
        if k == 1:
            for i in range(n):
                sums[i] = value[i]
        elif short:
            for i in range(n):
                total_i = value[i * k]
                for j in range(i * k + 1, i * k + k):
                    total_i += value[j]
                sums[i] = total_i
        else:
            for i in range(n):
                sums[i] = tree_sum(value[i * k : i * k + k])
        start += n


@by_address(_signature)
@jit(internal=True)
def loss_rows(
    loss: int,
    labels: Any,
    targets: Any,
    outputs: Any,
    row_weights: Any,
    D: Any,
    losses: Any,
    scratch: Any,
    first: int,
    last: int,
) -> None:
    """losses[i] = l_i, and D[i, :] = shares[i] * d l_i / d outputs[i, :], for the rows first..last-1.

    l_i is the sum over row i's outputs z with targets y:

    - MSE (z - y)^2; MAE |z - y|; HUBER (z - y)^2 / 2 where |z - y| <= 1, else |z - y| - 1/2;
    - CROSS_ENTROPY log sum exp(z) - z[label];
    - BINARY_CROSS_ENTROPY, on logits: max(z, 0) - z y + log(1 + exp(-|z|)).

    Any number of threads may do rows of their own, each with a scratch of its own: a row's bits depend on the row.

    Parameters
    ----------
    loss : int
        A code of `elementwise`.
    labels : ndarray of int64, shape (B,)
        Of CROSS_ENTROPY; of the others any, such as (0,).
    targets : ndarray, shape (B, k)
        Of all but CROSS_ENTROPY, for which it may be (0, k).
    outputs : ndarray, shape (B, k)
        Like all matrices here C-contiguous and of one float dtype; k >= 1.
    shares : ndarray, shape (B,)
        The rows' weights in the objective: 1/B, or w_i / sum(w).
    D : ndarray, shape (B, k) or (0, k)
        Filled; one of no elements is not computed. It overlaps nothing else.
    losses : ndarray of float64, shape (B,)
        Filled.
    scratch : ndarray
        At least ``scratch_size(last - first, k)`` elements.
    first, last : int
        Rows.
    """
    if loss == CROSS_ENTROPY:
        cross_entropy_rows(loss, labels, targets, outputs, row_weights, D, losses, scratch, first, last)
    else:
        elementwise_rows(loss, labels, targets, outputs, row_weights, D, losses, scratch, first, last)


def kernel(loss: int) -> Any:
    """Choose what `loss_rows` calls for a loss: alone it compiles in 1.1 s, both in 1.8 to 2.5."""
    return cross_entropy_rows if loss == CROSS_ENTROPY else elementwise_rows


@jit
def batch_loss(place: int, loss: int, labels: Any, targets: Any, outputs: Any, D: Any, out: Any) -> None:
    """out[0] = mean over rows of the row's loss, and D its gradient, in equal shares; place, of the loss's `kernel`."""
    rows, k = outputs.shape
    scratch, row_weights = np.empty(scratch_size(rows, k), outputs.dtype), np.empty(rows, outputs.dtype)
    losses = np.empty(rows)
    row_weights[:] = outputs.dtype.type(1) / outputs.dtype.type(rows)
    call(loss_rows, place, outputs.dtype, (loss, labels, targets, outputs, row_weights, D, losses, scratch, 0, rows))
    out[0] = tree_sum(losses) / rows


@jit(internal=True)
def accuracy_rows(labels: Any, targets: Any, outputs: Any, loss: int, first: int, last: int) -> int:
    """Count what is right in the rows first..last-1; arguments as of `loss_rows`.

    CROSS_ENTROPY: rows whose largest output stands at the label (NaN counts as largest). BINARY_CROSS_ENTROPY:
    elements with (z > 0) == (y > 1/2), k a row: divide by B k. Of the other losses nothing is right.

    No argmax: a label is right if nothing before it is as large and nothing after it is larger, which is counted
    without branches. A NaN at the label is right if there is none before it.
    """
    right = 0
    if loss == CROSS_ENTROPY:
        for i in range(first, last):
            row, label = outputs[i], labels[i]
            z = row[label]
            wrong = False
            before, behind = row[:label], row[label + 1 :]  # views: an index that may be negative is no vector's
            if z == z:
                for j in range(before.size):
                    wrong |= not before[j] < z
                for j in range(behind.size):
                    wrong |= not behind[j] <= z
            else:
                for j in range(before.size):
                    wrong |= before[j] != before[j]
            right += not wrong
    elif loss == BINARY_CROSS_ENTROPY:
        half = outputs.dtype.type(0.5)
        for i in range(first, last):
            for j in range(outputs.shape[1]):
                right += (outputs[i, j] > 0) == (targets[i, j] > half)
    return right


@by_address(
    lambda real: (
        types.intp,
        types.Array(types.int64, 1, "C"),
        *[types.Array(real, 2, "C")] * 2,
        *[types.intp] * 2,
        types.Array(types.int64, 1, "C"),
        types.intp,
    )
)
@jit(internal=True)
def correct_rows(
    loss: int, labels: Any, targets: Any, outputs: Any, first: int, last: int, correct: Any, place: int
) -> None:
    """rights[place] = `accuracy_rows`."""
    correct[place] = accuracy_rows(labels, targets, outputs, loss, first, last)


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = share of the rows whose largest output stands at the label (NaN counts as largest)."""
    kind: Any = np.intp(CROSS_ENTROPY)
    first: Any = np.intp(0)
    out[0] = accuracy_rows(labels, Z, Z, kind, first, Z.shape[0]) / Z.shape[0]


_NO_LABELS = np.empty(0, np.int64)


def value(loss: int, truth: Any, outputs: Any, out: Any) -> None:
    """out[0] = the loss of a batch as it is reported: cross-entropies by row, the others by element."""
    nothing = np.empty((0, outputs.shape[1]), outputs.dtype)
    _batch(loss, truth, outputs, nothing, out)
    if loss in (MSE, MAE, HUBER):
        out[0] /= outputs.shape[1]


def gradient(loss: int, truth: Any, outputs: Any, out: Any) -> None:
    """Out (B, k) = gradient of a batch's objective, the mean over rows of `loss_rows`' losses."""
    _batch(loss, truth, outputs, out, np.empty(1))


def _batch(loss: int, truth: Any, outputs: Any, D: Any, out: Any) -> None:
    labels, targets = _NO_LABELS, truth
    if loss == CROSS_ENTROPY:
        labels, targets = truth, np.empty((0, outputs.shape[1]), outputs.dtype)
    batch_loss(address(kernel(loss), outputs.dtype), loss, labels, targets, outputs, D, out)
