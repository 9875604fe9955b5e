"""The phases of a training step on the device, and their two ways to run: a grid for each, or one block for an epoch.

Imports `cuda`, `cuda_products`, `cuda_steps`, `elementwise` and `plan`. A step reads::

    gather      the batch's rows of X, in the epoch's order
    products    forward, layer by layer
    losses      loss of every row, and dZ of the last layer
    products    dZ of the layers below; then dW of every layer, in parts
    sums        db of every layer, in the same parts
    update      parts added up in order, l2, the optimizer
    finish      the losses added up; where the epoch stands

Everything lies in two buffers, one of the network's dtype and one of integers, and a kernel gets offsets; the step's
number, its rows and its learning rate are read on the device, so that every step is the same launches: a graph.

``resident`` does all steps of an epoch in one launch of one block, for networks so small that a launch, some 2 us even
in a graph, costs more than what it does: a barrier of a block costs about a hundredth of that.
"""

from math import sqrt
from typing import Any

import numpy as np

from ..engine.backend import PROGRESS
from ..specs.activations import IDENTITY
from .activations import slope
from .device import cuda, device, kernel
from .gemm import BATCH_ROWS, K, M, N, finish
from .gemm import A as A_AT
from .gemm import B as B_AT
from .rules import CONSTANTS, update_element
from .steps import THREADS, block_sum, row_gradient, row_loss

# The device holds the fields of PROGRESS, all int64, as a vector with BATCH_ROWS behind them.
ROW, ROWS, CORRECT, DONE, STEP = map(PROGRESS.names.index, ("row", "rows", "correct", "done", "step"))  # type: ignore[union-attr]

# Places in the device's book of a step.
INPUTS, OUTPUTS, LOSS, OUT_CODE, OPTIMIZER, BATCH, ORDERED, WEIGHTED, TRAINS, FIRST_ROW, LAYERS, FORWARDS = range(12)
GATHERED, A_LAST, Z_LAST, D_LAST, LOSSES, PARTS, PART_COUNT, PARAMETERS, L2_AT, CLIPS, STATE, GRADIENT = range(12, 24)
VECTORS, SCALE, COUNT = range(24, 27)
BOOK = 27

# Columns of the table of bias sums, a row a layer.
D_AT, NEURONS, TO = range(3)

RATES = CONSTANTS + 1
"""Columns of the table of rates, a row a step: the update rule's constants, 1 / the batch's weight."""


@device
def _gather(t: int, threads: int, flat: Any, book: Any, progress: Any, X: Any, order: Any) -> None:
    rows, n, start = progress[BATCH_ROWS], book[INPUTS], progress[ROW]
    for e in range(t, rows * n, threads):
        r = e // n
        at = order[start + r] if book[ORDERED] > 0 else start + r - book[FIRST_ROW]
        flat[book[GATHERED] + e] = X[at * n + e - r * n]


