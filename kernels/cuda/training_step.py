"""The phases of a training step on the device, and their two ways to run: a grid for each, or one block for an epoch.

A step is::

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

from ..specs.activations import IDENTITY
from .activations import slope
from .device import cuda, device, kernel
from .gemm import finish
from .rules import CONSTANTS, update_element
from .steps import THREADS, block_sum, row_gradient, row_loss

CONTEXT = np.dtype(
    [
        (name, "i8")
        for name in (
            # The network and the call.
            *("inputs", "outputs", "layers"),
            *("loss", "out_code", "optimizer"),  # codes of specs; out_code is the last layer's activation
            "batch",  # rows of a step
            *("ordered", "weighted", "trains", "clips"),  # 0 or 1
            "first_row",  # of the epoch, that X begins with
            "forwards",  # forward products at the head of the table of products
            "part_count",  # parts in which dW and db are summed
            "vectors",  # state vectors of the optimizer
            "count",  # parameters, P
            # Offsets in the buffer of floats, in elements.
            "gathered",  # the batch's X (batch, inputs)
            *("a_last", "z_last", "d_last"),  # A, Z, dZ of the last layer
            "losses",  # of the rows (batch,)
            *("parameters", "gradient"),  # (P,)
            "parts",  # parts of the gradient (part_count, P)
            "state",  # (vectors, P)
            "l2",  # l2 for each parameter (P,); negative: none
            "scale",  # what the gradient is multiplied by
        )
    ],
    align=True,
)
"""What the phases of a step read."""

BIAS_SUM = np.dtype([("dz", "i8"), ("neurons", "i8"), ("to", "i8")], align=True)
"""The sum of a layer's db: offset of dZ, columns, offset of the first part's db."""

RATES = CONSTANTS + 1
"""Columns of the table of rates, a row a step: the update rule's constants, 1 / the batch's weight."""


@device
def _gather(t: int, threads: int, flat: Any, context: Any, progress: Any, X: Any, order: Any) -> None:
    rows, n, start = progress[0].batch_rows, context.inputs, progress[0].row
    for e in range(t, rows * n, threads):
        r = e // n
        at = order[start + r] if context.ordered > 0 else start + r - context.first_row
        flat[context.gathered + e] = X[at * n + e - r * n]


@device
def _losses(t: int, threads: int, flat: Any, context: Any, progress: Any, correct: Any, data: Any, rates: Any) -> None:
    targets, labels, weights, order = data
    rows, k, start = progress[0].batch_rows, context.outputs, progress[0].row
    one = flat.dtype.type(1)
    inverse = rates[start // context.batch * RATES + CONSTANTS]
    for r in range(t, rows, threads):
        y, at_weight = start + r - context.first_row, start + r
        if context.ordered > 0:
            y = order[start + r]
            at_weight = y
        weight = weights[at_weight] if context.weighted > 0 else one
        loss, right = row_loss(context.loss, labels, targets, y, flat, context.a_last + r * k, k)
        flat[context.losses + r] = loss * weight
        correct[r] = right
        if context.trains > 0:
            to = context.d_last + r * k
            row_gradient(context.loss, labels, targets, y, flat, context.a_last + r * k, k, weight * inverse, flat, to)
            if context.out_code != IDENTITY:
                for j in range(k):
                    a, z = flat[context.a_last + r * k + j], flat[context.z_last + r * k + j]
                    flat[to + j] *= slope(context.out_code, a, z)


@device
def _sum_columns(
    t: int, threads: int, part: int, parts: int, flat: Any, context: Any, progress: Any, biases: Any
) -> None:
    """One part of db of every layer."""
    rows = progress[0].batch_rows
    each = -(-context.batch // parts)
    top, bottom = part * each, min(rows, (part + 1) * each)
    for layer in range(context.layers):
        k = biases[layer].neurons
        for j in range(t, k, threads):
            total = flat.dtype.type(0)
            for r in range(top, bottom):
                total += flat[biases[layer].dz + r * k + j]
            flat[biases[layer].to + part * context.count + j] = total


@device
def _gradient(flat: Any, context: Any, i: int) -> Any:
    """One element of the gradient: its parts in order, and l2's share."""
    total = flat[context.parts + i]
    for s in range(1, context.part_count):
        total += flat[context.parts + s * context.count + i]
    if context.l2 >= 0:
        total += flat[context.l2 + i] * flat[context.parameters + i]
    return total


@device
def _update(t: int, threads: int, flat: Any, context: Any, progress: Any, rates: Any) -> None:
    place = progress[0].row // context.batch * RATES
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
    p_at, state, size, code, vectors = (
        context.parameters,
        context.state,
        context.count,
        context.optimizer,
        context.vectors,
    )
    for i in range(t, size, threads):
        g = flat[context.gradient + i] * flat[context.scale] if context.clips > 0 else _gradient(flat, context, i)
        update_element(code, vectors, flat, p_at + i, g, flat, state + i, flat, state + size + i, c)


@device
def _squares(t: int, threads: int, flat: Any, context: Any) -> float:
    """The gradient, stored, and this thread's share of its squared length."""
    total = 0.0
    for i in range(t, context.count, threads):
        g = _gradient(flat, context, i)
        flat[context.gradient + i] = g
        total += float(g) * float(g)
    return total


@device
def _clip(flat: Any, context: Any, squares: float, limit: float) -> None:
    """What the gradient is multiplied by; infinity and NaN must show."""
    norm = sqrt(squares)
    flat[context.scale] = 1.0 if norm <= limit else limit / norm


