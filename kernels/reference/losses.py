"""The losses in NumPy: the oracle that every kernel is checked against.

Deliberately obvious, and correct for any float dtype. Labels (B,) are integers in 0..k-1; targets and outputs are
(B, k), one sample a row. They state the equations of `specs.losses` independently of the formulas given there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specs.losses import LOSSES, LossSpec
from .activations import sigmoid

Array = NDArray[Any]

# ------------------------------------------------------------------- terms: the loss of each output
# and its derivative with respect to the output


def _mse(y: Array, Z: Array) -> tuple[Array, Array]:
    return (Z - y) ** 2, 2 * (Z - y)


def _mae(y: Array, Z: Array) -> tuple[Array, Array]:
    return np.abs(Z - y), np.sign(Z - y)


def _huber(y: Array, Z: Array) -> tuple[Array, Array]:
    d = Z - y
    return np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5), np.clip(d, -1, 1)


def _binary_cross_entropy(y: Array, Z: Array) -> tuple[Array, Array]:
    return np.maximum(Z, 0) - Z * y + np.log1p(np.exp(-np.abs(Z))), sigmoid(Z) - y


_TERMS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "binary_cross_entropy": _binary_cross_entropy,
}

# ------------------------------------------------------------------------------------ rows


def softmax(Z: Array) -> Array:
    """exp(Z) / sum of the row's exp(Z), shifted by the row's largest so that nothing overflows."""
    E = np.exp(Z - np.max(Z, axis=1, keepdims=True))
    return E / np.sum(E, axis=1, keepdims=True)


def _cross_entropy(labels: Array, Z: Array) -> tuple[Array, Array]:
    """Loss of each row, -log softmax(Z)[label] = log sum exp(Z) - Z[label], and its derivative."""
    rows = np.arange(len(Z))
    top = np.max(Z, axis=1)
    losses = np.log(np.sum(np.exp(Z - top[:, None]), axis=1)) + (top - Z[rows, labels])
    D = softmax(Z)
    D[rows, labels] -= 1
    return losses, D


def row_losses(loss: str, y: Array, Z: Array) -> tuple[Array, Array]:
    """Return the loss of each row, summed over its outputs, and the derivative with respect to the outputs.

    Parameters
    ----------
    loss : str
        A key of `specs.losses.LOSSES`.
    y : ndarray
        Labels (B,) or targets (B, k).
    Z : ndarray, shape (B, k)
        Outputs.

    Returns
    -------
    losses : ndarray, shape (B,)
    derivative : ndarray, shape (B, k)
    """
    if loss == "cross_entropy":
        return _cross_entropy(y, Z)
    terms, derivative = _TERMS[loss](y, Z)
    return np.sum(terms, axis=1), derivative


def correct_answers(loss: str, y: Array, Z: Array) -> int:
    """Count correct answers: rows for labels, outputs for targets from 0 to 1; 0 for losses that count none."""
    if loss == "cross_entropy":
        return int(np.sum(np.argmax(Z, axis=1) == y))
    return int(np.sum((Z > 0) == (y > 0.5))) if LOSSES[loss].counts_correct else 0


# ---------------------------------------------------------------------------- public operations


def _value(spec: LossSpec) -> Callable[[Array, Array], Any]:
    def value(y_true: Array, outputs: Array) -> Any:
        losses, _ = row_losses(spec.name, y_true, outputs)
        return np.mean(losses) / (outputs.shape[1] if spec.mean_over_outputs else 1)

    return value


def _derivative(spec: LossSpec) -> Callable[[Array, Array], Array]:
    def derivative(y_true: Array, outputs: Array) -> Array:
        return row_losses(spec.name, y_true, outputs)[1] / len(outputs)

    return derivative


OPERATIONS: dict[str, Callable[[Array, Array], Any]] = {
    **{spec.name: _value(spec) for spec in LOSSES.values()},
    **{f"{spec.name}_derivative": _derivative(spec) for spec in LOSSES.values()},
}
"""The losses, as they are reported, and the gradients of the objective, by operation."""


def accuracy(labels: Array, Z: Array) -> Any:
    """Share of the rows whose largest output stands at the label (the first of equals; NaN counts as largest)."""
    return np.mean(np.argmax(Z, axis=1) == labels)


def __getattr__(name: str) -> Callable[[Array, Array], Any]:
    """Return the operation of that name."""
    try:
        return OPERATIONS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