@device
def _losses(t: int, threads: int, flat: Any, book: Any, progress: Any, correct: Any, data: Any, rates: Any) -> None:
    targets, labels, weights, order = data
    rows, k, start = progress[BATCH_ROWS], book[OUTPUTS], progress[ROW]
    one = flat.dtype.type(1)
    inverse = rates[start // book[BATCH] * RATES + CONSTANTS]
    for r in range(t, rows, threads):
        y, at_weight = start + r - book[FIRST_ROW], start + r
        if book[ORDERED] > 0:
            y = order[start + r]
            at_weight = y
        weight = weights[at_weight] if book[WEIGHTED] > 0 else one
        loss, right = row_loss(book[LOSS], labels, targets, y, flat, book[A_LAST] + r * k, k)
        flat[book[LOSSES] + r] = loss * weight
        correct[r] = right
        if book[TRAINS] > 0:
            to = book[D_LAST] + r * k
            row_gradient(book[LOSS], labels, targets, y, flat, book[A_LAST] + r * k, k, weight * inverse, flat, to)
            if book[OUT_CODE] != IDENTITY:
                for j in range(k):
                    a, z = flat[book[A_LAST] + r * k + j], flat[book[Z_LAST] + r * k + j]
                    flat[to + j] *= slope(book[OUT_CODE], a, z)


@device
def _sum_columns(t: int, threads: int, part: int, parts: int, flat: Any, book: Any, progress: Any, biases: Any) -> None:
    """One part of db of every layer."""
    rows = progress[BATCH_ROWS]
    each = -(-book[BATCH] // parts)
    top, bottom = part * each, min(rows, (part + 1) * each)
    for layer in range(book[LAYERS]):
        k = biases[layer, NEURONS]
        for j in range(t, k, threads):
            total = flat.dtype.type(0)
            for r in range(top, bottom):
                total += flat[biases[layer, D_AT] + r * k + j]
            flat[biases[layer, TO] + part * book[COUNT] + j] = total


@device
def _gradient(flat: Any, book: Any, i: int) -> Any:
    """One element of the gradient: its parts in order, and l2's share."""
    total = flat[book[PARTS] + i]
    for s in range(1, book[PART_COUNT]):
        total += flat[book[PARTS] + s * book[COUNT] + i]
    if book[L2_AT] >= 0:
        total += flat[book[L2_AT] + i] * flat[book[PARAMETERS] + i]
    return total


@device
def _update(t: int, threads: int, flat: Any, book: Any, progress: Any, rates: Any) -> None:
    place = progress[ROW] // book[BATCH] * RATES
    c = (
        rates[place],
        rates[place + 1],
        rates[place + 2],
        rates[place + 3],
        rates[place + 4],
        rates[place + 5],
        rates[place + 6],
        rates[place + 7],
    )
    p_at, state, size, code, vectors = book[PARAMETERS], book[STATE], book[COUNT], book[OPTIMIZER], book[VECTORS]
    for i in range(t, size, threads):
        g = flat[book[GRADIENT] + i] * flat[book[SCALE]] if book[CLIPS] > 0 else _gradient(flat, book, i)
        update_element(code, vectors, flat, p_at + i, g, flat, state + i, flat, state + size + i, c)


@device
def _squares(t: int, threads: int, flat: Any, book: Any) -> float:
    """The gradient, stored, and this thread's share of its squared length."""
    total = 0.0
    for i in range(t, book[COUNT], threads):
        g = _gradient(flat, book, i)
        flat[book[GRADIENT] + i] = g
        total += float(g) * float(g)
    return total


@device
def _clip(flat: Any, book: Any, squares: float, limit: float) -> None:
    """What the gradient is multiplied by; infinity and NaN must show."""
    norm = sqrt(squares)
    flat[book[SCALE]] = 1.0 if norm <= limit else limit / norm


@device
def _close(t: int, shared: Any, flat: Any, book: Any, progress: Any, totals: Any, correct: Any) -> None:
    """Add up the batch's losses, by one block, and move on."""
    rows = progress[BATCH_ROWS]
    total, right = 0.0, 0.0
    for r in range(t, rows, THREADS):
        total += flat[book[LOSSES] + r]
        right += correct[r]
    total = block_sum(shared, t, total)
    right = block_sum(shared, t, right)
    if t == 0:
        totals[0] += total
        progress[CORRECT] += int(right)
        progress[ROW] += rows
        progress[DONE] = progress[ROW]
        progress[STEP] += book[TRAINS]
        progress[BATCH_ROWS] = min(book[BATCH], progress[ROWS] - progress[ROW])
    cuda.syncthreads()


# -------------------------------------------------------------------------------------- a grid a phase


@kernel(THREADS)
def epoch_gather(flat: Any, book: Any, progress: Any, X: Any, order: Any) -> None:
    """The batch's rows of X."""
    _gather(cuda.grid(1), cuda.gridsize(1), flat, book, progress, X, order)


@kernel(THREADS)
def epoch_losses(
    flat: Any, book: Any, progress: Any, correct: Any, targets: Any, labels: Any, weights: Any, order: Any, rates: Any
) -> None:
    """Losses of the rows, dZ of the last layer."""
    data = targets, labels, weights, order
    _losses(cuda.grid(1), cuda.gridsize(1), flat, book, progress, correct, data, rates)


@kernel(THREADS)
def epoch_sums(flat: Any, book: Any, progress: Any, biases: Any) -> None:
    """db of every layer: block row y sums one part of the rows."""
    parts = cuda.gridDim.y
    t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    _sum_columns(t, cuda.gridDim.x * THREADS, cuda.blockIdx.y, parts, flat, book, progress, biases)


@kernel(THREADS)
def epoch_update(flat: Any, book: Any, progress: Any, rates: Any) -> None:
    """The optimizer's step."""
    _update(cuda.grid(1), cuda.gridsize(1), flat, book, progress, rates)


@kernel(THREADS)
def epoch_squares(flat: Any, book: Any, norms: Any) -> None:
    """The gradient, and each block's share of its squared length."""
    shared = cuda.shared.array(THREADS, np.float64)
    total = block_sum(shared, cuda.threadIdx.x, _squares(cuda.grid(1), cuda.gridsize(1), flat, book))
    if cuda.threadIdx.x == 0:
        norms[cuda.blockIdx.x] = total


@kernel(THREADS)
def epoch_clip(flat: Any, book: Any, norms: Any, count: int, limit: float) -> None:
    """The shares of the squared length, added up by one block, and the scale."""
    shared = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, count, THREADS):
        total += norms[i]
    total = block_sum(shared, cuda.threadIdx.x, total)
    if cuda.threadIdx.x == 0:
        _clip(flat, book, total, limit)


@kernel(THREADS)
def epoch_close(flat: Any, book: Any, progress: Any, totals: Any, correct: Any) -> None:
    """The end of a step; one block."""
    shared = cuda.shared.array(THREADS, np.float64)
    _close(cuda.threadIdx.x, shared, flat, book, progress, totals, correct)


# --------------------------------------------------------------------------------- one block, one launch


@device
def _product(t: int, given: Any, flat: Any, rows: int) -> None:
    """A product by one block, a thread an element."""
    height = rows if given[M] < 0 else given[M]
    depth = rows if given[K] < 0 else given[K]
    columns = given[N]
    for e in range(t, height * columns, THREADS):
        i = e // columns
        n = e - i * columns
        total = flat.dtype.type(0)
        a, b = given[A_AT] + i * given[A_AT + 1], given[B_AT] + n * given[B_AT + 1]
        for k in range(depth):
            total += flat[a + k * given[A_AT + 2]] * flat[b + k * given[B_AT + 2]]
        finish(given, i, n, total, flat, flat, flat, 0)


@kernel(THREADS)
def resident(
    flat: Any,
    book: Any,
    progress: Any,
    totals: Any,
    jobs: Any,
    biases: Any,
    correct: Any,
    X: Any,
    targets: Any,
    labels: Any,
    weights: Any,
    order: Any,
    rates: Any,
    steps: int,
    limit: float,
) -> None:
    """So many steps by one block; jobs as of the grid's products, in their order, with sums in one part."""
    shared = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    data = targets, labels, weights, order
    for _ in range(steps):
        rows = progress[BATCH_ROWS]
        _gather(t, THREADS, flat, book, progress, X, order)
        cuda.syncthreads()
        for j in range(book[FORWARDS]):
            _product(t, jobs[j], flat, rows)
            cuda.syncthreads()
        _losses(t, THREADS, flat, book, progress, correct, data, rates)
        cuda.syncthreads()
        if book[TRAINS] > 0:
            for j in range(book[FORWARDS], jobs.shape[0]):
                _product(t, jobs[j], flat, rows)
                cuda.syncthreads()
            _sum_columns(t, THREADS, 0, 1, flat, book, progress, biases)
            cuda.syncthreads()
            if book[CLIPS] > 0:
                total = block_sum(shared, t, _squares(t, THREADS, flat, book))
                if t == 0:
                    _clip(flat, book, total, limit)
                cuda.syncthreads()
            _update(t, THREADS, flat, book, progress, rates)
            cuda.syncthreads()
        _close(t, shared, flat, book, progress, totals, correct)
