"""Variant `simd`: losses and their gradients over vectors.

What changed from `loops`: one pass over rows computes loss and gradient, with exponentials and logarithms from `vmath`.
Losses that are sums over elements treat a block of rows as one flat vector. Softmax needs sums and maxima along rows:
rows shorter than `WIDE` are transposed into scratch, so that each vector lane holds one row and every reduction is
elementwise; longer rows are processed in place. What it costs: two algorithms for the same result, scratch memory, and
a second of compiling (docs/performance-notes/losses.md).

Each loss has a kernel of its own, so that training compiles only the one it uses. A row's bits depend on the row and
its weight alone, so threads may cut a batch anywhere. A batch's loss is the `tree_sum` of its rows' losses, in float64;
the order of that sum depends on the number of rows alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..jit.call_by_address import by_address, call, kernel_address
from ..jit.decorator import jit
from ..llvm.memory import address_and_strides, array_at
from ..specs.base import Array
from ..specs.losses import CROSS_ENTROPY, LOSS_BY_CODE, LOSSES, LossSpec
from .elementwise import named
from .softmax import ROWS, WIDE, exponentials, largest, softmax, tree_sum
from .vmath import loss_terms
from .vmath.exp import exp_nonpositive
from .vmath.log import log

_CHUNK = 1024  # elements processed at once in wide rows


class LossRows(NamedTuple):
    """Inputs and outputs of a loss. All arrays are C-contiguous; all floats but ``losses`` have one dtype.

    Attributes
    ----------
    labels : ndarray of int64, shape (B,)
        For losses that take labels; (0,) if these are soft. Other losses ignore it.
    targets : ndarray, shape (B, k)
        For the other losses, and soft labels; otherwise ignored, and may be (0, k).
    outputs : ndarray, shape (B, k)
        k >= 1.
    row_weights : ndarray, shape (B,)
        Weights of the rows in the objective: 1 / B, or w_i / sum(w).
    gradient : ndarray, shape (B, k) or (0, k)
        Filled with row_weights[i] times the derivative of row i's loss with respect to outputs[i]; not computed if it
        is empty. It must not overlap the other arrays.
    losses : ndarray of float64, shape (B,)
        Filled with the rows' losses.
    scratch : ndarray
        At least ``scratch_size(row_end - row_begin, k)`` elements. Each thread needs its own.
    """

    labels: Array
    targets: Array
    outputs: Array
    row_weights: Array
    gradient: Array
    losses: Array
    scratch: Array


def _rows_type(real: Any) -> Any:
    """Numba's type of `LossRows`."""
    matrix, vector = types.Array(real, 2, "C"), types.Array(real, 1, "C")
    losses, labels = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return types.NamedTuple((labels, matrix, matrix, vector, matrix, losses, vector), LossRows)


_by_address = by_address(lambda real: (_rows_type(real), types.intp, types.intp))
_counts_by_address = by_address(
    lambda real: (_rows_type(real), types.intp, types.intp, types.Array(types.int64, 1, "C"), types.intp)
)


@jit
def scratch_size(rows: int, k: int) -> int:
    """Number of scratch elements that a loss needs for up to ``rows`` rows of k columns at a time."""
    n = min(rows, ROWS)
    return (2 * k + 1) * n if k < WIDE else 2 * max(k, _CHUNK) + 2 * n


# ----------------------------------------------------------------------------------- losses of rows


@_by_address
@jit(internal=True)
def cross_entropy_rows(rows: Any, row_begin: int, row_end: int) -> None:
    """Cross-entropy of rows: log sum exp(z) - sum(y z), and (softmax(z) - y) times the row's weight.

    y is the one-hot encoding of the labels, or the targets if there are no labels.
    """
    labels, targets, outputs, gradient, scratch = rows.labels, rows.targets, rows.outputs, rows.gradient, rows.scratch
    k = outputs.shape[1]
    soft = labels.size == 0
    short = k < WIDE
    start: Any = np.intp(row_begin)
    while start < row_end:
        n = min(ROWS, row_end - start)
        weights, sums = rows.row_weights[start : start + n], rows.losses[start : start + n]
        top, total, E = scratch[:n], scratch[n : 2 * n], scratch[2 * n :]
        if short:
            exponentials(outputs, start, n, top, total, E)
            if gradient.size > 0:
                for i in range(n):
                    row, scale = gradient[start + i], weights[i] / total[i]
                    for j in range(k):
                        row[j] = E[j * n + i] * scale
        else:
            spare = E[k:]
            for i in range(n):
                z = outputs[start + i]
                top[i] = largest(z)
                for j in range(k):
                    e = exp_nonpositive(z[j] - top[i])
                    E[j] = e
                    spare[j] = e
                total[i] = tree_sum(spare[:k])
                if gradient.size > 0:
                    row, scale = gradient[start + i], weights[i] / total[i]
                    for j in range(k):
                        row[j] = E[j] * scale
        if soft:
            for i in range(n):
                y, z = targets[start + i], outputs[start + i]
                below = 0.0
                for j in range(k):
                    if y[j] != 0:  # z may be -inf there
                        below += y[j] * (top[i] - z[j])
                top[i] = below
                if gradient.size > 0:
                    row = gradient[start + i]
                    for j in range(k):
                        row[j] -= y[j] * weights[i]
        else:
            if gradient.size > 0:
                for i in range(n):
                    gradient[start + i, labels[start + i]] -= weights[i]
            for i in range(n):
                top[i] -= outputs[start + i, labels[start + i]]
        for i in range(n):
            sums[i] = log(total[i]) + top[i]
        start += n


