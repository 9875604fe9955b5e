"""Engine: a network at work. It owns the workspace of one network at one batch size, and calls who computes.

Imports `plan`, `epoch` and its NumPy twin `reference_epoch`, the kernels that an epoch calls by address, `threads`,
`variants` and `_jit`. Arrays that arrive here have been
checked: C-contiguous, of the parameters' dtype, labels int64, weights float64.
"""

import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu import activations, losses, optimizers
from ..cpu.gemm import blocking, gemm
from ..cpu.gemm.microkernel import NV
from ..cpu.threads.pool import POOL, num_threads
from ..jit.call_by_address import address as kernel_address
from ..jit.target import COMPILES
from ..llvm.builder import VECTOR
from ..reference import training_step as numpy_step
from ..registry import best_variant
from ..specs.codes import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, IDENTITY, RELU
from ..specs.losses import LOSS_BY_CODE
from . import training_step
from .plan import (
    ACTIVATE,
    ACTIVATION,
    BATCH,
    BOOK_SIZE,
    CORRECT,
    CORRECT_KERNEL,
    DERIVE,
    DONE,
    EPOCH_ROWS,
    EVALUATE,
    FIRST_ROW,
    FLOPS,
    INPUTS,
    L2_PER_BATCH,
    LAYER_COUNT,
    LOSS,
    LOSS_KERNEL,
    LOSS_SUM,
    LOSSES,
    MAX_ROW_LOSS,
    MEANS_OVER_OUTPUTS,
    MICRO_BATCH_ROWS,
    NONE,
    OPTIMIZER,
    ORDER,
    OUT,
    PARTIAL_CORRECT,
    PARTIAL_LOSS,
    PARTIAL_WEIGHT,
    PREDICT,
    PRODUCT,
    PROGRESS_SIZE,
    PURPOSE,
    RATE_COUNT,
    RATES,
    ROW,
    ROWS_KERNEL,
    SCRATCH,
    SQUARES,
    STEP,
    STOP_ROW,
    TARGETS,
    TARGETS_ADDRESS,
    TASK_COUNT,
    TASK_ROWS,
    TOTALS_SIZE,
    TRAIN,
    UPDATE,
    WEIGHT_SUM,
    WEIGHTS,
    WEIGHTS_KERNEL,
    Array,
    Plan,
    X,
    address,
    aligned,
    layer_table,
    micro_batch_rows,
    packed_weights_size,
    padded,
    parameter_count,
    partition_weights,
)
from .tuner import Tuner

_FIRST_CALL_FLOPS = 1e8

THREAD_FLOPS, SURE_FLOPS = 3_000_000, 500_000_000
"""Slices of fewer floating-point operations stay on one thread; from the second on, all threads work. Between them,
`tuner` tries."""

TASKS = 2
"""Pieces of a slice's rows a thread, so that a thread that lost its core for a while holds up nobody."""

WEIGHT_TASKS_PER_THREAD = 8
"""Pieces of all weights a thread: layers differ in size, and so do their pieces."""

WEIGHT_TASK_BYTES = blocking.L2 // 2
"""Bytes of weights in a piece at most: what has just been changed is transposed while it is in L2. 512-1024-1024-10
takes 21.8 ms a step with a piece a layer, 21.2 so, 21.8 with pieces half as large."""

WEIGHT_TASK_ROWS = 128
"""Neurons of a piece at least, on one thread: fewer than `simd.FEW_ROWS` would each read all of X as it lies. A step of
10000-100-10, batch 1024, Adam: 47 ms with a piece a layer, 65 in pieces of 13 neurons, 44.5 so."""

MAX_TASK_ROWS = 128
"""Rows that go through all layers together: few enough to stay in L2, enough to pay for reading W."""

MAX_TASK_ROWS_LARGE_W = 256
"""The same where a W is larger than L2 and is packed for every piece: 0.79 of the limit for 512-1024-1024-10, 0.85."""


class OptimizerState:
    """How parameters move: the optimizer's code, its hyper-parameters, its state, and where training stands.

    ``shared_l2`` is an l2 that each batch divides by its weight; ``cap`` is the most that a row's loss counts for in
    what is reported.
    """

    def __init__(
        self,
        optimizer: int,
        state: Array,
        beta1: float = 0.0,
        beta2: float = 0.0,
        epsilon: float = 0.0,
        weight_decay: float = 0.0,
        l2: float = 0.0,
        clip_norm: float = math.inf,
        progress: Array | None = None,
        totals: Array | None = None,
        l2_per_batch: float = 0.0,
        cap: float = math.inf,
    ) -> None:
        self.optimizer = optimizer
        self.state = state
        self.progress = np.zeros(PROGRESS_SIZE, np.int64) if progress is None else progress
        self.totals = np.zeros(TOTALS_SIZE) if totals is None else totals
        self.hyper = np.array([beta1, beta2, epsilon, weight_decay, l2, clip_norm])
        self.l2_per_batch, self.cap = l2_per_batch, cap


