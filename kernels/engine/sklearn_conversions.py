"""scikit-learn's conventions in the engine's terms, exactly.

Imports `plan` for the layout of parameters. The same steps, written differently:

- Arrays are W^T (n, k) and b, all W^T before all b; the engine's are one flat vector.
- The squared error is half ours, so its gradient is too. Momentum and Adam's means are linear in the gradient, Adam's
  second moments are quadratic: a gradient times 2 with epsilon and l2 times 2, or with half of SGD's rate, is the same
  step to the bit, for these are powers of two.
- SGD's velocity holds the rate: theirs is -rate times ours, so ours is rescaled where the rate changes.
- Adam's bias correction is all in the rate, and epsilon is added to the uncorrected root. With a step so far out that
  the engine's own corrections are 1, and `adam_rates`, ours is theirs.
"""

from collections.abc import Sequence

import numpy as np

from .plan import Array, layer_views

GRADIENT_SCALE = {"mse": 2.0, "cross_entropy": 1.0, "binary_cross_entropy": 1.0}
"""Our gradient over theirs."""

FAR_STEP = 2**62
"""A step at which beta^step is lost beside 1, for every beta below 1."""


def adam_rates(rate: float, beta1: float, beta2: float, behind: int, steps: int) -> Array:
    """rate sqrt(1 - beta2^t) / (1 - beta1^t) for the steps t that follow those behind; they count from 1."""
    t = np.arange(behind + 1, behind + steps + 1, dtype=np.float64)
    return rate * np.sqrt(1 - beta2**t) / (1 - beta1**t)


def transposed_views(flat: Array, layer_sizes: Sequence[int]) -> list[Array]:
    """W^T of every layer, then b of every layer: views into a flat vector."""
    layers = layer_views(flat, layer_sizes)
    return [W.T for W, _ in layers] + [b for _, b in layers]


def fill(arrays: Sequence[Array], source: Sequence[Array], factor: float = 1.0) -> None:
    """Write the factor times the source's arrays into the arrays."""
    for array, values in zip(arrays, source, strict=True):
        np.multiply(values, array.dtype.type(factor), out=array)


def copies(views: Sequence[Array], factor: float = 1.0) -> list[Array]:
    """Contiguous copies, times a factor."""
    return [np.multiply(view, view.dtype.type(factor), order="C") for view in views]


def batch_sums(values: Array, batch: int) -> Array:
    """The sum of each batch's values."""
    return np.add.reduceat(values, np.arange(0, len(values), batch))


def largest_log_loss(dtype: np.dtype[np.floating]) -> float:
    """What a row's loss is at most where probabilities are clipped at the dtype's eps."""
    return float(-np.log(np.finfo(dtype).eps))