@device
def _close(t: int, shared: Any, flat: Any, context: Any, progress: Any, totals: Any, correct: Any) -> None:
    """Add up the batch's losses, by one block, and move on."""
    rows = progress[0].batch_rows
    total, right = 0.0, 0.0
    for r in range(t, rows, THREADS):
        total += flat[context.losses + r]
        right += correct[r]
    total = block_sum(shared, t, total)
    right = block_sum(shared, t, right)
    if t == 0:
        totals[0] += total
        progress[0].correct += int(right)
        progress[0].row += rows
        progress[0].done = progress[0].row
        progress[0].step += context.trains
        progress[0].batch_rows = min(context.batch, progress[0].rows - progress[0].row)
    cuda.syncthreads()


# -------------------------------------------------------------------------------------- a grid a phase


@kernel(THREADS)
def epoch_gather(flat: Any, context: Any, progress: Any, X: Any, order: Any) -> None:
    """The batch's rows of X."""
    _gather(cuda.grid(1), cuda.gridsize(1), flat, context[0], progress, X, order)


@kernel(THREADS)
def epoch_losses(
    flat: Any,
    context: Any,
    progress: Any,
    correct: Any,
    targets: Any,
    labels: Any,
    weights: Any,
    order: Any,
    rates: Any,
) -> None:
    """Losses of the rows, dZ of the last layer."""
    data = targets, labels, weights, order
    _losses(cuda.grid(1), cuda.gridsize(1), flat, context[0], progress, correct, data, rates)


@kernel(THREADS)
def epoch_sums(flat: Any, context: Any, progress: Any, biases: Any) -> None:
    """db of every layer: block row y sums one part of the rows."""
    parts = cuda.gridDim.y
    t = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    _sum_columns(t, cuda.gridDim.x * THREADS, cuda.blockIdx.y, parts, flat, context[0], progress, biases)


@kernel(THREADS)
def epoch_update(flat: Any, context: Any, progress: Any, rates: Any) -> None:
    """The optimizer's step."""
    _update(cuda.grid(1), cuda.gridsize(1), flat, context[0], progress, rates)


@kernel(THREADS)
def epoch_squares(flat: Any, context: Any, norms: Any) -> None:
    """The gradient, and each block's share of its squared length."""
    shared = cuda.shared.array(THREADS, np.float64)
    total = block_sum(shared, cuda.threadIdx.x, _squares(cuda.grid(1), cuda.gridsize(1), flat, context[0]))
    if cuda.threadIdx.x == 0:
        norms[cuda.blockIdx.x] = total


@kernel(THREADS)
def epoch_clip(flat: Any, context: Any, norms: Any, count: int, limit: float) -> None:
    """The shares of the squared length, added up by one block, and the scale."""
    shared = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, count, THREADS):
        total += norms[i]
    total = block_sum(shared, cuda.threadIdx.x, total)
    if cuda.threadIdx.x == 0:
        _clip(flat, context[0], total, limit)


@kernel(THREADS)
def epoch_close(flat: Any, context: Any, progress: Any, totals: Any, correct: Any) -> None:
    """The end of a step; one block."""
    shared = cuda.shared.array(THREADS, np.float64)
    _close(cuda.threadIdx.x, shared, flat, context[0], progress, totals, correct)


# --------------------------------------------------------------------------------- one block, one launch


@device
def _product(t: int, args: Any, flat: Any, rows: int) -> None:
    """A product by one block, a thread an element."""
    height = rows if args.m < 0 else args.m
    depth = rows if args.k < 0 else args.k
    columns = args.n
    for e in range(t, height * columns, THREADS):
        i = e // columns
        n = e - i * columns
        total = flat.dtype.type(0)
        a, b = args.a + i * args.a_long, args.b + n * args.b_long
        for k in range(depth):
            total += flat[a + k * args.a_k] * flat[b + k * args.b_k]
        finish(args, i, n, total, flat, flat, flat, 0)


@kernel(THREADS)
def resident(
    flat: Any,
    context: Any,
    progress: Any,
    totals: Any,
    gemms: Any,
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
    """Run ``steps`` steps in one block. ``gemms``: GEMM_ARGS of a step's products, in order; sums have one part."""
    shared = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    data = targets, labels, weights, order
    for _ in range(steps):
        rows = progress[0].batch_rows
        _gather(t, THREADS, flat, context[0], progress, X, order)
        cuda.syncthreads()
        for j in range(context[0].forwards):
            _product(t, gemms[j], flat, rows)
            cuda.syncthreads()
        _losses(t, THREADS, flat, context[0], progress, correct, data, rates)
        cuda.syncthreads()
        if context[0].trains > 0:
            for j in range(context[0].forwards, gemms.shape[0]):
                _product(t, gemms[j], flat, rows)
                cuda.syncthreads()
            _sum_columns(t, THREADS, 0, 1, flat, context[0], progress, biases)
            cuda.syncthreads()
            if context[0].clips > 0:
                total = block_sum(shared, t, _squares(t, THREADS, flat, context[0]))
                if t == 0:
                    _clip(flat, context[0], total, limit)
                cuda.syncthreads()
            _update(t, THREADS, flat, context[0], progress, rates)
            cuda.syncthreads()
        _close(t, shared, flat, context[0], progress, totals, correct)
