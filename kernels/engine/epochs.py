"""Several epochs in one compiled call, for networks and data so small that Python would take longer than an epoch.

`EpochLoop` prepares the call and reports its results. `BestState` holds the best state so far, which the compiled loop
updates too.
"""

import math
import time
from collections.abc import Iterator
from math import isfinite
from typing import Any

import numpy as np
from numba import types

from ..cpu.elementwise import all_finite
from ..cpu.threads.pool import POOL
from ..jit.call_by_address import by_address, call, kernel_address
from ..jit.decorator import jit
from ..jit.side_by_side import Kernel, is_coming
from ..llvm.memory import item_bytes, optimize_for_size, record_at, vector_at
from .backend import PROGRESS, TOTALS, Array, check_interrupt, record
from .context import FLOAT64, INT64
from .plan import CONTEXT, address_of
from .rng import shuffle_rows
from .training_step import run

MAX_EPOCHS = 256
"""Most epochs in one call."""

LOOK_S = 0.1
"""Seconds between two checks whether the loop has been compiled; a check takes as long as a short epoch."""

BEST = record(
    "parameters size vectors vector_count vector_bytes step copy0 copy1 step0 step1 best age",
    floats="value",
)
"""The best state so far.

- parameters, size, vectors, vector_count, vector_bytes, step: address and size of the current parameters; address,
  number and stride in bytes of the optimizer's state vectors; address of the step count
- copy0, copy1, step0, step1: addresses of two copies (parameters, then state vectors) and of their step counts
- best: which copy is the best, 0 or 1; the other one is a snapshot
- age, value: epochs since the best one, and its loss
"""

EPOCHS = record(
    "context best order chosen rates rate_count seed epoch rows validation validation_rows results limit done patience",
    "finite run",
    floats="divisor",
)
"""Arguments and results of one call.

- context, best: addresses of a CONTEXT that trains, with its data bound, and of a BEST
- order, chosen: addresses of int64 (rows,): buffer for the order of the rows, 0 without shuffling; rows of X to visit,
  or 0 for all
- rates, rate_count: address of learning rates, float64 (limit, rate_count), and their number per epoch
- seed, epoch, rows: seed of the order; number of the next epoch; rows of an epoch
- validation, validation_rows: address of a CONTEXT that evaluates, or 0, and its rows
- results: address of float64 (MAX_EPOCHS, 4): loss, correct answers, and the same two of the validation
- limit, done: epochs to train; epochs trained
- patience: epochs without a new best value before training stops; -1 for no limit
- finite: 0 after an epoch in which a loss, a parameter or the optimizer's state stopped being finite
- run: address of the kernel `run`
- divisor: turns a sum over outputs into the loss
"""


class BestState:
    """The best state so far, as ``arrays``, and its age in epochs.

    The training loss of an epoch is measured before its updates, so it belongs to the parameters at the epoch's start.
    A snapshot of those is kept until the loss is known; if it is the best, the two copies exchange roles. A validation
    loss belongs to the parameters at the epoch's end, which are copied only if it is the best.

    Parameters
    ----------
    parameters : ndarray, shape (P,)
    vectors : ndarray, shape (vectors, P)
        The optimizer's state.
    step : ndarray of int64, shape (1,)
    """

    def __init__(self, parameters: Array, vectors: Array, step: Array) -> None:
        self._now = parameters, vectors, step
        flat = np.empty((2, len(vectors) + 1, parameters.size), parameters.dtype)
        steps = np.empty((2, 1), np.int64)
        flat[:, 0], flat[:, 1:], steps[:] = parameters, vectors, step
        self._copies = [(flat[i, 0], flat[i, 1:], steps[i]) for i in range(2)]
        first, first_step = address_of(flat), address_of(steps)
        addresses = first, first + flat.nbytes // 2, first_step, first_step + steps.itemsize
        distance = vectors.strides[0] if len(vectors) > 1 else 0
        now = (address_of(parameters), parameters.size, address_of(vectors), len(vectors), distance, address_of(step))
        self.record = np.zeros((), BEST)
        self.record[...] = (*now, *addresses, 0, 0, math.inf)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The best parameters, state vectors and number of steps."""
        return self._copies[int(self.record["best"])]

    @property
    def age(self) -> int:
        """Epochs since the best one."""
        return int(self.record["age"])

    def snapshot(self) -> None:
        """Copy the current state, in case it turns out to be the best."""
        for kept, array in zip(self._copies[1 - int(self.record["best"])], self._now, strict=True):
            kept[...] = array

    def update(self, value: float, of_snapshot: bool) -> None:
        """Record the loss of the snapshot, or of the current state."""
        self.record["age"] += 1
        if value < self.record["value"]:
            if not of_snapshot:
                self.snapshot()
            self.record["best"] = 1 - self.record["best"]
            self.record["value"], self.record["age"] = value, 0

    def is_finite(self) -> bool:
        """Whether the current state is finite; an optimizer's state that became infinite would never recover."""
        parameters, vectors, _ = self._now
        return all(map(all_finite, (parameters, *vectors)))

    def restore(self) -> None:
        """Copy the best state back into the parameters and the optimizer."""
        for kept, array in zip(self.arrays, self._now, strict=True):
            array[...] = kept