@jit(inline=True)
def _flat(array: Any) -> Any:
    """View a C-contiguous array as a vector; reshape() would call Numba's library each time."""
    return array_at(array.dtype, address_and_strides(array)[0], (array.size,))


def _terms(spec: LossSpec) -> Any:
    """Return the compiled function ``(z, y) -> (value, slope)`` of one element."""
    vectorisable = getattr(loss_terms, spec.name, None)
    if vectorisable is not None:
        return vectorisable
    value, slope = jit(scalar=True)(spec.value), jit(scalar=True)(spec.slope)

    def terms(z: Any, y: Any) -> Any:
        return value(z, y), slope(z, y)

    return jit(scalar=True)(named(f"{spec.name}_terms", terms))


@functools.cache
def loss_kernel(code: int) -> Any:
    """Return the kernel ``(rows: LossRows, row_begin, row_end)`` of a loss, which fills those rows.

    Any number of threads may process different rows, each with its own scratch. Only compiled code can call the kernel,
    directly or by address with `loss_rows` as the prototype.
    """
    spec = LOSS_BY_CODE[code]
    if spec.name == "cross_entropy":
        return cross_entropy_rows
    if spec.value is None:  # only if somebody adds such a loss without its kernel
        raise NotImplementedError(f"{spec.name} is a loss of whole rows; `loss_kernel` needs a kernel for it")
    terms = _terms(spec)

    def kernel(rows: Any, row_begin: int, row_end: int) -> None:
        outputs, targets, gradient, scratch = rows.outputs, rows.targets, rows.gradient, rows.scratch
        one = outputs.dtype.type(1)
        k = outputs.shape[1]
        short = k < WIDE
        flat_outputs, flat_targets, flat_gradient = _flat(outputs), _flat(targets), _flat(gradient)
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
            # Equal weights, the usual case, are multiplied in at once; unequal ones take a pass of their own.
            weight = one if unequal > 0 else weights[0]
            for i in range(size):
                v, d = terms(z[i], y[i])
                value[i] = v
                slope[i] = d * weight
            if unequal > 0:
                for i in range(n):
                    for j in range(i * k, i * k + k):
                        slope[j] *= weights[i]
            if k == 1:
                for i in range(n):
                    sums[i] = value[i]
            elif short:
                for i in range(n):
                    row_sum = value[i * k]
                    for j in range(i * k + 1, i * k + k):
                        row_sum += value[j]
                    sums[i] = row_sum
            else:
                for i in range(n):
                    sums[i] = tree_sum(value[i * k : i * k + k])
            start += n

    return _by_address(jit(internal=True)(named(f"{spec.name}_rows", kernel)))


loss_rows = loss_kernel(CROSS_ENTROPY)
"""Prototype of the kernels that `loss_kernel` returns, for `call`."""


# ---------------------------------------------------------------------------------- correct answers


@jit(internal=True)
def _is_largest(row: Any, label: int) -> bool:
    """Whether a row's largest element is the label's; NaN counts as largest.

    This computes no argmax: the label is right if no element before it is as large and none after it is larger, which
    takes no branches. A NaN at the label is right if there is none before it.
    """
    z = row[label]
    wrong = False
    before, behind = row[:label], row[label + 1 :]  # views, since LLVM does not vectorise a possibly negative index
    if z == z:
        for j in range(before.size):
            wrong |= not before[j] < z
        for j in range(behind.size):
            wrong |= not behind[j] <= z
    else:
        for j in range(before.size):
            wrong |= before[j] != before[j]
    return not wrong


