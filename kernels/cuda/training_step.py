"""The phases of a training step on the device, and two ways to run them: a grid per phase, or one block per epoch.

A step is::

    gather      the batch's rows of X, in the epoch's order
    products    forward, layer by layer; each hidden layer's dropout after it
    losses      loss of every row, and dZ of the last layer
    products    dZ of the layers below, with dropout; then dW of every layer, in parts
    sums        db of every layer, in the same parts
    clip        if the gradient's norm has a limit: parts added up in order, l2, the norm, a scale
    penalty     if it is reported: squares of the weights
    update      the optimizer, on the gradient that clip scaled, or on parts added up in order, with l2
    close       losses and penalty added up; the epoch's position

All data lie in two buffers, one of the network's dtype and one of integers, and a kernel gets offsets. Kernels read the
step's number, its rows and its learning rate on the device, so every step has the same launches and can be a graph.

``resident`` runs all steps of an epoch in one launch of one block, for networks so small that a launch, some 2 us even
in a graph, costs more than its work; a barrier of a block costs about a hundredth of that.
"""

from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import record
from ..specs import dropout
from ..specs.activations import IDENTITY
from .activations import slope
from .device import CUDA_KERNELS, cuda, device, kernel
from .gemm import store_epilogue
from .rules import INVERSE_WEIGHT, L2, MAX_ROW_LOSS, RATES, update_element
from .steps import THREADS, Row, block_sum, column_sum, row_gradient, row_loss, sum_of_parts

DEVICE_CONTEXT = record(
    "inputs outputs layers loss out_code optimizer batch ordered weighted trains clips first_row",
    "vectors count gathered a_last z_last d_last losses parameters gradient state is_weight scale dropout_key",
    floats="clip_norm l2_per_batch",
)
"""The parameters that the phases of a step read.

- inputs, outputs, layers: of the network
- loss, out_code, optimizer: codes of specs; out_code is the last layer's activation
- batch: rows of a step
- ordered, weighted, trains, clips: 0 or 1
- first_row: row of the epoch that X begins with; 0 if rows are ordered
- vectors: state vectors of the optimizer
- count: parameters, P
- clip_norm: limit on the gradient's norm
- dropout_key: dropout's key, derived from the seed
- l2_per_batch: an l2 that each batch divides by its weight; its penalty is reported

Offsets in the buffer of floats, in elements:

- gathered: the batch's X (batch, inputs)
- a_last, z_last, d_last: A, Z, dZ of the last layer
- losses: of the rows (batch,)
- parameters, gradient: (P,)
- state: (vectors, P)
- is_weight: 1 for each weight, 0 for each bias (P,); negative: no l2
- scale: factor by which clipping multiplies the gradient
"""

LAYER_SUMS = record("dz neurons begin count parts to")
"""Location of the parts of a layer's gradient, whose number suits the layer's product.

- dz, neurons: offset of dZ, and its columns
- begin, count: the layer's first parameter, and how many it has: W, then b
- parts, to: parts of the sum, and the offset of the first; each has ``count`` elements, dW and then db
"""

DROPOUT = record("source target columns layer threshold", floats="scale")
"""Dropout after the product of the same number; a threshold of 0 means none.

- source, target: offsets of the matrix (batch, columns) and of the result, which may be the same
- layer, threshold, scale: number of the layer, and its constants of `specs.dropout`
"""


class StepArrays(NamedTuple):
    """The arrays of a step, which every phase gets; all are contiguous vectors on the device."""

    flat: Any  # the buffer of floats
    context: Any  # a record DEVICE_CONTEXT
    progress: Any  # a record DEVICE_PROGRESS
    totals: Any  # float64 (3,): the epoch's loss; OBJECTIVE's mean_loss and penalty
    gemms: Any  # GEMM_ARGS of the products: forward, dZ from the last layer on, dW
    sums: Any  # LAYER_SUMS of every layer
    drops: Any  # DROPOUT of every product
    correct: Any  # int64 (batch,): correct answers of the rows
    norms: Any  # float64: each block's share of a squared norm: of the gradient, then of the weights
    X: Any
    targets: Any
    labels: Any
    weights: Any
    order: Any
    rates: Any  # the rate table, one row per step


# ------------------------------------------------------------------------------------------- the phases


@kernel(THREADS)
def epoch_gather(step: StepArrays) -> None:
    """Copy the batch's rows of X to ``gathered``, in the epoch's order; one thread per element, any grid."""
    context, rows, n, start = step.context[0], step.progress[0].batch_rows, step.context[0].inputs, step.progress[0].row
    for e in range(cuda.grid(1), rows * n, cuda.gridsize(1)):
        r = e // n
        at = step.order[start + r] if context.ordered > 0 else start + r
        step.flat[context.gathered + e] = step.X[(at - context.first_row) * n + e - r * n]


_mixed = device(dropout.mixed)
_folded = device(dropout.folding(_mixed))


