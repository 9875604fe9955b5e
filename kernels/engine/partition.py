"""Divides a training step into tasks of rows and of weights, and computes the scratch that they need.

Nothing here affects the bits of results. docs/performance-notes/engine.md has reasons and figures for the constants.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu import losses
from ..cpu.gemm import blocking
from ..cpu.gemm.microkernel import NV
from ..cpu.gemm.operands import Matrix, Shape
from ..llvm.builder import LINE, VECTOR
from .backend import Array
from .plan import WEIGHT_TASK, parameter_count, rank_share

TASKS_PER_THREAD = 2
"""Tasks of rows per thread; several, so that a thread that loses its core for a while delays no other thread."""

WEIGHT_TASKS_PER_THREAD = 4
"""Tasks of weights per thread, over all layers: layers differ in size, and so do their tasks."""

WEIGHT_TASK_BYTES = blocking.L2 // 2
"""Most bytes of weights in a task: it transposes the weights that it has just updated while they are in L2."""

WEIGHT_TASK_ROWS = 128
"""Fewest neurons of a task on one thread: tasks of fewer than `blocking.FEW_ROWS`, at most 64, would each read all of X
in place."""

MIN_TASK_ROWS = 4
"""Fewest rows that go through all layers together: fewer leave the FMA units waiting, so use fewer threads instead."""

MAX_TASK_ROWS = 128
"""Most rows that go through all layers together: few enough to stay in L2, enough to pay for reading W."""

MAX_TASK_ROWS_LARGE_W = 256
"""The same if a W is larger than L2 and is packed for every task."""


def partition_weights(layer_sizes: Sequence[int], item: int, threads: int) -> Array:
    """Return WEIGHT_TASK (tasks,), largest first: each layer's rows of W, divided into tasks of about equal size.

    Threads never share a cache line of W^T: storing to a line that another core has just written is slow.
    """
    total, unit = parameter_count(layer_sizes), WEIGHT_TASK_ROWS if threads == 1 else LINE // item
    tasks = max(len(layer_sizes) - 1, -(-total * item // WEIGHT_TASK_BYTES))
    if threads > 1:
        tasks = max(tasks, threads * WEIGHT_TASKS_PER_THREAD)
    found: list[tuple[int, int, int, int]] = []
    for layer, (n, k) in enumerate(pairwise(layer_sizes)):
        units = -(-k // unit)
        parts = min(units, max(1, round(tasks * (n + 1) * k / total)))
        edges = [min(k, units * i // parts * unit) for i in range(parts + 1)]
        found += [(layer, begin, end, n * (end - begin)) for begin, end in pairwise(edges)]
    found.sort(key=lambda task: -task[3])
    return np.array([task[:3] for task in found], WEIGHT_TASK)


def rows_of_task(layer_sizes: Sequence[int], item: int, rows: int, threads: int) -> int:
    """Return the number of rows of a task, for micro-batches of ``rows`` rows."""
    large = max(n * k for n, k in pairwise(layer_sizes)) * item > blocking.L2
    shares = 1 if threads == 1 else threads * (1 if large else TASKS_PER_THREAD)
    return min(MAX_TASK_ROWS_LARGE_W if large else MAX_TASK_ROWS, max(MIN_TASK_ROWS, -(-rows // shares)))


def scratch_elements(
    layers: Array, weight_tasks: Array, task_rows: int, item: int, rows: int, rank: int = 0, ranks: int = 1
) -> int:
    """Return the elements of scratch that a task of rows, or of a layer's weights, needs for packing or for the loss.

    For micro-batches of ``rows`` rows: a shorter one may need more, and so may the lower of a rank's tasks of rows.
    """
    choose: Any = getattr(blocking.choose_blocking, "py_func", blocking.choose_blocking)
    loss_scratch: Any = getattr(losses.scratch_size, "py_func", losses.scratch_size)
    sizes, panel = list(zip(*(layers[name].tolist() for name in ("n_in", "n_out", "panels")), strict=True)), NV * VECTOR
    own = max(0, min(rank_share(rows, ranks), rows - rank * rank_share(rows, ranks)))
    tasks = max(1, -(-own // task_rows))
    heights = {own // tasks, -(-own // tasks)}  # as `task_bounds` cuts them
    nbytes = [loss_scratch(task_rows, sizes[-1][1]) * item]  # which is not checked: an evaluation's tasks may be higher
    packed = Matrix(0, panel, item, -1)
    # W, and X of the first layer, may begin anywhere: address 1.
    for i, (n, k, _) in enumerate(sizes):  # X W^T, whose W^T is packed already, and dX = dZ W but of the first layer
        x = Matrix(0, n * item, item, 0)
        nbytes += [choose(item, Shape(height, k, n), x, packed).buffer_bytes for height in heights]
        if i > 0:
            dz, w = Matrix(0, k * item, item, 0), Matrix(1, n * item, item, panel)
            nbytes += [choose(item, Shape(height, n, k), dz, w).buffer_bytes for height in heights]
    for layer, height in {(layer, end - begin) for layer, begin, end in weight_tasks.tolist()}:  # dW = dZ^T X
        n, k, panels = sizes[layer]
        dz, x = Matrix(0, item, k * item, 0), packed if panels else Matrix(1, n * item, item, panel)
        nbytes.append(choose(item, Shape(height, n, rows), dz, x).buffer_bytes)
    return -(-max(nbytes) // item)