class Engine:
    """A network at work, for batches of one size.

    Parameters
    ----------
    parameters : ndarray, shape (P,)
        Read by everything; written by `train` only.
    layer_sizes : sequence of int
        Inputs, hidden sizes, outputs.
    codes : sequence of int
        A code of `elementwise` for every layer.
    loss : str, default "mse"
        A key of `plan.LOSSES`.
    batch : int, default SLICE_ROWS
        Rows of a step.
    rung : str, default "simd"
        "reference", "simd" or "parallel": who computes.
    descent : Descent, optional
        Without it `train` leaves the gradient and changes nothing.
    gathers : bool, default False
        Whether `train` will be given an order.

    Attributes
    ----------
    plan : Plan
    pace : Pace
    """

    def __init__(
        self,
        parameters: Array,
        layer_sizes: Sequence[int],
        codes: Sequence[int],
        loss: str = "mse",
        batch: int = MICRO_BATCH_ROWS,
        variant: str = "simd",
        descent: OptimizerState | None = None,
        uses_order: bool = False,
    ) -> None:
        descent = descent or OptimizerState(NONE, np.zeros((1, 0), parameters.dtype))
        dtype = parameters.dtype
        lanes = VECTOR // dtype.itemsize
        rows = micro_batch_rows(batch)
        code = LOSSES[loss]
        self._variant = variant
        self._compiled = COMPILES and variant != "reference"
        self._outputs = layer_sizes[-1]
        layers, workspace = layer_table(layer_sizes, codes, rows, lanes, NV * lanes)
        flops = 6 * parameter_count(layer_sizes)
        threads = num_threads() if variant == "parallel" and self._compiled and rows * flops >= THREAD_FLOPS else 1
        self._noted: tuple[Array | None, tuple[Array | None, ...]] = (None, (None,) * 6)
        self.tuner = Tuner(max(1, int(_FIRST_CALL_FLOPS / flops)), threads, rows * flops < SURE_FLOPS)
        inputs, targets = workspace, workspace + padded(rows * layer_sizes[0], lanes) * uses_order
        workspace = targets + rows * layer_sizes[-1] * (uses_order and code != CROSS_ENTROPY)
        book = np.zeros(BOOK_SIZE, np.int64)
        tasks = max(
            len(layers), -(-parameters.nbytes // WEIGHT_TASK_BYTES), threads * WEIGHT_TASKS_PER_THREAD * (threads > 1)
        )
        self.plan = Plan(
            book=book,
            layers=layers,
            tasks=partition_weights(layer_sizes, tasks, WEIGHT_TASK_ROWS if threads == 1 else lanes),
            hyper=descent.hyper,
            parameters=parameters,
            gradient=aligned(parameters.size, dtype),
            state=descent.state,
            packed_weights=aligned(packed_weights_size(layer_sizes, lanes, NV * lanes) if self._compiled else 0, dtype),
            workspace=aligned(workspace, dtype),
            labels=np.empty(rows if uses_order else 0, np.int64),
            losses=np.empty(rows),
            row_weights=np.empty(rows, dtype),
            norms=np.zeros(sum(layer_sizes[1:])),
            correct=np.zeros(rows, np.int64),
            progress=descent.progress,
            totals=descent.totals,
            scratch=np.empty(0, dtype),
            objective_terms=np.zeros(SQUARES + sum(layer_sizes[1:])),
        )
        self.plan.objective_terms[[L2_PER_BATCH, MAX_ROW_LOSS]] = descent.l2_per_batch, descent.cap
        book[[LOSS, OPTIMIZER, BATCH]] = code, descent.optimizer, batch
        book[[LAYER_COUNT, TASK_COUNT, INPUTS, TARGETS]] = len(layers), len(self.plan.tasks), inputs, targets
        large = max(n * k for n, k in pairwise(layer_sizes)) * dtype.itemsize > blocking.L2
        row_weights = 1 if threads == 1 else threads * (1 if large else TASKS)
        book[TASK_ROWS] = min(MAX_TASK_ROWS_LARGE_W if large else MAX_TASK_ROWS, -(-rows // row_weights))
        book[FLOPS] = flops
        if self._compiled:
            book[SCRATCH] = _scratch(self.plan, rows)
            if threads == 1:  # else each piece allocates its own
                self.plan = self.plan._replace(scratch=aligned(int(book[SCRATCH]), dtype))

    def _link_kernels(self) -> None:
        """Write the addresses of the kernels that this network needs into the book; compile them, the first time.

        When they are needed, not before: an engine tells its size without compiling anything.
        """
        if not self._compiled or self.plan.book[PRODUCT] != 0:
            return
        book, dtype = self.plan.book, self.plan.parameters.dtype
        self.plan.bind_arrays()
        book[ROWS_KERNEL] = kernel_address(training_step.rows_task, dtype)
        book[WEIGHTS_KERNEL] = kernel_address(training_step.weights_task, dtype)
        book[LOSS_KERNEL] = kernel_address(losses.loss_kernel(int(book[LOSS])), dtype)
        if LOSS_BY_CODE[book[LOSS]].counts_correct:
            book[CORRECT_KERNEL] = kernel_address(losses.correct_kernel(int(book[LOSS])), dtype)
        for layer in self.plan.layers:
            if layer[ACTIVATION] not in (IDENTITY, RELU):  # the product applies these two itself
                layer[ACTIVATE] = kernel_address(activations.activation_kernel(layer[ACTIVATION]), dtype)
                layer[DERIVE] = kernel_address(activations.times_derivative_kernel(layer[ACTIVATION]), dtype)
        if self.plan.layers[-1, ACTIVATION] == RELU:
            self.plan.layers[-1, DERIVE] = kernel_address(activations.times_derivative_kernel(RELU), dtype)
        if book[OPTIMIZER] != NONE:
            book[UPDATE] = kernel_address(optimizers.update_kernel(int(book[OPTIMIZER])), dtype)
        # Last: it says that all are there. Ctrl-C while others are compiled would leave addresses of 0 behind.
        book[PRODUCT] = kernel_address(gemm.gemm, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace, the gradient and all else that is no data, parameter or state."""
        theirs = (self.plan.parameters, self.plan.state)
        return sum(array.nbytes for array in self.plan) - sum(array.nbytes for array in theirs)

    # ---------------------------------------------------------------------------------------- training

    def train(
        self,
        X: Array,
        y: Array,
        weights: Array | None = None,
        order: Array | None = None,
        rates: Array | None = None,
        first_row: int = 0,
        epoch_rows: int | None = None,
    ) -> None:
        """Train on from where the epoch stands to the last row of X.

        Parameters
        ----------
        X, y : ndarray
            Rows of the epoch from ``first_row`` on.
        weights : ndarray of float64, optional
            A weight for each row of the epoch, whichever part of it X is.
        order : ndarray of int64, optional
            The order to visit the rows in; X and y then hold all of them.
        rates : ndarray of float64, optional
            The learning rate of each of the epoch's steps, or one for all.
        first_row, epoch_rows : int, optional
            By default X is the whole epoch.
        """
        self._advance(self.plan, TRAIN, X, y, weights, order, None, rates, first_row, epoch_rows)

    def results(self) -> dict[str, float]:
        """The loss, and for classification the accuracy, of the epoch's rows behind."""
        return self._results(self.plan)

    def loss_and_gradient(self, X: Array, y: Array) -> tuple[float, Array]:
        """The objective of one batch, which X and y are, and its gradient, a copy."""
        start_epoch(self.plan.progress, self.plan.totals, 0)
        self.train(X, y)
        return float(self.plan.totals[LOSS_SUM] / self.plan.totals[WEIGHT_SUM]), self.plan.gradient.copy()

    # ------------------------------------------------------------------------------------- measurement

    def evaluate(self, parts: Iterable[tuple[Array, Array, Array | None, int]], rows: int) -> dict[str, float]:
        """Loss, and for classification accuracy, over parts (X, y, weights, first row) of so many rows in all."""
        plan = self._evaluation_plan()
        for X_part, y, weights, first_row in parts:
            self._advance(plan, EVALUATE, X_part, y, weights, None, None, None, first_row, rows)
        return self._results(plan)

    def predict(self, X: Array, probabilities: bool = False) -> Array:
        """Outputs (B, n_out), or what the loss makes probabilities of them, of any number of rows."""
        out = np.empty((len(X), self._outputs), X.dtype)
        self._advance(self._evaluation_plan(), PREDICT, X, None, None, None, out, None, 0, None)
        if probabilities:
            if self.plan.book[LOSS] == CROSS_ENTROPY:
                best_variant("softmax", self._variant)(out, out)
            else:
                best_variant("sigmoid", self._variant)(out.reshape(-1), out.reshape(-1))
        return out

    def _evaluation_plan(self) -> Plan:
        """The plan with counters of its own, and slices instead of batches."""
        self._link_kernels()
        progress, totals = np.zeros(PROGRESS_SIZE, np.int64), np.zeros(TOTALS_SIZE)
        plan = self.plan._replace(book=self.plan.book.copy(), progress=progress, totals=totals)
        plan.book[BATCH] = len(plan.losses)
        plan.bind_arrays()
        return plan

    def _results(self, plan: Plan) -> dict[str, float]:
        loss, code = float(plan.totals[LOSS_SUM] / plan.totals[WEIGHT_SUM]), int(plan.book[LOSS])
        results = {"loss": loss / self._outputs if code in MEANS_OVER_OUTPUTS else loss}
        if code in (CROSS_ENTROPY, BINARY_CROSS_ENTROPY):
            answers = int(plan.progress[ROW]) * (self._outputs if code == BINARY_CROSS_ENTROPY else 1)
            results["accuracy"] = int(plan.progress[CORRECT]) / answers
        return results

    def _advance(
        self,
        plan: Plan,
        purpose: int,
        X_rows: Array,
        y: Array | None,
        weights: Array | None,
        order: Array | None,
        out: Array | None,
        rates: Array | None,
        first_row: int,
        epoch_rows: int | None,
    ) -> None:
        """Call whoever computes until X is done with; between calls, KeyboardInterrupt may come."""
        self._link_kernels()
        progress, book = plan.progress, plan.book
        epoch_rows = len(X_rows) if epoch_rows is None else epoch_rows
        rates = _NO_RATE if rates is None else np.ascontiguousarray(rates, np.float64)
        stop = first_row + len(X_rows)
        if self._compiled:
            book[PURPOSE] = purpose
            arrays = (X_rows, y, weights, order, out, rates)
            # Where they are is asked for again only of other arrays: 5 us of an epoch's 15 around the compiled call.
            whose, noted = self._noted
            self._noted = (None, noted)  # until all are written: Ctrl-C may come in between
            for place, array, known in zip(
                (X, TARGETS_ADDRESS, WEIGHTS, ORDER, OUT, RATES), arrays, noted, strict=True
            ):
                if array is not known or whose is not book:
                    book[place] = address(array)
            self._noted = book, arrays
            book[RATE_COUNT], book[FIRST_ROW], book[EPOCH_ROWS] = len(rates), first_row, epoch_rows
        while progress[DONE] < stop:
            before, start = int(progress[DONE]), time.perf_counter()
            until = min(stop, before + self.tuner.rows)
            if self._compiled:
                book[STOP_ROW] = until
                training_step.run(plan.parameters.dtype, book, self.tuner.threads, POOL)
            else:
                data = (X_rows, y, weights, order, out, rates, first_row, until, epoch_rows)
                numpy_step.run(plan, purpose, *data)
            seconds = time.perf_counter() - start
            if purpose == TRAIN:
                self.tuner.update(int(progress[DONE]) - before, seconds)


_NO_RATE = np.zeros(1)


def start_epoch(progress: Array, totals: Array, epoch_number: int, rows: int = 0) -> None:
    """Begin an epoch of so many rows.

    One statement for what belongs together, for a KeyboardInterrupt may come between two.
    """
    totals.fill(0)
    progress[:STEP] = (0, 0, 0, 0, epoch_number, rows)


def discard_partial_step(progress: Array, totals: Array) -> None:
    """Forget the slices of a step that was not finished."""
    totals[[PARTIAL_LOSS, PARTIAL_WEIGHT]] = 0
    progress[PARTIAL_CORRECT] = 0
    progress[DONE] = progress[ROW]


def _scratch(plan: Plan, rows: int) -> int:
    """Elements of scratch that a piece of rows, or of a layer's weights, needs for packing or for the loss.

    Of full slices: where a shorter one needs more, `gemm` allocates it.
    """
    choose: Any = getattr(blocking.choose_blocking, "py_func", blocking.choose_blocking)
    scratch_size: Any = getattr(losses.scratch_size, "py_func", losses.scratch_size)
    item = plan.workspace.itemsize
    piece_rows = int(plan.book[TASK_ROWS])
    rooms = [scratch_size(piece_rows, int(plan.layers[-1, 1])) * item]
    nr = NV * VECTOR  # bytes
    for n, k in plan.layers[:, :2].tolist():  # dX = dZ W; the forward product's W^T is packed
        rooms.append(choose(item, piece_rows, n, k, (0, k * item, item), (0, n * item, item, nr))[6])
    for layer, row_begin, row_end in plan.tasks.tolist():
        n, k = plan.layers[layer, :2].tolist()
        rooms.append(choose(item, row_end - row_begin, n, rows, (0, item, k * item), (0, n * item, item, nr))[6])
    return int(-(-max(rooms) // item))
