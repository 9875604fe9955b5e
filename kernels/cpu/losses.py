"""Variant `simd`: losses and their gradients over rows, as training calls them.

What changed from `loops`: loss and gradient come from one pass over the rows, and the exponentials and logarithms are
those of `vmath`. For the losses that are sums over outputs a block of rows is one flat vector. Softmax needs sums and
maxima along rows: rows shorter than `_WIDE` (10 logits are less than a vector) are transposed into scratch, so that a
lane is a row and every reduction is elementwise; longer ones are processed where they lie. What it costs: two paths to
the same result, scratch, and a second of compilation (docs/performance-notes.md).

A row's bits depend on the row and its weight alone, so threads may divide a batch anywhere. A batch's loss is the
`tree_sum` of its rows' losses in float64, so it depends on their number and order alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import extending, types

from ..jit.call_by_address import by_address, call, kernel_address
from ..jit.decorator import jit
from ..llvm.memory import address_and_strides, array_at
from ..specs.losses import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, LOSS_BY_CODE, LOSSES
from .elementwise import named
from .vmath import exp, log

# Its type does not know that callers leave out the context.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

ROWS = 64
"""Rows of a block."""

_WIDE = 32  # columns from which a row is processed where it lies
_CHUNK = 1024  # elements of such rows that are processed at once


class LossRows(NamedTuple):
    """The arrays of a batch that loss kernels read and fill; matrices are C-contiguous and of one float dtype.

    Attributes
    ----------
    labels : int64, shape (B,)
        Class labels, for losses that take labels; of the others any, such as (0,).
    targets : shape (B, k)
        For all other losses; for those with labels it may be (0, k).
    outputs : shape (B, k)
        What the network computed; k >= 1.
    row_weights : shape (B,)
        Weights of the rows in the objective: 1/B, or w_i / sum(w).
    gradient : shape (B, k) or (0, k)
        Filled with row_weights[i] times the derivative of row i's loss; of no elements: not computed. It overlaps
        no other array.
    losses : float64, shape (B,)
        Filled with the loss of each row, summed over its outputs.
    scratch : vector
        At least ``scratch_size(rows, k)`` elements.
    """

    labels: Any
    targets: Any
    outputs: Any
    row_weights: Any
    gradient: Any
    losses: Any
    scratch: Any


def loss_rows_type(real: Any) -> Any:
    """Return Numba's type of `LossRows` for a float type."""
    matrix, vector = types.Array(real, 2, "C"), types.Array(real, 1, "C")
    losses, labels = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return types.NamedTuple((labels, matrix, matrix, vector, matrix, losses, vector), LossRows)


@jit
def tree_sum(values: Any) -> float:
    """Sum at least one value by halves, in place: the order depends on the length alone, the error on its logarithm."""
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
    """Return the larger, or NaN: the maximum that LLVM vectorises without permission to ignore NaN."""

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
    """Return the largest element of a row, or NaN."""
    top = row[0]
    for j in range(row.size):
        top = _maximum(top, row[j])
    return top


@jit
def scratch_size(rows: int, k: int) -> int:
    """Return the elements of scratch that a loss kernel needs for up to ``rows`` rows of k columns."""
    n = min(rows, ROWS)
    return (2 * k + 1) * n if k < _WIDE else 2 * max(k, _CHUNK) + 2 * n


@jit(internal=True)
def _exponentials(Z: Any, start: int, n: int, top: Any, total: Any, E: Any) -> None:
    """E (k, n), flat, = exp(Z - top) of n short rows, transposed; top: each row's largest, total: its sum or NaN."""
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
            e = exp.exp_nonpositive(column[i] - top[i])
            column[i] = e
            total[i] += e


@jit
def softmax(Z: Any, out: Any) -> None:
    """out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest; out may be Z."""
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
            e = exp.exp_nonpositive(z[j] - top)
            row[j] = e
            summed[j] = e
        scale = one / tree_sum(summed)
        for j in range(k):
            row[j] *= scale


# ----------------------------------------------------------------------------------- loss of rows


