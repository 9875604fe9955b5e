"""Scores of a regression beside its loss: RMSE and R^2."""

import math

import numpy as np

from .dataset import Dataset
from .kernels.specs.batches import MICRO_BATCH_ROWS
from .network import Network


def regression_scores(network: Network, data: Dataset) -> dict[str, float]:
    """Return the root mean squared error, and R^2, of a network's outputs over all rows, weighted as the loss is.

    Returns
    -------
    dict
        ``rmse``, over all elements, in the target's units; ``r2``, 1 - sum (y - A)^2 / sum (y - mean y)^2, the mean
        over outputs, as scikit-learn's ``r2_score``; NaN where a target is the same in all rows.
    """
    weight, mean, spread, squares = 0.0, np.zeros(1), np.zeros(1), np.zeros(1)
    for X, y, weights, _, first_row in data.iter_chunks(MICRO_BATCH_ROWS):
        w = np.ones(len(X)) if weights is None else weights[first_row : first_row + len(X)]
        if not w.any():
            continue
        A, y = np.asarray(network.predict(X), np.float64), np.asarray(y, np.float64)
        squares = squares + w @ (y - A) ** 2
        own, own_mean = float(w.sum()), np.average(y, axis=0, weights=w)
        # Means and spreads of two parts are merged (Chan et al. 1979), so that large means cost no digits.
        shift = own_mean - mean
        spread = spread + w @ (y - own_mean) ** 2 + shift**2 * weight * own / (weight + own)
        weight, mean = weight + own, mean + shift * own / (weight + own)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(spread > 0, 1 - squares / spread, math.nan)
    return {"rmse": math.sqrt(float(np.mean(squares)) / weight), "r2": float(np.mean(r2))}
