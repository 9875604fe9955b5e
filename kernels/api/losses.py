"""The public losses and what else measures outputs: check at the door, allocate the result, call a variant.

Imports `doors`, `promises` and `variants`. What holds for all public functions is said in `operations`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..registry import find
from ..specs.base import Array
from . import validation


def mse(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> float:
    """Mean squared error over all elements.

    Parameters
    ----------
    y_true, y_pred : array_like, shape (B,) or (B, k)
        Targets and outputs, of the same shape: (B,) against (B, 1), which NumPy would broadcast to
        (B, B), is refused.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    float
        mean((y_pred - y_true)^2).

    Raises
    ------
    TypeError
        If an input is not made of real numbers.
    ValueError
        If the shapes differ, there are no elements, or there is no such variant.
    """
    return _scalar("mse", *_pair(y_true, y_pred)[:2], variant)


def mse_derivative(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> Array:
    """Gradient of the batch's squared error: 2 (y_pred - y_true) / B.

    Divided by the number of rows only: with k outputs it is k times the derivative of `mse`.

    Parameters
    ----------
    y_true, y_pred : array_like, shape (B,) or (B, k)
        Targets and outputs, of the same shape.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    ndarray, shape (B,) or (B, k)
        Gradient with respect to ``y_pred``.

    Raises
    ------
    TypeError
        If an input is not made of real numbers.
    ValueError
        If the shapes differ, there are no elements, or there is no such variant.
    """
    return _gradient("mse_derivative", y_true, y_pred, variant)


def mae(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> float:
    """Mean absolute error over all elements: mean(|y_pred - y_true|); arguments and errors as of `mse`."""
    return _scalar("mae", *_pair(y_true, y_pred)[:2], variant)


def mae_derivative(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> Array:
    """Gradient of the batch's absolute error: sign(y_pred - y_true) / B, 0 at 0.

    With k outputs k times the derivative of `mae`; arguments and errors as of `mse_derivative`.
    """
    return _gradient("mae_derivative", y_true, y_pred, variant)


def huber(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> float:
    """Mean over all elements of Huber's loss (1964) with delta 1; arguments and errors as of `mse`.

    With d = y_pred - y_true: d^2/2 where |d| <= 1, else |d| - 1/2.
    """
    return _scalar("huber", *_pair(y_true, y_pred)[:2], variant)


def huber_derivative(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> Array:
    """Gradient of the batch's Huber loss: d / B where |d| <= 1, else sign(d) / B, with d = y_pred - y_true.

    With k outputs k times the derivative of `huber`; arguments and errors as of `mse_derivative`.
    """
    return _gradient("huber_derivative", y_true, y_pred, variant)


def binary_cross_entropy(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> float:
    """Mean over the rows of the row's sum of -y log S - (1 - y) log(1 - S), S = sigmoid(Z).

    Parameters
    ----------
    y_true : array_like, shape (B,) or (B, k)
        Targets from 0 to 1: one yes or no for each output.
    Z : array_like, shape (B,) or (B, k)
        Raw outputs (logits) of the same shape, before any sigmoid; of any size.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    float
        The loss, in nats.

    Raises
    ------
    TypeError
        If an input is not made of real numbers.
    ValueError
        If the shapes differ, there are no elements, a target is outside 0..1, or there is no such variant.
    """
    return _scalar("binary_cross_entropy", *_binary_pair(y_true, Z)[:2], variant)


def binary_cross_entropy_derivative(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> Array:
    """Gradient of `binary_cross_entropy` with respect to Z, (sigmoid(Z) - y_true) / B; arguments likewise."""
    y_true, Z, shape = _binary_pair(y_true, Z)
    out = np.empty_like(Z)
    find("binary_cross_entropy_derivative", variant, Z.size)(y_true, Z, out)
    return out.reshape(shape)


def softmax(Z: ArrayLike, variant: str = "auto") -> Array:
    """Probabilities exp(Z) / sum exp(Z) of every row of Z (B, k); stable for outputs of any size."""
    Z = _outputs(Z)
    out = np.empty_like(Z)
    find("softmax", variant, Z.size)(Z, out)
    return out


def cross_entropy(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> float:
    """Mean over the rows of -log softmax(Z)[label].

    Parameters
    ----------
    y_true : array_like, shape (B,) or (B, k)
        Integer labels 0..k-1, or one-hot rows.
    Z : array_like, shape (B, k)
        Raw outputs (logits), before any softmax.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    float
        The loss, in nats.

    Raises
    ------
    TypeError
        If an input is not made of numbers.
    ValueError
        If the shapes do not fit, a label is out of range, or there is no such variant.
    """
    Z = _outputs(Z)
    return _scalar("cross_entropy", validation.labels("y_true", y_true, *Z.shape), Z, variant)


def cross_entropy_derivative(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> Array:
    """Gradient of `cross_entropy` with respect to Z: (softmax(Z) - one_hot(y_true)) / B, shape (B, k)."""
    Z = _outputs(Z)
    out = np.empty_like(Z)
    find("cross_entropy_derivative", variant, Z.size)(validation.labels("y_true", y_true, *Z.shape), Z, out)
    return out


def accuracy(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> float:
    """Share of the rows of Z (B, k) whose largest output stands at the label, 0 to 1."""
    Z = _outputs(Z)
    return _scalar("accuracy", validation.labels("y_true", y_true, *Z.shape), Z, variant)


def _scalar(operation: str, truth: Array, outputs: Array, variant: str) -> float:
    out = np.empty(1)
    find(operation, variant, outputs.size)(truth, outputs, out)
    return float(out[0])


def _gradient(operation: str, y_true: ArrayLike, y_pred: ArrayLike, variant: str) -> Array:
    y_true, y_pred, shape = _pair(y_true, y_pred)
    out = np.empty_like(y_pred)
    find(operation, variant, y_pred.size)(y_true, y_pred, out)
    return out.reshape(shape)


def _outputs(Z: ArrayLike) -> Array:
    (Z,) = validation.floats(Z=Z)
    validation.matrix("Z", Z)
    validation.nonempty("Z", Z)
    return np.ascontiguousarray(Z)


def _pair(y_true: ArrayLike, y_pred: ArrayLike, name: str = "y_pred") -> tuple[Array, Array, tuple[int, ...]]:
    """Both as matrices with the batch's rows, and the shape that they came in."""
    y_true, y_pred = validation.floats(**{"y_true": y_true, name: y_pred})
    validation.same_shape("y_true", y_true, name, y_pred)
    validation.nonempty("y_true", y_true)
    if y_true.ndim == 0:
        raise ValueError(f"y_true and {name} are single numbers; expected at least one dimension, one sample a row")
    rows = len(y_true)
    return np.ascontiguousarray(y_true).reshape(rows, -1), np.ascontiguousarray(y_pred).reshape(rows, -1), y_true.shape


def _binary_pair(y_true: ArrayLike, Z: ArrayLike) -> tuple[Array, Array, tuple[int, ...]]:
    y_true, Z, shape = _pair(y_true, Z, "Z")
    validation.unit_interval("y_true", y_true)
    return y_true, Z, shape