@kernel(THREADS)
def epoch_dropout(step: StepArrays, index: int) -> None:
    """Apply dropout to the result of product ``index``, or copy it when not training; one thread per element."""
    flat, context, progress, drop = step.flat, step.context[0], step.progress[0], step.drops[index]
    zero, factor, columns = flat.dtype.type(0), flat.dtype.type(drop.scale), drop.columns
    key = _folded(_folded(np.uint64(context.dropout_key), np.uint64(progress.step)), np.uint64(drop.layer))
    for e in range(cuda.grid(1), progress.batch_rows * columns, cuda.gridsize(1)):
        row = e // columns
        value = flat[drop.source + e]
        if context.trains > 0:
            bits = _mixed(_folded(key, np.uint64(row)) ^ np.uint64(e - row * columns))
            value = value * factor if bits >= np.uint64(drop.threshold) else zero
        flat[drop.target + e] = value


@kernel(THREADS)
def epoch_losses(step: StepArrays) -> None:
    """Store losses and correct answers of the batch's rows and, if it trains, the last layer's dZ; a thread per row.

    A row's loss is capped, then multiplied by its sample weight; its dZ is multiplied by that weight / the batch's.
    """
    flat, context, start, k = step.flat, step.context[0], step.progress[0].row, step.context[0].outputs
    one = flat.dtype.type(1)
    at_rates = start // context.batch * RATES
    inverse, limit = step.rates[at_rates + INVERSE_WEIGHT], step.rates[at_rates + MAX_ROW_LOSS]
    for r in range(cuda.grid(1), step.progress[0].batch_rows, cuda.gridsize(1)):
        at = step.order[start + r] if context.ordered > 0 else start + r
        weight = step.weights[at] if context.weighted > 0 else one
        y = at - context.first_row
        row = Row(context.loss, step.labels, step.targets, y, flat, context.a_last + r * k, k)
        loss, right = row_loss(row)
        flat[context.losses + r] = (limit if loss > limit else loss) * weight
        step.correct[r] = right
        if context.trains > 0:
            to = context.d_last + r * k
            row_gradient(row, weight * inverse, flat, to)
            if context.out_code != IDENTITY:
                for j in range(k):
                    a, z = flat[context.a_last + r * k + j], flat[context.z_last + r * k + j]
                    flat[to + j] *= slope(context.out_code, a, z)


@kernel(THREADS)
def epoch_sums(step: StepArrays) -> None:
    """Store every part of every layer's db: block row y sums part y of the rows, if the layer has one."""
    context, part = step.context[0], cuda.blockIdx.y
    for layer in range(context.layers):
        sums = step.sums[layer]
        if part < sums.parts:
            each, to = -(-context.batch // sums.parts), sums.to + (part + 1) * sums.count - sums.neurons
            top, bottom = part * each, min(step.progress[0].batch_rows, (part + 1) * each)
            for j in range(cuda.grid(1), sums.neurons, cuda.gridsize(1)):
                step.flat[to + j] = column_sum(step.flat, sums.dz + j, sums.neurons, top, bottom)


@device
def _gradient_element(step: StepArrays, sums: Any, i: int) -> Any:
    """Return element i of the gradient, in the layer of ``sums``: its parts in order, plus l2's. For one thread."""
    context = step.context[0]
    total = sum_of_parts(step.flat, sums.to + i - sums.begin, sums.parts, sums.count)
    if context.is_weight >= 0:
        l2 = step.rates[step.progress[0].row // context.batch * RATES + L2]
        total += step.flat[context.is_weight + i] * l2 * step.flat[context.parameters + i]
    return total


@kernel(THREADS)
def epoch_update(step: StepArrays) -> None:
    """Take the optimizer's step with `update_element`; one thread per parameter, any grid."""
    flat, context, r = step.flat, step.context[0], step.rates
    at = step.progress[0].row // context.batch * RATES
    c = r[at], r[at + 1], r[at + 2], r[at + 3], r[at + 4], r[at + 5], r[at + 6], r[at + 7]
    p_at, s_at, t_at = context.parameters, context.state, context.state + context.count
    code, vectors = context.optimizer, context.vectors
    for layer in range(context.layers):
        sums = step.sums[layer]
        for i in range(sums.begin + cuda.grid(1), sums.begin + sums.count, cuda.gridsize(1)):
            if context.clips > 0:
                g = flat[context.gradient + i] * flat[context.scale]
            else:
                g = _gradient_element(step, sums, i)
            update_element(code, vectors, (flat, flat, flat), (p_at + i, s_at + i, t_at + i), g, c)


@device
def _squares(step: StepArrays) -> float:
    """Store the gradient, and return this block's share of its squared norm, float64, to every thread.

    All threads of a block must call it: it has an array in shared memory and the barriers of `block_sum`.
    """
    shared = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for layer in range(step.context[0].layers):
        sums = step.sums[layer]
        for i in range(sums.begin + cuda.grid(1), sums.begin + sums.count, cuda.gridsize(1)):
            g = _gradient_element(step, sums, i)
            step.flat[step.context[0].gradient + i] = g
            total += float(g) * float(g)
    return block_sum(shared, total)


@device
def _clip(step: StepArrays, squares: float) -> None:
    """Store the factor of the gradient: 1, or clip_norm / its norm; infinity and NaN in the gradient become NaN.

    All threads of one block may call it; thread 0 stores the factor, and the caller provides the barrier.
    """
    if cuda.threadIdx.x == 0:
        norm, limit = sqrt(squares), step.context[0].clip_norm
        step.flat[step.context[0].scale] = 1.0 if norm <= limit else limit / norm


@kernel(THREADS)
def epoch_squares(step: StepArrays) -> None:
    """Store the gradient, and each block's share of its squared norm in ``norms``; any grid."""
    total = _squares(step)
    if cuda.threadIdx.x == 0:
        step.norms[cuda.blockIdx.x] = total


@kernel(THREADS)
def epoch_clip(step: StepArrays) -> None:
    """Add up the shares of the squared norm in one block, in a fixed order, and store the scale."""
    shared = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, step.norms.size, THREADS):
        total += step.norms[i]
    _clip(step, block_sum(shared, total))


@kernel(THREADS)
def epoch_penalty(step: StepArrays) -> None:
    """Store each block's share of the squared norm of all weights, before the update, in ``norms``; any grid."""
    context, flat = step.context[0], step.flat
    shared = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.grid(1), context.count, cuda.gridsize(1)):
        w = float(flat[context.is_weight + i] * flat[context.parameters + i])
        total += w * w
    total = block_sum(shared, total)
    if cuda.threadIdx.x == 0:
        step.norms[cuda.blockIdx.x] = total