@jit(internal=True)
def _snapshot(dtype: Any, best: Any) -> None:
    """Copy the current state to the copy that is not the best."""
    copy, step = (best.copy1, best.step1) if best.best == 0 else (best.copy0, best.step0)
    target, source = vector_at(dtype, copy, best.size), vector_at(dtype, best.parameters, best.size)
    for i in range(best.size):
        target[i] = source[i]
    for j in range(best.vector_count):
        target = vector_at(dtype, copy + (j + 1) * best.size * item_bytes(dtype), best.size)
        source = vector_at(dtype, best.vectors + j * best.vector_bytes, best.size)
        for i in range(best.size):
            target[i] = source[i]
    vector_at(INT64, step, 1)[0] = vector_at(INT64, best.step, 1)[0]


@jit(internal=True)
def _update(dtype: Any, best: Any, value: float, of_snapshot: bool) -> None:
    """Record a loss; see `BestState.update`."""
    best.age += 1
    if value < best.value:
        if not of_snapshot:
            _snapshot(dtype, best)
        best.best, best.value, best.age = 1 - best.best, value, 0


@jit(internal=True)
def _pass_over(dtype: Any, address: int, context: int, rows: int, epoch: int, threads: int, pool: int) -> Any:
    """Train or evaluate an epoch by the address of `run`; return the loss (a sum over outputs) and correct answers."""
    ctx = record_at(CONTEXT, context)
    progress, totals = record_at(PROGRESS, ctx.progress), record_at(TOTALS, ctx.totals)
    totals.loss = totals.weight = totals.partial_loss = totals.partial_weight = totals.batch_weight = 0.0
    progress.row = progress.done = progress.correct = progress.partial_correct = 0
    progress.epoch, progress.rows = epoch, rows
    ctx.first_row, ctx.stop_row, ctx.epoch_rows = 0, rows, rows
    call(run, address, dtype, (dtype, context, threads, pool))
    return totals.loss / totals.weight, float(progress.correct)


@by_address(lambda real: (types.DType(real), types.intp, types.intp, types.intp))
@jit
def run_epochs(dtype: Any, address: int, threads: int, pool: int) -> None:
    """Train epochs until ``limit``, until patience runs out, or until a number is not finite.

    Parameters
    ----------
    dtype : dtype
    address : int
        Address of a record EPOCHS.
    threads, pool : int
        As `run` takes them.
    """
    optimize_for_size()
    epochs = record_at(EPOCHS, address)
    best, ctx = record_at(BEST, epochs.best), record_at(CONTEXT, epochs.context)
    while epochs.done < epochs.limit and epochs.finite != 0 and (epochs.patience < 0 or best.age < epochs.patience):
        if epochs.validation == 0:
            _snapshot(dtype, best)
        if epochs.order != 0:
            order = vector_at(INT64, epochs.order, epochs.rows)
            shuffle_rows(order, np.uint64(epochs.seed), np.uint64(epochs.epoch))
            if epochs.chosen != 0:
                chosen = vector_at(INT64, epochs.chosen, epochs.rows)
                for i in range(epochs.rows):
                    order[i] = chosen[order[i]]
        ctx.rates, ctx.rate_count = epochs.rates + epochs.done * epochs.rate_count * 8, epochs.rate_count
        loss, correct = _pass_over(dtype, epochs.run, epochs.context, epochs.rows, epochs.epoch, threads, pool)
        loss /= epochs.divisor
        finite = isfinite(loss) and all_finite(vector_at(dtype, best.parameters, best.size))
        for j in range(best.vector_count):
            finite = finite and all_finite(vector_at(dtype, best.vectors + j * best.vector_bytes, best.size))
        results = vector_at(FLOAT64, epochs.results + epochs.done * 32, 4)
        results[0], results[1] = loss, correct
        if epochs.validation != 0:
            held, results[3] = _pass_over(
                dtype, epochs.run, epochs.validation, epochs.validation_rows, 0, threads, pool
            )
            results[2] = held / epochs.divisor
            finite = finite and isfinite(results[2])
            if finite:
                _update(dtype, best, results[2], False)
        else:
            _update(dtype, best, loss, True)
        epochs.finite = 1 if finite else 0
        epochs.epoch += 1
        epochs.done += 1


