"""What a training step does besides its products, on the device: losses, sums, updates; and the table's CUDA variants.

Elementwise work is written once, as a function of one element or row that kernels call: those here, of one operation
each, and those of `training_step`. The formulas are the specs'.

Sums over rows are float64, each thread's in order and then a tree over the threads of one block: the bits do not
depend on who is first. No atomics anywhere.
"""

from functools import cache, partial
from math import exp, log
from typing import Any, NamedTuple

import numpy as np

from ..specs.activations import ACTIVATIONS
from ..specs.losses import CROSS_ENTROPY, LOSS_BY_CODE, LOSSES
from ..specs.optimizers import HYPER_SIZE, UPDATES, UpdateSpec
from .activations import activate, derivative
from .arguments import DEVICE_PROGRESS, gemm_args
from .device import SIMULATED, cuda, device, empty, kernel
from .launch import GEMM_VARIANTS, SMS, TILES, launch
from .rules import constants, is_correct, loss_slope, loss_value, update_element

THREADS = 8 if SIMULATED else 256
"""Of a block of elementwise work; a power of two, for the trees."""

# ---------------------------------------------------------------------------------- one row, one element


class Row(NamedTuple):
    """One row of a batch: its outputs begin at ``at``; ``y``: its place among labels, its targets begin at y k."""

    code: int  # of the loss
    labels: Any
    targets: Any
    y: int
    outputs: Any
    at: int
    k: int


@device
def row_exponentials(outputs: Any, at: int, k: int) -> Any:
    """A row's largest output, NaN counting as largest; where the first of it stands; the sum of exp(z - largest)."""
    top, where = outputs[at], 0
    for j in range(1, k):
        z = outputs[at + j]
        if z > top or (z != z and top == top):
            top, where = z, j
    total = top - top
    for j in range(k):
        total += exp(outputs[at + j] - top)
    return top, where, total


@device
def row_loss(row: Row) -> Any:
    """Loss of a row, summed over its outputs, and how many answers are right."""
    outputs, at, k = row.outputs, row.at, row.k
    total, right = outputs.dtype.type(0), 0
    if row.code == CROSS_ENTROPY:
        label = row.labels[row.y]
        top, where, exponentials = row_exponentials(outputs, at, k)
        total = log(exponentials) + (top - outputs[at + label])
        right = 1 if where == label else 0
    else:
        for j in range(k):
            z, truth = outputs[at + j], row.targets[row.y * k + j]
            total += loss_value(row.code, z, truth)
            if is_correct(row.code, z, truth):
                right += 1
    return total, right


@device
def row_gradient(row: Row, share: Any, d: Any, to: int) -> None:
    """The derivative of a row's loss with respect to its outputs, times what the row counts."""
    outputs, at, k = row.outputs, row.at, row.k
    zero, one = outputs.dtype.type(0), outputs.dtype.type(1)
    if row.code == CROSS_ENTROPY:
        label = row.labels[row.y]
        top, _, total = row_exponentials(outputs, at, k)
        scale = one / total
        for j in range(k):
            d[to + j] = (exp(outputs[at + j] - top) * scale - (one if j == label else zero)) * share
        return
    for j in range(k):
        d[to + j] = loss_slope(row.code, outputs[at + j], row.targets[row.y * k + j]) * share


@device
def block_sum(shared: Any, value: Any) -> Any:
    """Sum over a block's threads, by a tree, in float64; every thread gets it.

    ``shared``: THREADS elements, the caller's, since a function with an array in shared memory can be linked only once.
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
    """Sum of rows top to bottom of a column of d (rows, k), whose first element is at ``at``."""
    total = d.dtype.type(0)
    for r in range(top, bottom):
        total += d[at + r * k]
    return total


@device
def sum_of_parts(parts: Any, at: int, count: int, step: int) -> Any:
    """Sum of an element's parts, in order."""
    total = parts[at]
    for s in range(1, count):
        total += parts[at + s * step]
    return total


# --------------------------------------------------------------------------------- one operation each


@kernel(THREADS)
def activation_kernel(code: int, derives: bool, z: Any, out: Any, size: int) -> None:
    """out = activation(z), or its derivative there."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = derivative(code, z[i]) if derives else activate(code, z[i])


@kernel(THREADS)
def gate_kernel(code: int, z: Any, d: Any, out: Any, size: int) -> None:
    """out = d * activation'(z)."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = d[i] * derivative(code, z[i])


