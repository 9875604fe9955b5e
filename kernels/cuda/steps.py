"""The parts of a training step other than its products, on the device: losses, sums, updates.

Elementwise work is written once, as a function of one element or row. It is called by the kernels here, each for one
operation, which `variants` launches, and by those of `training_step`. The formulas are the specs'.

Vectors are contiguous and on the device, float32 or float64, in a call all of one dtype unless stated; matrices lie in
them row by row. Elementwise kernels accept any grid of blocks of THREADS threads, and loop with the grid's stride. Each
thread calls device functions for itself; they neither synchronise nor use shared memory, except `block_sum`.

Sums over rows are float64: each thread adds in order, then a tree adds the threads of one block, so the bits do not
depend on the timing of threads. There are no atomics.
"""

from math import exp, isfinite, log
from typing import Any, NamedTuple

import numpy as np

from ..specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS
from ..specs.losses import CROSS_ENTROPY, LOSS_BY_CODE
from .activations import activate, derivative
from .device import SIMULATED, cuda, device, kernel
from .rules import is_correct, loss_slope, loss_value, update_element

SOFT_CROSS_ENTROPY = len(LOSS_BY_CODE)
"""The code of cross-entropy of soft labels in device code, in which CROSS_ENTROPY is that of integer labels."""

THREADS = 8 if SIMULATED else 256
"""Threads per block of elementwise work; a power of two, for the trees."""

GROUP_PARTS = GROUP_ROWS // MICRO_BATCH_ROWS
"""Parts of a sum over rows that form a group, whose sum is computed by itself before it is added to the total."""

# ---------------------------------------------------------------------------------- one row, one element


class Row(NamedTuple):
    """One row of a batch, an argument of the losses: values in registers, and the arrays to which they refer.

    Attributes
    ----------
    code : int
        Code of the LossSpec, or SOFT_CROSS_ENTROPY.
    labels : vector of int64
        Read by CROSS_ENTROPY, at ``y``.
    targets : vector
        Read by the others, from ``y k`` on.
    y : int
        The row's index in the labels or targets.
    outputs : vector
        Holds the row's outputs from ``at`` on.
    at : int
    k : int
        Outputs of a row.
    """

    code: int  # of the loss
    labels: Any
    targets: Any
    y: int
    outputs: Any
    at: int
    k: int


@device
def row_exponentials(outputs: Any, at: int, k: int) -> Any:
    """Return a row's largest output (NaN counts as largest), its first index, and the sum of exp(z - largest).

    Parameters
    ----------
    outputs : vector
    at : int
        The row's first element.
    k : int
        Elements of the row, at least 1.
    """
    top, where = outputs[at], 0
    for j in range(1, k):
        z = outputs[at + j]
        if z > top or (z != z and top == top):
            top, where = z, j
    total = 0.0
    for first in range(0, k, MICRO_BATCH_ROWS):
        part = outputs.dtype.type(0)
        for j in range(first, min(first + MICRO_BATCH_ROWS, k)):
            part += exp(outputs[at + j] - top)
        total += part
    return top, where, outputs.dtype.type(total)


@device
def row_loss(row: Row) -> Any:
    """Return the loss of a row, summed over its outputs in their dtype, and the number of correct answers.

    Parameters
    ----------
    row : Row
    """
    outputs, at, k = row.outputs, row.at, row.k
    total, right = outputs.dtype.type(0), 0
    if row.code == CROSS_ENTROPY:
        label = row.labels[row.y]
        top, where, exponentials = row_exponentials(outputs, at, k)
        total = log(exponentials) + (top - outputs[at + label])
        right = 1 if where == label else 0
    elif row.code == SOFT_CROSS_ENTROPY:
        top, where, exponentials = row_exponentials(outputs, at, k)
        likely = 0
        for j in range(k):
            truth = row.targets[row.y * k + j]
            if truth != 0:  # the output may be -inf there
                total += truth * (top - outputs[at + j])
            if truth > row.targets[row.y * k + likely]:
                likely = j
        total += log(exponentials)
        right = 1 if where == likely else 0
    else:
        for j in range(k):
            z, truth = outputs[at + j], row.targets[row.y * k + j]
            total += loss_value(row.code, z, truth)
            if is_correct(row.code, z, truth):
                right += 1
    return total, right


