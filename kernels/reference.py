"""The equations of batch training in NumPy: the oracle that every kernel is held against.

Imports NumPy only. Obvious on purpose, and right for any float dtype: in float64 (or longdouble) these
functions are the truth that a float32 kernel is compared with; in the kernel's own dtype they are the
`reference` rung, which is also what the Trainer runs with ``backend="numpy"``.

Shapes: one sample a row. X (B, n); W (k, n); b (k,); Z and A (B, k). Labels (B,), integers in 0..k-1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# -------------------------------------------------------------------------------------- activations


def identity(Z: Array) -> Array:
    """Z."""
    return Z


def identity_derivative(Z: Array) -> Array:
    """1."""
    return np.ones_like(Z)


def relu(Z: Array) -> Array:
    """max(0, Z)."""
    return np.maximum(Z, 0)


def relu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient)."""
    return (Z > 0).astype(Z.dtype)


def tanh(Z: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(Z)


def tanh_derivative(Z: Array) -> Array:
    """1 - tanh(Z)^2."""
    return 1 - np.tanh(Z) ** 2


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-Z)), from the exponential that cannot overflow."""
    e = np.exp(-np.abs(Z))
    return np.where(Z < 0, e, 1) / (1 + e)


def sigmoid_derivative(Z: Array) -> Array:
    """S (1 - S), where S = sigmoid(Z)."""
    return sigmoid(Z) * sigmoid(-Z)  # 1 - S cancels for large Z; sigmoid(-Z) is the same without


class Activation(NamedTuple):
    """An activation, elementwise, and its derivative with respect to Z."""

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


ACTIVATIONS = (
    Activation("identity", identity, identity_derivative),
    Activation("relu", relu, relu_derivative),
    Activation("tanh", tanh, tanh_derivative),
    Activation("sigmoid", sigmoid, sigmoid_derivative),
)
"""An activation's place here is the integer code by which compiled kernels choose it."""

# ------------------------------------------------------------------------------------------- layers


def matmul(A: Array, B: Array) -> Array:
    """C = A B."""
    return A @ B


def dense_forward(X: Array, W: Array, b: Array, activation: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Z = X W^T + b;  A = activation(Z).  Returns (A, Z)."""
    Z = X @ W.T + b
    return activation(Z), Z


def dense_backward_batch(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation_derivative: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.  Returns (dW, db, dX)."""
    dZ = dL_dA * activation_derivative(Z)
    return dZ.T @ X, np.sum(dZ, axis=0), dZ @ W


# ------------------------------------------------------------------------------------------- losses


def mse(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of (y_pred - y_true)^2."""
    return np.mean((y_pred - y_true) ** 2)


def mse_derivative(y_true: Array, y_pred: Array) -> Array:
    """2 (y_pred - y_true) / B.  With k outputs, k times the derivative of `mse`."""
    return 2 * (y_pred - y_true) / y_true.shape[0]


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


# ------------------------------------------------------------------------------------------ updates


def sgd_update(parameters: Array, gradient: Array, velocity: Array, learning_rate: float, momentum: float) -> None:
    """v <- momentum v + g;  p <- p - learning_rate v.  In place; with momentum 0, v is left alone."""
    if momentum == 0:
        parameters -= learning_rate * gradient
        return
    velocity *= momentum
    velocity += gradient
    parameters -= learning_rate * velocity


def adam_update(
    parameters: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
) -> None:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1); step counts from 1.  In place.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
    """
    mean *= beta1
    mean += (1 - beta1) * gradient
    square *= beta2
    square += (1 - beta2) * gradient**2
    corrected_mean = mean / (1 - beta1**step)
    corrected_square = square / (1 - beta2**step)
    parameters -= learning_rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)
