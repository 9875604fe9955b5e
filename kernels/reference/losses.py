"""The losses in NumPy: the oracle, and the implementation behind ``backend="numpy"``.

Each loss is stated once, as the loss and the derivative of rows, independently of the functions in `specs.losses`. The
means over a batch, under the operations' names, and the training step's row losses are derived from these. All work for
any float dtype.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..specs.losses import LOSS_BY_CODE, LOSSES, LossSpec
from .activations import Array, sigmoid


def softmax(Z: Array) -> Array:
    """exp(Z) / sum of the row's exp(Z), shifted by the row's largest so that nothing overflows."""
    E = np.exp(Z - np.max(Z, axis=1, keepdims=True))
    return E / np.sum(E, axis=1, keepdims=True)


def accuracy(labels: Array, Z: Array) -> Any:
    """Fraction of rows whose largest output is at the label (the first, if equal; NaN counts as largest)."""
    return np.mean(np.argmax(Z, axis=1) == labels)


def _cross_entropy(y: Array, Z: Array) -> Array:
    """-sum(Y log softmax(Z)) = log sum exp(Z) - sum(Y Z) of each row, shifted as in `softmax`.

    y holds labels, for which Y is one-hot, or Y itself.
    """
    below = np.max(Z, axis=1, keepdims=True) - Z
    log_sum = np.log(np.sum(np.exp(-below), axis=1))
    if y.ndim == 1:
        return log_sum + below[np.arange(len(Z)), y]
    return log_sum + np.sum(np.multiply(y, below, where=y != 0, out=np.zeros_like(below)), axis=1)


def _cross_entropy_derivative(y: Array, Z: Array) -> Array:
    """softmax(Z) - Y."""
    D = softmax(Z)
    if y.ndim == 1:
        D[np.arange(len(Z)), y] -= 1
        return D
    return D - y


class Equations(NamedTuple):
    """A loss of targets y and outputs Z: value per element or row, derivative, and which answers are correct."""

    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]
    correct: Callable[[Array, Array], Any] = lambda y, Z: 0


EQUATIONS = {
    "mse": Equations(lambda y, Z: (Z - y) ** 2, lambda y, Z: 2 * (Z - y)),
    "mae": Equations(lambda y, Z: np.abs(Z - y), lambda y, Z: np.sign(Z - y)),
    "huber": Equations(
        lambda y, Z: np.where(np.abs(Z - y) <= 1, (Z - y) ** 2 / 2, np.abs(Z - y) - 0.5),
        lambda y, Z: np.clip(Z - y, -1, 1),
    ),
    "cross_entropy": Equations(
        _cross_entropy,
        _cross_entropy_derivative,
        lambda y, Z: np.argmax(Z, axis=1) == (y if y.ndim == 1 else np.argmax(y, axis=1)),
    ),
    "binary_cross_entropy": Equations(  # -y log S - (1 - y) log(1 - S), S = sigmoid(Z), to avoid overflow
        lambda y, Z: np.maximum(Z, 0) - Z * y + np.log1p(np.exp(-np.abs(Z))),
        lambda y, Z: sigmoid(Z) - y,
        lambda y, Z: (Z > 0) == (y > 0.5),
    ),
    "log_cosh": Equations(  # |d| + log((1 + exp(-2 |d|)) / 2), to avoid overflow
        lambda y, Z: np.abs(Z - y) + np.log1p(np.expm1(-2 * np.abs(Z - y)) / 2),
        lambda y, Z: np.tanh(Z - y),
    ),
}
"""The equations of every loss by name."""


def row_losses(code: int, y: Array, outputs: Array) -> tuple[Array, Array, int]:
    """Return the loss of every row (B,), its derivative with respect to the outputs (B, k), and the correct answers."""
    equations = EQUATIONS[LOSS_BY_CODE[code].name]
    losses = equations.value(y, outputs)
    return (
        losses.sum(axis=1) if losses.ndim > 1 else losses,
        equations.derivative(y, outputs),
        int(np.sum(equations.correct(y, outputs))),
    )


def _mean(spec: LossSpec) -> Callable[[Array, Array], Any]:
    """Make a function for the reported loss of a batch: a mean over all elements or over rows."""
    value = EQUATIONS[spec.name].value

    def mean(y_true: Array, outputs: Array) -> Any:
        losses = value(y_true, outputs)
        return np.mean(losses if spec.mean_over_outputs or losses.ndim == 1 else np.sum(losses, axis=1))

    return mean


def _gradient(spec: LossSpec) -> Callable[[Array, Array], Array]:
    """Make a function for the gradient of a batch's objective, which is the mean of the losses of its rows."""
    derivative = EQUATIONS[spec.name].derivative
    return lambda y_true, outputs: derivative(y_true, outputs) / len(outputs)


globals().update({spec.name: _mean(spec) for spec in LOSSES.values()})
globals().update({f"{spec.name}_derivative": _gradient(spec) for spec in LOSSES.values()})

if TYPE_CHECKING:  # the operations are generated from the equations

    def __getattr__(name: str) -> Any: ...
