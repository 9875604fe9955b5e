"""Exact conversions between scikit-learn's conventions and the engine's.

- scikit-learn keeps W^T (n, k) of every layer, then b of every layer; the engine keeps one flat vector.
- scikit-learn halves the squared error, so its gradient is half the engine's. Momentum and Adam's means are linear in
  the gradient, Adam's second moments quadratic. So twice the gradient with twice epsilon and l2, or with half of SGD's
  rate, takes the same step to the bit, since these factors are powers of two.
- scikit-learn's SGD velocity includes the rate: it is -rate times the engine's, which is rescaled when the rate
  changes.
- scikit-learn puts Adam's bias correction into the rate and adds epsilon to the uncorrected root. The engine does the
  same if it is given the rates of `adam_rates` and starts at step `FAR_STEP`, where its own corrections are 1.
"""

from collections.abc import Sequence

import numpy as np

from .backend import Array
from .plan import layer_views

GRADIENT_SCALE = {"mse": 2.0, "cross_entropy": 1.0, "binary_cross_entropy": 1.0}
"""The engine's gradient divided by scikit-learn's, by loss."""

FAR_STEP = 2**62
"""From this step on, 1 - beta^step rounds to 1 in float64 for every beta below 1."""


def adam_rates(rate: float, beta1: float, beta2: float, behind: int, steps: int) -> Array:
    """Return rate sqrt(1 - beta2^t) / (1 - beta1^t), float64 (steps,), for t = behind + 1, ..., behind + steps."""
    t = np.arange(behind + 1, behind + steps + 1, dtype=np.float64)
    return rate * np.sqrt(1 - beta2**t) / (1 - beta1**t)


def transposed_views(flat: Array, layer_sizes: Sequence[int]) -> list[Array]:
    """Return views into a flat vector (P,): W^T (n, k) of every layer, then b (k,) of every layer."""
    layers = layer_views(flat, layer_sizes)
    return [W.T for W, _ in layers] + [b for _, b in layers]


def fill(arrays: Sequence[Array], source: Sequence[Array], factor: float = 1.0) -> None:
    """Write factor * source into arrays of the same shapes."""
    for array, values in zip(arrays, source, strict=True):
        np.multiply(values, array.dtype.type(factor), out=array)


def copies(views: Sequence[Array], factor: float = 1.0) -> list[Array]:
    """Return C-contiguous copies of the views, times a factor."""
    return [np.multiply(view, view.dtype.type(factor), order="C") for view in views]


def batch_sums(values: Array, batch: int) -> Array:
    """Return the sum of each batch's values, shape (batches,); the last batch may be short."""
    return np.add.reduceat(values, np.arange(0, len(values), batch))


def largest_log_loss(dtype: np.dtype[np.floating]) -> float:
    """Return the largest possible loss of a row when probabilities are clipped at the dtype's eps."""
    return float(-np.log(np.finfo(dtype).eps))
