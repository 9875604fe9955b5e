"""losses."""

from typing import Any

import numpy as np

from .activations import Array, sigmoid

# ------------------------------------------------------------------------------------------- losses


def mse(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of (y_pred - y_true)^2."""
    return np.mean((y_pred - y_true) ** 2)


def mse_derivative(y_true: Array, y_pred: Array) -> Array:
    """2 (y_pred - y_true) / B.  With k outputs, k times the derivative of `mse`."""
    return 2 * (y_pred - y_true) / y_true.shape[0]


def mae(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of |y_pred - y_true|."""
    return np.mean(np.abs(y_pred - y_true))


def mae_derivative(y_true: Array, y_pred: Array) -> Array:
    """sign(y_pred - y_true) / B, 0 at 0.  With k outputs, k times the derivative of `mae`."""
    return np.sign(y_pred - y_true) / y_true.shape[0]


def huber(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of d^2/2 where |d| <= 1, else |d| - 1/2, of d = y_pred - y_true (Huber 1964, delta 1)."""
    d = y_pred - y_true
    return np.mean(np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5))


def huber_derivative(y_true: Array, y_pred: Array) -> Array:
    """d / B where |d| <= 1, else sign(d) / B.  With k outputs, k times the derivative of `huber`."""
    return np.clip(y_pred - y_true, -1, 1) / y_true.shape[0]


def binary_cross_entropy(y_true: Array, Z: Array) -> Any:
    """Mean over rows of the row's sum of -y log S - (1 - y) log(1 - S), S = sigmoid(Z), so that nothing overflows."""
    return np.mean(np.sum(np.maximum(Z, 0) - Z * y_true + np.log1p(np.exp(-np.abs(Z))), axis=1))


def binary_cross_entropy_derivative(y_true: Array, Z: Array) -> Array:
    """(sigmoid(Z) - y_true) / B."""
    return (sigmoid(Z) - y_true) / Z.shape[0]


def softmax(Z: Array) -> Array:
    """exp(Z) / sum of the row's exp(Z), shifted by the row's largest so that nothing overflows."""
    E = np.exp(Z - np.max(Z, axis=1, keepdims=True))
    return E / np.sum(E, axis=1, keepdims=True)


def cross_entropy(labels: Array, Z: Array) -> Any:
    """Mean over rows of -log softmax(Z)[label] = log sum exp(Z) - Z[label], shifted as in `softmax`."""
    top = np.max(Z, axis=1)
    log_sum = np.log(np.sum(np.exp(Z - top[:, None]), axis=1))
    return np.mean(log_sum + (top - Z[np.arange(len(Z)), labels]))


def cross_entropy_derivative(labels: Array, Z: Array) -> Array:
    """(softmax(Z) - one_hot(labels)) / B."""
    D = softmax(Z)
    D[np.arange(len(Z)), labels] -= 1
    return D / len(Z)


def accuracy(labels: Array, Z: Array) -> Any:
    """Share of the rows whose largest output stands at the label (the first of equals; NaN counts as largest)."""
    return np.mean(np.argmax(Z, axis=1) == labels)