def _cross_entropy(rows: Any, row_begin: int, row_end: int) -> None:
    labels, outputs, gradient, scratch = rows.labels, rows.outputs, rows.gradient, rows.scratch
    k = outputs.shape[1]
    short = k < _WIDE
    start: Any = np.intp(row_begin)
    while start < row_end:
        n = min(ROWS, row_end - start)
        weights, sums = rows.row_weights[start : start + n], rows.losses[start : start + n]
        top, total, E = scratch[:n], scratch[n : 2 * n], scratch[2 * n :]
        if short:
            _exponentials(outputs, start, n, top, total, E)
            if gradient.size > 0:
                for i in range(n):
                    row, scale = gradient[start + i], weights[i] / total[i]
                    for j in range(k):
                        row[j] = E[j * n + i] * scale
        else:
            spare = E[k:]
            for i in range(n):
                z = outputs[start + i]
                top[i] = _largest(z)
                for j in range(k):
                    e = exp.exp_nonpositive(z[j] - top[i])
                    E[j] = e
                    spare[j] = e
                total[i] = tree_sum(spare[:k])
                if gradient.size > 0:
                    row, scale = gradient[start + i], weights[i] / total[i]
                    for j in range(k):
                        row[j] = E[j] * scale
        if gradient.size > 0:
            for i in range(n):
                gradient[start + i, labels[start + i]] -= weights[i]
        for i in range(n):
            top[i] -= outputs[start + i, labels[start + i]]
        for i in range(n):
            sums[i] = log.log(total[i]) + top[i]
        start += n


@jit(scalar=True)
def _binary_cross_entropy(z: Any, y: Any) -> Any:
    """Return loss and slope of one logit; both need the same exponential."""
    one = type(z)(1)
    zero = one - one
    e = exp.exp_nonpositive(-abs(z))
    u = one + e
    q = e / u  # sigmoid(-|z|)
    positive = z > zero
    log1p = log.log(u) + (e - (u - one)) / u  # what the sum lost is added back
    return ((z if positive else zero) - z * y) + log1p, ((one - y) - q if positive else q - y)


_VECTORISABLE = {"binary_cross_entropy": _binary_cross_entropy}
"""Functions ``(z, y) -> (loss, slope)`` where those of the spec would call libm for one element at a time."""


def _value_and_slope(code: int) -> Any:
    """Return the function ``(z, y) -> (loss, slope)`` of an elementwise loss."""
    spec = LOSS_BY_CODE[code]
    if spec.name in _VECTORISABLE:
        return _VECTORISABLE[spec.name]
    value, slope = jit(scalar=True)(spec.value), jit(scalar=True)(spec.slope)  # type: ignore[arg-type]

    def both(z: Any, y: Any) -> Any:
        return value(z, y), slope(z, y)

    return jit(scalar=True)(named(f"{spec.name}_and_slope", both))