@kernel(THREADS)
def loss_kernel(code: int, labels: Any, targets: Any, outputs: Any, rows: int, k: int, count: int, result: Any) -> None:
    """result = sum of all rows' losses / count; with a count below 0, right answers / -count. One block."""
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
    """The derivative of the mean over rows, a thread a row."""
    share = outputs.dtype.type(1) / outputs.dtype.type(rows)
    for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
        row_gradient(Row(code, labels, targets, r, outputs, r * k, k), share, out, r * k)


@kernel(THREADS)
def softmax_kernel(outputs: Any, out: Any, rows: int, k: int) -> None:
    """exp(z - top) / sum, a thread a row."""
    for r in range(cuda.grid(1), rows, cuda.gridsize(1)):
        top, _, total = row_exponentials(outputs, r * k, k)
        for j in range(k):
            out[r * k + j] = exp(outputs[r * k + j] - top) / total


@kernel(THREADS)
def sums_kernel(d: Any, rows: int, k: int, out: Any, part_rows: int) -> None:
    """Sums over the rows of d (rows, k): block row y adds its part and stores it in row y of out."""
    j, part = cuda.grid(2)[0], cuda.blockIdx.y
    if j < k:
        out[part * k + j] = column_sum(d, j, k, part * part_rows, min(rows, (part + 1) * part_rows))


@kernel(THREADS)
def reduce_kernel(parts: Any, count: int, size: int, out: Any) -> None:
    """out = the sum of the parts, in order."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = sum_of_parts(parts, i, count, size)


@kernel(THREADS)
def update_kernel(code: int, vectors: int, p: Any, g: Any, s: Any, t: Any, size: int, constants: Any) -> None:
    """One step of an update rule with ``vectors`` state vectors; the others of s and t are left alone."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        update_element(code, vectors, (p, s, t), (i, i, i), g[i], constants)


# ---------------------------------------------------------------------- the table's variants, on device arrays


