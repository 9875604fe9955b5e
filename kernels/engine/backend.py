"""Backend: the interface of the CPU, NumPy and CUDA engines, and the records in which they report.

A backend trains and evaluates one network at one batch size. No engine inherits from another.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..specs.losses import LossSpec

Array = NDArray[Any]

Chunk = tuple[Array, Array, Array | None, int]
"""X, y, the sample weights of the whole epoch, and the index within the epoch of X's first row."""

Visit = Callable[[Array, Array, Array | None, int], None]
"""Receives the outputs (rows, n_out) that `Backend.evaluate` has computed, with their y, weights and first row."""


def record(*integers: str, floats: str = "") -> np.dtype[np.void]:
    """Return the dtype of a record of int64 and float64 fields; each string holds names separated by blanks."""
    fields = [(name, "i8") for name in " ".join(integers).split()] + [(name, "f8") for name in floats.split()]
    return np.dtype(fields, align=True)


PROGRESS = record("row done correct partial_correct epoch rows step")
"""Progress of an epoch; a 0-dimensional array. Backends update it in place, because a KeyboardInterrupt may come before
they return.

- row, done: rows of the epoch that whole steps have processed; the same plus those of an unfinished step
- correct, partial_correct: correct answers in whole steps, and in an unfinished step
- epoch, rows: number of the epoch, and its rows
- step: whole steps taken, in all epochs
"""

TOTALS = record(floats="loss weight partial_loss partial_weight batch_weight")
"""Sums over an epoch's rows; a 0-dimensional array.

- loss, weight: weighted sum of the rows' losses in whole steps, and sum of their sample weights
- partial_loss, partial_weight: the same for an unfinished step
- batch_weight: sum of the sample weights of the current batch
"""

OBJECTIVE = record(floats="l2_per_batch max_row_loss mean_loss penalty")
"""What scikit-learn's objective needs besides TOTALS; a 0-dimensional array.

- l2_per_batch: input; each batch divides this l2 by its weight
- max_row_loss: input; a larger loss of a row counts as this much
- mean_loss: output; sum over batches of mean loss times rows
- penalty: output; sum over batches of l2_per_batch's penalty times rows
"""


class Backend(Protocol):
    """Trains and evaluates one network at one batch size.

    Arrays that arrive have been validated: C-contiguous, of the parameters' dtype, labels int64, weights float64.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is not data, parameters or optimizer state."""

    @property
    def objective(self) -> Array:
        """The record OBJECTIVE."""

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
        """Train from the epoch's current position to the last row of X.

        Unless X ends with the epoch's last row, steps may still be running when this returns: see `finish`.

        Parameters
        ----------
        X : ndarray, shape (rows, n_in)
            Rows of the epoch from ``first_row`` on.
        y : ndarray, shape (rows,) or (rows, n_out)
            Labels or targets of these rows.
        weights : ndarray of float64, shape (epoch_rows,), optional
            A sample weight for each row of the epoch, even if X is only a part; with an order, for each row of X.
        order : ndarray of int64, shape (epoch_rows,), optional
            Indices of the rows of X and y to visit, in this order, from 0 to len(X) - 1; an index may repeat.
        rates : ndarray of float64, optional
            The learning rate of each of the epoch's steps, or one for all.
        first_row, epoch_rows : int, optional
            By default X is the whole epoch.
        """

    def finish(self) -> None:
        """Wait for the steps of `train`, even in the middle of an epoch, and write their results."""

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""


_interrupt: ContextVar[threading.Event | None] = ContextVar("fastnet_interrupt", default=None)


@contextmanager
def interruptible(event: threading.Event) -> Iterator[None]:
    """Within a block, let an event interrupt backends in this thread, as Ctrl-C does in the main thread."""
    token = _interrupt.set(event)
    try:
        yield
    finally:
        _interrupt.reset(token)


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if the event of `interruptible` is set; backends call this between compiled calls."""
    event = _interrupt.get()
    if event is not None and event.is_set():
        raise KeyboardInterrupt


def new_progress() -> Array:
    """Return a record PROGRESS of zeros."""
    return np.zeros((), PROGRESS)


def new_totals() -> Array:
    """Return a record TOTALS of zeros."""
    return np.zeros((), TOTALS)


def start_epoch(progress: Array, totals: Array, epoch: int, rows: int = 0) -> None:
    """Start an epoch of ``rows`` rows.

    One statement resets each record as a whole, since a KeyboardInterrupt may come between two statements.
    """
    totals[...] = 0
    progress[...] = (0, 0, 0, 0, epoch, rows, int(progress["step"]))


def discard_partial_step(progress: Array, totals: Array) -> None:
    """Discard the micro-batches of a step that was not finished."""
    totals["partial_loss"] = totals["partial_weight"] = 0
    progress["partial_correct"] = 0
    progress["done"] = progress["row"]


def results_of(progress: Any, totals: Any, loss: LossSpec, outputs: int) -> dict[str, float]:
    """Return the loss of whole steps and, if the loss counts correct answers, the accuracy; takes records or dicts."""
    value = float(totals["loss"] / totals["weight"])
    results = {"loss": value / outputs if loss.mean_over_outputs else value}
    if loss.counts_correct:
        answers = int(progress["row"]) * (1 if loss.takes_labels else outputs)
        results["accuracy"] = int(progress["correct"]) / answers
    return results
