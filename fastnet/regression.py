"""Scores of a regression besides its loss: RMSE and R^2."""

import math

import numpy as np

from .kernels.engine.backend import Array


class RegressionScores:
    """Accumulates the root mean squared error and R^2 over chunks of rows, weighted as the loss is."""

    def __init__(self) -> None:
        self._weight, self._mean, self._spread, self._squares = 0.0, np.zeros(1), np.zeros(1), np.zeros(1)

    def add(self, outputs: Array, y: Array, weights: Array | None, first_row: int) -> None:
        """Add rows: their outputs and targets (rows, n_out), the weights of all rows, and the first row's index."""
        w = np.ones(len(y)) if weights is None else weights[first_row : first_row + len(y)]
        if not w.any():
            return
        A, y = np.asarray(outputs, np.float64), np.asarray(y, np.float64)
        self._squares = self._squares + w @ (y - A) ** 2
        own, own_mean = float(w.sum()), y.mean(axis=0) if weights is None else np.average(y, axis=0, weights=w)
        # Merge means and spreads of two chunks (Chan et al. 1979), so that large means cost no digits.
        shift, weight = own_mean - self._mean, self._weight + own
        self._spread = self._spread + w @ (y - own_mean) ** 2 + shift**2 * self._weight * own / weight
        self._weight, self._mean = weight, self._mean + shift * own / weight

    def results(self) -> dict[str, float]:
        """Return the scores.

        Returns
        -------
        dict
            ``rmse``, over all elements, in the target's units; ``r2``, 1 - sum (y - A)^2 / sum (y - mean y)^2, averaged
            over outputs as in scikit-learn's ``r2_score``; NaN if a target is the same in all rows.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(self._spread > 0, 1 - self._squares / self._spread, math.nan)
        return {"rmse": math.sqrt(float(np.mean(self._squares)) / self._weight), "r2": float(np.mean(r2))}
