"""A training step in parts: the very functions of `epoch`, one layer at a time, over and over.

Imports `epoch`, whose functions for rows and for weights these loops call, `losses`, `plan` and `_jit`. For the
profiler alone, which holds them against a step before it times them: called once each, in order, on one thread, they
leave its bits. Each takes the book of an `Engine` that has just trained a batch of at most SLICE_ROWS rows in the order
they lie in, so that the addresses and the workspace in it are of that batch; and, for one layer, a table of one or two.
"""

from typing import Any

import numpy as np

from ..cpu import losses
from ..jit.call_by_address import call
from ..jit.decorator import jit
from .plan import (
    CORRECT_KERNEL,
    CORRECT_OF_TASKS,
    LAYER_COUNT,
    LOSS_KERNEL,
    LOSSES_OF_ROWS,
    ROW_WEIGHTS,
    SCRATCH,
    SCRATCH_PLACE,
    TARGETS_ADDRESS,
    TASK_ROWS,
    WORKSPACE,
    A,
    D,
    K,
)
from .training_step import backward, call_weights_task, forward, matrix, vector


@jit
def repeat_forward(dtype: Any, book: Any, layers: Any, x: int, rows: int, times: int) -> None:
    """A and Z of the table's layers from the inputs at x, so many times over."""
    tasks = -(-rows // book[TASK_ROWS])
    for _ in range(times):
        for task in range(tasks):
            row_begin, row_end = rows * task // tasks, rows * (task + 1) // tasks
            forward(dtype, book, layers, x, row_begin, row_end, book[SCRATCH_PLACE])


@jit
def repeat_loss(dtype: Any, book: Any, layers: Any, truth_rows: int, rows: int, times: int) -> None:
    """Losses, dL/dA and right answers from the outputs of the table's last layer; labels where truth_rows is 0."""
    tasks = -(-rows // book[TASK_ROWS])
    last = layers.shape[0] - 1
    k = layers[last, K]
    item = np.empty(0, dtype).itemsize
    outputs = matrix(dtype, book[WORKSPACE] + layers[last, A] * item, rows, k)
    dl_da = matrix(dtype, book[WORKSPACE] + layers[last, D] * item, rows, k)
    labels = vector(np.dtype(np.int64), book[TARGETS_ADDRESS], rows)
    targets = matrix(dtype, book[TARGETS_ADDRESS], truth_rows, k)
    row_weights, of_rows = (
        vector(dtype, book[ROW_WEIGHTS], rows),
        vector(np.dtype(np.float64), book[LOSSES_OF_ROWS], rows),
    )
    work = vector(dtype, book[SCRATCH_PLACE], book[SCRATCH])
    correct = vector(np.dtype(np.int64), book[CORRECT_OF_TASKS], tasks)
    for _ in range(times):
        for task in range(tasks):
            row_begin, row_end = rows * task // tasks, rows * (task + 1) // tasks
            loss_rows = losses.LossRows(labels, targets, outputs, row_weights, dl_da, of_rows, work)
            call(losses.loss_rows, book[LOSS_KERNEL], dtype, (loss_rows, row_begin, row_end))
            if book[CORRECT_KERNEL] != 0:
                counted = (loss_rows, row_begin, row_end, correct, task)
                call(losses.correct_rows, book[CORRECT_KERNEL], dtype, counted)


@jit
def repeat_backward(dtype: Any, book: Any, layers: Any, rows: int, times: int) -> None:
    """DZ of the table's layers but the last, from that one's."""
    tasks = -(-rows // book[TASK_ROWS])
    for _ in range(times):
        for task in range(tasks):
            row_begin, row_end = rows * task // tasks, rows * (task + 1) // tasks
            backward(dtype, book, layers, row_begin, row_end, book[SCRATCH_PLACE])


@jit
def repeat_weights(dtype: Any, book: Any, numbers: Any, x: int, rows: int, rate: float, times: int) -> None:
    """dW, db, the update and W^T of the plan's pieces of these numbers; x is the address of the batch."""
    for _ in range(times):
        for task in numbers:
            call_weights_task(task, dtype, book, x, rows, True, True, 0.0, rate, 1.0)


def one_layer(book: Any, count: int) -> Any:
    """A book about so many layers only."""
    cut = book.copy()
    cut[LAYER_COUNT] = count
    return cut
