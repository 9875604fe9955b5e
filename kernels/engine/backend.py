"""Backend: what the CPU, NumPy and CUDA engines have in common, and the records in which they report.

A backend trains and evaluates one network at one batch size. None of them inherits from another.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..specs.losses import LossSpec

Array = NDArray[Any]

Chunk = tuple[Array, Array, Array | None, int]
"""X, y, the sample weights of the whole epoch, and the epoch's row that X begins with."""

PROGRESS = np.dtype(
    [
        ("row", "i8"),  # rows of the epoch behind whole steps
        ("done", "i8"),  # rows behind, those of an unfinished step included
        ("correct", "i8"),  # correct answers in whole steps
        ("partial_correct", "i8"),  # correct answers in an unfinished step
        ("epoch", "i8"),  # number of the epoch
        ("rows", "i8"),  # rows of the epoch
        ("step", "i8"),  # whole steps taken, in all epochs
    ],
    align=True,
)
"""Where an epoch stands; a 0-dimensional array. Backends write it, since a KeyboardInterrupt may come before they
return."""

TOTALS = np.dtype(
    [
        ("loss", "f8"),  # weighted sum of the rows' losses in whole steps
        ("weight", "f8"),  # sum of their sample weights
        ("partial_loss", "f8"),  # the same of an unfinished step
        ("partial_weight", "f8"),
        ("batch_weight", "f8"),  # sum of the sample weights of the current batch
    ],
    align=True,
)
"""Sums over an epoch's rows; a 0-dimensional array."""

OBJECTIVE = np.dtype(
    [
        ("l2_per_batch", "f8"),  # given: an l2 that each batch divides by its weight
        ("max_row_loss", "f8"),  # given: the largest loss that a row may count for
        ("mean_loss", "f8"),  # the batches' mean losses, each times its rows, summed
        ("penalty", "f8"),  # the same of l2_per_batch's penalty
    ],
    align=True,
)
"""What scikit-learn's objective needs besides TOTALS; a 0-dimensional array."""


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
        """Train from where the epoch stands to the last row of X.

        Parameters
        ----------
        X : ndarray, shape (rows, n_in)
            Rows of the epoch from ``first_row`` on.
        y : ndarray, shape (rows,) or (rows, n_out)
            Labels or targets of these rows.
        weights : ndarray of float64, shape (epoch_rows,), optional
            A sample weight for each row of the epoch, whichever part of it X is.
        order : ndarray of int64, shape (epoch_rows,), optional
            The order in which to visit the rows; X and y then hold all of them.
        rates : ndarray of float64, optional
            The learning rate of each of the epoch's steps, or one for all.
        first_row, epoch_rows : int, optional
            By default X is the whole epoch.
        """

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""

    def evaluate(self, chunks: Iterable[Chunk], rows: int) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""


def new_progress() -> Array:
    """Return a record PROGRESS of zeros."""
    return np.zeros((), PROGRESS)


def new_totals() -> Array:
    """Return a record TOTALS of zeros."""
    return np.zeros((), TOTALS)


def start_epoch(progress: Array, totals: Array, epoch: int, rows: int = 0) -> None:
    """Start an epoch of ``rows`` rows.

    One statement for what belongs together, since a KeyboardInterrupt may come between two.
    """
    totals[...] = 0
    progress[...] = (0, 0, 0, 0, epoch, rows, int(progress["step"]))


def discard_partial_step(progress: Array, totals: Array) -> None:
    """Discard the micro-batches of a step that was not finished."""
    totals["partial_loss"] = totals["partial_weight"] = 0
    progress["partial_correct"] = 0
    progress["done"] = progress["row"]


def results_of(progress: Array, totals: Array, loss: LossSpec, outputs: int) -> dict[str, float]:
    """Return the loss and, where the loss counts correct answers, the accuracy of whole steps."""
    value = float(totals["loss"] / totals["weight"])
    results = {"loss": value / outputs if loss.mean_over_outputs else value}
    if loss.counts_correct:
        answers = int(progress["row"]) * (1 if loss.takes_labels else outputs)
        results["accuracy"] = int(progress["correct"]) / answers
    return results