@device
def row_gradient(row: Row, share: Any, d: Any, to: int) -> None:
    """Store the derivative of a row's loss with respect to its outputs, times the row's weight.

    Parameters
    ----------
    row : Row
    share : float
        Weight of the row, of the dtype of outputs.
    d : vector
        Written, k elements from ``to`` on.
    to : int
    """
    outputs, at, k = row.outputs, row.at, row.k
    zero, one = outputs.dtype.type(0), outputs.dtype.type(1)
    if row.code == CROSS_ENTROPY:
        label = row.labels[row.y]
        top, _, total = row_exponentials(outputs, at, k)
        scale = one / total
        for j in range(k):
            d[to + j] = (exp(outputs[at + j] - top) * scale - (one if j == label else zero)) * share
        return
    if row.code == SOFT_CROSS_ENTROPY:
        top, _, total = row_exponentials(outputs, at, k)
        scale = one / total
        for j in range(k):
            d[to + j] = (exp(outputs[at + j] - top) * scale - row.targets[row.y * k + j]) * share
        return
    for j in range(k):
        d[to + j] = loss_slope(row.code, outputs[at + j], row.targets[row.y * k + j]) * share


@device
def block_sum(shared: Any, value: Any) -> Any:
    """Sum over a block's threads, with a tree, in float64.

    All THREADS threads of a block must call it together: it has barriers, the last one after all have read the sum.

    Parameters
    ----------
    shared : array of float64 in shared memory, shape (THREADS,)
        Overwritten. The caller provides it, since a function with an array in shared memory can be linked only once.
    value : float
        The thread's term.

    Returns
    -------
    float64
        The sum, the same for every thread.
    """
    t = cuda.threadIdx.x
    shared[t] = value
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if t < step:
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step //= 2
    total = shared[0]
    cuda.syncthreads()
    return total


@device
def column_sum(d: Any, at: int, k: int, top: int, bottom: int) -> Any:
    """Sum rows of one column of a matrix d (rows, k), in order.

    Parameters
    ----------
    d : vector
        Holds the matrix.
    at : int
        Index of the column's element in row 0.
    k : int
        Columns of d: the distance from an element to the one below.
    top, bottom : int
        First row, and the one after the last; if top >= bottom, there are none, and the sum is 0.

    Returns
    -------
    float
        Of d's dtype.
    """
    total = d.dtype.type(0)
    for r in range(top, bottom):
        total += d[at + r * k]
    return total


@device
def sum_of_parts(parts: Any, at: int, count: int, step: int) -> Any:
    """Return the sum of an element's parts, group by group, in order, in the dtype of ``parts``.

    Parameters
    ----------
    parts : vector
    at, step : int
        Index of the first part, and elements from a part to the next.
    count : int
        Parts, at least 1.
    """
    total = parts.dtype.type(0)
    for first in range(0, count, GROUP_PARTS):
        group = parts[at + first * step]
        for s in range(first + 1, min(first + GROUP_PARTS, count)):
            group += parts[at + s * step]
        total += group
    return total


# --------------------------------------------------------------------------------- one operation each


@kernel(THREADS)
def activation_kernel(code: int, derives: bool, z: Any, out: Any, size: int) -> None:
    """out = activation(z), or its derivative there; elementwise.

    Parameters
    ----------
    code : int
        Code of the ActivationSpec.
    derives : bool
        Whether to compute the derivative.
    z, out : vectors of ``size`` elements
        They may be the same.
    size : int
    """
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = derivative(code, z[i]) if derives else activate(code, z[i])


@kernel(THREADS)
def gate_kernel(code: int, z: Any, d: Any, out: Any, size: int) -> None:
    """out = d * activation'(z); elementwise.

    Parameters
    ----------
    code : int
        Code of the ActivationSpec.
    z, d, out : vectors of ``size`` elements
        out may be either of the others.
    size : int
    """
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = d[i] * derivative(code, z[i])