def blocks(size: int) -> int:
    """Blocks for so many elements: enough to fill a card, no more than that."""
    return max(1, min(-(-size // THREADS), 2 if SIMULATED else 8 * SMS))


def _flat(array: Any) -> tuple[Any, int, int]:
    """An array as a vector, and its strides in elements; of an empty array one element: CUDA rejects empty ones."""
    if array.size == 0:
        return empty(1, array.dtype), 1, 1
    item = array.dtype.itemsize
    strides = tuple(step // item for step in array.strides)
    if array.ndim == 1:
        return array, strides[0], 1
    vector = array if array.flags["C_CONTIGUOUS"] else array.T
    return vector.reshape(array.size), *strides


@cache
def _no_progress() -> Any:
    """What products of fixed sizes get, and never read."""
    return cuda.to_device(np.zeros(1, DEVICE_PROGRESS))


def _product(variant: str, sizes: tuple[int, int, int], a: Any, b: Any, c: Any, splits: int = 1, **rest: int) -> None:
    """C = A B, with ``rest`` of its `GemmArgs`. ``a``, ``b``: A and B as vectors, strides by M or N, and by K."""
    (a, *a_strides), (b, *b_strides) = a, b
    args = gemm_args(sizes, (0, *a_strides), (0, *b_strides), (0, sizes[1]), c.dtype, **rest)
    launch(variant, args, (_no_progress(), a, b, c), splits)


def matmul(variant: str, A: Any, B: Any, out: Any) -> None:
    """C = A B."""
    b, b_k, b_column = _flat(B)
    _product(variant, (A.shape[0], B.shape[1], A.shape[1]), _flat(A), (b, b_column, b_k), _flat(out)[0])


def dense_forward(variant: str, X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """A = activation(X W^T + b). W and b share a buffer, as they do in a network, and so do A and Z."""
    (rows, n), k = X.shape, W.shape[0]
    if rows * k == 0:
        return
    weights, results = empty(k * n + k, X.dtype), empty(2 * rows * k, X.dtype)
    if n:
        weights[: k * n].copy_to_device(_flat(W)[0])
    weights[k * n : k * n + k].copy_to_device(b)
    rest = {"bias": k * n, "code": int(activation), "z": rows * k}
    _product(variant, (rows, k, n), (_flat(X)[0], n, 1), (weights, n, 1), results, **rest)
    _flat(A)[0].copy_to_device(results[: rows * k])
    _flat(Z)[0].copy_to_device(results[rows * k : 2 * rows * k])


def splits_for(dtype: Any, rows: int, columns: int, depth: int) -> int:
    """Parts of a long sum: enough that the grid fills the card, of at least 64 terms; a function of sizes alone."""
    if SIMULATED:
        return max(1, min(3, depth // 4))
    smallest = TILES[np.dtype(dtype).name][-1]
    tiles = -(-rows // smallest.m) * -(-columns // smallest.n)
    return max(1, min(32, SMS // max(1, tiles), depth // 64))


def dense_backward_batch(
    variant: str, X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any
) -> None:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X, by split-K;  db = sum of dZ's rows;  dX = dZ W, where wanted."""
    (rows, n), k, dtype = X.shape, W.shape[0], X.dtype
    dz = empty(rows * k, dtype)
    if rows * k:
        gate_kernel[blocks(rows * k), THREADS](int(activation), _flat(Z)[0], _flat(dL_dA)[0], dz, rows * k)
    splits = splits_for(dtype, k, n, rows)
    part = -(-rows // splits)
    if k * n:
        parts, rest = empty(splits * k * n, dtype), {"split": max(1, part), "split_step": k * n}
        _product(variant, (k, n, rows), (dz, 1, k), (_flat(X)[0], 1, n), parts, splits, **rest)
        reduce_kernel[blocks(k * n), THREADS](parts, splits, k * n, _flat(dW)[0])
    if k:
        parts = empty(splits * k, dtype)
        sums_kernel[(-(-k // THREADS), splits), THREADS](dz, rows, k, parts, part)
        reduce_kernel[blocks(k), THREADS](parts, splits, k, db)
    if dX.size:
        _product(variant, (rows, n, k), (dz, k, 1), (_flat(W)[0], 1, n), _flat(dX)[0])


def apply_activation(code: int, derives: bool, Z: Any, out: Any) -> None:
    """An activation, or its derivative, of a vector."""
    if Z.size:
        activation_kernel[blocks(Z.size), THREADS](code, derives, Z, out, Z.size)


def _rows(code: int, truth: Any, outputs: Any) -> tuple[Any, ...]:
    """What the kernels of losses are given first, up to ``k``."""
    labelled = code == CROSS_ENTROPY
    labels, targets = (truth, empty(1, outputs.dtype)) if labelled else (empty(1, np.int64), _flat(truth)[0])
    return code, labels, targets, _flat(outputs)[0], *outputs.shape


def loss(code: int, counts: bool, truth: Any, outputs: Any, out: Any) -> None:
    """A loss, as it is reported; or the share of right answers."""
    rows, k = outputs.shape
    count = -rows if counts else rows * k if LOSS_BY_CODE[code].mean_over_outputs else rows
    loss_kernel[1, THREADS](*_rows(code, truth, outputs), count, out)


def loss_gradient(code: int, truth: Any, outputs: Any, out: Any) -> None:
    """The derivative of a loss."""
    loss_gradient_kernel[blocks(len(outputs)), THREADS](*_rows(code, truth, outputs), _flat(out)[0])


def softmax(outputs: Any, out: Any) -> None:
    """Softmax of every row."""
    softmax_kernel[blocks(len(outputs)), THREADS](_flat(outputs)[0], _flat(out)[0], *outputs.shape)


def update(operation: UpdateSpec, *arguments: Any) -> None:
    """A step of an optimizer, in place."""
    spec, p, g, state, hyper, rate, step = operation.parse(arguments)
    shared = tuple(map(p.dtype.type, constants(spec, (*hyper, *np.zeros(HYPER_SIZE - len(hyper))), rate, step)))
    first, second, *_ = (*state, g, g)  # what a rule lacks, the kernel leaves alone
    if p.size:
        update_kernel[blocks(p.size), THREADS](spec.code, spec.state_vectors, p, g, first, second, p.size, shared)


_PRODUCTS = (matmul, dense_forward, dense_backward_batch)

VARIANTS: dict[tuple[str, str], Any] = {
    **{(f.__name__, name): partial(f, name) for name in GEMM_VARIANTS for f in _PRODUCTS},
    **{(name, "cuda"): partial(apply_activation, code, False) for code, name in enumerate(ACTIVATIONS)},
    **{(f"{name}_derivative", "cuda"): partial(apply_activation, code, True) for code, name in enumerate(ACTIVATIONS)},
    **{(name, "cuda"): partial(loss, spec.code, False) for name, spec in LOSSES.items()},
    **{(f"{name}_derivative", "cuda"): partial(loss_gradient, spec.code) for name, spec in LOSSES.items()},
    ("accuracy", "cuda"): partial(loss, CROSS_ENTROPY, True),
    ("softmax", "cuda"): softmax,
    **{(name, "cuda"): partial(update, spec) for name, spec in UPDATES.items()},
}
"""The function of every CUDA variant, by operation and name, over device arrays."""