@_counts_by_address
@jit(internal=True)
def label_correct_rows(rows: Any, row_begin: int, row_end: int, correct: Any, task: int) -> None:
    """correct[task] = number of rows whose largest output is the label's, or that of the largest soft label."""
    labels, targets, outputs = rows.labels, rows.targets, rows.outputs
    count = 0
    for i in range(row_begin, row_end):
        if labels.size > 0:
            count += _is_largest(outputs[i], labels[i])
        else:
            label: Any = np.intp(0)
            for j in range(1, outputs.shape[1]):
                if targets[i, j] > targets[i, label]:
                    label = j
            count += _is_largest(outputs[i], label)
    correct[task] = count


@functools.cache
def correct_kernel(code: int) -> Any:
    """Return the kernel ``(rows: LossRows, row_begin, row_end, correct, task)`` of a loss for classification.

    It stores in correct[task] how many rows are answered correctly or, if targets are probabilities, how many elements,
    k in a row. Only compiled code can call it, directly or by address with `correct_rows` as the prototype.
    """
    spec = LOSS_BY_CODE[code]
    if spec.takes_labels:
        return label_correct_rows
    is_correct = jit(scalar=True)(spec.correct)

    def kernel(rows: Any, row_begin: int, row_end: int, correct: Any, task: int) -> None:
        outputs, targets = rows.outputs, rows.targets
        count = 0
        for i in range(row_begin, row_end):
            for j in range(outputs.shape[1]):
                count += is_correct(outputs[i, j], targets[i, j])
        correct[task] = count

    return _counts_by_address(jit(internal=True)(named(f"{spec.name}_correct_rows", kernel)))


correct_rows = correct_kernel(CROSS_ENTROPY)
"""Prototype of the kernels that `correct_kernel` returns, for `call`."""


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = fraction of rows whose largest output is the label's (NaN counts as largest)."""
    count = 0
    for i in range(Z.shape[0]):
        count += _is_largest(Z[i], labels[i])
    out[0] = count / Z.shape[0]


# ------------------------------------------------------------------------------------------ batches


@jit(internal=True)
def _writable(array: Any) -> Any:
    """Return a writable view of a C-contiguous array: kernels called by address are compiled for that type."""
    return array_at(array.dtype, address_and_strides(array)[0], array.shape)


@jit
def batch_loss(
    address: int, labels: Any, targets: Any, outputs: Any, gradient: Any, losses: Any, scratch: Any, out: Any
) -> None:
    """Compute out[0] = mean of the rows' losses, and its gradient, by the address of the loss's kernel.

    ``losses``, float64 (B,), and ``scratch``, with B elements more than `LossRows` needs, are overwritten.
    """
    rows = outputs.shape[0]
    row_weights, spare = scratch[:rows], scratch[rows:]
    row_weights[:] = outputs.dtype.type(1) / outputs.dtype.type(rows)
    given = LossRows(_writable(labels), _writable(targets), _writable(outputs), row_weights, gradient, losses, spare)
    call(loss_rows, address, outputs.dtype, (given, 0, rows))
    out[0] = tree_sum(losses) / rows


_NO_LABELS = np.empty(0, np.int64)


def value(code: int, y: Any, outputs: Any, out: Any) -> None:
    """out[0] = the reported loss of a batch: a mean over rows, or over elements (`LossSpec`)."""
    nothing = np.empty((0, outputs.shape[1]), outputs.dtype)
    _batch(code, y, outputs, nothing, out)
    if LOSS_BY_CODE[code].mean_over_outputs:
        out[0] /= outputs.shape[1]


def gradient(code: int, y: Any, outputs: Any, out: Any) -> None:
    """out (B, k) = gradient of a batch's objective, the mean over rows of the rows' losses."""
    _batch(code, y, outputs, out, np.empty(1))


def _batch(code: int, y: Any, outputs: Any, gradient: Any, out: Any) -> None:
    labels, targets = _NO_LABELS, y
    if y.ndim == 1:
        labels, targets = y, np.empty((0, outputs.shape[1]), outputs.dtype)
    rows, dtype = len(outputs), outputs.dtype
    losses, scratch = np.empty(rows), np.empty(rows + scratch_size(*outputs.shape), dtype)
    batch_loss(kernel_address(loss_kernel(code), dtype), labels, targets, outputs, gradient, losses, scratch, out)


KERNELS: dict[str, Callable[..., None]] = {
    **{name: functools.partial(value, spec.code) for name, spec in LOSSES.items()},
    **{f"{name}_derivative": functools.partial(gradient, spec.code) for name, spec in LOSSES.items()},
    "softmax": softmax,
    "accuracy": accuracy,
}
"""The losses ``(y, outputs, out)`` and their derivatives by operation; softmax and accuracy."""