@kernel(THREADS)
def loss_kernel(code: int, labels: Any, targets: Any, outputs: Any, rows: int, k: int, count: int, result: Any) -> None:
    """Store the reported loss of a batch, or its accuracy. Launched as one block; the sum is float64 (`block_sum`).

    Parameters
    ----------
    code : int
        Code of the LossSpec, or SOFT_CROSS_ENTROPY.
    labels : vector of int64, shape (rows,)
        Read by CROSS_ENTROPY only.
    targets : vector, shape (rows * k,)
        Read by the others only.
    outputs : vector, shape (rows * k,)
    rows, k : int
    count : int
        result = sum of all rows' losses / count; if count is negative, correct answers / -count. Not 0.
    result : vector of float64, shape (1,)
        Written by thread 0.
    """
    shared = cuda.shared.array(THREADS, np.float64)
    total, right = 0.0, 0
    for r in range(cuda.threadIdx.x, rows, THREADS):
        loss, answers = row_loss(Row(code, labels, targets, r, outputs, r * k, k))
        total += loss
        right += answers
    found = block_sum(shared, float(right) if count < 0 else total)
    if cuda.threadIdx.x == 0:
        result[0] = found / abs(count)


@kernel(THREADS)
def loss_gradient_kernel(code: int, labels: Any, targets: Any, outputs: Any, rows: int, k: int, out: Any) -> None:
    """Store the derivative of the mean over rows of the loss, one thread per row.

    Parameters
    ----------
    code, labels, targets, outputs, rows, k
        As in `loss_kernel`.
    out : vector, shape (rows * k,)
        Written.
    """
    share = outputs.dtype.type(1) / outputs.dtype.type(rows)
    for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
        row_gradient(Row(code, labels, targets, r, outputs, r * k, k), share, out, r * k)


@kernel(THREADS)
def softmax_kernel(outputs: Any, out: Any, rows: int, k: int) -> None:
    """out = exp(z - top) / sum, one thread per row.

    Parameters
    ----------
    outputs, out : vectors, shape (rows * k,)
        They must not be the same.
    rows, k : int
    """
    for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
        top, _, total = row_exponentials(outputs, r * k, k)
        for j in range(k):
            out[r * k + j] = exp(outputs[r * k + j] - top) / total


@kernel(THREADS)
def sums_kernel(d: Any, rows: int, k: int, out: Any, part_rows: int) -> None:
    """Sum the rows of a matrix in parts: one thread per column, one block row per part.

    Parameters
    ----------
    d : vector, shape (rows * k,)
        The matrix (rows, k).
    rows, k : int
    out : vector, shape (parts * k,)
        Written: row y has the sums of rows ``y * part_rows`` on. The grid has ``parts`` block rows, and as many columns
        of blocks as k needs.
    part_rows : int
        Rows of a part; the last may have fewer.
    """
    j, part = cuda.grid(2)[0], cuda.blockIdx.y
    if j < k:
        out[part * k + j] = column_sum(d, j, k, part * part_rows, min(rows, (part + 1) * part_rows))


@kernel(THREADS)
def reduce_kernel(parts: Any, count: int, size: int, out: Any) -> None:
    """out = the sum of the parts, in order; elementwise.

    Parameters
    ----------
    parts : vector, shape (count * size,)
    count : int
        Parts, at least 1.
    size : int
    out : vector, shape (size,)
        Written.
    """
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = sum_of_parts(parts, i, count, size)


@kernel(THREADS)
def finite_kernel(z: Any, size: int, result: Any) -> None:
    """Set result to 1 if an element is NaN or infinite, otherwise leave it unchanged; any grid.

    Parameters
    ----------
    z : vector of ``size`` elements
    size : int
    result : vector of int64, shape (1,)
        Every thread that writes it writes the same value.
    """
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        if not isfinite(z[i]):
            result[0] = 1


@kernel(THREADS)
def update_kernel(code: int, vectors: int, p: Any, g: Any, s: Any, t: Any, size: int, constants: Any) -> None:
    """Take one step of an update rule; elementwise, with `update_element`.

    Parameters
    ----------
    code : int
        Code of the OptimizerSpec.
    vectors : int
        State vectors of the rule, 0 to 2.
    p, g : vectors, shape (size,)
        Parameters, updated in place; gradient.
    s, t : vectors, shape (size,)
        First and second state vector, updated in place; one that the rule lacks is left alone, and may be any vector.
    size : int
    constants : tuple of float, length CONSTANTS
        The result of `rules.constants`, in the vectors' dtype.
    """
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        update_element(code, vectors, (p, s, t), (i, i, i), g[i], constants)