def _elementwise(code: int) -> Callable[..., None]:
    """Make the row kernel of a loss that is a sum over outputs."""
    value_and_slope = _value_and_slope(code)

    def kernel(rows: Any, row_begin: int, row_end: int) -> None:
        outputs, targets, gradient, scratch = rows.outputs, rows.targets, rows.gradient, rows.scratch
        one = outputs.dtype.type(1)
        k = outputs.shape[1]
        short = k < _WIDE
        # array_at, not reshape(), which calls into Numba's library each time.
        flat_outputs = array_at(outputs.dtype, address_and_strides(outputs)[0], (outputs.size,))
        flat_targets = array_at(outputs.dtype, address_and_strides(targets)[0], (targets.size,))
        flat_gradient = array_at(outputs.dtype, address_and_strides(gradient)[0], (gradient.size,))
        step = ROWS if short else max(1, _CHUNK // k)
        start: Any = np.intp(row_begin)
        while start < row_end:
            n = min(step, row_end - start)
            weights, sums = rows.row_weights[start : start + n], rows.losses[start : start + n]
            size, begin = n * k, start * k
            z, y = flat_outputs[begin : begin + size], flat_targets[begin : begin + size]
            value = scratch[:size]
            slope = flat_gradient[begin : begin + size] if gradient.size > 0 else scratch[size : 2 * size]
            unequal = 0
            for i in range(n):
                unequal += weights[i] != weights[0]
            weight = one if unequal > 0 else weights[0]  # equal weights, the usual case, need no pass of their own
            for i in range(size):
                value[i], derivative = value_and_slope(z[i], y[i])
                slope[i] = derivative * weight
            if unequal > 0:
                for i in range(n):
                    for j in range(i * k, i * k + k):
                        slope[j] *= weights[i]
            if k == 1:
                for i in range(n):
                    sums[i] = value[i]
            elif short:
                for i in range(n):
                    total = value[i * k]
                    for j in range(i * k + 1, i * k + k):
                        total += value[j]
                    sums[i] = total
            else:
                for i in range(n):
                    sums[i] = tree_sum(value[i * k : i * k + k])
            start += n

    return kernel


@functools.cache
def loss_kernel(code: int) -> Any:
    """Return the kernel ``(rows: LossRows, row_begin, row_end)`` of a loss.

    It fills ``rows.losses`` and ``rows.gradient`` in the rows from row_begin to row_end - 1. Threads may process rows
    of their own at the same time, each with a scratch of its own. It can be called by address, with `loss_rows` as the
    prototype.
    """
    name = LOSS_BY_CODE[code].name
    kernel = _cross_entropy if code == CROSS_ENTROPY else _elementwise(code)
    signature = by_address(lambda real: (loss_rows_type(real), types.intp, types.intp))
    return signature(jit(internal=True)(named(f"{name}_rows", kernel)))


loss_rows = loss_kernel(LOSSES["mse"].code)
"""Prototype of the kernels that `loss_kernel` returns, for `call`."""


@jit
def _batch_loss(address: int, labels: Any, targets: Any, outputs: Any, gradient: Any, out: Any) -> None:
    """out[0] = mean over rows of the row's loss, and gradient, in equal weights; by the address of a `loss_kernel`."""
    n, k = outputs.shape
    scratch, row_weights = np.empty(scratch_size(n, k), outputs.dtype), np.empty(n, outputs.dtype)
    losses = np.empty(n)
    row_weights[:] = outputs.dtype.type(1) / outputs.dtype.type(n)
    rows = LossRows(labels, targets, outputs, row_weights, gradient, losses, scratch)
    call(loss_rows, address, outputs.dtype, (rows, 0, n))
    out[0] = tree_sum(losses) / n


_NO_LABELS = np.empty(0, np.int64)


def value(loss: int, truth: Any, outputs: Any, out: Any) -> None:
    """out[0] = the loss of a batch as it is reported."""
    _batch(loss, truth, outputs, np.empty((0, outputs.shape[1]), outputs.dtype), out)
    if LOSS_BY_CODE[loss].mean_over_outputs:
        out[0] /= outputs.shape[1]


def gradient(loss: int, truth: Any, outputs: Any, out: Any) -> None:
    """out (B, k) = gradient of a batch's objective, the mean over rows of the rows' losses."""
    _batch(loss, truth, outputs, out, np.empty(1))


def _batch(loss: int, truth: Any, outputs: Any, gradient: Any, out: Any) -> None:
    labels, targets = _NO_LABELS, truth
    if LOSS_BY_CODE[loss].takes_labels:
        labels, targets = truth, np.empty((0, outputs.shape[1]), outputs.dtype)
    _batch_loss(kernel_address(loss_kernel(loss), outputs.dtype), labels, targets, outputs, gradient, out)


# ------------------------------------------------------------------------------- correct answers


@jit(internal=True)
def _correct_labels(labels: Any, outputs: Any, row_begin: int, row_end: int) -> int:
    """Count the rows whose largest output stands at the label (NaN counts as largest).

    No argmax: a label is right if nothing before it is as large and nothing after it is larger, which is counted
    without branches. A NaN at the label is right if there is none before it.
    """
    correct = 0
    for i in range(row_begin, row_end):
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
        correct += not wrong
    return correct


@by_address(
    lambda real: (types.intp, loss_rows_type(real), *[types.intp] * 2, types.Array(types.int64, 1, "C"), types.intp)
)
@jit(internal=True)
def correct_rows(loss: int, rows: Any, row_begin: int, row_end: int, correct: Any, task: int) -> None:
    """correct[task] = number of correct answers in the rows from row_begin to row_end - 1.

    Labels: rows whose largest output stands at the label. Targets from 0 to 1: outputs with (z > 0) == (y > 1/2), k a
    row. Of losses that are not for classification: 0.
    """
    outputs, targets = rows.outputs, rows.targets
    count = 0
    if loss == CROSS_ENTROPY:
        count = _correct_labels(rows.labels, outputs, row_begin, row_end)
    elif loss == BINARY_CROSS_ENTROPY:
        half = outputs.dtype.type(0.5)
        for i in range(row_begin, row_end):
            for j in range(outputs.shape[1]):
                count += (outputs[i, j] > 0) == (targets[i, j] > half)
    correct[task] = count


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = share of the rows whose largest output stands at the label (NaN counts as largest)."""
    first: Any = np.intp(0)
    out[0] = _correct_labels(labels, Z, first, Z.shape[0]) / Z.shape[0]