RUN_EPOCHS = Kernel(__name__, "run_epochs")


class EpochLoop:
    """Calls `run_epochs` for one `fit`.

    Parameters
    ----------
    engine : CpuEngine
        The engine that trains.
    data : tuple
        X, targets, sample weights or None, and rows of X to visit, int64, or None for all.
    order : ndarray of int64, optional
        Buffer for the order of the rows; without it they are not shuffled.
    best : BestState
    validator, held : CpuEngine and tuple of X, targets and sample weights, optional
        The engine that evaluates, and the validation data.
    """

    def __init__(
        self,
        engine: Any,
        data: tuple[Any, ...],
        order: Array | None,
        best: BestState,
        validator: Any = None,
        held: tuple[Any, ...] | None = None,
    ) -> None:
        X, y, weights, chosen = data
        self._coming, self._next_look = True, 0.0
        self._engine, self._rows = engine, len(X) if chosen is None else len(chosen)
        self._dtype = engine.plan.parameters.dtype
        self._data = X, y, weights, order
        self._results = np.zeros((MAX_EPOCHS, 4))
        self._kept = chosen, best, validator, held  # keeps them alive: compiled code has their addresses
        self.record = np.zeros((), EPOCHS)
        for name, array in (("best", best.record), ("order", order), ("chosen", chosen), ("results", self._results)):
            self.record[name] = address_of(array)
        self.record["rows"], self.record["divisor"] = self._rows, engine.loss_divisor()
        self.record["run"] = kernel_address(run, self._dtype)
        self._answers = [engine.answers(self._rows), 0]
        if held is not None:
            self._held_plan = validator.evaluation_plan()
            arrays = (*held, None, np.zeros(1))
            self.record["validation"] = validator.bind(self._held_plan, False, arrays, 0, len(held[0]))
            self.record["validation_rows"] = len(held[0])
            self._answers[1] = engine.answers(len(held[0]))

    @property
    def epochs_of_a_call(self) -> int:
        """Number of epochs that fill one compiled call; 0 or 1 where this loop gains nothing."""
        now = time.monotonic()
        if self._coming and now >= self._next_look:
            self._coming, self._next_look = is_coming(RUN_EPOCHS, self._dtype), now + LOOK_S
        if self._coming:
            return 1
        rows = self._rows + int(self.record["validation_rows"])
        return min(MAX_EPOCHS, int(self._engine.tuner.rows) // rows)

    def train(self, rates: Array, seed: int, epoch: int, patience: int | None) -> None:
        """Train one epoch for each row of rates, float64 (epochs, 1) or (epochs, steps); the first is ``epoch``."""
        call, tuner = self.record, self._engine.tuner
        call["done"], call["epoch"], call["finite"] = 0, epoch, 1
        call["seed"] = np.array([seed], np.uint64).view(np.int64)[0]
        call["patience"] = -1 if patience is None else patience
        X, y, weights, order = self._data
        first = rates[0]
        call["context"] = self._engine.bind(self._engine.plan, True, (X, y, weights, order, first), 0, self._rows)
        call["rates"], (call["limit"], call["rate_count"]) = address_of(rates), rates.shape
        start = time.perf_counter()
        run_epochs(self._dtype, address_of(call), self._engine.threads, POOL)
        check_interrupt()
        tuner.update(int(call["done"]) * self._rows, time.perf_counter() - start)

    @property
    def is_finite(self) -> bool:
        """Whether all losses, parameters and optimizer state were finite after the last call."""
        return bool(self.record["finite"])

    def results(self, epoch: int) -> Iterator[dict[str, float]]:
        """Yield the results of the last call's epochs from number ``epoch`` on."""
        done = int(self.record["done"])
        for found in self._results[epoch - int(self.record["epoch"]) + done : done]:
            loss, correct, held_loss, held_correct = found.tolist()
            row = {"loss": loss}
            if self._answers[0]:
                row["accuracy"] = int(correct) / self._answers[0]
            if self.record["validation"] != 0:
                row["val_loss"] = held_loss
                if self._answers[1]:
                    row["val_accuracy"] = int(held_correct) / self._answers[1]
            yield row
