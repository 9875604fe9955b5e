"""Backend: what the CPU, NumPy and CUDA engines have in common, and the records they report in.

A backend trains and evaluates one network at one batch size. None of them inherits from another.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

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
"""Where an epoch stands; a 0-dimensional array of this dtype."""

TOTALS = np.dtype(
    [
        ("loss", "f8"),  # weighted sum of the rows' losses in whole steps
        ("weight", "f8"),  # sum of their sample weights
        ("partial_loss", "f8"),  # the same of an unfinished step
        ("partial_weight", "f8"),
        ("batch_weight", "f8"),  # sum of the sample weights of the batch at hand
    ],
    align=True,
)
"""Sums over an epoch's rows; a 0-dimensional array of this dtype."""


class Backend(Protocol):
    """Trains and evaluates one network at one batch size.

    Arrays that arrive have been validated: C-contiguous, of the parameters' dtype, labels int64, weights float64.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is not data, parameters or optimizer state."""

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
        """Train from where the epoch stands to the last row of X."""

    def results(self) -> dict[str, float]:
        """Loss, and for classification accuracy, of the epoch's rows so far."""

    def evaluate(self, chunks: Iterable[tuple[Array, Array, Array | None, int]], rows: int) -> dict[str, float]:
        """Loss, and for classification accuracy, over chunks (X, y, weights, first row) of ``rows`` rows in all."""