@kernel(THREADS)
def epoch_close(step: StepArrays) -> None:
    """Add the batch's losses and correct answers to the epoch's, in one block, and move on to the next batch."""
    context, progress = step.context[0], step.progress[0]
    rows = progress.batch_rows
    shared = cuda.shared.array(THREADS, np.float64)
    total, right = 0.0, 0.0
    for r in range(cuda.threadIdx.x, rows, THREADS):
        total += step.flat[context.losses + r]
        right += step.correct[r]
    total, right, squares = block_sum(shared, total), block_sum(shared, right), 0.0
    if context.l2_per_batch > 0 and context.trains > 0:  # else no phase has written norms
        for i in range(cuda.threadIdx.x, step.norms.size, THREADS):
            squares += step.norms[i]
        squares = block_sum(shared, squares)
    if cuda.threadIdx.x == 0:
        mean = rows * float(step.rates[progress.row // context.batch * RATES + INVERSE_WEIGHT])
        step.totals[0] += total
        step.totals[1] += total * mean
        step.totals[2] += context.l2_per_batch / 2 * squares * mean
        progress.correct += int(right)
        progress.row += rows
        progress.done = progress.row
        progress.step += context.trains
        progress.batch_rows = min(context.batch, progress.rows - progress.row)


# --------------------------------------------------------------------------------- one block, one launch

_gather, _dropout, _losses, _sums, _penalty, _update, _close = (
    device(CUDA_KERNELS[f"epoch_{phase}"][0])
    for phase in ("gather", "dropout", "losses", "sums", "penalty", "update", "close")
)


@device
def _block_product(step: StepArrays, index: int) -> None:
    """Compute C = A B with its epilogue in one block, one thread per element and no split-K; then apply dropout.

    All threads of the block must call it: it ends with a barrier.

    Parameters
    ----------
    step : StepArrays
        ``flat`` holds A, B and C.
    index : int
        Number of the product.
    """
    args = step.gemms[index]
    rows, columns, flat = step.progress[0].batch_rows, args.n, step.flat
    height = rows if args.m < 0 else args.m
    depth = rows if args.k < 0 else args.k
    for e in range(cuda.threadIdx.x, height * columns, THREADS):
        i = e // columns
        n = e - i * columns
        total = flat.dtype.type(0)
        a, b = args.a + i * args.a_long, args.b + n * args.b_long
        for k in range(depth):
            total += flat[a + k * args.a_k] * flat[b + k * args.b_k]
        store_epilogue(args, i, n, total, flat, flat, flat, 0)
    cuda.syncthreads()
    if step.drops[index].threshold > 0:
        _dropout(step, index)
        cuda.syncthreads()


@kernel(THREADS)
def resident(step: StepArrays, steps: int) -> None:
    """Run whole steps, one after the other, in one block; barriers separate the phases.

    Parameters
    ----------
    step : StepArrays
        Every layer's sums have one part.
    steps : int
        Number of steps, not beyond the epoch's end.
    """
    layers = step.context[0].layers
    for _ in range(steps):
        _gather(step)
        cuda.syncthreads()
        for j in range(layers):
            _block_product(step, j)
        _losses(step)
        cuda.syncthreads()
        if step.context[0].trains > 0:
            for j in range(layers, step.gemms.shape[0]):
                _block_product(step, j)
            _sums(step)
            cuda.syncthreads()
            if step.context[0].clips > 0:
                _clip(step, _squares(step))
                cuda.syncthreads()
            if step.context[0].l2_per_batch > 0:
                _penalty(step)
                cuda.syncthreads()
            _update(step)
            cuda.syncthreads()
        _close(step)
        cuda.syncthreads()
