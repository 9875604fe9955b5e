"""Evaluation outside of training: `Forward` predicts outputs, then one compiled pass computes losses and accuracy.

An `Evaluator` needs none of the workspace of a `CpuEngine`, whose set-up takes longer than evaluating some hundred
rows. Outputs have the bits that training computes, and losses are summed in the order of `training_step.run`, so its
results equal those of validation in a fit to the bit.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import types

from ..cpu import losses
from ..cpu.softmax import tree_sum
from ..cpu.threads.parallel_for import parallel_for
from ..cpu.threads.pool import POOL, num_threads
from ..jit.call_by_address import by_address, call
from ..jit.decorator import jit
from ..jit.side_by_side import Kernel, compile_side_by_side
from ..llvm.memory import allocate, item_bytes, matrix_at, optimize_for_size, release, vector_at
from ..specs.batches import MICRO_BATCH_ROWS
from ..specs.losses import LOSSES
from .backend import Array, Chunk, Visit, check_interrupt, results_of
from .bounds import check_array
from .context import FLOAT64, INT64
from .forward import PREDICTION_KERNELS, THREAD_FLOPS, Forward, forward_of
from .plan import address_of, parameter_count

PART_BYTES = 1 << 24
"""Rows are evaluated in chunks of about this many bytes, so that memory use does not grow with their number."""

TASK_ROWS = 256
"""Rows that a thread evaluates at a time: a task."""

OUTPUT_FLOPS = 100
"""Approximate cost of evaluating one output, in floating-point operations."""

MEASURE = Kernel(__name__, "measure")
"""The kernel that an evaluation needs besides those of the loss and of prediction."""

_NO_WEIGHTS = np.zeros(TASK_ROWS)
_NO_WEIGHTS_ADDRESS = address_of(_NO_WEIGHTS)


@jit(internal=True)
def _measure_rows(task: int, thread: int, dtype: Any, places: Any, row_losses: int, correct: int, scratch: int) -> None:
    """Write a task's weighted row losses and its number of correct answers to ``row_losses`` and ``correct``."""
    rows, k, labels, outputs, targets, weights, no_weights, loss_kernel, correct_kernel = places
    item, start = item_bytes(dtype), task * TASK_ROWS
    rows = min(TASK_ROWS, rows - start)
    outputs += start * k * item
    targets += start * (8 if labels != 0 else k * item)
    values, size = vector_at(FLOAT64, row_losses + start * 8, rows), losses.scratch_size(TASK_ROWS, k)
    loss_rows = losses.LossRows(
        vector_at(INT64, targets, rows if labels != 0 else 0),
        matrix_at(dtype, targets, rows, k),
        matrix_at(dtype, outputs, rows, k),
        vector_at(dtype, no_weights, rows),
        matrix_at(dtype, outputs, 0, k),
        values,
        vector_at(dtype, scratch + thread * size * item, size),
    )
    call(losses.loss_rows, loss_kernel, dtype, (loss_rows, 0, rows))
    if weights != 0:
        sample_weights = vector_at(FLOAT64, weights + start * 8, rows)
        for i in range(rows):
            values[i] *= sample_weights[i]
    if correct_kernel != 0:
        count = vector_at(INT64, correct + task * 8, 1)
        call(losses.correct_rows, correct_kernel, dtype, (loss_rows, 0, rows, count, 0))


@by_address(lambda real: (types.DType(real), types.UniTuple(types.intp, 9), *[types.intp] * 3))
@jit
def measure(dtype: Any, places: Any, totals: int, threads: int, pool: int) -> None:
    """Add the sums of weighted losses and of weights, and the number of correct answers, to totals.

    Parameters
    ----------
    dtype : dtype
        float32 or float64: of outputs, and of targets that are not labels.
    places : tuple of int
        Rows and columns of the outputs; 1 if targets are labels, int64 (rows,), otherwise 0; addresses of outputs,
        targets, sample weights (float64 (rows,), or 0 for none) and TASK_ROWS zeros; addresses of the loss's two
        kernels, the second 0 if the loss counts no correct answers.
    totals : int
        Address of float64 (3,).
    threads, pool : int
        As `parallel_for` takes them.
    """
    optimize_for_size()
    rows, k, weights, correct_kernel = places[0], places[1], places[5], places[8]
    tasks, sums = -(-rows // TASK_ROWS), vector_at(FLOAT64, totals, 3)
    nbytes = threads * losses.scratch_size(TASK_ROWS, k) * item_bytes(dtype)
    row_losses = allocate((rows + tasks) * 8 + nbytes)
    correct = row_losses + rows * 8
    arguments = dtype, places, row_losses, correct, correct + tasks * 8
    parallel_for(_measure_rows, tasks, threads, OUTPUT_FLOPS * rows * k, pool, arguments)
    for start in range(0, rows, MICRO_BATCH_ROWS):
        count = min(MICRO_BATCH_ROWS, rows - start)
        total = float(count)
        if weights != 0:
            sample_weights, total = vector_at(FLOAT64, weights + start * 8, count), 0.0
            for i in range(count):
                total += sample_weights[i]
        sums[0] += tree_sum(vector_at(FLOAT64, row_losses + start * 8, count))
        sums[1] += total
    if correct_kernel != 0:
        for task in range(tasks):
            sums[2] += vector_at(INT64, correct + task * 8, 1)[0]
    release(row_losses)


@functools.lru_cache(256)
def _kernels(layer_sizes: tuple[int, ...], names: tuple[str, ...], dtype: Any, loss: str) -> tuple[Forward, list[int]]:
    """Return the forward pass and the addresses of the loss's two kernels; see ``places`` of `measure`."""
    spec = LOSSES[loss]
    found = [Kernel(losses.__name__, "loss_kernel", spec.code)]
    found += [Kernel(losses.__name__, "correct_kernel", spec.code)] if spec.counts_correct else []
    compile_side_by_side([MEASURE, *found, *PREDICTION_KERNELS[:3]], dtype)
    return forward_of(layer_sizes, names, dtype), [*(kernel.address(dtype) for kernel in found), 0][:2]


class Evaluator:
    """Computes a network's loss and accuracy on given data.

    Parameters
    ----------
    parameters : ndarray, shape (P,)
    dtype : dtype
        The network's, float32 or float64.
    layer_sizes : tuple of int
        Inputs, hidden sizes, outputs.
    names : tuple of str
        Every layer's activation.
    loss : str
        A key of `specs.losses.LOSSES`.
    """

    def __init__(
        self, parameters: Array, dtype: Any, layer_sizes: tuple[int, ...], names: tuple[str, ...], loss: str
    ) -> None:
        check_array("network.parameters", parameters, (parameter_count(layer_sizes),), dtype)
        row_bytes = max(layer_sizes[0], layer_sizes[-1]) * dtype.itemsize
        self._forward, self._addresses = _kernels(layer_sizes, names, dtype, loss)
        self._parameters, self._dtype, self._loss, self._n_out = parameters, dtype, LOSSES[loss], layer_sizes[-1]
        self._part_rows = max(1, PART_BYTES // (MICRO_BATCH_ROWS * row_bytes)) * MICRO_BATCH_ROWS

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""
        totals, k = np.zeros(3), self._n_out
        for all_X, all_y, weights, first_row in chunks:
            for start in range(0, len(all_X), self._part_rows):
                part, first = slice(start, start + self._part_rows), first_row + start
                X, y = all_X[part], all_y[part]
                outputs = np.empty((len(X), k), self._dtype)
                if not self._forward(self._parameters, X, outputs, False):
                    raise ValueError("X was changed while it was evaluated: it holds NaN or infinity now")
                addresses = address_of(outputs), address_of(y), address_of(None if weights is None else weights[first:])
                places = len(X), k, int(y.ndim == 1), *addresses, _NO_WEIGHTS_ADDRESS, *self._addresses
                threads = num_threads() if outputs.size * OUTPUT_FLOPS >= THREAD_FLOPS else 1
                measure(self._dtype, places, address_of(totals), threads, POOL)
                if visit is not None:
                    visit(outputs, y, weights, first)
                check_interrupt()
        loss, weight, correct = totals.tolist()
        return results_of({"row": rows, "correct": correct}, {"loss": loss, "weight": weight}, self._loss, k)
